use std::ffi::OsStr;
use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// A shell that runs a script as soon as we let go of it, in whatever way we end.
///
/// It waits at the end of a pipe that only we hold. Whether this is dropped, we exit, or somebody kills us: the
/// pipe closes and the script runs. So what we started is stopped even after a SIGKILL.
#[derive(Debug)]
pub(super) struct Watchdog(Child);

/// Ctrl-C reaches the whole process group; the watchdog has its work yet to do.
const WAIT: &str = "trap '' INT TERM HUP QUIT; read -r _; ";

impl Watchdog {
    /// Starts the shell. The script finds `args` as `$1`, `$2`, …; `prepare` may set who runs it.
    ///
    /// # Errors
    ///
    /// There is no `sh`.
    pub(super) fn start<I>(script: &str, args: I, prepare: impl FnOnce(&mut Command)) -> anyhow::Result<Self>
    where
        I: IntoIterator<Item: AsRef<OsStr>>,
    {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{WAIT}{script}")).arg("watchdog").args(args);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        prepare(&mut shell);
        shell.spawn().map(Self).context("could not start `sh`")
    }
}

impl Drop for Watchdog {
    /// Lets the script run, and waits for it.
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_script_runs_when_the_watchdog_is_let_go_and_not_before() {
        let file = std::env::temp_dir().join(format!("relaykit-watchdog-{}", std::process::id()));
        std::fs::write(&file, "").unwrap();
        let watchdog = Watchdog::start(r#"rm "$1""#, [&file], |_| {}).unwrap();
        assert!(file.exists());
        drop(watchdog);
        assert!(!file.exists());
    }
}
