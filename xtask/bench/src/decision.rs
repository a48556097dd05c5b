//! What a retry decision costs.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use backoff::backoff::Backoff as TheirBackoff;
use backoff::exponential::{ExponentialBackoff, ExponentialBackoffBuilder};
use relaykit_pipeline_traits::{Failure, RetryDecision, RetryPolicy, Rng};
use relaykit_retry::{Backoff, Jitter, Policy};

use crate::allocations::per;
use crate::workload::Measurement;
use crate::workload::stopwatch::Stopwatch;

/// How many decisions are timed.
const DECISIONS: u32 = 30_000_000;
/// How many attempts fail before an item is through, and the next begins with the first.
const ATTEMPTS: u32 = 10;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

/// The policies that are measured.
const POLICIES: [&str; 6] =
    ["fixed", "linear", "exponential", "exponential-full-jitter", "exponential-equal-jitter", "decorrelated"];

/// Measures how long a decision takes: by one of our policies, or by the backoff crate.
///
/// # Errors
///
/// No policy has this name, or one gives up.
pub(crate) fn nanoseconds(case: &str, policy: &str) -> anyhow::Result<Measurement> {
    let measurement = if policy == "backoff-crate" {
        let mut theirs = theirs();
        let theirs: &mut dyn TheirBackoff = &mut theirs;
        timed(case, |decisions| decide_theirs(theirs, decisions))?.with("clock", "stands still")
    } else {
        let policy = ours(policy)?;
        let mut rng = Rng::seeded(1);
        timed(case, |decisions| decide_ours(&policy, &mut rng, decisions))?
    };
    Ok(measurement.with("decisions", DECISIONS).with("attempts", ATTEMPTS))
}

/// Counts how often one of our policies allocates for a decision.
///
/// # Errors
///
/// A policy gives up.
pub(crate) fn allocations(case: &str) -> anyhow::Result<Measurement> {
    let decisions = 100_000;
    let mut most = 0.0_f64;
    for name in POLICIES {
        let policy = ours(name)?;
        let mut rng = Rng::seeded(1);
        let mut result = Ok(());
        let counted =
            allocation_counter::measure(|| result = decide_ours(black_box(&policy), &mut rng, decisions));
        result?;
        most = most.max(per(counted.count_total, decisions));
    }
    Ok(Measurement::new(case, most, "allocations")
        .with("decisions", decisions)
        .with("policies", POLICIES.to_vec()))
}

fn timed(case: &str, mut decide: impl FnMut(u32) -> anyhow::Result<()>) -> anyhow::Result<Measurement> {
    decide(DECISIONS / 20)?;
    let stopwatch = Stopwatch::start();
    decide(DECISIONS)?;
    let value = stopwatch.elapsed().as_secs_f64() * 1e9 / f64::from(DECISIONS);
    Ok(Measurement::new(case, value, "ns"))
}

/// Decides through the trait, as an engine does.
fn decide_ours(policy: &dyn RetryPolicy, rng: &mut Rng, decisions: u32) -> anyhow::Result<()> {
    let policy = black_box(policy);
    for _ in 0..decisions / ATTEMPTS {
        let mut failure = Failure::of_attempt(0);
        for attempt in 1..=ATTEMPTS {
            failure.attempt = attempt;
            match policy.decide(black_box(&failure), rng) {
                RetryDecision::RetryAfter(wait) => failure.previous_delay = Some(black_box(wait)),
                RetryDecision::GiveUp(reason) => bail!("at attempt {attempt}: {reason}"),
            }
        }
    }
    Ok(())
}

fn decide_theirs(policy: &mut dyn TheirBackoff, decisions: u32) -> anyhow::Result<()> {
    let policy = black_box(policy);
    for _ in 0..decisions / ATTEMPTS {
        policy.reset();
        for attempt in 1..=ATTEMPTS {
            let wait = black_box(policy.next_backoff());
            ensure!(wait.is_some(), "at attempt {attempt}: the backoff crate gave up");
        }
    }
    Ok(())
}

fn ours(name: &str) -> anyhow::Result<Policy> {
    let backoff = match name {
        "fixed" => Backoff::fixed(FIRST).jitter(Jitter::None),
        "linear" => Backoff::linear(FIRST, FIRST).jitter(Jitter::None),
        "exponential" => Backoff::exponential(FIRST).jitter(Jitter::None),
        "exponential-full-jitter" => Backoff::exponential(FIRST).jitter(Jitter::Full),
        "exponential-equal-jitter" => Backoff::exponential(FIRST).jitter(Jitter::Equal),
        "decorrelated" => Backoff::exponential(FIRST).jitter(Jitter::Decorrelated),
        _ => bail!("no policy is named {name:?}; there are {} and backoff-crate", POLICIES.join(", ")),
    };
    Ok(backoff.max_delay(LONGEST).max_attempts(ATTEMPTS + 1).build()?)
}

/// A clock that stands still, so that their decisions are timed without a look at the clock, as ours are.
#[derive(Debug)]
struct Standing(Instant);

impl backoff::Clock for Standing {
    fn now(&self) -> Instant {
        self.0
    }
}

/// The same waits, by the other crate: it varies each by half of it.
fn theirs() -> ExponentialBackoff<Standing> {
    let numbers = ExponentialBackoffBuilder::<backoff::SystemClock>::new()
        .with_initial_interval(FIRST)
        .with_multiplier(2.0)
        .with_randomization_factor(0.5)
        .with_max_interval(LONGEST)
        .with_max_elapsed_time(None)
        .build();
    ExponentialBackoff {
        current_interval: numbers.current_interval,
        initial_interval: numbers.initial_interval,
        randomization_factor: numbers.randomization_factor,
        multiplier: numbers.multiplier,
        max_interval: numbers.max_interval,
        start_time: numbers.start_time,
        max_elapsed_time: numbers.max_elapsed_time,
        clock: Standing(numbers.start_time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_decides_without_allocating() {
        let measurement = allocations("allocations-per-decision").unwrap();
        assert!(measurement.value.abs() < f64::EPSILON, "{measurement:?}");
    }

    #[test]
    fn both_sides_wait_a_hundred_milliseconds_first_and_at_most_a_minute() {
        let mut theirs = theirs();
        for (attempt, millis) in [(1_u32, 100_u64), (2, 200), (10, 51_200), (11, 60_000)] {
            let base = Duration::from_millis(millis);
            while theirs.current_interval < base {
                theirs.next_backoff();
            }
            assert_eq!(theirs.current_interval, base, "attempt {attempt}");
        }
        let policy = ours("exponential").unwrap();
        let decide = |attempt| policy.decide(&Failure::of_attempt(attempt), &mut Rng::seeded(1));
        assert_eq!(decide(1), RetryDecision::RetryAfter(FIRST));
        assert_eq!(decide(10), RetryDecision::RetryAfter(Duration::from_millis(51_200)));
    }

    #[test]
    fn an_unknown_policy_is_refused_with_the_known_ones() {
        let error = ours("quadratic").unwrap_err().to_string();
        assert!(error.contains("\"quadratic\"") && error.contains("decorrelated"), "{error}");
    }

    #[test]
    fn a_policy_that_gives_up_is_no_measurement() {
        let short = Backoff::fixed(FIRST).max_attempts(3).build().unwrap();
        let error = decide_ours(&short, &mut Rng::seeded(1), 10).unwrap_err();
        assert_eq!(error.to_string(), "at attempt 3: all attempts are spent");
    }
}
