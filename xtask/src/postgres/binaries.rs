use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folders under which packages keep one folder for each version, with the binaries in `bin`.
const VERSIONED: [&str; 3] = ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"];

/// Folders that hold binaries, or have them in `bin`, as they are.
const PLAIN: [&str; 2] = ["/usr/local/pgsql/bin", "/usr/pgsql/bin"];

/// What a server needs.
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// Finds the folder with the server's binaries: on PATH, in the usual places (the newest version first), or
/// where `pg_config` says.
pub(super) fn find() -> Option<PathBuf> {
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let listed = VERSIONED.iter().flat_map(|parent| {
        let names = entries(Path::new(parent)).filter(|name| version_of(name).is_some());
        newest_first(names).into_iter().map(move |name| Path::new(parent).join(name).join("bin"))
    });
    candidates(on_path, listed.collect(), pg_config()).into_iter().find(|folder| is_complete(folder))
}

fn candidates(on_path: Vec<PathBuf>, listed: Vec<PathBuf>, pg_config: Option<PathBuf>) -> Vec<PathBuf> {
    let plain = PLAIN.iter().map(PathBuf::from);
    on_path.into_iter().chain(listed).chain(plain).chain(pg_config).collect()
}

/// Reads the version out of a folder's name: `15`, `postgresql`, `postgresql@17`.
fn version_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("postgresql").map_or(name, |rest| rest.trim_start_matches('@'));
    if digits.is_empty() {
        return Some(0);
    }
    digits.split('.').next()?.parse().ok()
}

fn newest_first(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.collect();
    names.sort_by_key(|name| std::cmp::Reverse(version_of(name)));
    names
}

fn entries(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn is_complete(folder: &Path) -> bool {
    PROGRAMS.iter().all(|program| folder.join(program).is_file())
}

fn pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    let folder = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !folder.trim().is_empty()).then(|| PathBuf::from(folder.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_comes_first_by_number() {
        let names = ["9.6", "15", "postgresql@17", "postgresql"].map(String::from);
        assert_eq!(newest_first(names.into_iter()), ["postgresql@17", "15", "9.6", "postgresql"]);
    }

    #[test]
    fn other_folders_are_no_version() {
        assert_eq!(version_of("openssl@3"), None);
        assert_eq!(version_of("postgresql-common"), None);
        assert_eq!(version_of("postgresql@16"), Some(16));
    }

    #[test]
    fn path_comes_before_the_usual_places_and_pg_config_last() {
        let folders = candidates(vec!["/a".into()], vec!["/b".into()], Some("/c".into()));
        assert_eq!(folders.first().unwrap(), Path::new("/a"));
        assert_eq!(folders[1], Path::new("/b"));
        assert_eq!(folders.last().unwrap(), Path::new("/c"));
    }

    #[test]
    fn a_folder_without_all_programs_is_passed_over() {
        assert!(!is_complete(Path::new("/nonexistent")));
    }
}
