use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{Rng, Timestamp};

/// Decides whether a failed attempt is followed by another, and when.
///
/// A policy is a pure function of what it is told: it holds no state and asks no clock. One policy therefore
/// serves the loop in memory and the row in a database, and attempts are never counted twice.
///
/// ```
/// use std::time::Duration;
/// use relaykit_pipeline_traits::{Failure, GiveUp, RetryDecision, RetryPolicy, Rng};
///
/// /// Tries three times, a second apart.
/// #[derive(Debug)]
/// struct Thrice;
///
/// impl RetryPolicy for Thrice {
///     fn decide(&self, failure: &Failure, _rng: &mut Rng) -> RetryDecision {
///         if failure.attempt < 3 {
///             RetryDecision::RetryAfter(failure.at_least(Duration::from_secs(1)))
///         } else {
///             RetryDecision::GiveUp(GiveUp::attempts())
///         }
///     }
/// }
///
/// let decision = Thrice.decide(&Failure::of_attempt(1), &mut Rng::seeded(1));
/// assert_eq!(decision, RetryDecision::RetryAfter(Duration::from_secs(1)));
/// ```
pub trait RetryPolicy: Send + Sync + fmt::Debug {
    /// Decides what follows the failure. Neither panics nor overflows, whatever the attempt.
    fn decide(&self, failure: &Failure, rng: &mut Rng) -> RetryDecision;

    /// Decides for an attempt that is stored: `first_at` is when the item was first tried, `now` the present.
    ///
    /// A clock that went back makes the time passed zero.
    fn decide_at(
        &self,
        failure: &Failure,
        first_at: Timestamp,
        now: Timestamp,
        rng: &mut Rng,
    ) -> DurableDecision {
        let failure = Failure { elapsed: now.since(first_at), ..*failure };
        match self.decide(&failure, rng) {
            RetryDecision::RetryAfter(delay) => DurableDecision::RetryAt(now + delay),
            RetryDecision::GiveUp(reason) => DurableDecision::GiveUp(reason),
        }
    }
}

impl<P: RetryPolicy + ?Sized> RetryPolicy for Arc<P> {
    fn decide(&self, failure: &Failure, rng: &mut Rng) -> RetryDecision {
        (**self).decide(failure, rng)
    }
}

impl<P: RetryPolicy + ?Sized> RetryPolicy for &P {
    fn decide(&self, failure: &Failure, rng: &mut Rng) -> RetryDecision {
        (**self).decide(failure, rng)
    }
}

/// What a policy is told of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The attempt that failed: 1 for the first call. 0: the call was throttled before any attempt was spent.
    pub attempt: u32,
    /// The time since the first attempt began.
    pub elapsed: Duration,
    /// What the other side asks to wait, such as a `Retry-After`.
    pub hint: Option<Duration>,
    /// The wait before the attempt that failed, if known. Decorrelated jitter builds on it.
    pub previous_delay: Option<Duration>,
}

impl Failure {
    /// Describes the failure of an attempt of which nothing else is known.
    #[must_use]
    pub const fn of_attempt(attempt: u32) -> Self {
        Self { attempt, elapsed: Duration::ZERO, hint: None, previous_delay: None }
    }

    /// Returns `delay`, or the hint where that is longer.
    #[must_use]
    pub fn at_least(&self, delay: Duration) -> Duration {
        self.hint.map_or(delay, |hint| hint.max(delay))
    }
}

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Try again after this wait.
    RetryAfter(Duration),
    /// Do not try again.
    GiveUp(GiveUp),
}

/// What follows a failed attempt that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DurableDecision {
    /// Try again at this moment.
    RetryAt(Timestamp),
    /// Do not try again.
    GiveUp(GiveUp),
}

/// Why a policy gives up, and how long to leave the item alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct GiveUp {
    /// Which bound was met.
    pub bound: RetryBound,
    /// How long an engine that keeps the item leaves it alone before it begins again with attempt 1. `None`:
    /// it does not begin again, and the item is a dead letter.
    pub cooldown: Option<Duration>,
}

/// The bound at which a policy gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RetryBound {
    /// All attempts are spent.
    Attempts,
    /// The next attempt would begin after the time allowed.
    Elapsed,
}

impl GiveUp {
    /// Gives up because all attempts are spent.
    #[must_use]
    pub const fn attempts() -> Self {
        Self { bound: RetryBound::Attempts, cooldown: None }
    }

    /// Gives up because the time allowed is over.
    #[must_use]
    pub const fn elapsed() -> Self {
        Self { bound: RetryBound::Elapsed, cooldown: None }
    }

    /// Sets how long to leave the item alone before beginning again.
    #[must_use]
    pub const fn with_cooldown(mut self, cooldown: Option<Duration>) -> Self {
        self.cooldown = cooldown;
        self
    }
}

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.bound {
            RetryBound::Attempts => "all attempts are spent",
            RetryBound::Elapsed => "the time allowed is over",
        })
    }
}

/// Never tries again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoRetry;

impl RetryPolicy for NoRetry {
    fn decide(&self, _failure: &Failure, _rng: &mut Rng) -> RetryDecision {
        RetryDecision::GiveUp(GiveUp::attempts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct UntilTenSeconds;

    impl RetryPolicy for UntilTenSeconds {
        fn decide(&self, failure: &Failure, _rng: &mut Rng) -> RetryDecision {
            if failure.elapsed < Duration::from_secs(10) {
                RetryDecision::RetryAfter(failure.at_least(Duration::from_secs(2)))
            } else {
                RetryDecision::GiveUp(GiveUp::elapsed())
            }
        }
    }

    #[test]
    fn the_stored_form_decides_as_the_one_in_memory() {
        let mut rng = Rng::seeded(1);
        let first = Timestamp::from_millis(1_000_000);
        let after = |secs| first + Duration::from_secs(secs);
        let failure = Failure { hint: Some(Duration::from_secs(3)), ..Failure::of_attempt(1) };
        assert_eq!(
            UntilTenSeconds.decide_at(&failure, first, after(4), &mut rng),
            DurableDecision::RetryAt(after(7))
        );
        assert_eq!(
            UntilTenSeconds.decide_at(&failure, first, after(10), &mut rng),
            DurableDecision::GiveUp(GiveUp::elapsed())
        );
    }

    #[test]
    fn a_clock_that_went_back_counts_as_no_time_passed() {
        let first = Timestamp::from_millis(1_000_000);
        let decision = UntilTenSeconds.decide_at(
            &Failure::of_attempt(1),
            first,
            first - Duration::from_secs(3600),
            &mut Rng::seeded(1),
        );
        assert_eq!(decision, DurableDecision::RetryAt(first - Duration::from_secs(3598)));
    }
}
