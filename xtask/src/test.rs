use std::process::ExitCode;

use crate::postgres::{self, Postgres};
use crate::workspace::Workspace;
use crate::{interrupt, process};

/// The API's description, beside the workspace. Without it, tests that send requests skip; in CI they fail.
const SHARED: &str = "../shared/data/iterable-api-swagger.json";

/// What `cargo xtask test` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests with this text in their name.
    filter: Option<String>,
}

/// Runs the doc tests, then all others, so that the runner's summary ends the output.
///
/// The exit code is the runner's, or that of the doc tests if only they failed.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let filter = args.filter.as_deref();
    let workspace = Workspace::load()?;
    if !workspace.root.join(SHARED).exists() {
        // Each of those tests says so, too, but a runner hides what a passing test prints.
        eprintln!("skip: {SHARED} is not there; tests that send requests to the API's stand-in do nothing");
    }
    interrupt::handle()?;
    let postgres = if postgres::is_needed(&workspace) { postgres::obtain()? } else { None };
    let cargo = |args: Vec<&str>| {
        let mut cargo = process::cargo(args);
        cargo.current_dir(&workspace.root).envs(postgres.iter().flat_map(Postgres::variables));
        process::status(&mut cargo)
    };
    let mut doc_tests = None;
    if workspace.members.iter().any(|member| member.has_doc_tests) {
        let status = cargo(doc_test_args(filter))?;
        if !status.success() {
            eprintln!("doc tests failed: {status}");
            doc_tests = Some(status);
        }
    }
    if interrupt::asked() {
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    let status = cargo(Runner::find().args(filter))?;
    if interrupt::asked() {
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    Ok(process::exit_code(if status.success() { doc_tests.unwrap_or(status) } else { status }))
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
        args.extend(["--workspace", "--all-features", "--locked"]);
        if self == Self::Cargo {
            args.push("--no-fail-fast");
        }
        args.extend(filter);
        args
    }
}

fn doc_test_args(filter: Option<&str>) -> Vec<&str> {
    let mut args = vec!["test", "--doc", "--workspace", "--all-features", "--locked", "--no-fail-fast"];
    args.extend(filter);
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_covers_the_whole_workspace_with_all_features() {
        for args in [doc_test_args(None), Runner::Nextest.args(None), Runner::Cargo.args(None)] {
            for flag in ["--workspace", "--all-features", "--locked"] {
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
    fn cargo_test_leaves_the_benches_out() {
        let args = Runner::Cargo.args(None);
        assert!(!args.contains(&"--all-targets"));
        assert!(args.contains(&"--tests") && args.contains(&"--lib"));
    }
}
