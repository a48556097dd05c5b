use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;

/// Who runs the server: we, or if we are root, which a server refuses, a user without rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whether we have to become this user.
    switch: bool,
}

/// Users without rights that one finds on most systems; the first that is there runs the server.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

impl User {
    /// Returns who runs the server.
    ///
    /// # Errors
    ///
    /// We are root, and there is nobody without rights.
    pub(super) fn of_server() -> anyhow::Result<Self> {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if !uid.is_root() {
            return Ok(Self { uid: uid.as_raw(), gid: gid.as_raw(), switch: false });
        }
        let users = fs::read_to_string("/etc/passwd").context("could not read /etc/passwd")?;
        let (uid, gid) = unprivileged(&users).context(
            "Postgres refuses to run as root, and there is neither a user postgres nor nobody to run it",
        )?;
        Ok(Self { uid, gid, switch: true })
    }

    /// Makes the command run as this user, in a folder that everybody may enter.
    pub(super) fn run(self, command: &mut Command) {
        command.current_dir("/").env_remove("PGDATA").env_remove("PGPORT").env_remove("PGHOST");
        if self.switch {
            // Drops root's groups as well.
            command.uid(self.uid).gid(self.gid).env("HOME", "/");
        }
    }

    /// Tells whether this is another user than we are.
    pub(super) fn is_other(self) -> bool {
        self.switch
    }
}

/// Finds the ids of a user without rights in the text of `/etc/passwd`.
fn unprivileged(users: &str) -> Option<(u32, u32)> {
    UNPRIVILEGED.iter().find_map(|name| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2);
        let (uid, gid): (u32, u32) = (ids.next()?.parse().ok()?, ids.next()?.parse().ok()?);
        (uid != 0).then_some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: &str = "nobody:x:65534:65533:nobody:/nonexistent:/usr/sbin/nologin\n";

    #[test]
    fn the_user_of_the_package_comes_before_nobody() {
        let users = format!("root:x:0:0:root:/root:/bin/bash\n{NOBODY}postgres:x:101:104::/:/bin/sh\n");
        assert_eq!(unprivileged(&users), Some((101, 104)));
        assert_eq!(unprivileged(NOBODY), Some((65534, 65533)));
    }

    #[test]
    fn root_under_another_name_is_passed_over() {
        assert_eq!(unprivileged("postgres:x:0:0::/:/bin/sh\n"), None);
        assert_eq!(unprivileged("postgres:x\nroot:x:0:0::/root:/bin/sh"), None);
    }
}
