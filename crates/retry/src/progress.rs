use std::time::Duration;

use relaykit_pipeline_traits::{Attempts, Classify, ErrorClass, Failure, RetryDecision, RetryPolicy, Rng};

use crate::StopReason;

/// Counts the calls of one run and decides what follows each failure.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    calls: u32,
    attempts: Attempts,
    previous_delay: Option<Duration>,
}

/// What follows a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Wait(Duration),
    Stop(StopReason),
}

impl Progress {
    /// Returns the number of the attempt that the next call belongs to.
    pub(crate) const fn next_attempt(&self) -> u32 {
        self.attempts.next()
    }

    pub(crate) const fn spent(&self) -> u32 {
        self.attempts.spent()
    }

    pub(crate) const fn calls(&self) -> u32 {
        self.calls
    }

    /// Counts a failed call and decides what follows it.
    pub(crate) fn failed(
        &mut self,
        error: &impl Classify,
        elapsed: Duration,
        policy: &impl RetryPolicy,
        rng: &mut Rng,
    ) -> Step {
        self.calls = self.calls.saturating_add(1);
        let failure = Failure {
            elapsed,
            hint: error.retry_after(),
            previous_delay: self.previous_delay,
            ..Failure::of_attempt(self.attempts.spent())
        };
        let decision = match error.class() {
            ErrorClass::Permanent => {
                self.attempts.settled();
                return Step::Stop(StopReason::Permanent);
            }
            ErrorClass::Throttled => self.attempts.spared(failure, policy, rng),
            _ => self.attempts.failed(failure, policy, rng),
        };
        match decision {
            RetryDecision::RetryAfter(wait) => {
                self.previous_delay = Some(wait);
                Step::Wait(wait)
            }
            RetryDecision::GiveUp(give_up) => Step::Stop(StopReason::Exhausted(give_up)),
        }
    }
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::{GiveUp, MAX_FREE_ROUNDS, NoRetry};

    use super::*;
    use crate::{Backoff, Jitter, Policy};

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Debug, Clone, Copy)]
    struct Of(ErrorClass);

    impl Classify for Of {
        fn class(&self) -> ErrorClass {
            self.0
        }
    }

    const TRANSIENT: Of = Of(ErrorClass::Transient);
    const THROTTLED: Of = Of(ErrorClass::Throttled);

    fn doubling(attempts: u32) -> Policy {
        Backoff::exponential(SECOND).jitter(Jitter::None).max_attempts(attempts).build().unwrap()
    }

    fn steps(policy: &impl RetryPolicy, errors: &[Of]) -> (Vec<Step>, Progress) {
        let (mut progress, mut rng) = (Progress::default(), Rng::seeded(1));
        let steps =
            errors.iter().map(|error| progress.failed(error, Duration::ZERO, policy, &mut rng)).collect();
        (steps, progress)
    }

    const SPENT: Step = Step::Stop(StopReason::Exhausted(GiveUp::attempts()));

    #[test]
    fn a_permanent_error_ends_at_once() {
        let (steps, progress) = steps(&doubling(5), &[Of(ErrorClass::Permanent)]);
        assert_eq!(steps, [Step::Stop(StopReason::Permanent)]);
        assert_eq!((progress.spent(), progress.calls()), (1, 1));
    }

    #[test]
    fn throttled_calls_wait_longer_each_time_and_spend_nothing() {
        let (steps, progress) = steps(&doubling(3), &[THROTTLED, THROTTLED, THROTTLED, THROTTLED]);
        // The policy knows two waits, since it makes three attempts.
        assert_eq!(steps, [1, 2, 2, 2].map(|seconds| Step::Wait(seconds * SECOND)));
        assert_eq!((progress.spent(), progress.calls(), progress.next_attempt()), (0, 4, 1));
    }

    #[test]
    fn a_policy_of_one_attempt_still_repeats_a_throttled_one() {
        let (steps, _) = steps(&doubling(1), &[THROTTLED, TRANSIENT]);
        assert_eq!(steps, [Step::Wait(SECOND), SPENT]);
    }

    #[test]
    fn the_attempts_go_on_where_throttling_interrupted_them() {
        let (steps, _) =
            steps(&doubling(4), &[TRANSIENT, THROTTLED, THROTTLED, TRANSIENT, TRANSIENT, TRANSIENT]);
        let waits = [1, 2, 4, 2, 4].map(|seconds| Step::Wait(seconds * SECOND));
        assert_eq!(steps[..5], waits);
        assert_eq!(steps[5], SPENT);
    }

    #[test]
    fn endless_throttling_meets_the_bound_after_the_free_rounds() {
        let policy = doubling(3);
        let (mut progress, mut rng) = (Progress::default(), Rng::seeded(1));
        let mut calls = 0;
        while let Step::Wait(_) = progress.failed(&THROTTLED, Duration::ZERO, &policy, &mut rng) {
            calls += 1;
            assert!(calls < 1000, "throttling is endless");
        }
        assert_eq!(progress.calls(), MAX_FREE_ROUNDS + 3);
        assert_eq!(progress.spent(), 3);
    }

    #[test]
    fn an_attempt_spent_makes_the_rounds_after_it_free_again() {
        let rounds = || std::iter::repeat_n(THROTTLED, 64);
        let errors: Vec<Of> = rounds().chain([TRANSIENT]).chain(rounds()).collect();
        let (_, progress) = steps(&doubling(5), &errors);
        assert_eq!((progress.spent(), progress.calls()), (1, 129));
    }

    #[test]
    fn throttled_rounds_meet_the_time_allowed() {
        let policy =
            Backoff::exponential(SECOND).jitter(Jitter::None).max_elapsed(10 * SECOND).build().unwrap();
        let (mut progress, mut rng) = (Progress::default(), Rng::seeded(1));
        let mut round = |elapsed| progress.failed(&THROTTLED, elapsed * SECOND, &policy, &mut rng);
        assert_eq!([round(0), round(1)], [Step::Wait(SECOND), Step::Wait(2 * SECOND)]);
        // The next wait takes four seconds and would end at eleven.
        assert_eq!(round(7), Step::Stop(StopReason::Exhausted(GiveUp::elapsed())));
    }

    #[test]
    fn a_policy_that_never_tries_again_does_not_for_throttling_either() {
        let (steps, _) = steps(&NoRetry, &[THROTTLED]);
        assert_eq!(steps, [SPENT]);
    }
}
