use crate::check::Outcome;
use crate::workspace::Workspace;
use crate::{process, recipes};

/// Offline, cargo-deny reads the crates of every platform from the cache; a build fetches only ours.
const FETCH: [&str; 3] = ["fetch", "--quiet", "--locked"];
const CHECK: [&str; 8] =
    ["deny", "--offline", "--locked", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];

/// Runs the checks of `deny.toml` that need no network, and those of the recipes' own.
///
/// The advisories need a database from the network: `cargo deny check advisories`.
pub(super) fn run(workspace: &Workspace) -> anyhow::Result<Outcome> {
    if !process::has_subcommand("deny") {
        let hint = "cargo-deny is not installed; cargo install --locked cargo-deny";
        return Ok(Outcome::Skipped(hint.to_owned()));
    }
    process::run(process::cargo(FETCH).current_dir(&workspace.root))?;
    process::run(process::cargo(CHECK).current_dir(&workspace.root))?;
    process::run(&mut recipes::cargo(workspace, FETCH))?;
    process::run(&mut recipes::cargo(workspace, CHECK))?;
    Ok(Outcome::Passed)
}
