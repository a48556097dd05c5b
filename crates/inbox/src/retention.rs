use std::time::Duration;

use relaykit_pipeline_traits::InvalidSetting;

/// How long an inbox keeps what is finished. Counted from when a message was received; of a dead letter, from when it died.
///
/// Nothing unfinished is ever erased: no message that a handler has yet to handle, that is a dead letter, or that has no handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Retention {
    pub(crate) payloads: Option<Duration>,
    pub(crate) dead: Option<Duration>,
    pub(crate) ids: Option<Duration>,
}

/// The least time that ids are remembered: one hour.
pub const MIN_IDS: Duration = Duration::from_secs(60 * 60);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for Retention {
    fn default() -> Self {
        Self { payloads: Some(7 * DAY), dead: None, ids: Some(30 * DAY) }
    }
}

impl Retention {
    /// Keeps everything for ever.
    pub const fn off() -> Self {
        Self { payloads: None, dead: None, ids: None }
    }

    /// Sets how long payloads and headers of finished messages are kept; `None`: for ever. Default: 7 days.
    pub const fn payloads(mut self, window: Option<Duration>) -> Self {
        self.payloads = window;
        self
    }

    /// Sets how long dead letters are kept; `None`: for ever. Default: for ever. A message whose last dead letter is erased is
    /// finished.
    pub const fn dead(mut self, window: Option<Duration>) -> Self {
        self.dead = window;
        self
    }

    /// Sets how long ids of finished messages are remembered; `None`: for ever. Default: 30 days.
    ///
    /// A repetition that comes later is taken for a new message, so it must be longer than any sender repeats.
    pub const fn ids(mut self, window: Option<Duration>) -> Self {
        self.ids = window;
        self
    }

    /// Returns for how long payloads are kept.
    #[must_use]
    pub const fn payload_window(&self) -> Option<Duration> {
        self.payloads
    }

    /// Returns for how long dead letters are kept.
    #[must_use]
    pub const fn dead_window(&self) -> Option<Duration> {
        self.dead
    }

    /// Returns for how long ids are remembered.
    #[must_use]
    pub const fn id_window(&self) -> Option<Duration> {
        self.ids
    }

    /// Checks it against the longest time after which a sender repeats a message.
    ///
    /// # Errors
    ///
    /// Ids are not remembered as long as that, or not as long as payloads, or shorter than an hour.
    pub fn check(&self, longest_retry: Duration) -> Result<(), InvalidSetting> {
        let Some(ids) = self.ids else { return Ok(()) };
        let least = MIN_IDS.max(longest_retry).max(self.payloads.unwrap_or(Duration::MAX));
        if ids < least {
            let bound = format!(
                "at least {least:?}: an hour, the time that payloads are kept, and the longest time until a repetition"
            );
            return Err(InvalidSetting::new("ids", format!("{ids:?}"), bound));
        }
        Ok(())
    }
}

/// What was erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Erased {
    /// Payloads of finished messages.
    pub payloads: u64,
    /// Dead letters.
    pub dead: u64,
    /// Ids of finished messages, which are forgotten now.
    pub ids: u64,
}

impl Erased {
    /// Adds what was erased later.
    pub const fn add(&mut self, other: Self) {
        self.payloads += other.payloads;
        self.dead += other.dead;
        self.ids += other.ids;
    }

    /// Returns the largest of the numbers.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.payloads.max(self.dead).max(self.ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_remembered_longer_than_payloads_and_than_any_repetition() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert!(Retention::default().check(hours(72)).is_ok());
        assert!(Retention::off().check(Duration::MAX).is_ok());
        let short = Retention::default().ids(Some(6 * DAY));
        assert!(short.check(Duration::ZERO).is_err(), "payloads are kept for 7 days");
        assert!(short.payloads(Some(DAY)).check(Duration::ZERO).is_ok());
        assert!(short.payloads(Some(DAY)).check(7 * DAY).is_err());
        assert!(
            Retention::off().ids(Some(30 * DAY)).check(Duration::ZERO).is_err(),
            "payloads are kept for ever"
        );
        let none = Retention::default().payloads(Some(Duration::ZERO));
        assert!(none.ids(Some(Duration::from_secs(60))).check(Duration::ZERO).is_err());
    }
}
