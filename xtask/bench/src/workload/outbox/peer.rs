//! What a peer of the outbox takes from this folder.

#[path = "common/mod.rs"]
mod common;
#[path = "../measurement.rs"]
mod measurement;
#[path = "../stopwatch.rs"]
pub(crate) mod stopwatch;
mod throwaway;

use std::time::Duration;

use anyhow::ensure;

#[allow(unused_imports, reason = "not every peer has keys")]
pub(crate) use common::KEYS;
pub(crate) use common::{Arrivals, payload};
pub(crate) use measurement::Measurement;
pub(crate) use throwaway::Throwaway;

/// A drain that takes longer goes on for ever.
const PATIENCE: Duration = Duration::from_secs(180);

/// Describes how many messages a second were added.
pub(crate) fn added(case: &str, messages: u32, time: Duration) -> Measurement {
    let rate = f64::from(messages) / time.as_secs_f64();
    Measurement::new(case, rate, "messages/s").with("messages", messages)
}

/// Waits until all messages have arrived, and describes how many a second did.
///
/// # Errors
///
/// Something else arrived, or not all within three minutes.
pub(crate) async fn drained(
    case: &str,
    messages: u32,
    arrivals: &Arrivals,
    since: &stopwatch::Stopwatch,
) -> anyhow::Result<Measurement> {
    let complete = tokio::time::timeout(PATIENCE, arrivals.complete()).await;
    ensure!(complete.is_ok(), "{} messages of {messages} were sent", arrivals.count());
    let time = since.elapsed();
    arrivals.check()?;
    Ok(added(case, messages, time)
        .with("inversions", arrivals.inversions())
        .with("last_tenth_to_first", arrivals.flatness(time)))
}
