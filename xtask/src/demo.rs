use std::ffi::OsString;
use std::process::{Command, ExitCode};

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
    become_child(command)
}

/// Replaces this process, so that signals and the exit code are the demo's own.
#[cfg(unix)]
fn become_child(mut command: Command) -> anyhow::Result<ExitCode> {
    use std::os::unix::process::CommandExt;

    let error = command.exec();
    Err(anyhow::Error::new(error).context(format!("could not start `{}`", process::display(&command))))
}

/// Waits for the child; a Ctrl-C goes to the whole console, the child included.
#[cfg(not(unix))]
fn become_child(mut command: Command) -> anyhow::Result<ExitCode> {
    process::status(&mut command).map(process::exit_code)
}
