use std::ffi::OsStr;
use std::process::Command;

use crate::process;
use crate::workspace::Workspace;

/// The recipes for applications that use other drivers: a workspace with a lockfile of its own, since those drivers must
/// stay out of ours.
const FOLDER: &str = "xtask/recipes";

/// Makes a call of cargo in the workspace of the recipes.
pub(crate) fn cargo<I>(workspace: &Workspace, args: I) -> Command
where
    I: IntoIterator<Item: AsRef<OsStr>>,
{
    let mut command = process::cargo(args);
    command.current_dir(workspace.root.join(FOLDER));
    // Beside what is built for ours, and not in its own folder.
    command.env("CARGO_TARGET_DIR", workspace.target.join("recipes"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipes_have_a_lockfile_of_their_own() {
        let folder = Workspace::load().unwrap().root.join(FOLDER);
        assert!(folder.join("Cargo.lock").is_file() && folder.join("deny.toml").is_file());
    }
}
