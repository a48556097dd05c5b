use proptest::prelude::*;
use relaykit_pipeline_traits::{DurableDecision, RetryBound, Rng, Timestamp};

use super::*;
use crate::Backoff;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// Every wait of a policy, each one the `previous_delay` of the next.
fn schedule(policy: &Policy, seed: u64) -> Vec<Duration> {
    let mut rng = Rng::seeded(seed);
    let mut waits = Vec::new();
    for attempt in 1..=100 {
        let failure = Failure {
            previous_delay: waits.last().copied(),
            elapsed: waits.iter().sum(),
            ..Failure::of_attempt(attempt)
        };
        match policy.decide(&failure, &mut rng) {
            RetryDecision::RetryAfter(wait) => waits.push(wait),
            RetryDecision::GiveUp(_) => return waits,
        }
    }
    panic!("the schedule has no end");
}

fn exact(backoff: Backoff) -> Vec<Duration> {
    schedule(&backoff.jitter(Jitter::None).build().unwrap(), 0)
}

fn millis(waits: &[Duration]) -> Vec<u128> {
    waits.iter().map(Duration::as_millis).collect()
}

fn decide(policy: &Policy, failure: Failure) -> RetryDecision {
    policy.decide(&failure, &mut Rng::seeded(1))
}

#[test]
fn a_fixed_schedule_is_exact() {
    assert_eq!(millis(&exact(Backoff::fixed(250 * MILLI))), [250, 250, 250, 250]);
    assert_eq!(millis(&exact(Backoff::fixed(Duration::ZERO))), [0, 0, 0, 0]);
}

#[test]
fn a_linear_schedule_is_exact_up_to_its_cap() {
    let linear = Backoff::linear(SECOND, 500 * MILLI).max_attempts(7).max_delay(3 * SECOND);
    assert_eq!(millis(&exact(linear)), [1000, 1500, 2000, 2500, 3000, 3000]);
}

#[test]
fn an_exponential_schedule_is_exact_up_to_its_cap() {
    let doubling = Backoff::exponential(100 * MILLI).max_attempts(8).max_delay(3 * SECOND);
    assert_eq!(millis(&exact(doubling)), [100, 200, 400, 800, 1600, 3000, 3000]);
}

#[test]
fn a_factor_of_one_and_a_half_gives_1_1_5_2_25() {
    let gentle = Backoff::exponential(SECOND).factor(1.5).max_attempts(6);
    assert_eq!(exact(gentle), [1.0, 1.5, 2.25, 3.375, 5.0625].map(Duration::from_secs_f64));
}

#[test]
fn a_factor_of_one_stays() {
    let flat = Backoff::exponential(100 * MILLI).factor(1.0);
    assert_eq!(millis(&exact(flat)), [100, 100, 100, 100]);
}

#[test]
fn a_seed_gives_one_schedule_on_every_platform() {
    let base = Backoff::exponential(SECOND).max_attempts(7).max_delay(20 * SECOND);
    let golden = |jitter| {
        let waits = schedule(&base.jitter(jitter).build().unwrap(), 42);
        waits.iter().map(Duration::as_nanos).collect::<Vec<_>>()
    };
    assert_eq!(golden(Jitter::Full), GOLDEN_FULL);
    assert_eq!(golden(Jitter::Equal), GOLDEN_EQUAL);
    assert_eq!(golden(Jitter::Proportional(0.1)), GOLDEN_PROPORTIONAL);
    assert_eq!(golden(Jitter::Decorrelated), GOLDEN_DECORRELATED);
}

// Computed apart from this code: the generator, the range and the formulas in another language.
const GOLDEN_FULL: [u128; 6] =
    [790_799_647, 987_171_898, 3_217_834_923, 319_353_903, 8_672_040_706, 9_116_413_977];
const GOLDEN_EQUAL: [u128; 6] =
    [895_399_824, 1_493_585_949, 3_608_917_462, 4_159_676_951, 12_336_020_353, 14_558_206_988];
const GOLDEN_PROPORTIONAL: [u128; 6] =
    [1_058_159_930, 1_997_434_380, 4_243_566_985, 7_263_870_780, 16_134_408_141, 18_911_641_398];
const GOLDEN_DECORRELATED: [u128; 6] =
    [2_581_599_294, 4_329_137_464, 10_643_378_559, 1_758_465_520, 3_317_275_813, 5_080_428_239];

#[test]
fn the_first_call_counts_as_an_attempt() {
    for attempts in 1..10 {
        let waits = exact(Backoff::fixed(SECOND).max_attempts(attempts));
        assert_eq!(waits.len() as u64, u64::from(attempts) - 1);
    }
}

#[test]
fn attempts_without_a_bound_go_on_to_the_last_number() {
    let policy = Backoff::exponential(SECOND).jitter(Jitter::None).unlimited_attempts().build().unwrap();
    let last = decide(&policy, Failure::of_attempt(u32::MAX));
    assert_eq!(last, RetryDecision::RetryAfter(60 * SECOND));
}

#[test]
fn a_wait_that_would_end_past_the_time_allowed_gives_up() {
    let policy = Backoff::fixed(3 * SECOND).jitter(Jitter::None).max_elapsed(10 * SECOND).build().unwrap();
    let after = |elapsed| decide(&policy, Failure { elapsed, ..Failure::of_attempt(1) });
    assert_eq!(after(7 * SECOND), RetryDecision::RetryAfter(3 * SECOND));
    assert_eq!(after(7001 * MILLI), RetryDecision::GiveUp(GiveUp::elapsed()));
    assert_eq!(after(Duration::MAX), RetryDecision::GiveUp(GiveUp::elapsed()));
}

fn hinted(policy: &Policy, hint: Duration) -> RetryDecision {
    let failure = Failure { hint: Some(hint), ..Failure::of_attempt(1) };
    decide(policy, failure)
}

#[test]
fn a_hint_lengthens_the_wait_beyond_the_cap_and_never_shortens_it() {
    let policy = Backoff::fixed(2 * SECOND).jitter(Jitter::None).max_delay(5 * SECOND).build().unwrap();
    for (hint, wait) in [(0, 2), (1, 2), (3, 3), (100, 100), (3600, 3600), (3601, 3600), (u64::MAX, 3600)] {
        let decision = hinted(&policy, Duration::from_secs(hint));
        assert_eq!(decision, RetryDecision::RetryAfter(wait * SECOND), "hint {hint} s");
    }
}

#[test]
fn a_policy_may_ignore_hints() {
    let policy = Backoff::fixed(SECOND).jitter(Jitter::None).max_hint(Duration::ZERO).build().unwrap();
    assert_eq!(hinted(&policy, Duration::MAX), RetryDecision::RetryAfter(SECOND));
}

#[test]
fn a_hint_past_the_time_allowed_gives_up_without_waiting() {
    let policy = Backoff::fixed(SECOND).max_elapsed(60 * SECOND).build().unwrap();
    assert_eq!(hinted(&policy, 61 * SECOND), RetryDecision::GiveUp(GiveUp::elapsed()));
    assert_eq!(hinted(&policy, 60 * SECOND), RetryDecision::RetryAfter(60 * SECOND));
}

#[test]
fn whoever_gives_up_says_how_long_to_leave_the_item_alone() {
    let policy = Backoff::fixed(SECOND)
        .max_attempts(2)
        .max_elapsed(9 * SECOND)
        .cooldown(300 * SECOND)
        .build()
        .unwrap();
    let spent = decide(&policy, Failure::of_attempt(2));
    let late = decide(&policy, Failure { elapsed: 10 * SECOND, ..Failure::of_attempt(1) });
    for (decision, bound) in [(spent, RetryBound::Attempts), (late, RetryBound::Elapsed)] {
        let RetryDecision::GiveUp(give_up) = decision else {
            panic!("{decision:?} does not give up");
        };
        assert_eq!((give_up.bound, give_up.cooldown), (bound, Some(300 * SECOND)));
    }
}

#[test]
fn a_policy_can_be_copied_and_shared() {
    fn assert_value<T: Copy + Send + Sync + 'static>() {}
    assert_value::<Policy>();
}

#[test]
fn nothing_overflows_at_the_last_attempt() {
    let longest = Duration::MAX;
    for backoff in [
        Backoff::fixed(longest),
        Backoff::linear(longest, longest),
        Backoff::exponential(longest).factor(1e308),
        Backoff::exponential(Duration::from_nanos(1)).factor(1e308),
        Backoff::exponential(Duration::from_nanos(1)),
    ] {
        for jitter in
            [Jitter::None, Jitter::Full, Jitter::Equal, Jitter::Proportional(1.0), Jitter::Decorrelated]
        {
            let policy = backoff
                .jitter(jitter)
                .unlimited_attempts()
                .max_delay(longest)
                .max_hint(longest)
                .build()
                .unwrap();
            let mut rng = Rng::seeded(3);
            for attempt in [0, 1, 2, 1000, u32::MAX - 1, u32::MAX] {
                let failure = Failure {
                    elapsed: longest,
                    previous_delay: (attempt % 2 == 0).then_some(longest),
                    ..Failure::of_attempt(attempt)
                };
                let decision = policy.decide(&failure, &mut rng);
                assert!(matches!(decision, RetryDecision::RetryAfter(_)), "{policy:?}, {attempt}");
            }
            let far = policy.decide_at(
                &Failure::of_attempt(u32::MAX),
                Timestamp::from_micros(i64::MIN),
                Timestamp::from_micros(i64::MAX),
                &mut rng,
            );
            assert!(matches!(far, DurableDecision::RetryAt(_)), "{policy:?}");
        }
    }
}

fn any_duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::MAX),
        (1..10_000_u64).prop_map(Duration::from_millis),
        (1..u64::MAX).prop_map(Duration::from_nanos),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let backoff = prop_oneof![
        any_duration().prop_map(Backoff::fixed),
        (any_duration(), any_duration()).prop_map(|(first, step)| Backoff::linear(first, step)),
        (any_duration(), 1.0..1e308_f64)
            .prop_map(|(first, factor)| Backoff::exponential(first).factor(factor)),
        (any_duration(), 1.0..3.0_f64).prop_map(|(first, factor)| Backoff::exponential(first).factor(factor)),
    ];
    let jitter = prop_oneof![
        Just(Jitter::None),
        Just(Jitter::Full),
        Just(Jitter::Equal),
        (0.0..=1.0_f64).prop_map(Jitter::Proportional),
        Just(Jitter::Decorrelated),
    ];
    let bounds = (proptest::option::of(any_duration()), any_duration(), 1..100_u32);
    (backoff, jitter, bounds).prop_map(|(backoff, jitter, (elapsed, hint, attempts))| {
        let backoff = backoff.jitter(jitter).max_hint(hint).max_attempts(attempts);
        let backoff = elapsed.map_or(backoff, |elapsed| backoff.max_elapsed(elapsed));
        backoff.build().unwrap()
    })
}

fn any_failure() -> impl Strategy<Value = Failure> {
    let optional = || proptest::option::of(any_duration());
    (0..120_u32, any_duration(), optional(), optional()).prop_map(
        |(attempt, elapsed, hint, previous_delay)| Failure { attempt, elapsed, hint, previous_delay },
    )
}

proptest! {
    #[test]
    fn every_wait_is_between_the_hint_and_its_bounds(
        policy in any_policy(),
        failure in any_failure(),
        seed: u64,
    ) {
        let hint = failure.hint.unwrap_or_default().min(policy.max_hint);
        match policy.decide(&failure, &mut Rng::seeded(seed)) {
            RetryDecision::RetryAfter(wait) => {
                prop_assert!(wait >= hint);
                prop_assert!(wait <= policy.max_delay.max(hint));
                prop_assert!(policy.max_attempts.is_none_or(|most| failure.attempt < most));
                let end = failure.elapsed.saturating_add(wait);
                prop_assert!(policy.max_elapsed.is_none_or(|most| end <= most));
            }
            RetryDecision::GiveUp(give_up) if give_up.bound == RetryBound::Attempts => {
                prop_assert!(policy.max_attempts.is_some_and(|most| failure.attempt >= most));
            }
            RetryDecision::GiveUp(_) => prop_assert!(policy.max_elapsed.is_some()),
        }
    }

    #[test]
    fn a_stored_item_is_decided_as_one_in_memory(
        policy in any_policy(),
        failure in any_failure(),
        elapsed in 0..1_000_000_000_000_u64,
        seed: u64,
    ) {
        let failure = Failure { elapsed: Duration::from_micros(elapsed), ..failure };
        let first_at = Timestamp::from_millis(1_700_000_000_000);
        let now = first_at + failure.elapsed;
        let in_memory = policy.decide(&failure, &mut Rng::seeded(seed));
        let stored = policy.decide_at(&failure, first_at, now, &mut Rng::seeded(seed));
        let expected = match in_memory {
            RetryDecision::RetryAfter(wait) => DurableDecision::RetryAt(now + wait),
            RetryDecision::GiveUp(give_up) => DurableDecision::GiveUp(give_up),
        };
        prop_assert_eq!(stored, expected);
    }
}
