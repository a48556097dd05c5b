use std::env;
use std::process::{Command, ExitCode};

use crate::postgres::{self, Postgres};
use crate::workspace::Workspace;
use crate::{interrupt, process, recipes};

/// The API's description, beside the workspace. Without it, tests that send requests skip; in CI they fail.
const SHARED: &str = "../shared/data/iterable-api-swagger.json";

/// The package whose tests under loom are a build of their own, since the flag below reaches every crate.
const LOOM_PACKAGE: &str = "relaykit-event-barrier";
const LOOM_FLAGS: &str = "--cfg relaykit_loom";

/// What `cargo xtask test` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests with this text in their name.
    filter: Option<String>,
}

/// Runs the doc tests, the tests under loom, the recipes, then all others, so that the runner's summary ends the output.
///
/// With a filter, the tests under loom run only if it names them, `loom`, and so do the recipes, `recipes`. The exit code is the runner's; if that is a success,
/// it is that of the first step that failed.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let filter = args.filter.as_deref();
    let workspace = Workspace::load()?;
    if !workspace.root.join(SHARED).exists() {
        // Each of those tests says so, too, but a runner hides what a passing test prints.
        eprintln!("skip: {SHARED} is not there; tests that send requests to the API's stand-in do nothing");
    }
    let mut failed = None;
    interrupt::handle()?;
    let postgres = if postgres::is_needed(&workspace) { postgres::obtain()? } else { None };
    let cargo = |args: Vec<&str>| {
        let mut cargo = process::cargo(args);
        cargo.current_dir(&workspace.root).envs(postgres.iter().flat_map(Postgres::variables));
        process::status(&mut cargo)
    };
    if workspace.members.iter().any(|member| member.has_doc_tests) {
        let status = cargo(doc_test_args(filter))?;
        if !status.success() {
            eprintln!("doc tests failed: {status}");
            failed = Some(status);
        }
    }
    if names(filter, "loom") && workspace.members.iter().any(|member| member.name == LOOM_PACKAGE) {
        let status = process::status(loom(&workspace).current_dir(&workspace.root))?;
        if !status.success() {
            eprintln!("tests under loom failed: {status}");
            failed = failed.or(Some(status));
        }
    }
    let runner = Runner::find();
    if names(filter, "recipes") && !interrupt::asked() {
        let mut recipes = recipes::cargo(&workspace, runner.recipes_args());
        let status = process::status(recipes.envs(postgres.iter().flat_map(Postgres::variables)))?;
        if !status.success() {
            eprintln!("recipes failed: {status}");
            failed = failed.or(Some(status));
        }
    }
    if interrupt::asked() {
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    let status = cargo(runner.args(filter))?;
    if interrupt::asked() {
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    Ok(process::exit_code(if status.success() { failed.unwrap_or(status) } else { status }))
}

/// What runs all tests but those in docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runner {
    Nextest,
    Cargo,
}

impl Runner {
    fn find() -> Self {
        if process::has_subcommand("nextest") { Self::Nextest } else { Self::Cargo }
    }

    fn args(self, filter: Option<&str>) -> Vec<&str> {
        let mut args = match self {
            Self::Nextest => vec!["nextest", "run"],
            // `--all-targets` would run the benches too.
            Self::Cargo => vec!["test", "--lib", "--bins", "--tests", "--examples"],
        };
        // One run shows all that fails.
        args.extend(["--workspace", "--all-features", "--locked", "--no-fail-fast"]);
        args.extend(filter);
        args
    }

    fn recipes_args(self) -> &'static [&'static str] {
        match self {
            Self::Nextest => &["nextest", "run", "--locked"],
            Self::Cargo => &["test", "--locked", "--no-fail-fast"],
        }
    }
}

fn doc_test_args(filter: Option<&str>) -> Vec<&str> {
    let mut args = vec!["test", "--doc", "--workspace", "--all-features", "--locked", "--no-fail-fast"];
    args.extend(filter);
    args
}

/// Makes the call of the tests that try every interleaving.
fn loom(workspace: &Workspace) -> Command {
    // A folder of its own: with other flags, cargo would build everything anew in the usual one, twice a run.
    let mut command =
        process::cargo(["test", "--package", LOOM_PACKAGE, "--test", "loom", "--release", "--locked"]);
    command.arg("--target-dir").arg(workspace.target.join("loom"));
    command.env("RUSTFLAGS", loom_flags(env::var("RUSTFLAGS").ok().as_deref()));
    // It would win over the other.
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

fn loom_flags(flags: Option<&str>) -> String {
    match flags {
        Some(flags) if !flags.is_empty() => format!("{flags} {LOOM_FLAGS}"),
        _ => LOOM_FLAGS.to_owned(),
    }
}

/// Tells whether what is run apart from the other tests is meant, too.
fn names(filter: Option<&str>, apart: &str) -> bool {
    filter.is_none_or(|filter| filter.contains(apart))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_covers_the_whole_workspace_with_all_features() {
        for args in [doc_test_args(None), Runner::Nextest.args(None), Runner::Cargo.args(None)] {
            for flag in ["--workspace", "--all-features", "--locked", "--no-fail-fast"] {
                assert!(args.contains(&flag), "{flag} is missing in {args:?}");
            }
        }
    }

    #[test]
    fn the_filter_comes_last() {
        assert_eq!(doc_test_args(Some("lease")).last(), Some(&"lease"));
        assert_eq!(Runner::Nextest.args(Some("lease")).last(), Some(&"lease"));
        assert_eq!(Runner::Cargo.args(Some("lease")).last(), Some(&"lease"));
    }

    #[test]
    fn loom_and_recipes_run_without_a_filter_or_by_their_names() {
        for apart in ["loom", "recipes"] {
            assert!(names(None, apart) && names(Some(apart), apart));
            assert!(!names(Some("lease"), apart) && !names(Some("lo"), apart));
        }
    }

    #[test]
    fn recipes_are_built_beside_the_other_tests_from_their_own_lockfile() {
        let workspace = Workspace { root: "/repo".into(), target: "/target".into(), members: Vec::new() };
        for runner in [Runner::Nextest, Runner::Cargo] {
            let command = recipes::cargo(&workspace, runner.recipes_args());
            assert!(command.get_args().any(|arg| arg == "--locked"), "{runner:?}");
            assert_eq!(command.get_current_dir(), Some("/repo/xtask/recipes".as_ref()));
            let target = command.get_envs().find(|(name, _)| *name == "CARGO_TARGET_DIR").unwrap().1;
            assert_eq!(target, Some("/target/recipes".as_ref()));
        }
    }

    #[test]
    fn loom_is_built_beside_the_other_tests_with_its_flag() {
        let workspace = Workspace { root: "/repo".into(), target: "/target".into(), members: Vec::new() };
        let command = loom(&workspace);
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
        assert!(args.windows(2).any(|pair| pair == ["--target-dir", "/target/loom"]), "{args:?}");
        let flags = command.get_envs().find(|(name, _)| *name == "RUSTFLAGS").unwrap().1.unwrap();
        assert!(flags.to_string_lossy().contains("--cfg relaykit_loom"), "{flags:?}");
    }

    #[test]
    fn flags_that_are_set_stay_beside_that_of_loom() {
        assert_eq!(loom_flags(None), "--cfg relaykit_loom");
        assert_eq!(loom_flags(Some("")), "--cfg relaykit_loom");
        assert_eq!(loom_flags(Some("-D warnings")), "-D warnings --cfg relaykit_loom");
    }

    #[test]
    fn cargo_test_leaves_the_benches_out() {
        let args = Runner::Cargo.args(None);
        assert!(!args.contains(&"--all-targets"));
        assert!(args.contains(&"--tests") && args.contains(&"--lib"));
    }
}
