use anyhow::Context;

/// Returns the most memory this process has had at once, in bytes.
///
/// # Errors
///
/// The system does not tell.
pub(crate) fn peak_bytes() -> anyhow::Result<u64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("could not read this process's status")?;
    peak_of(&status).context("this process's status has no VmHWM")
}

fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        assert_eq!(peak_of("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n"), Some(2 * 1024 * 1024));
        assert_eq!(peak_of("Name:\tx\nVmRSS:\t 1 kB\n"), None);
    }
}
