use anyhow::Context;

use crate::workload::Measurement;

/// Tells the most memory that this process had.
///
/// # Errors
///
/// The system does not say: it is no Linux.
pub(super) fn measure(case: &str) -> anyhow::Result<Measurement> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("could not read how much memory it was")?;
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let most: f64 = most.context("the system does not say how much memory it was")?.parse()?;
    Ok(Measurement::new(case, most / 1024.0, "MiB"))
}
