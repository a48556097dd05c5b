use std::time::Duration;

use super::super::Measurement;
use super::peak_bytes;

/// Measures how many events a second `run` brings to their end. It answers the time they took, and adds to the measurement.
///
/// A shorter run goes before, so that the one measured finds memory and threads as they are in steady work.
///
/// # Errors
///
/// A run fails.
pub(crate) fn rate(
    case: &str,
    events: u32,
    mut run: impl FnMut(u32) -> anyhow::Result<(Duration, u64)>,
) -> anyhow::Result<Measurement> {
    run((events / 20).max(1))?;
    let (time, file_bytes) = run(events)?;
    let value = f64::from(events) / time.as_secs_f64();
    Ok(Measurement::new(case, value, "items/s")
        .with("items", events)
        .with("file_bytes", file_bytes)
        .with("peak_bytes", peak_bytes()?))
}
