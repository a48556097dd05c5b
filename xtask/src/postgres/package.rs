use std::fs;
use std::process::Command;

use crate::process;

/// The package that brings the server.
pub(super) const NAME: &str = "postgresql";

/// Tells whether we may install packages on this Debian or Ubuntu.
pub(super) fn may_install() -> bool {
    is_root() && fs::read_to_string("/etc/os-release").is_ok_and(|text| is_debian_like(&text))
}

/// Installs the package.
pub(super) fn install() -> anyhow::Result<()> {
    process::run(Command::new("apt-get").args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--no-install-recommends", NAME]);
    process::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Reads from the text of `/etc/os-release` whether it is Debian or descends from it, as Ubuntu does.
fn is_debian_like(text: &str) -> bool {
    let values = text.lines().filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")));
    values.flat_map(|value| value.trim_matches('"').split(' ')).any(|id| id == "debian")
}

#[cfg(unix)]
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_descendants_are_known() {
        assert!(is_debian_like("NAME=x\nID=debian\n"));
        assert!(is_debian_like("ID=ubuntu\nID_LIKE=debian\n"));
        assert!(is_debian_like("ID=pop\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian_like("ID=fedora\nID_LIKE=\"rhel\"\nVERSION_ID=debian\n"));
    }
}
