use ::backoff::ExponentialBackoff as TheirExponential;
use ::backoff::backoff::{Constant, Stop, Zero};
use relaykit_pipeline_traits::ManualClock;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn our_policy_gives_their_loop_the_same_schedule() {
    for jitter in [Jitter::None, Jitter::Full, Jitter::Decorrelated] {
        let policy = Backoff::exponential(SECOND).jitter(jitter).build().unwrap();
        let mut theirs = AsBackoff::new(policy, ManualClock::new()).rng(Rng::seeded(9));
        let waits: Vec<Duration> = std::iter::from_fn(|| theirs.next_backoff()).collect();

        let (mut rng, mut failure) = (Rng::seeded(9), Failure::of_attempt(1));
        for wait in &waits {
            assert_eq!(policy.decide(&failure, &mut rng), RetryDecision::RetryAfter(*wait));
            failure.attempt += 1;
            failure.previous_delay = Some(*wait);
        }
        assert_eq!((waits.len(), theirs.next_backoff()), (4, None), "{jitter:?}");
    }
}

#[test]
fn a_reset_begins_again_with_attempt_and_time() {
    let clock = ManualClock::new();
    let policy = Backoff::exponential(SECOND).jitter(Jitter::None).max_elapsed(10 * SECOND).build().unwrap();
    let mut theirs = AsBackoff::new(policy, clock.clone());
    assert_eq!(theirs.next_backoff(), Some(SECOND));
    clock.advance(10 * SECOND);
    assert_eq!(theirs.next_backoff(), None);
    theirs.reset();
    assert_eq!(theirs.next_backoff(), Some(SECOND));
}

#[test]
fn their_retry_function_takes_our_policy() {
    let policy = Backoff::fixed(Duration::ZERO).max_attempts(3).build().unwrap();
    let mut calls = 0;
    let result = ::backoff::retry(AsBackoff::new(policy, ManualClock::new()), || {
        calls += 1;
        Err::<(), _>(::backoff::Error::transient("down"))
    });
    assert_eq!(result, Err(::backoff::Error::transient("down")));
    assert_eq!(calls, 3);
}

#[test]
fn their_default_is_our_preset() {
    let theirs = TheirExponential::default();
    assert_eq!(Backoff::from(&theirs), Backoff::like_backoff_crate());
}

#[test]
fn their_settings_are_taken_over_or_refused_but_not_replaced() {
    let theirs = TheirExponential {
        initial_interval: 2 * SECOND,
        multiplier: 3.0,
        randomization_factor: 0.0,
        max_interval: 10 * SECOND,
        max_elapsed_time: None,
        ..TheirExponential::default()
    };
    let policy = Backoff::from(&theirs).build().unwrap();
    for (attempt, seconds) in [(1, 2), (2, 6), (3, 10), (1000, 10)] {
        let decision = policy.decide(&Failure::of_attempt(attempt), &mut Rng::seeded(1));
        assert_eq!(decision, RetryDecision::RetryAfter(seconds * SECOND));
    }
    let shrinking = TheirExponential { multiplier: 0.5, ..TheirExponential::default() };
    assert_eq!(Backoff::from(&shrinking).build().unwrap_err().field, "factor");
}

#[test]
fn their_schedule_is_recorded_as_long_as_it_goes() {
    let nothing = FromBackoff::record(Stop {}, 5);
    assert!(nothing.delays().is_empty());
    let spent = RetryDecision::GiveUp(GiveUp::attempts());
    assert_eq!(nothing.decide(&Failure::of_attempt(1), &mut Rng::seeded(1)), spent);

    assert_eq!(FromBackoff::record(Zero {}, 2).delays(), [Duration::ZERO; 2]);

    let ours = Backoff::exponential(SECOND).jitter(Jitter::None).build().unwrap();
    let mut begun = AsBackoff::new(ours, ManualClock::new());
    begun.next_backoff();
    let recorded = FromBackoff::record(begun, 100);
    for attempt in [0, 1, 2, 3, 4, 5, u32::MAX] {
        let failure = Failure::of_attempt(attempt);
        let decide = |policy: &dyn RetryPolicy| policy.decide(&failure, &mut Rng::seeded(1));
        assert_eq!(decide(&recorded), decide(&ours), "attempt {attempt}");
    }
}

#[test]
fn a_recorded_wait_honours_a_hint_up_to_its_bound() {
    let recorded = FromBackoff::record(Constant::new(5 * SECOND), 1);
    for (hint, wait) in [(1, 5), (9, 9), (u64::MAX, 3600)] {
        let failure = Failure { hint: Some(Duration::from_secs(hint)), ..Failure::of_attempt(1) };
        let decision = recorded.decide(&failure, &mut Rng::seeded(1));
        assert_eq!(decision, RetryDecision::RetryAfter(wait * SECOND));
    }
}

#[test]
fn their_errors_keep_class_and_hint_in_both_directions() {
    use ::backoff::Error as Theirs;
    for (theirs, class, hint) in [
        (Theirs::permanent("no"), ErrorClass::Permanent, None),
        (Theirs::transient("no"), ErrorClass::Transient, None),
        (Theirs::retry_after("no", SECOND), ErrorClass::Transient, Some(SECOND)),
    ] {
        let ours = BackoffError::from(theirs);
        assert_eq!((ours.class(), ours.retry_after()), (class, hint));
        assert_eq!((ours.to_string().as_str(), *ours.get_ref()), ("no", "no"));
        let again = BackoffError::from(Theirs::from(ours.clone()));
        assert_eq!(again, ours);
        assert_eq!(ours.into_inner(), "no");
    }
}
