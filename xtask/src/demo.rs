use std::ffi::OsString;
use std::process::ExitCode;

use crate::process;

/// What `cargo xtask demo` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments of the demo.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

/// Builds the demo in release mode and runs it; its exit code becomes ours.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut command = process::cargo(["run", "--release", "--quiet", "--package", "relaykit-demo", "--"]);
    command.args(&args.args);
    process::become_child(command)
}
