use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment of wall time: microseconds since 1970-01-01T00:00:00Z, before it when negative.
///
/// This is what is stored and sent. Waits are measured with [`Monotonic`](crate::Monotonic), which no
/// clock step moves. Arithmetic saturates at the ends of the range, some 292,000 years away.
///
/// ```
/// use std::time::Duration;
/// use relaykit_pipeline_traits::Timestamp;
///
/// let at = Timestamp::from_micros(1_500_000);
/// assert_eq!(at + Duration::from_millis(500), Timestamp::from_micros(2_000_000));
/// assert_eq!(at.since(Timestamp::EPOCH), Duration::from_millis(1_500));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch, 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// Makes a timestamp from microseconds since the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Makes a timestamp from whole milliseconds since the Unix epoch, saturating.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Returns the microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Returns the whole milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Returns the whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Returns how long after `earlier` this moment lies; zero if it lies before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let micros = i128::from(self.0) - i128::from(earlier.0);
        Duration::from_micros(u64::try_from(micros.max(0)).unwrap_or(u64::MAX))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, wait: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl From<SystemTime> for Timestamp {
    /// Rounds towards the epoch and saturates.
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self::EPOCH + after,
            Err(before) => Self::EPOCH - before.duration(),
        }
    }
}

impl TryFrom<Timestamp> for SystemTime {
    type Error = TimestampOutOfRange;

    fn try_from(at: Timestamp) -> Result<Self, Self::Error> {
        let distance = Duration::from_micros(at.0.unsigned_abs());
        if at.0 < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
            .ok_or(TimestampOutOfRange { micros: at.0 })
    }
}

impl fmt::Display for Timestamp {
    /// Writes seconds since the epoch with six decimals, as in `1763683200.000001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let micros = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

/// A [`Timestamp`] that this platform's `SystemTime` cannot hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timestamp of {micros} µs is outside the range of this platform's clock")]
pub struct TimestampOutOfRange {
    /// The timestamp, in microseconds since the epoch.
    pub micros: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let last = Timestamp::from_micros(i64::MAX);
        let first = Timestamp::from_micros(i64::MIN);
        assert_eq!(last + Duration::MAX, last);
        assert_eq!(first - Duration::MAX, first);
        assert_eq!(last.since(first), Duration::from_micros(u64::MAX));
        assert_eq!(first.since(last), Duration::ZERO);
    }

    #[test]
    fn coarser_units_round_down_before_the_epoch_too() {
        let at = Timestamp::from_micros(-1);
        assert_eq!((at.as_millis(), at.as_secs()), (-1, -1));
        assert_eq!(at.to_string(), "-0.000001");
    }

    #[test]
    fn system_time_makes_the_round_trip() {
        for micros in [0, 1, -1, 1_763_683_200_000_001, -62_135_596_800_000_000] {
            let at = Timestamp::from_micros(micros);
            assert_eq!(Timestamp::from(SystemTime::try_from(at).unwrap()), at);
        }
    }
}
