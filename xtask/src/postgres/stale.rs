use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::cluster::{PREFIX, STOP, parent};
use super::user::User;

/// Stops the servers whose xtask is gone and removes their folders.
///
/// A watchdog does that at once, so one finds something here only after the watchdog was killed as well, or the
/// machine went down.
pub(super) fn sweep(programs: &Path) {
    let Ok(user) = User::of_server() else { return };
    for entry in fs::read_dir(parent(user)).into_iter().flatten().flatten() {
        let Some(owner) = entry.file_name().to_str().and_then(owner) else { continue };
        // Only what is its user's own: in a folder that everybody can write to, names prove nothing.
        let ours = entry.metadata().is_ok_and(|folder| folder.is_dir() && folder.uid() == user.uid);
        if !ours || is_running(owner) {
            continue;
        }
        let path = entry.path();
        eprintln!("postgres: stopping what a killed run left in {}", path.display());
        let mut stop = Command::new("sh");
        stop.arg("-c").arg(STOP).arg("sweep").arg(programs).arg(&path);
        user.run(&mut stop);
        let _ = stop.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Reads the id of the xtask that made a folder out of its name.
fn owner(name: &str) -> Option<i32> {
    name.strip_prefix(PREFIX)?.parse().ok().filter(|pid| *pid > 0)
}

fn is_running(pid: i32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid);
    // Anything but "no such process" means that it is there, be it another user's.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_names_the_run_that_made_it() {
        assert_eq!(owner("relaykit-pg-4711"), Some(4711));
        assert_eq!(owner("relaykit-pg-4711.out"), None);
        assert_eq!(owner("relaykit-pg--1"), None);
        assert_eq!(owner("other-4711"), None);
    }

    #[test]
    fn we_are_running_and_a_process_that_ended_is_not() {
        assert!(is_running(i32::try_from(std::process::id()).unwrap()));
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(!is_running(i32::try_from(child.id()).unwrap()));
    }
}
