use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::Context;

use crate::process;
use crate::workspace::{Member, Workspace};

/// Packs each published crate and builds it from its package.
pub(super) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    if let Some(home) = cargo_home() {
        forget_unpacked(&home.join("registry/src"), &workspace.members)?;
    }
    forget_built(&workspace.target.join("debug/.fingerprint"), &workspace.members)?;
    process::run(process::cargo(args(&workspace.members, process::is_ci())).current_dir(&workspace.root))
}

/// Where cargo keeps what it unpacked.
fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))
}

/// Removes our crates as an earlier `cargo package` left them.
///
/// While it verifies, cargo serves our packages from a registry of its own in the target directory. It unpacks
/// them into a folder named by that directory's path, and takes what lies there for the same version,
/// whatever its content. Such folders begin with `-`, since their registry has no host name.
fn forget_unpacked(sources: &Path, members: &[Member]) -> anyhow::Result<()> {
    let registries = match fs::read_dir(sources) {
        Ok(registries) => registries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("could not list {}", sources.display())),
    };
    for registry in registries {
        let registry = registry?;
        if !is_hostless(&registry.file_name()) {
            continue;
        }
        for member in members.iter().filter(|member| member.published) {
            let unpacked = registry.path().join(format!("{}-{}", member.name, member.version));
            match fs::remove_dir_all(&unpacked) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("could not remove {}", unpacked.display()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Has our crates compiled anew: cargo takes what it once built of a package from a registry for good, too.
fn forget_built(fingerprints: &Path, members: &[Member]) -> anyhow::Result<()> {
    let built = match fs::read_dir(fingerprints) {
        Ok(built) => built,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error).with_context(|| format!("could not list {}", fingerprints.display()));
        }
    };
    for built in built {
        let built = built?;
        let name = built.file_name().to_string_lossy().into_owned();
        let crate_name = name.rsplit_once('-').map_or(name.as_str(), |(crate_name, _hash)| crate_name);
        if members.iter().any(|member| member.published && member.name == crate_name) {
            fs::remove_dir_all(built.path())
                .with_context(|| format!("could not remove {}", built.path().display()))?;
        }
    }
    Ok(())
}

fn is_hostless(registry: &OsStr) -> bool {
    registry.as_encoded_bytes().first() == Some(&b'-')
}

/// Packs all members at once: cargo then resolves members against the packages of the others.
fn args(members: &[Member], ci: bool) -> Vec<&str> {
    let mut args = vec!["package", "--workspace", "--locked"];
    for member in members.iter().filter(|member| !member.published) {
        args.extend(["--exclude", &member.name]);
    }
    if !ci {
        args.push("--allow-dirty");
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpublished_crates_are_left_out() {
        let member = |name: &str, published| Member { name: name.into(), published, ..Member::default() };
        let members = [member("relaykit-retry", true), member("xtask", false)];
        assert_eq!(args(&members, true), ["package", "--workspace", "--locked", "--exclude", "xtask"]);
    }

    #[test]
    fn what_an_earlier_run_unpacked_is_forgotten_and_nothing_else() {
        let sources = env::temp_dir().join(format!("relaykit-xtask-unpacked-{}", std::process::id()));
        let folder = |path: &str| sources.join(path);
        let kept =
            ["-1f/relaykit-retry-0.2.0", "-1f/other-0.1.0", "registry.example-1f/relaykit-retry-0.1.0"];
        for path in kept.iter().chain(&["-1f/relaykit-retry-0.1.0", "-2f/relaykit-retry-0.1.0"]) {
            fs::create_dir_all(folder(path)).unwrap();
        }
        let member = Member {
            name: "relaykit-retry".into(),
            version: "0.1.0".into(),
            published: true,
            ..Member::default()
        };

        forget_unpacked(&sources, &[member]).unwrap();

        assert!(kept.iter().all(|path| folder(path).exists()));
        assert!(!folder("-1f/relaykit-retry-0.1.0").exists());
        assert!(!folder("-2f/relaykit-retry-0.1.0").exists());
        fs::remove_dir_all(&sources).unwrap();
        forget_unpacked(&sources, &[]).unwrap();
    }

    #[test]
    fn what_was_built_of_our_crates_is_forgotten_and_nothing_else() {
        let built = env::temp_dir().join(format!("relaykit-xtask-built-{}", std::process::id()));
        for name in ["relaykit-retry-0a1b", "relaykit-retry-more-0a1b", "serde-0a1b"] {
            fs::create_dir_all(built.join(name)).unwrap();
        }
        let member = Member { name: "relaykit-retry".into(), published: true, ..Member::default() };
        forget_built(&built, std::slice::from_ref(&member)).unwrap();
        assert!(!built.join("relaykit-retry-0a1b").exists());
        assert!(built.join("relaykit-retry-more-0a1b").exists() && built.join("serde-0a1b").exists());
        fs::remove_dir_all(&built).unwrap();
        forget_built(&built, &[member]).unwrap();
    }

    #[test]
    fn uncommitted_files_are_fine_outside_ci_only() {
        assert!(args(&[], false).contains(&"--allow-dirty"));
        assert!(!args(&[], true).contains(&"--allow-dirty"));
    }
}
