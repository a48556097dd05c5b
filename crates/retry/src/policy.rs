use std::time::Duration;

use relaykit_pipeline_traits::{Failure, GiveUp, RetryDecision, RetryPolicy, Rng};

use crate::Jitter;
use crate::curve::Curve;

/// A checked retry policy: how long to wait, and when to stop. Made by [`Backoff`](crate::Backoff).
///
/// It is a value of a few words that holds no state and asks no clock, so it can be copied freely, shared by
/// any number of tasks, and used for the loop in memory and for the row in a database alike. A decision
/// allocates nothing and saturates instead of overflowing, at any attempt.
///
/// ```
/// use std::time::Duration;
/// use relaykit_pipeline_traits::{DurableDecision, Failure, RetryDecision, RetryPolicy, Rng, Timestamp};
/// use relaykit_retry::{Backoff, Jitter};
///
/// let policy = Backoff::exponential(Duration::from_secs(1)).jitter(Jitter::None).build()?;
/// let mut rng = Rng::from_entropy();
///
/// // In memory:
/// let third = Failure::of_attempt(3);
/// assert_eq!(policy.decide(&third, &mut rng), RetryDecision::RetryAfter(Duration::from_secs(4)));
///
/// // In a row that says when the item was first tried:
/// let (first_at, now) = (Timestamp::from_millis(0), Timestamp::from_millis(60_000));
/// assert_eq!(
///     policy.decide_at(&third, first_at, now, &mut rng),
///     DurableDecision::RetryAt(Timestamp::from_millis(64_000)),
/// );
/// # Ok::<(), relaykit_pipeline_traits::InvalidSetting>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    pub(crate) curve: Curve,
    pub(crate) jitter: Jitter,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) max_elapsed: Option<Duration>,
    pub(crate) max_delay: Duration,
    pub(crate) max_hint: Duration,
    pub(crate) cooldown: Option<Duration>,
}

impl RetryPolicy for Policy {
    fn decide(&self, failure: &Failure, rng: &mut Rng) -> RetryDecision {
        if self.max_attempts.is_some_and(|most| failure.attempt >= most) {
            return RetryDecision::GiveUp(GiveUp::attempts().with_cooldown(self.cooldown));
        }
        let wait = self.wait_after(failure, rng);
        // A wait that ends exactly at the bound is still allowed.
        if self.max_elapsed.is_some_and(|most| failure.elapsed.saturating_add(wait) > most) {
            return RetryDecision::GiveUp(GiveUp::elapsed().with_cooldown(self.cooldown));
        }
        RetryDecision::RetryAfter(wait)
    }
}

impl Policy {
    fn wait_after(&self, failure: &Failure, rng: &mut Rng) -> Duration {
        let wait = self.jitter.draw(self.curve, self.max_delay, failure, rng);
        failure.hint.map_or(wait, |hint| hint.min(self.max_hint).max(wait))
    }
}

#[cfg(test)]
mod tests;
