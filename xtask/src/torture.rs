use std::ffi::OsString;
use std::process::ExitCode;

use crate::postgres::{self, Postgres};
use crate::{interrupt, process};

/// What `cargo xtask torture` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments of the program.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

/// What is in a database, too.
const ON_POSTGRES: [&str; 2] = ["inbox", "outbox"];

/// Builds the program in release mode and runs it, beside a Postgres server if it is about one; its exit code becomes ours.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut command = process::cargo(["run", "--release", "--quiet", "--package", "relaykit-torture", "--"]);
    command.args(&args.args);
    if !needs_postgres(&args.args) {
        return process::become_child(command);
    }
    interrupt::handle()?;
    let postgres = postgres::obtain()?;
    let status = process::status(command.envs(postgres.iter().flat_map(Postgres::variables)))?;
    if interrupt::asked() {
        return Ok(ExitCode::from(interrupt::EXIT_CODE));
    }
    Ok(process::exit_code(status))
}

fn needs_postgres(args: &[OsString]) -> bool {
    let asks = args.iter().any(|arg| arg == "--help" || arg == "-h");
    !asks && args.first().is_some_and(|what| ON_POSTGRES.iter().any(|name| what == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_started_for_what_needs_one_and_not_for_help() {
        let needs = |args: &[&str]| needs_postgres(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(needs(&["outbox"]) && needs(&["inbox", "--profile", "pr"]));
        assert!(!needs(&["queue"]) && !needs(&["--help"]) && !needs(&["outbox", "--help"]) && !needs(&[]));
    }
}
