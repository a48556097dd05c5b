use std::time::Duration;

use relaykit_pipeline_traits::InvalidSetting;

/// What happens to a job that finds as many jobs of its key in flight as the threshold allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum OverThreshold {
    /// It waits: [`Admission::Full`](crate::Admission::Full). With a threshold of 1, jobs of a key follow each other
    /// strictly. This is the default.
    #[default]
    Block,
    /// The key's order is waived for a while, so that one hot key does not hold up everything: *disabled* (every job
    /// passes, nothing is remembered), then *half-enabled* (order is kept, older jobs may still turn up unreported),
    /// then as before. [`Event::OrderWaived`](crate::Event::OrderWaived) says so.
    Waive,
}

/// How much of a key may be in flight. By default nothing is limited and order is never waived.
///
/// All of it can be changed while running, with [`Barrier::set_limits`](crate::Barrier::set_limits).
///
/// ```
/// use relaykit_event_barrier::Limits;
///
/// // One job of a key at a time, and one after a job that was given up.
/// let strict = Limits::default().key_threshold(1).drain(1);
/// # let _ = strict;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub(crate) key_threshold: u32,
    pub(crate) over_threshold: OverThreshold,
    pub(crate) disabled_for: Duration,
    pub(crate) half_enabled_for: Duration,
    pub(crate) drain: u32,
    pub(crate) drain_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_threshold: 0,
            over_threshold: OverThreshold::Block,
            disabled_for: Duration::from_secs(10 * 60),
            half_enabled_for: Duration::from_secs(5 * 60),
            drain: 0,
            drain_for: Duration::from_secs(10 * 60),
        }
    }
}

impl Limits {
    /// Sets how many jobs of a key may be in flight at once; 0 means any number. Default: 0.
    #[must_use]
    pub const fn key_threshold(mut self, jobs: u32) -> Self {
        self.key_threshold = jobs;
        self
    }

    /// Sets what happens to the next one. Default: [`OverThreshold::Block`].
    #[must_use]
    pub const fn over_threshold(mut self, over: OverThreshold) -> Self {
        self.over_threshold = over;
        self
    }

    /// Sets how long a key stays disabled under [`OverThreshold::Waive`]. Default: 10 min. More than zero.
    #[must_use]
    pub const fn disabled_for(mut self, time: Duration) -> Self {
        self.disabled_for = time;
        self
    }

    /// Sets how long it then stays half-enabled. Default: 5 min. More than zero.
    #[must_use]
    pub const fn half_enabled_for(mut self, time: Duration) -> Self {
        self.half_enabled_for = time;
        self
    }

    /// Sets how many jobs of a key may be in flight after a failed job of it was aborted, until one of those ends; 0
    /// means any number. Default: 0.
    ///
    /// It keeps a flood from pouring out behind an event that was just rejected.
    #[must_use]
    pub const fn drain(mut self, jobs: u32) -> Self {
        self.drain = jobs;
        self
    }

    /// Sets how long after its beginning the drain limit of a key is forgotten, once no job of it is in flight. Default:
    /// 10 min. More than zero.
    #[must_use]
    pub const fn drain_for(mut self, time: Duration) -> Self {
        self.drain_for = time;
        self
    }

    pub(crate) fn check(&self) -> Result<(), InvalidSetting> {
        for (field, time) in [
            ("disabled_for", self.disabled_for),
            ("half_enabled_for", self.half_enabled_for),
            ("drain_for", self.drain_for),
        ] {
            if time < Duration::from_micros(1) {
                return Err(InvalidSetting::new(field, format!("{time:?}"), "at least 1µs"));
            }
        }
        Ok(())
    }
}
