use std::time::Duration;

use relaykit_batch_core::Cause;
use relaykit_event_barrier::State;
use relaykit_iterable_handlers::DeliveryError;
use relaykit_pipeline_traits::{
    Attempts, Classify as _, ErrorClass, Failure, Monotonic, RetryDecision, RetryPolicy, Rng,
};

/// Backoffs end at multiples of this, so that events which failed in one request come back in one.
const TOGETHER: Duration = Duration::from_millis(50);

/// What has been tried with one event, and when it may be tried again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tries {
    attempts: Attempts,
    first: Option<Monotonic>,
    delay: Option<Duration>,
    /// The end of its backoff; `None` before the first failure.
    pub(super) due: Option<Monotonic>,
}

/// What follows an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The event waits for its next attempt.
    Retry,
    /// The event has come to its end.
    End(State),
}

impl Tries {
    pub(super) const fn spent(&self) -> u32 {
        self.attempts.spent()
    }

    /// Notes that an attempt begins.
    pub(super) fn begin(&mut self, now: Monotonic) {
        self.first.get_or_insert(now);
    }

    /// Decides what follows the answer to one attempt, and counts what that cost.
    pub(super) fn judge<O>(
        &mut self,
        result: &Result<O, Cause<DeliveryError>>,
        policy: &impl RetryPolicy,
        now: Monotonic,
        rng: &mut Rng,
    ) -> Next {
        let free = match result {
            Ok(_) => {
                self.attempts.settled();
                return Next::End(State::Succeeded);
            }
            Err(Cause::Dead(_)) => {
                self.attempts.settled();
                return Next::End(State::Aborted);
            }
            // The other side wants nothing from us, or we were stopped.
            Err(Cause::Refused(_) | Cause::Stopped | Cause::Abandoned) => {
                return Next::End(State::Aborted);
            }
            Err(Cause::Untried) => true,
            Err(cause) => cause.error().is_some_and(|error| error.class() == ErrorClass::Throttled),
        };
        let hint = result.as_ref().err().and_then(Cause::error).and_then(DeliveryError::retry_after);
        let elapsed = now.since(self.first.unwrap_or(now));
        let failure = Failure { elapsed, hint, previous_delay: self.delay, ..Failure::of_attempt(0) };
        let decision = if free {
            self.attempts.spared(failure, policy, rng)
        } else {
            self.attempts.failed(failure, policy, rng)
        };
        match decision {
            RetryDecision::RetryAfter(delay) => {
                self.delay = Some(delay);
                self.due = Some(round_up(now + delay, TOGETHER));
                Next::Retry
            }
            RetryDecision::GiveUp(_) => Next::End(State::Aborted),
        }
    }
}

/// Returns the first moment at or after `at` that is a multiple of `step`.
fn round_up(at: Monotonic, step: Duration) -> Monotonic {
    let over = at.since_origin().as_nanos() % step.as_nanos();
    if over == 0 {
        return at;
    }
    // Less than a step, which fits.
    at + step.saturating_sub(Duration::from_nanos(u64::try_from(over).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use relaykit_iterable_handlers::{Doubt, Reason};
    use relaykit_retry::{Backoff, Jitter, Policy};

    use super::*;

    fn policy() -> Policy {
        Backoff::fixed(Duration::from_secs(2)).jitter(Jitter::None).max_attempts(2).build().unwrap()
    }

    #[expect(clippy::needless_pass_by_value, reason = "callers make it on the spot")]
    fn judge(tries: &mut Tries, result: Result<(), Cause<DeliveryError>>) -> Next {
        tries.judge(&result, &policy(), Monotonic::default(), &mut Rng::seeded(1))
    }

    fn transient() -> Arc<DeliveryError> {
        Arc::new(DeliveryError::Ambiguous { doubt: Doubt::Counts })
    }

    #[test]
    fn a_failure_is_tried_again_after_its_backoff_until_the_attempts_are_spent() {
        let mut tries = Tries::default();
        assert_eq!(judge(&mut tries, Err(Cause::Exhausted(transient()))), Next::Retry);
        assert_eq!(tries.due, Some(Monotonic::default() + Duration::from_secs(2)));
        assert_eq!(judge(&mut tries, Err(Cause::Exhausted(transient()))), Next::End(State::Aborted));
        assert_eq!(tries.spent(), 2);
    }

    #[test]
    fn backoffs_that_end_at_about_the_same_time_end_together() {
        let at = |millis| Monotonic::from_origin(Duration::from_millis(millis));
        assert_eq!([1, 49, 50, 51].map(|millis| round_up(at(millis), TOGETHER)), [50, 50, 50, 100].map(at));
        assert_eq!(round_up(Monotonic::NEVER, TOGETHER), Monotonic::NEVER);
    }

    #[test]
    fn an_untried_event_spends_no_attempt() {
        let mut tries = Tries::default();
        assert_eq!(judge(&mut tries, Err(Cause::Untried)), Next::Retry);
        assert_eq!(tries.spent(), 0);
    }

    #[test]
    fn what_cannot_be_helped_is_not_tried_again() {
        let rejected = DeliveryError::Rejected { reason: Reason::InvalidUserIds, failures: Arc::default() };
        for cause in [Cause::Dead(Arc::new(rejected)), Cause::Refused(transient()), Cause::Stopped] {
            assert_eq!(judge(&mut Tries::default(), Err(cause)), Next::End(State::Aborted));
        }
        assert_eq!(judge(&mut Tries::default(), Ok(())), Next::End(State::Succeeded));
    }
}
