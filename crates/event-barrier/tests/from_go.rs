//! The tests of both generations of the Go original, told in our words. Scenarios that both have run on a barrier from
//! the old constructor and on one from the builder. `TestSimulateBarrier` and the end-to-end guarantee are `protocol`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::Answer::{Accepted, Blocked, Bypassed, Draining, Retry};
use common::{Answer, Events, answer, at, ms};
use relaykit_event_barrier::{
    At, Barrier, Change, Event, Limits, OverThreshold, Reader, State, Turn, UnsupportedState,
};

type Users = (Barrier<&'static str>, Reader<&'static str>);

/// One from each generation's constructor, with the same limit.
fn both_generations(drain: u32) -> [Users; 2] {
    [Barrier::new(drain), Barrier::builder().limits(Limits::default().drain(drain)).build().unwrap()]
}

fn enter(barrier: &Barrier<&'static str>, job: u64) -> Answer {
    answer(barrier.enter(&"user1", job, at(0)))
}

fn wait(barrier: &Barrier<&'static str>, job: u64) -> Turn<u64> {
    barrier.wait(&"user1", job, at(0))
}

fn told(barrier: &Barrier<&'static str>, job: u64, state: State) -> Change {
    barrier.state_changed(&"user1", job, state, at(0))
}

#[test]
fn job_failed_scenario() {
    for (barrier, mut reader) in both_generations(0) {
        assert_eq!(barrier.peek(&"user1"), None, "peek returns no job before any has failed");

        assert_eq!(enter(&barrier, 1), Accepted, "job 1 enters a barrier that knows nothing");
        assert_eq!(enter(&barrier, 2), Accepted, "job 2 enters while job 1 is in flight");
        assert_eq!(wait(&barrier, 1), Turn::Go, "job 1 need not wait");
        assert_eq!(wait(&barrier, 2), Turn::Go, "job 2 need not wait before job 1 has failed");

        assert_eq!(told(&barrier, 1, State::Failed), Change::Applied, "a failure works at once");
        assert_eq!(wait(&barrier, 2), Turn::Wait { by: 1 }, "job 2 must wait for job 1");
        assert_eq!(barrier.size(), 1);
        assert_eq!(barrier.to_string(), r#"Barrier{[{key: "user1", failed: 1, in flight: [], enabled}]}"#);
        told(&barrier, 2, State::Waiting);
        assert_eq!(reader.sync(at(0)).applied, 1, "one change was queued: job 2 waits");

        assert_eq!(barrier.peek(&"user1"), Some(1), "peek returns the failed job");
        assert_eq!(enter(&barrier, 1), Retry, "job 1 enters again, and is told that it is the failed one");
        assert_eq!(wait(&barrier, 1), Turn::Go, "job 1 does not wait for itself");
        assert_eq!(told(&barrier, 1, State::Succeeded), Change::Queued, "a success works at the next sync");
        assert_eq!(enter(&barrier, 2), Blocked(1), "job 2 is refused until then");
        assert_eq!(reader.sync(at(0)).applied, 1);
        assert_eq!(enter(&barrier, 2), Accepted, "job 2 enters after the sync");
        assert_eq!(wait(&barrier, 2), Turn::Go);
        assert_eq!(barrier.size(), 0);
    }
}

#[test]
fn job_aborted_scenario() {
    for (barrier, mut reader) in both_generations(1) {
        assert_eq!(enter(&barrier, 1), Accepted);
        told(&barrier, 1, State::Failed);
        assert_eq!(enter(&barrier, 1), Retry);
        told(&barrier, 1, State::Aborted);

        assert_eq!(enter(&barrier, 2), Blocked(1), "job 2 is refused until the abort is synced");
        assert_eq!(reader.sync(at(0)).applied, 1);
        assert_eq!(enter(&barrier, 2), Accepted, "job 2 is the one that the limit allows");
        assert_eq!(enter(&barrier, 3), Draining, "job 3 is refused by the limit, not by a job");
        told(&barrier, 2, State::Aborted);
        assert_eq!(enter(&barrier, 3), Draining, "job 3 is refused until that abort is synced");
        assert_eq!(reader.sync(at(0)).applied, 1);
        assert_eq!(reader.sync(at(0)).applied, 0, "nothing is left to apply");
        for job in 3..=6 {
            assert_eq!(enter(&barrier, job), Accepted, "the limit is lifted for job {job}");
        }
    }
}

#[test]
fn job_abort_then_fail() {
    for (barrier, mut reader) in both_generations(2) {
        assert_eq!(enter(&barrier, 1), Accepted);
        told(&barrier, 1, State::Aborted);
        assert_eq!(reader.sync(at(0)).applied, 0, "the abort of a job that had not failed changes nothing");

        for job in 2..=4 {
            assert_eq!(enter(&barrier, job), Accepted, "no limit holds job {job}");
        }
        told(&barrier, 2, State::Failed);
        for job in 3..=4 {
            assert_eq!(wait(&barrier, job), Turn::Wait { by: 2 }, "job {job} waits for job 2");
            told(&barrier, job, State::Waiting);
        }
        assert_eq!(reader.sync(at(0)).applied, 2, "both waiting jobs were queued");
        assert_eq!(enter(&barrier, 2), Retry);
    }
}

#[test]
fn job_fail_then_abort() {
    for (barrier, mut reader) in both_generations(2) {
        assert_eq!(enter(&barrier, 1), Accepted);
        told(&barrier, 1, State::Failed);
        assert_eq!(enter(&barrier, 2), Blocked(1));
        told(&barrier, 1, State::Aborted);
        assert_eq!(enter(&barrier, 2), Blocked(1), "until the abort is synced");
        assert_eq!(reader.sync(at(0)).applied, 1);

        assert_eq!(enter(&barrier, 2), Accepted);
        assert_eq!(enter(&barrier, 3), Accepted, "two may be in flight behind an abort");
        assert_eq!(enter(&barrier, 4), Draining, "a third may not");

        told(&barrier, 2, State::Failed);
        assert_eq!(wait(&barrier, 3), Turn::Wait { by: 2 });
        told(&barrier, 3, State::Waiting);
        assert_eq!(reader.sync(at(0)).applied, 1);
        assert_eq!(enter(&barrier, 2), Retry);
    }
}

/// The old generation panics on both illegal calls, and the new one by configuration; here they are reports.
#[test]
fn panic_scenarios_are_a_typed_error_and_two_reports() {
    let events = Events::default();
    let (barrier, _reader) = Barrier::<&str>::builder().observer(events.observer()).build().unwrap();
    told(&barrier, 2, State::Failed);

    for unknown in ["other_state", "executing", "waiting_retry", "not_picked_yet", "migrated", ""] {
        assert!(matches!(unknown.parse::<State>(), Err(UnsupportedState { state, .. }) if state == unknown));
    }
    for known in [State::Succeeded, State::Filtered, State::Failed, State::Aborted, State::Waiting] {
        assert_eq!(known.as_str().parse(), Ok(known));
        assert_eq!(known.to_string(), known.as_str());
    }

    assert_eq!(wait(&barrier, 1), Turn::Go, "nothing goes before the older job");
    assert_eq!(events.take(), [Event::OutOfOrder { at: At::Wait, failed: 2, job: 1 }]);
    assert_eq!(told(&barrier, 1, State::Failed), Change::Applied);
    assert_eq!(events.take(), [Event::OutOfOrder { at: At::Failed, failed: 2, job: 1 }]);
    assert_eq!(barrier.peek(&"user1"), Some(1), "the older failed job is the gate");
}

#[test]
fn illegal_sequence_callback() {
    let events = Events::default();
    let (barrier, _reader) = Barrier::<&str>::builder().observer(events.observer()).build().unwrap();
    told(&barrier, 2, State::Failed);

    assert_eq!(wait(&barrier, 1), Turn::Go);
    assert_eq!(enter(&barrier, 1), Accepted);
    told(&barrier, 1, State::Failed);

    let places: Vec<&str> = events
        .take()
        .iter()
        .map(|event| match event {
            Event::OutOfOrder { at, failed: 2, job: 1 } => at.as_str(),
            other => panic!("unexpected {other:?}"),
        })
        .collect();
    assert_eq!(places, ["wait", "enter", "job_failed"]);
}

#[test]
fn barrier_leave() {
    for (barrier, mut reader) in both_generations(1) {
        assert_eq!(enter(&barrier, 1), Accepted);
        told(&barrier, 1, State::Failed);
        assert_eq!(reader.sync(at(0)).applied, 0, "a failure is never queued");
        assert_eq!(enter(&barrier, 2), Blocked(1));
        assert_eq!(enter(&barrier, 1), Retry);
        told(&barrier, 1, State::Aborted);
        assert_eq!(reader.sync(at(0)).applied, 1);

        assert_eq!(enter(&barrier, 2), Accepted);
        assert_eq!(enter(&barrier, 3), Draining);
        barrier.leave(&"user1", 2);
        assert_eq!(enter(&barrier, 3), Accepted, "job 2 gave its place back at once");
        assert_eq!(enter(&barrier, 2), Draining);
    }
}

#[test]
fn leave_with_a_failed_job_keeps_the_gate_closed() {
    for (barrier, _reader) in both_generations(1) {
        told(&barrier, 1, State::Failed);
        assert_eq!(enter(&barrier, 1), Retry);
        barrier.leave(&"user1", 1);
        assert_eq!(barrier.peek(&"user1"), Some(1));
        assert_eq!(enter(&barrier, 2), Blocked(1));
    }
}

#[test]
fn event_order_key_threshold() {
    let events = Events::default();
    let limits = Limits::default()
        .key_threshold(2)
        .over_threshold(OverThreshold::Waive)
        .disabled_for(ms(100))
        .half_enabled_for(ms(100));
    let (barrier, mut reader) =
        Barrier::<&str>::builder().limits(limits).observer(events.observer()).build().unwrap();
    let enter = |job, now| answer(barrier.enter(&"user1", job, at(now)));
    let told = |job, state, now| barrier.state_changed(&"user1", job, state, at(now));

    assert_eq!(enter(1, 0), Accepted);
    assert_eq!(enter(2, 0), Accepted);
    assert_eq!(enter(3, 0), Bypassed, "the third job switches the key's order off");
    assert!(barrier.disabled(&"user1", at(0)));
    assert_eq!(events.take(), [Event::OrderWaived { failed: None, in_flight: 2 }]);

    assert!(barrier.disabled(&"user1", at(99)));
    assert!(!barrier.disabled(&"user1", at(100)), "its time is over, whoever looks");
    assert_eq!(events.take(), [Event::OrderRestored]);

    // Half-enabled: an older job may still be about, so it is not reported.
    assert_eq!(enter(2, 100), Accepted);
    assert_eq!(enter(1, 100), Accepted);
    told(2, State::Failed, 100);
    told(1, State::Failed, 100);
    assert_eq!(events.take(), []);
    assert_eq!(enter(2, 100), Blocked(1), "the older of two failed jobs goes first");
    told(2, State::Succeeded, 150);
    told(1, State::Succeeded, 150);
    assert_eq!(reader.sync(at(150)).applied, 2);

    // Enabled again.
    assert_eq!(enter(1, 200), Accepted);
    assert_eq!(enter(2, 200), Accepted);
    told(2, State::Failed, 200);
    told(1, State::Failed, 200);
    assert_eq!(events.take(), [Event::OutOfOrder { at: At::Failed, failed: 2, job: 1 }]);
}

#[test]
fn half_enabled_keys_end_and_leave_nothing() {
    let limits = Limits::default()
        .key_threshold(1)
        .over_threshold(OverThreshold::Waive)
        .disabled_for(ms(100))
        .half_enabled_for(ms(100));
    let (barrier, mut reader) = Barrier::<&str>::builder().limits(limits).build().unwrap();
    assert_eq!(enter(&barrier, 1), Accepted);
    assert_eq!(enter(&barrier, 2), Bypassed);
    reader.sync(at(100));
    assert_eq!(barrier.size(), 1, "half-enabled");
    reader.sync(at(199));
    assert_eq!(barrier.size(), 1);
    reader.sync(at(200));
    assert_eq!(barrier.size(), 0);
}

#[test]
fn ordering_disable_by_a_check() {
    let limits = Limits::default().key_threshold(200).over_threshold(OverThreshold::Waive);
    let (barrier, _reader) =
        Barrier::<&str>::builder().limits(limits).order_off(|key| *key == "user1").build().unwrap();

    assert_eq!(enter(&barrier, 1), Bypassed);
    assert_eq!(enter(&barrier, 2), Bypassed);
    assert!(barrier.disabled(&"user1", at(0)));
    assert_eq!(told(&barrier, 1, State::Failed), Change::Ignored);
    assert_eq!(wait(&barrier, 2), Turn::Go, "job 2 does not wait for job 1");
    assert_eq!(barrier.size(), 0, "a key without order has no record");

    for job in [3, 4] {
        assert_eq!(answer(barrier.enter(&"user2", job, at(0))), Accepted);
    }
    assert!(!barrier.disabled(&"user2", at(0)));
    barrier.state_changed(&"user2", 3, State::Failed, at(0));
    assert_eq!(barrier.wait(&"user2", 4, at(0)), Turn::Wait { by: 3 });
    assert_eq!(barrier.size(), 1);
}

#[test]
fn ordering_switched_off_and_on_again_by_the_check() {
    let off = Arc::new(AtomicBool::new(false));
    let check = Arc::clone(&off);
    let (barrier, mut reader) =
        Barrier::<&str>::builder().order_off(move |_| check.load(Ordering::Relaxed)).build().unwrap();
    told(&barrier, 1, State::Failed);
    assert_eq!(enter(&barrier, 2), Blocked(1), "the key is blocked");

    off.store(true, Ordering::Relaxed);
    assert_eq!(enter(&barrier, 2), Bypassed, "a slot is given although the key was blocked");
    assert_eq!(wait(&barrier, 2), Turn::Go);

    off.store(false, Ordering::Relaxed);
    assert_eq!(enter(&barrier, 3), Accepted, "what was known before is forgotten");
    told(&barrier, 3, State::Failed);
    assert_eq!(enter(&barrier, 4), Blocked(3), "and the order is kept from here on");
    told(&barrier, 3, State::Succeeded);
    assert_eq!(reader.sync(at(0)).opened, ["user1"]);
}

#[test]
fn sync_counts_the_changes_of_known_keys() {
    for (barrier, mut reader) in both_generations(0) {
        barrier.state_changed(&"unknown", 1, State::Succeeded, at(0));
        barrier.state_changed(&"a", 1, State::Failed, at(0));
        barrier.state_changed(&"b", 1, State::Failed, at(0));
        assert_eq!(reader.sync(at(0)).applied, 0, "failures and unknown keys queue nothing");

        barrier.state_changed(&"a", 2, State::Waiting, at(0));
        barrier.state_changed(&"a", 3, State::Waiting, at(0));
        barrier.state_changed(&"a", 1, State::Aborted, at(0));
        barrier.state_changed(&"b", 1, State::Filtered, at(0));
        let synced = reader.sync(at(0));
        assert_eq!(synced.applied, 4);
        let mut opened = synced.opened;
        opened.sort_unstable();
        assert_eq!(opened, ["a", "b"]);
        assert_eq!(reader.sync(at(0)).applied, 0);
    }
}

#[test]
fn a_success_and_a_filter_are_the_same() {
    for state in [State::Succeeded, State::Filtered] {
        for (barrier, mut reader) in both_generations(1) {
            told(&barrier, 1, State::Failed);
            told(&barrier, 1, state);
            assert_eq!(reader.sync(at(0)).applied, 1);
            for job in 2..=4 {
                assert_eq!(enter(&barrier, job), Accepted, "no drain limit after {state}");
            }
        }
    }
}

#[test]
fn a_stale_end_opens_nothing() {
    for state in [State::Succeeded, State::Filtered, State::Aborted, State::Waiting] {
        for (barrier, mut reader) in both_generations(1) {
            told(&barrier, 5, State::Failed);
            told(&barrier, 6, state);
            told(&barrier, 4, state);
            assert_eq!(reader.sync(at(0)).opened.len(), 0);
            assert_eq!(enter(&barrier, 7), Blocked(5), "{state} of another job");
        }
    }
}

#[test]
fn keys_do_not_affect_each_other() {
    for (barrier, mut reader) in both_generations(1) {
        barrier.state_changed(&"user2", 1, State::Failed, at(0));
        assert_eq!(enter(&barrier, 2), Accepted);
        barrier.state_changed(&"user2", 1, State::Aborted, at(0));
        reader.sync(at(0));
        assert_eq!(answer(barrier.enter(&"user2", 2, at(0))), Accepted);
        assert_eq!(answer(barrier.enter(&"user2", 3, at(0))), Draining);
        assert_eq!(enter(&barrier, 3), Accepted);
    }
}

#[test]
fn a_restart_begins_with_nothing() {
    let (before, _reader) = Barrier::<&str>::new(1);
    told(&before, 1, State::Failed);
    let (after, _reader) = Barrier::<&str>::new(1);
    assert_eq!(enter(&after, 2), Accepted, "the order rests on the store's: job 1 comes first");
    assert_eq!(after.size(), 0);
}

#[test]
fn a_job_that_ends_without_a_status_gives_its_place_back() {
    let limits = Limits::default().key_threshold(1);
    let (barrier, _reader) = Barrier::<&str>::builder().limits(limits).build().unwrap();
    drop(barrier.enter(&"user1", 1, at(0)));
    assert_eq!(barrier.size(), 0);
    assert_eq!(enter(&barrier, 2), Accepted);
}

/// Two readers of one barrier, of which one opens gates in the middle of the other's pass, do not compile.
#[test]
fn a_second_reader_cannot_be_made() {
    trait AmbiguousIfClone<Marker> {
        fn holds() {}
    }
    struct Cloneable;
    impl<T> AmbiguousIfClone<()> for T {}
    impl<T: Clone> AmbiguousIfClone<Cloneable> for T {}
    <Reader<&str> as AmbiguousIfClone<_>>::holds();
    let (barrier, reader) = Barrier::<&str>::new(0);
    told(&barrier, 1, State::Failed);
    assert_eq!(reader.barrier().peek(&"user1"), Some(1), "and it is the reader of this barrier");
}
