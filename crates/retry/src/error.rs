use std::fmt;
use std::time::Duration;

use relaykit_pipeline_traits::{Classify, ErrorClass, GiveUp};

/// Why [`Retry::run`](crate::Retry::run) ended without success.
///
/// It is classified as the error that it holds, so a retried operation can be part of another one. Two nested
/// loops multiply their attempts, though: share a [`RetryBudget`](crate::RetryBudget) between them, or retry
/// at one level only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetryError<E> {
    /// The operation was called, and the last call failed.
    #[error("gave up after {elapsed:?} with {attempts} attempts spent: {reason}")]
    Failed {
        /// The error of the last call, unchanged.
        #[source]
        error: E,
        /// The attempts spent: the calls, without those that were throttled for free.
        attempts: u32,
        /// The calls made.
        calls: u32,
        /// The time from the start of the first call to the end of the last.
        elapsed: Duration,
        /// Why no other call follows.
        reason: StopReason,
    },
    /// The operation was not called at all.
    #[error("not tried: {reason}")]
    NotTried {
        /// Why: [`CircuitOpen`](StopReason::CircuitOpen) or [`Stopped`](StopReason::Stopped).
        reason: StopReason,
    },
}

/// Why no other call follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The error is [`Permanent`](ErrorClass::Permanent).
    Permanent,
    /// The policy gave up.
    Exhausted(GiveUp),
    /// The [`RetryBudget`](crate::RetryBudget) had no token for another call.
    Budget,
    /// The [`CircuitBreaker`](crate::CircuitBreaker) lets no call through.
    CircuitOpen {
        /// When it lets one through, at the latest.
        retry_in: Duration,
    },
    /// The future given to [`Retry::until`](crate::Retry::until) ended.
    Stopped,
}

impl<E> RetryError<E> {
    /// Returns the error of the last call, if there was one.
    pub const fn error(&self) -> Option<&E> {
        match self {
            Self::Failed { error, .. } => Some(error),
            Self::NotTried { .. } => None,
        }
    }

    /// Returns the error of the last call by value, if there was one.
    pub fn into_error(self) -> Option<E> {
        match self {
            Self::Failed { error, .. } => Some(error),
            Self::NotTried { .. } => None,
        }
    }

    /// Returns why no other call followed.
    pub const fn reason(&self) -> StopReason {
        match self {
            Self::Failed { reason, .. } | Self::NotTried { reason } => *reason,
        }
    }

    /// Returns the attempts spent.
    pub const fn attempts(&self) -> u32 {
        match self {
            Self::Failed { attempts, .. } => *attempts,
            Self::NotTried { .. } => 0,
        }
    }

    /// Returns the calls made: the attempts, and those that were throttled for free.
    pub const fn calls(&self) -> u32 {
        match self {
            Self::Failed { calls, .. } => *calls,
            Self::NotTried { .. } => 0,
        }
    }

    /// Returns the time from the start of the first call to the end of the last.
    pub const fn elapsed(&self) -> Duration {
        match self {
            Self::Failed { elapsed, .. } => *elapsed,
            Self::NotTried { .. } => Duration::ZERO,
        }
    }
}

impl<E: Classify> Classify for RetryError<E> {
    /// Returns the class of the last error. Where no call was made, none was spent: that is
    /// [`Throttled`](ErrorClass::Throttled).
    fn class(&self) -> ErrorClass {
        self.error().map_or(ErrorClass::Throttled, Classify::class)
    }

    fn retry_after(&self) -> Option<Duration> {
        let hint = self.error().and_then(Classify::retry_after);
        match self.reason() {
            StopReason::CircuitOpen { retry_in } => hint.max(Some(retry_in)),
            _ => hint,
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permanent => f.write_str("trying again cannot help"),
            Self::Exhausted(give_up) => give_up.fmt(f),
            Self::Budget => f.write_str("the retry budget is spent"),
            Self::CircuitOpen { retry_in } => write!(f, "the circuit is open for another {retry_in:?}"),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    #[error("busy")]
    struct Busy(ErrorClass, Option<Duration>);

    impl Classify for Busy {
        fn class(&self) -> ErrorClass {
            self.0
        }
        fn retry_after(&self) -> Option<Duration> {
            self.1
        }
    }

    fn failed(error: Busy, reason: StopReason) -> RetryError<Busy> {
        RetryError::Failed { error, attempts: 3, calls: 4, elapsed: Duration::from_millis(1500), reason }
    }

    const OPEN: StopReason = StopReason::CircuitOpen { retry_in: Duration::from_secs(30) };

    #[test]
    fn the_message_names_its_numbers_and_leaves_the_cause_to_source() {
        let error = failed(Busy(ErrorClass::Transient, None), StopReason::Exhausted(GiveUp::attempts()));
        assert_eq!(error.to_string(), "gave up after 1.5s with 3 attempts spent: all attempts are spent");
        assert_eq!(error.source().unwrap().to_string(), "busy");

        let error = RetryError::<Busy>::NotTried { reason: OPEN };
        assert_eq!(error.to_string(), "not tried: the circuit is open for another 30s");
        assert!(error.source().is_none());
    }

    #[test]
    fn a_retried_error_keeps_its_class_and_its_hint() {
        let hint = Some(Duration::from_secs(7));
        for class in [ErrorClass::Permanent, ErrorClass::Transient, ErrorClass::Throttled] {
            let error = failed(Busy(class, hint), StopReason::Budget);
            assert_eq!((error.class(), error.retry_after()), (class, hint));
            assert_eq!((error.attempts(), error.calls()), (3, 4));
            assert_eq!(error.into_error(), Some(Busy(class, hint)));
        }
    }

    #[test]
    fn what_was_not_tried_spends_no_attempt_and_says_when_to_come_back() {
        let error = RetryError::<Busy>::NotTried { reason: OPEN };
        assert_eq!(error.class(), ErrorClass::Throttled);
        assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
        assert_eq!((error.attempts(), error.calls(), error.error()), (0, 0, None));

        let later = failed(Busy(ErrorClass::Transient, Some(Duration::from_secs(7))), OPEN);
        assert_eq!(later.retry_after(), Some(Duration::from_secs(30)), "the longer of the two");
    }
}
