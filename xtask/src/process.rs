use std::env;
use std::ffi::OsStr;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, bail};

use crate::interrupt;

/// Makes a call of the cargo that runs this xtask.
pub(crate) fn cargo<I>(args: I) -> Command
where
    I: IntoIterator<Item: AsRef<OsStr>>,
{
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// Prints the command, runs it on this terminal and waits for it.
///
/// # Errors
///
/// The command cannot be started.
pub(crate) fn status(command: &mut Command) -> anyhow::Result<ExitStatus> {
    let line = display(command);
    eprintln!("$ {line}");
    let mut child = command.spawn().with_context(|| format!("could not start `{line}`"))?;
    let _running = interrupt::end_with_us(&child);
    child.wait().with_context(|| format!("could not wait for `{line}`"))
}

/// Runs the command like [`status`].
///
/// # Errors
///
/// The command cannot be started, or it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed: {status}", display(command));
    }
    Ok(())
}

/// Tells whether the subcommand that another crate brings, such as `nextest`, is installed.
pub(crate) fn has_subcommand(name: &str) -> bool {
    cargo([name, "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Tells whether this run is a CI run, where nothing may be skipped: `CI` is set, and not to `false` or `0`.
pub(crate) fn is_ci() -> bool {
    means_ci(env::var("CI").ok().as_deref())
}

fn means_ci(value: Option<&str>) -> bool {
    !matches!(value, None | Some("" | "0" | "false"))
}

/// Passes a child's status on as our exit code; a child that a signal ended counts as 1.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Replaces this process, so that signals and the exit code are the child's own.
#[cfg(unix)]
pub(crate) fn become_child(mut command: Command) -> anyhow::Result<ExitCode> {
    use std::os::unix::process::CommandExt;

    let error = command.exec();
    Err(anyhow::Error::new(error).context(format!("could not start `{}`", display(&command))))
}

/// Waits for the child; a Ctrl-C goes to the whole console, the child included.
#[cfg(not(unix))]
pub(crate) fn become_child(mut command: Command) -> anyhow::Result<ExitCode> {
    status(&mut command).map(exit_code)
}

/// Writes a command as one would type it; the path of the program is left out.
pub(crate) fn display(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> =
        std::iter::once(program).chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_is_on_unless_it_is_unset_or_denied() {
        assert!(means_ci(Some("true")));
        assert!(means_ci(Some("1")));
        assert!(!means_ci(None));
        assert!(!means_ci(Some("")));
        assert!(!means_ci(Some("false")));
        assert!(!means_ci(Some("0")));
    }

    #[test]
    fn a_command_is_shown_without_the_path_of_its_program() {
        let mut command = Command::new("/somewhere/bin/cargo");
        command.args(["fmt", "--check"]);
        assert_eq!(display(&command), "cargo fmt --check");
    }

    #[test]
    fn a_failing_command_is_named_with_its_status() {
        let error = run(&mut cargo(["this-subcommand-does-not-exist"])).unwrap_err().to_string();
        assert!(error.contains("`cargo this-subcommand-does-not-exist` failed: exit status: 101"), "{error}");
    }

    #[test]
    fn a_subcommand_that_nobody_installed_is_missing() {
        assert!(has_subcommand("clippy"));
        assert!(!has_subcommand("this-subcommand-does-not-exist"));
    }
}
