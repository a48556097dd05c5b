use std::time::Duration;

use relaykit_pipeline_traits::Monotonic;

use crate::limits::{Limits, OverThreshold};

/// A moment in µs since the clock's origin: half the size of a `Monotonic`, since every blocked key holds one.
pub(crate) type Micros = u64;

/// A moment that never comes.
pub(crate) const NEVER: Micros = Micros::MAX;

/// Rounds down to whole µs. The largest moment but one is 584,542 years after the origin.
pub(crate) fn micros(moment: Monotonic) -> Micros {
    length(moment.since_origin())
}

/// How long `time` is in µs, saturating.
pub(crate) fn length(time: Duration) -> Micros {
    time.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(time.subsec_micros()))
}

/// [`Limits`] in the units of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) threshold: usize,
    pub(crate) waive: bool,
    pub(crate) disabled_for: Micros,
    pub(crate) half_for: Micros,
    pub(crate) drain: usize,
    pub(crate) drain_for: Micros,
}

impl Bounds {
    /// Whether jobs in flight are counted for every key.
    pub(crate) const fn tracks(&self) -> bool {
        self.threshold > 0
    }
}

impl From<Limits> for Bounds {
    fn from(limits: Limits) -> Self {
        Self {
            threshold: limits.key_threshold as usize,
            waive: limits.over_threshold == OverThreshold::Waive,
            disabled_for: length(limits.disabled_for),
            half_for: length(limits.half_enabled_for),
            drain: limits.drain as usize,
            drain_for: length(limits.drain_for),
        }
    }
}
