//! The chores of this workspace, run as `cargo xtask <chore>`.
//!
//! Each chore has a file of its own; what they share is [`process`] (child processes), [`workspace`] (what
//! `cargo metadata` knows), [`recipes`] (the workspace of the drivers that are not ours), [`postgres`] (a server for as
//! long as a chore runs), [`interrupt`] (Ctrl-C) and [`stopwatch`] (wall time for display). xtask depends on none of our crates.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its terminal")]

mod bench;
mod check;
mod demo;
mod interrupt;
mod postgres;
mod process;
mod recipes;
mod stopwatch;
mod test;
mod torture;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The chores of the relaykit workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Check format, lints, each feature alone, docs, arrows between crates, licences and packages.
    ///
    /// Every step runs, whatever the others said; the last lines name the steps that failed. Set CI=true to
    /// turn a skipped step into a failed one.
    Check(check::Args),
    /// Run every test: the doc tests, those of the barrier under loom, the recipes for other drivers, then all others.
    ///
    /// Tests run under cargo-nextest if it is installed, else under `cargo test`. Tests that need Postgres get
    /// the server of `DATABASE_URL`, else one that is started for them and stopped again. Set CI=true to make
    /// tests fail that would skip because a database or broker is missing.
    Test(test::Args),
    /// Run the demo: the whole family in one program.
    ///
    /// All arguments go to the demo as they are: `cargo xtask demo --help` prints the demo's own help.
    #[command(disable_help_flag = true)]
    Demo(demo::Args),
    /// Measure our crates beside a reference, interleaved in one run.
    ///
    /// A bench reports: it ends with exit code 0 when a target is missed, and fails only when something could
    /// not be measured.
    Bench(bench::Args),
    /// Kill, starve and corrupt what keeps messages, and count what is lost.
    ///
    /// All arguments go to the program as they are: `cargo xtask torture --help` prints its own help.
    #[command(disable_help_flag = true)]
    Torture(torture::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().chore {
        Chore::Check(args) => check::run(&args),
        Chore::Test(args) => test::run(&args),
        Chore::Demo(args) => demo::run(&args),
        Chore::Bench(args) => bench::run(&args),
        Chore::Torture(args) => torture::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_demo_gets_its_flags_as_they_are() {
        let cli = Cli::parse_from(["xtask", "demo", "--faults", "storm", "--help", "--", "-x"]);
        let Chore::Demo(args) = cli.chore else { panic!("parsed {:?}", cli.chore) };
        assert_eq!(args.args, ["--faults", "storm", "--help", "--", "-x"]);
    }
}
