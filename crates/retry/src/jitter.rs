use std::time::Duration;

use relaykit_pipeline_traits::{Failure, InvalidSetting, Rng};

use crate::curve::{Curve, nanos, power, scale};

/// The random part of a wait, so that many who failed together do not come back together.
///
/// No kind of jitter exceeds the policy's [`max_delay`](crate::Backoff::max_delay): the range is cut there
/// before a wait is drawn from it, so waits do not pile up at the cap either. Full, equal and decorrelated are
/// described in the AWS Architecture Blog, "Exponential Backoff And Jitter".
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub enum Jitter {
    /// Waits exactly as the policy says.
    None,
    /// Waits between zero and what the policy says. Spreads the load best. The default.
    #[default]
    Full,
    /// Waits between half of what the policy says and all of it.
    Equal,
    /// Waits up to this share less or more than the policy says: `0.1` for ±10 %. From 0 to 1.
    Proportional(f64),
    /// Waits between the first delay and three times the wait before. Replaces the growth of the policy, of
    /// which it keeps the first delay and the cap.
    ///
    /// It builds on [`Failure::previous_delay`]. Where that is not known, as in a row that stores no more than
    /// the number of attempts, the upper end is the highest that it can have reached: first · 3^attempt.
    Decorrelated,
}

impl Jitter {
    /// Refuses a share outside 0 to 1, and a decorrelated wait that could never leave zero.
    pub(crate) fn check(self, first: Duration) -> Result<(), InvalidSetting> {
        match self {
            Self::Proportional(share) if !(0.0..=1.0).contains(&share) => {
                Err(InvalidSetting::new("jitter", format!("Proportional({share})"), "a share from 0 to 1"))
            }
            Self::Decorrelated if first.is_zero() => Err(InvalidSetting::new(
                "jitter",
                "Decorrelated",
                "another kind where the first delay is 0 s, since three times nothing is nothing",
            )),
            _ => Ok(()),
        }
    }

    /// Draws the wait after `failure`, at most `cap`. The curve's first delay is at most `cap`: `build` saw to it.
    pub(crate) fn draw(self, curve: Curve, cap: Duration, failure: &Failure, rng: &mut Rng) -> Duration {
        let base = || curve.delay_after(failure.attempt).min(cap);
        match self {
            Self::None => base(),
            Self::Full => between(Duration::ZERO, base(), rng),
            Self::Equal => {
                let base = base();
                between(base / 2, base, rng)
            }
            Self::Proportional(share) => {
                let base = base();
                let part = scale(base, share);
                between(base.saturating_sub(part), base.saturating_add(part).min(cap), rng)
            }
            Self::Decorrelated => {
                let first = curve.first();
                between(first, decorrelated_end(first, cap, failure), rng)
            }
        }
    }
}

/// Returns the upper end of a decorrelated wait: never below `first`, never above `cap`.
fn decorrelated_end(first: Duration, cap: Duration, failure: &Failure) -> Duration {
    let end = match failure.previous_delay {
        Some(previous) => previous.saturating_mul(3),
        None => scale(first, power(3.0, failure.attempt.max(1))),
    };
    end.clamp(first, cap)
}

/// Draws a wait from `low` to `high`, both included. Ranges of more than 584 years end there.
fn between(low: Duration, high: Duration, rng: &mut Rng) -> Duration {
    let span = nanos(high.saturating_sub(low));
    low.saturating_add(Duration::from_nanos(rng.below(span.saturating_add(1))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use relaykit_pipeline_traits::Rng;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn draws(jitter: Jitter, base: Duration, seed: u64) -> Vec<Duration> {
        let (curve, mut rng) = (Curve::Fixed { delay: base }, Rng::seeded(seed));
        (0..2000).map(|_| jitter.draw(curve, MINUTE, &Failure::of_attempt(1), &mut rng)).collect()
    }

    /// Checks that the draws stay in the range and come within 2 % of both its ends.
    fn assert_fills(jitter: Jitter, base: Duration, low: Duration, high: Duration) {
        let seed = 0x5eed;
        let draws = draws(jitter, base, seed);
        let (min, max) = (*draws.iter().min().unwrap(), *draws.iter().max().unwrap());
        let near = high.saturating_sub(low) / 50;
        assert!(min >= low && min <= low + near, "{jitter:?}, seed {seed}: shortest {min:?}");
        assert!(max <= high && max + near >= high, "{jitter:?}, seed {seed}: longest {max:?}");
    }

    #[test]
    fn without_jitter_the_wait_is_exact() {
        assert!(draws(Jitter::None, SECOND, 1).iter().all(|wait| *wait == SECOND));
    }

    #[test]
    fn full_jitter_fills_the_range_from_zero() {
        assert_fills(Jitter::Full, 10 * SECOND, Duration::ZERO, 10 * SECOND);
    }

    #[test]
    fn equal_jitter_keeps_half_of_the_wait() {
        assert_fills(Jitter::Equal, 10 * SECOND, 5 * SECOND, 10 * SECOND);
    }

    #[test]
    fn proportional_jitter_fills_its_share_on_both_sides() {
        assert_fills(Jitter::Proportional(0.5), 10 * SECOND, 5 * SECOND, 15 * SECOND);
        assert_fills(Jitter::Proportional(1.0), 10 * SECOND, Duration::ZERO, 20 * SECOND);
        assert!(draws(Jitter::Proportional(0.0), SECOND, 1).iter().all(|wait| *wait == SECOND));
    }

    #[test]
    fn proportional_jitter_is_cut_at_the_cap_and_does_not_pile_up_there() {
        assert_fills(Jitter::Proportional(0.5), MINUTE, 30 * SECOND, MINUTE);
        let at_cap =
            draws(Jitter::Proportional(0.5), MINUTE, 7).into_iter().filter(|wait| *wait == MINUTE).count();
        assert!(at_cap < 5, "{at_cap} of 2000 waits at the cap, seed 7");
    }

    #[test]
    fn decorrelated_jitter_fills_the_range_up_to_three_times_the_wait_before() {
        assert_fills(Jitter::Decorrelated, SECOND, SECOND, 3 * SECOND);
        let unknown = |attempt| decorrelated_end(SECOND, MINUTE, &Failure::of_attempt(attempt));
        assert_eq!([unknown(0), unknown(1), unknown(3)], [3, 3, 27].map(|seconds| seconds * SECOND));
        assert_eq!(unknown(u32::MAX), MINUTE);
        let end = |previous| {
            let failure = Failure { previous_delay: previous, ..Failure::of_attempt(3) };
            decorrelated_end(SECOND, MINUTE, &failure)
        };
        assert_eq!(end(Some(4 * SECOND)), 12 * SECOND);
        assert_eq!(end(Some(Duration::ZERO)), SECOND, "never below the first delay");
        assert_eq!(end(Some(Duration::MAX)), MINUTE, "never above the cap");
    }

    #[test]
    fn a_share_outside_0_to_1_is_refused() {
        for share in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            let error = Jitter::Proportional(share).check(SECOND).unwrap_err();
            assert_eq!(error.field, "jitter", "{share}");
        }
        for share in [0.0, 0.5, 1.0] {
            assert_eq!(Jitter::Proportional(share).check(SECOND), Ok(()));
        }
    }

    #[test]
    fn decorrelated_jitter_without_a_first_delay_is_refused() {
        assert!(Jitter::Decorrelated.check(Duration::ZERO).is_err());
        assert!(Jitter::Decorrelated.check(Duration::from_nanos(1)).is_ok());
    }

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            Just(Duration::ZERO),
            Just(Duration::MAX),
            (0..100_u64).prop_map(Duration::from_nanos),
            any::<u64>().prop_map(Duration::from_nanos),
            any::<u64>().prop_map(Duration::from_secs),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_drawn_stays_under_the_cap(
            jitter in prop_oneof![
                Just(Jitter::None),
                Just(Jitter::Full),
                Just(Jitter::Equal),
                (0.0..=1.0).prop_map(Jitter::Proportional),
                Just(Jitter::Decorrelated),
            ],
            durations in [any_duration(), any_duration(), any_duration()],
            attempt: u32,
            previous_delay in proptest::option::of(any_duration()),
            seed: u64,
        ) {
            let [mut first, step, mut cap] = durations;
            if first > cap { std::mem::swap(&mut first, &mut cap); }
            let curve = Curve::Linear { first, step };
            let base = curve.delay_after(attempt).min(cap);
            let failure = Failure { previous_delay, ..Failure::of_attempt(attempt) };
            let wait = jitter.draw(curve, cap, &failure, &mut Rng::seeded(seed));
            prop_assert!(wait <= cap, "{wait:?} exceeds {cap:?}");
            match jitter {
                Jitter::None => prop_assert_eq!(wait, base),
                Jitter::Full => prop_assert!(wait <= base),
                Jitter::Equal => prop_assert!(wait >= base / 2 && wait <= base),
                Jitter::Decorrelated => prop_assert!(wait >= first),
                Jitter::Proportional(share) => {
                    prop_assert!(wait.abs_diff(base) <= scale(base, share));
                }
            }
        }
    }
}
