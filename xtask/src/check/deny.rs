use crate::check::Outcome;
use crate::process;
use crate::workspace::Workspace;

/// Runs the checks of `deny.toml` that need no network.
///
/// The advisories need a database from the network: `cargo deny check advisories`.
pub(super) fn run(workspace: &Workspace) -> anyhow::Result<Outcome> {
    if !process::has_subcommand("deny") {
        let hint = "cargo-deny is not installed; cargo install --locked cargo-deny";
        return Ok(Outcome::Skipped(hint.to_owned()));
    }
    // Offline, cargo-deny reads the crates of every platform from the cache; a build fetches only ours.
    process::run(process::cargo(["fetch", "--quiet", "--locked"]).current_dir(&workspace.root))?;
    let mut deny = process::cargo(["deny", "--offline", "--locked", "check", "--hide-inclusion-graph"]);
    process::run(deny.args(["bans", "licenses", "sources"]).current_dir(&workspace.root))?;
    Ok(Outcome::Passed)
}
