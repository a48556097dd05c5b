use crate::{Failure, RetryBound, RetryDecision, RetryPolicy, Rng};

/// How many calls in a row may end without spending an attempt: 64. Each further one spends one, so that a side
/// that never stops throttling, and a handler that never tries, meet the policy's bounds after all.
pub const MAX_FREE_ROUNDS: u32 = 64;

/// Counts the attempts spent on an item, in the one way that all engines share, and asks the policy what follows.
///
/// ```
/// use relaykit_pipeline_traits::{Attempts, Failure, NoRetry, Rng};
///
/// let mut attempts = Attempts::default();
/// assert_eq!(attempts.next(), 1);
/// let decision = attempts.failed(Failure::of_attempt(0), &NoRetry, &mut Rng::seeded(1));
/// assert_eq!(attempts.spent(), 1);
/// # let _ = decision;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attempts {
    spent: u32,
    free_rounds: u32,
    /// The attempt by which the wait after a free round is measured. It grows from round to round, though no
    /// attempt is spent, as far as the policy has a wait for it.
    pace: u32,
}

impl Attempts {
    /// Goes on after so many spent attempts, as a store remembers them. It counts no free rounds yet.
    #[must_use]
    pub const fn resume(spent: u32) -> Self {
        Self { spent, free_rounds: 0, pace: spent }
    }

    /// Returns how many attempts were spent.
    #[must_use]
    pub const fn spent(&self) -> u32 {
        self.spent
    }

    /// Returns the number of the attempt that the next call belongs to.
    #[must_use]
    pub const fn next(&self) -> u32 {
        self.spent.saturating_add(1)
    }

    /// Returns how many calls in a row ended without spending one.
    #[must_use]
    pub const fn free_rounds(&self) -> u32 {
        self.free_rounds
    }

    /// Counts a call that settled the item, for good or bad.
    pub const fn settled(&mut self) {
        self.spent = self.spent.saturating_add(1);
    }

    /// Counts a call that failed and spent an attempt, and decides what follows. The failure's own `attempt` does
    /// not matter.
    pub fn failed(
        &mut self,
        failure: Failure,
        policy: &(impl RetryPolicy + ?Sized),
        rng: &mut Rng,
    ) -> RetryDecision {
        self.free_rounds = 0;
        self.settled();
        self.pace = self.spent;
        policy.decide(&at(failure, self.spent), rng)
    }

    /// Counts a call that was throttled or left the item untried, which is free up to [`MAX_FREE_ROUNDS`] in a row,
    /// and decides what follows. The failure's own `attempt` does not matter.
    ///
    /// Waits grow as if attempts had been spent.
    pub fn spared(
        &mut self,
        failure: Failure,
        policy: &(impl RetryPolicy + ?Sized),
        rng: &mut Rng,
    ) -> RetryDecision {
        if self.free_rounds < MAX_FREE_ROUNDS {
            self.free_rounds += 1;
        } else {
            self.settled();
            let decision = policy.decide(&at(failure, self.spent), rng);
            if matches!(decision, RetryDecision::GiveUp(_)) {
                return decision;
            }
        }
        let slower = self.pace.saturating_add(1);
        match policy.decide(&at(failure, slower), rng) {
            // No attempt was spent: wait as long as before the last one.
            RetryDecision::GiveUp(give_up) if give_up.bound == RetryBound::Attempts => {
                policy.decide(&at(failure, self.pace), rng)
            }
            decision => {
                self.pace = slower;
                decision
            }
        }
    }
}

const fn at(failure: Failure, attempt: u32) -> Failure {
    Failure { attempt, ..failure }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{GiveUp, NoRetry};

    const SECOND: Duration = Duration::from_secs(1);

    /// Waits one second for each attempt spent, and allows three.
    #[derive(Debug)]
    struct Three;

    impl RetryPolicy for Three {
        fn decide(&self, failure: &Failure, _rng: &mut Rng) -> RetryDecision {
            if failure.attempt < 3 {
                RetryDecision::RetryAfter(SECOND * failure.attempt)
            } else {
                RetryDecision::GiveUp(GiveUp::attempts())
            }
        }
    }

    fn failed(attempts: &mut Attempts) -> RetryDecision {
        attempts.failed(Failure::of_attempt(0), &Three, &mut Rng::seeded(1))
    }

    fn spared(attempts: &mut Attempts) -> RetryDecision {
        attempts.spared(Failure::of_attempt(0), &Three, &mut Rng::seeded(1))
    }

    #[test]
    fn free_rounds_wait_longer_each_time_and_spend_nothing() {
        let mut attempts = Attempts::default();
        let waits = std::array::from_fn(|_| spared(&mut attempts));
        assert_eq!(waits, [1, 2, 2, 2].map(|seconds| RetryDecision::RetryAfter(SECOND * seconds)));
        assert_eq!((attempts.spent(), attempts.next()), (0, 1));
    }

    #[test]
    fn an_attempt_spent_makes_the_rounds_after_it_free_again() {
        let mut attempts = Attempts::default();
        for _ in 0..MAX_FREE_ROUNDS {
            spared(&mut attempts);
        }
        failed(&mut attempts);
        for _ in 0..MAX_FREE_ROUNDS {
            spared(&mut attempts);
        }
        assert_eq!(attempts.spent(), 1);
        spared(&mut attempts);
        assert_eq!(attempts.spent(), 2);
    }

    #[test]
    fn what_is_resumed_goes_on_counting_and_waiting_where_it_was() {
        let mut attempts = Attempts::resume(1);
        assert_eq!((attempts.spent(), attempts.next(), attempts.free_rounds()), (1, 2, 0));
        assert_eq!(spared(&mut attempts), RetryDecision::RetryAfter(SECOND * 2), "as after the second");
        assert_eq!((attempts.spent(), attempts.free_rounds()), (1, 1));
        assert_eq!(failed(&mut attempts), RetryDecision::RetryAfter(SECOND * 2));
        assert!(matches!(failed(&mut attempts), RetryDecision::GiveUp(_)), "three are allowed");
    }

    #[test]
    fn endless_free_rounds_meet_the_policys_bound() {
        let mut attempts = Attempts::default();
        let mut calls = 1;
        while matches!(spared(&mut attempts), RetryDecision::RetryAfter(_)) {
            calls += 1;
            assert!(calls < 1_000, "free rounds are endless");
        }
        assert_eq!((attempts.spent(), calls), (3, MAX_FREE_ROUNDS + 3));
    }

    #[test]
    fn a_policy_that_never_tries_again_does_not_for_free_either() {
        let decision = Attempts::default().spared(Failure::of_attempt(0), &NoRetry, &mut Rng::seeded(1));
        assert_eq!(decision, RetryDecision::GiveUp(GiveUp::attempts()));
    }

    #[test]
    fn the_count_saturates() {
        let mut attempts = Attempts { spent: u32::MAX, free_rounds: MAX_FREE_ROUNDS, pace: u32::MAX };
        spared(&mut attempts);
        failed(&mut attempts);
        assert_eq!((attempts.spent(), attempts.next()), (u32::MAX, u32::MAX));
    }
}
