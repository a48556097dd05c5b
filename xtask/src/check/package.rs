use crate::process;
use crate::workspace::{Member, Workspace};

/// Packs each published crate and builds it from its package.
pub(super) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    process::run(process::cargo(args(&workspace.members, process::is_ci())).current_dir(&workspace.root))
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
    fn uncommitted_files_are_fine_outside_ci_only() {
        assert!(args(&[], false).contains(&"--allow-dirty"));
        assert!(!args(&[], true).contains(&"--allow-dirty"));
    }
}
