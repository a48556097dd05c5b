//! What the barrier promises, one named test for each promise.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use common::Answer::{Accepted, Blocked, Bypassed, Draining, Full, Retry};
use common::{Events, answer, at, ms};
use proptest::prelude::*;
use relaykit_event_barrier::{
    Admission, At, Barrier, Change, Event, Limits, Notice, OverThreshold, Reader, State, Turn,
};

const KEY: &str = "ada";

fn plain() -> (Barrier<&'static str>, Reader<&'static str>) {
    limited(Limits::default())
}

fn limited(limits: Limits) -> (Barrier<&'static str>, Reader<&'static str>) {
    Barrier::builder().limits(limits).build().unwrap()
}

fn fail(barrier: &Barrier<&'static str>, job: u64) {
    assert_eq!(barrier.state_changed(&KEY, job, State::Failed, at(0)), Change::Applied);
}

fn enters(barrier: &Barrier<&'static str>, job: u64) -> common::Answer {
    answer(barrier.enter(&KEY, job, at(0)))
}

// Gates.

#[test]
fn a_failure_closes_both_gates_at_once() {
    let (barrier, _reader) = plain();
    let six = barrier.enter(&KEY, 6, at(0)).permit().unwrap();
    fail(&barrier, 5);
    assert_eq!(six.wait(at(0)), Turn::Wait { by: 5 });
    assert_eq!(enters(&barrier, 7), Blocked(5));
}

#[test]
fn gates_open_only_at_sync() {
    for state in [State::Succeeded, State::Filtered, State::Aborted] {
        let (barrier, mut reader) = plain();
        fail(&barrier, 5);
        let retry = barrier.enter(&KEY, 5, at(0)).permit().unwrap();
        assert!(retry.is_retry());
        assert_eq!(retry.settle(state, at(0)), Change::Queued);
        for _ in 0..3 {
            assert_eq!(enters(&barrier, 6), Blocked(5));
            assert_eq!(barrier.wait(&KEY, 6, at(0)), Turn::Wait { by: 5 });
            assert_eq!(barrier.peek(&KEY), Some(5));
        }
        reader.sync(at(0));
        assert_eq!(enters(&barrier, 6), Accepted);
    }
}

#[test]
fn a_job_that_fails_after_its_end_was_told_stays_the_gate() {
    let (barrier, mut reader) = plain();
    fail(&barrier, 5);
    barrier.state_changed(&KEY, 5, State::Succeeded, at(0));
    fail(&barrier, 5);
    assert_eq!(reader.sync(at(0)).opened.len(), 0);
    assert_eq!(enters(&barrier, 6), Blocked(5));
}

#[test]
fn all_failed_jobs_of_a_key_are_waited_for_oldest_first() {
    let (barrier, mut reader) = plain();
    for job in [7, 3, 9, 5] {
        fail(&barrier, job);
    }
    assert_eq!(barrier.blocked(at(0), 1)[0].failed_behind, 3);
    // One behind the head ends first.
    barrier.state_changed(&KEY, 5, State::Succeeded, at(0));
    assert_eq!(reader.sync(at(0)).opened.len(), 0);
    for job in [3, 7, 9] {
        assert_eq!(enters(&barrier, 10), Blocked(job));
        assert_eq!(enters(&barrier, job), Retry);
        barrier.state_changed(&KEY, job, State::Succeeded, at(0));
        assert_eq!(reader.sync(at(0)).opened, [KEY]);
    }
    assert_eq!(enters(&barrier, 10), Accepted);
}

// Permits.

#[test]
fn a_dropped_permit_leaves() {
    let (barrier, _reader) = limited(Limits::default().key_threshold(1));
    let permit = barrier.enter(&KEY, 1, at(0)).permit().unwrap();
    assert_eq!(enters(&barrier, 2), Full);
    drop(permit);
    assert_eq!(enters(&barrier, 2), Accepted);
    // An admission that nobody looks at leaves, too.
    barrier.leave(&KEY, 2);
    drop(barrier.enter(&KEY, 3, at(0)));
    assert_eq!(barrier.stats().in_flight, 0);
}

#[test]
fn a_permit_leaves_when_its_worker_panics() {
    let (barrier, _reader) = limited(Limits::default().key_threshold(1));
    let crash = catch_unwind(AssertUnwindSafe(|| {
        let _permit = barrier.enter(&KEY, 1, at(0)).permit().unwrap();
        panic!("the worker");
    }));
    assert!(crash.is_err());
    assert_eq!(enters(&barrier, 2), Accepted);
}

#[test]
fn a_permit_leaves_when_its_future_is_dropped() {
    let (barrier, _reader) = limited(Limits::default().key_threshold(1));
    let permit = barrier.enter(&KEY, 1, at(0)).permit().unwrap().into_owned();
    let mut task = Box::pin(async move {
        std::future::pending::<()>().await;
        permit.settle(State::Succeeded, at(0));
    });
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(task.as_mut().poll(&mut cx).is_pending());
    assert_eq!(enters(&barrier, 2), Full);
    drop(task);
    assert_eq!(enters(&barrier, 2), Accepted);
}

#[tokio::test]
async fn an_owned_permit_lives_in_a_spawned_task() {
    let (barrier, mut reader) = limited(Limits::default().key_threshold(1));
    let permit = barrier.enter(&KEY, 1, at(0)).permit().unwrap().into_owned();
    tokio::spawn(async move { permit.settle(State::Succeeded, at(0)) }).await.unwrap();
    assert_eq!(reader.sync(at(0)).applied, 1);
    let permit = barrier.enter(&KEY, 2, at(0)).permit().unwrap().into_owned().fail_on_drop();
    let task = tokio::spawn(async move {
        let _permit = permit;
        std::future::pending::<()>().await;
    });
    tokio::task::yield_now().await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert_eq!(barrier.peek(&KEY), Some(2));
}

#[test]
fn fail_on_drop_closes_the_gate_unless_the_outcome_is_told() {
    let (barrier, mut reader) = plain();
    barrier.enter(&KEY, 1, at(0)).permit().unwrap().fail_on_drop().settle(State::Succeeded, at(0));
    barrier.enter(&KEY, 2, at(0)).permit().unwrap().fail_on_drop().detach();
    assert_eq!(barrier.peek(&KEY), None);

    let permit = barrier.enter(&KEY, 3, at(7)).permit().unwrap().fail_on_drop().into_owned();
    let crash = catch_unwind(AssertUnwindSafe(move || {
        let _permit = permit;
        panic!("the worker");
    }));
    assert!(crash.is_err());
    assert_eq!(enters(&barrier, 4), Blocked(3), "nothing overtakes a job that may have been sent");
    assert_eq!(barrier.blocked(at(10), 1)[0].age, ms(3), "from its entry on");
    barrier.state_changed(&KEY, 3, State::Succeeded, at(0));
    assert_eq!(reader.sync(at(0)).opened, [KEY]);
}

#[test]
fn entering_and_leaving_twice_is_the_same_as_once() {
    let (barrier, _reader) = limited(Limits::default().key_threshold(2));
    assert_eq!(enters(&barrier, 1), Accepted);
    assert_eq!(enters(&barrier, 1), Accepted);
    assert_eq!(barrier.stats().in_flight, 1);
    barrier.leave(&KEY, 2);
    assert_eq!(barrier.stats().in_flight, 1, "a job that never entered cannot leave");
    barrier.leave(&KEY, 1);
    barrier.leave(&KEY, 1);
    assert_eq!((barrier.stats().in_flight, barrier.size()), (0, 0));
    for state in [State::Succeeded, State::Aborted, State::Waiting] {
        assert_eq!(barrier.state_changed(&KEY, 1, state, at(0)), Change::Ignored);
    }
}

// Limits.

#[test]
fn at_most_as_many_jobs_as_the_drain_limit_are_in_flight() {
    for limit in 1..=4_u32 {
        let (barrier, mut reader) = limited(Limits::default().drain(limit));
        fail(&barrier, 1);
        barrier.state_changed(&KEY, 1, State::Aborted, at(0));
        reader.sync(at(0));
        let passed = (2..20).filter(|&job| enters(&barrier, job) == Accepted).count();
        assert_eq!(passed, limit as usize);
        barrier.leave(&KEY, 2);
        let passed = (20..40).filter(|&job| enters(&barrier, job) == Accepted).count();
        assert_eq!(passed, 1, "one left, one may follow");
    }
}

#[test]
fn a_failure_ends_the_drain_limit() {
    let (barrier, mut reader) = limited(Limits::default().drain(1));
    fail(&barrier, 1);
    barrier.state_changed(&KEY, 1, State::Aborted, at(0));
    reader.sync(at(0));
    assert_eq!(enters(&barrier, 2), Accepted);
    fail(&barrier, 2);
    assert_eq!(barrier.stats().draining, 0);
    barrier.state_changed(&KEY, 2, State::Succeeded, at(0));
    reader.sync(at(0));
    assert_eq!([enters(&barrier, 3), enters(&barrier, 4)], [Accepted, Accepted]);
}

#[test]
fn order_is_never_waived_by_default() {
    let events = Events::default();
    let (barrier, mut reader) = Barrier::<&str>::builder()
        .limits(Limits::default().key_threshold(3))
        .observer(events.observer())
        .build()
        .unwrap();
    for job in 0..1000 {
        assert_eq!(enters(&barrier, job), if job < 3 { Accepted } else { Full });
        assert!(!barrier.disabled(&KEY, at(job)));
    }
    reader.sync(at(1_000_000_000));
    assert_eq!(enters(&barrier, 3), Full);
    assert_eq!(events.take(), []);
}

#[test]
fn limits_are_reloaded_while_running() {
    let (barrier, mut reader) = plain();
    assert_eq!(enters(&barrier, 1), Accepted, "not counted");
    barrier.set_limits(Limits::default().key_threshold(1)).unwrap();
    assert_eq!(enters(&barrier, 2), Accepted, "counted from here on");
    assert_eq!(enters(&barrier, 3), Full);
    barrier.set_limits(Limits::default().key_threshold(2)).unwrap();
    assert_eq!(enters(&barrier, 3), Accepted);
    barrier.set_limits(Limits::default().key_threshold(1)).unwrap();
    assert_eq!(enters(&barrier, 4), Full);
    assert_eq!(enters(&barrier, 3), Accepted, "it is in flight");
    barrier.set_limits(Limits::default()).unwrap();
    assert_eq!(enters(&barrier, 4), Accepted);
    for job in [2, 3] {
        barrier.state_changed(&KEY, job, State::Succeeded, at(0));
    }
    reader.sync(at(0));
    assert_eq!(barrier.size(), 0);
}

#[test]
fn a_duration_of_zero_is_a_typed_error_and_changes_nothing() {
    let zero: [(&str, Limits); 3] = [
        ("disabled_for", Limits::default().disabled_for(Duration::ZERO)),
        ("half_enabled_for", Limits::default().half_enabled_for(Duration::ZERO)),
        ("drain_for", Limits::default().drain_for(Duration::from_nanos(999))),
    ];
    let (barrier, _reader) = limited(Limits::default().key_threshold(1));
    for (field, limits) in zero {
        let error = barrier.set_limits(limits).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
        let error = Barrier::<&str>::builder().limits(limits).build().unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
    assert_eq!([enters(&barrier, 1), enters(&barrier, 2)], [Accepted, Full], "the old limit holds");
}

#[test]
fn whoever_a_limit_refused_is_woken_when_it_is_raised() {
    let (barrier, mut reader) = limited(Limits::default().key_threshold(1));
    assert_eq!([enters(&barrier, 1), enters(&barrier, 2)], [Accepted, Full]);
    barrier.set_limits(Limits::default().key_threshold(2)).unwrap();
    assert_eq!(reader.sync(at(0)).opened, [KEY], "job 2 may pass");

    let (barrier, mut reader) = limited(Limits::default().drain(1));
    fail(&barrier, 1);
    barrier.state_changed(&KEY, 1, State::Aborted, at(0));
    reader.sync(at(0));
    assert_eq!([enters(&barrier, 2), enters(&barrier, 3)], [Accepted, Draining]);
    barrier.set_limits(Limits::default().drain(2)).unwrap();
    assert_eq!(reader.sync(at(0)).opened, [KEY], "job 3 may pass");
    assert_eq!(reader.sync(at(0)).opened.len(), 0, "once");
}

#[test]
fn whoever_was_refused_is_woken_when_the_order_is_waived() {
    let limits = Limits::default().key_threshold(2).over_threshold(OverThreshold::Waive);
    let (barrier, mut reader) = limited(limits);
    assert_eq!([enters(&barrier, 1), enters(&barrier, 2)], [Accepted, Accepted]);
    fail(&barrier, 1);
    assert_eq!(enters(&barrier, 3), Blocked(1));
    assert_eq!(enters(&barrier, 1), Retry);
    assert_eq!(enters(&barrier, 4), Bypassed);
    assert_eq!(reader.sync(at(0)).opened, [KEY], "job 3 may pass");
    assert_eq!(reader.sync(at(0)).opened.len(), 0, "once");
}

#[test]
fn a_drain_limit_that_ends_by_time_wakes_once() {
    let (barrier, mut reader) = limited(Limits::default().key_threshold(1).drain(1).drain_for(ms(100)));
    fail(&barrier, 1);
    barrier.state_changed(&KEY, 1, State::Aborted, at(0));
    reader.sync(at(0));
    assert_eq!([enters(&barrier, 2), enters(&barrier, 3)], [Accepted, Draining]);
    barrier.leave(&KEY, 2);
    assert_eq!(reader.sync(at(100)).opened, [KEY]);
    assert_eq!([enters(&barrier, 2)], [Accepted]);
    barrier.leave(&KEY, 2);
    assert_eq!(reader.sync(at(200)).opened.len(), 0, "nobody has been refused since");
    assert_eq!(barrier.size(), 0);
}

#[test]
fn a_key_that_is_disabled_passes_by_half_enabled_to_enabled() {
    let limits = Limits::default()
        .key_threshold(1)
        .over_threshold(OverThreshold::Waive)
        .disabled_for(ms(100))
        .half_enabled_for(ms(50));
    let events = Events::default();
    let (barrier, mut reader) =
        Barrier::<&str>::builder().limits(limits).observer(events.observer()).build().unwrap();
    assert_eq!([enters(&barrier, 1), enters(&barrier, 2)], [Accepted, Bypassed]);
    assert_eq!(events.take(), [Event::OrderWaived { failed: None, in_flight: 1 }]);
    assert_eq!(barrier.state_changed(&KEY, 1, State::Failed, at(99)), Change::Ignored);

    // Half-enabled: order is kept, sequences are not reported.
    barrier.state_changed(&KEY, 5, State::Failed, at(100));
    assert_eq!(events.take(), [Event::OrderRestored]);
    assert_eq!(answer(barrier.enter(&KEY, 6, at(149))), Blocked(5));
    assert_eq!(barrier.wait(&KEY, 4, at(149)), Turn::Go);
    assert_eq!(events.take(), []);

    // Enabled; what failed meanwhile is still the gate. It was half-enabled for its own time, not for that of the look.
    assert_eq!(barrier.wait(&KEY, 4, at(150)), Turn::Go);
    assert_eq!(events.take(), [Event::OutOfOrder { at: At::Wait, failed: 5, job: 4 }]);
    barrier.state_changed(&KEY, 5, State::Succeeded, at(150));
    assert_eq!(reader.sync(at(150)).opened, [KEY]);
    assert_eq!(barrier.size(), 0);
}

// What operators ask.

#[test]
fn blocked_keys_are_listed_longest_first() {
    let (barrier, _reader) = Barrier::<u64>::builder().build().unwrap();
    for key in 0..500 {
        barrier.state_changed(&key, 5, State::Failed, at(1000 - key));
    }
    assert!(barrier.enter(&3, 6, at(0)).permit().is_none());
    let listed = barrier.blocked(at(2000), 3);
    let keys: Vec<_> = listed.iter().map(|blocked| (blocked.key, blocked.age, blocked.head)).collect();
    assert_eq!(keys, [(499, ms(1499), 5), (498, ms(1498), 5), (497, ms(1497), 5)]);
    assert_eq!(barrier.blocked(at(2000), 0), []);
    let all = barrier.blocked(at(2000), usize::MAX);
    assert_eq!(all.len(), 500);
    assert!(all.is_sorted_by(|a, b| a.age >= b.age));
    assert_eq!(all.iter().find(|blocked| blocked.key == 3).unwrap().refused, 1);
    assert_eq!(barrier.stats().blocked, 500);
}

#[test]
fn a_released_key_opens_at_sync() {
    let (barrier, mut reader) = plain();
    assert!(!barrier.release(&KEY));
    for job in [5, 7] {
        fail(&barrier, job);
    }
    assert!(barrier.release(&KEY));
    assert_eq!(enters(&barrier, 6), Blocked(5), "gates open only at sync");
    assert_eq!(reader.sync(at(0)).opened, [KEY]);
    assert_eq!(barrier.size(), 0, "all failed jobs are given up");
    assert_eq!(enters(&barrier, 6), Accepted);
}

#[test]
fn a_skipped_job_opens_the_gate_to_the_next_failed_one() {
    let (barrier, mut reader) = plain();
    for job in [5, 7, 9] {
        fail(&barrier, job);
    }
    assert!(!barrier.skip(&KEY, 6), "6 has not failed");
    assert!(!barrier.skip(&"nobody", 5));
    assert!(barrier.skip(&KEY, 7));
    assert_eq!(reader.sync(at(0)).opened.len(), 0, "5 is still waited for");
    assert!(barrier.skip(&KEY, 5));
    assert_eq!(enters(&barrier, 9), Blocked(5), "gates open only at sync");
    assert_eq!(reader.sync(at(0)).opened, [KEY]);
    assert_eq!(barrier.peek(&KEY), Some(9));
}

#[test]
fn a_released_key_that_fails_again_is_blocked() {
    let (barrier, mut reader) = plain();
    fail(&barrier, 5);
    barrier.release(&KEY);
    fail(&barrier, 5);
    reader.sync(at(0));
    assert_eq!(enters(&barrier, 6), Blocked(5), "it is not gone after all");
}

#[test]
fn the_text_is_sorted_and_shows_what_each_key_is_in() {
    let limits = Limits::default().key_threshold(2).over_threshold(OverThreshold::Waive).drain(1);
    let (barrier, mut reader) = Barrier::<&str>::builder()
        .limits(limits)
        .metadata("destination", "HTTP")
        .metadata("batching", "no")
        .build()
        .unwrap();
    for job in [4, 2] {
        assert_eq!(answer(barrier.enter(&"b", job, at(0))), Accepted);
    }
    for job in 1..=3 {
        assert!(answer(barrier.enter(&"c", job, at(0))).passes());
    }
    for key in ["d", "a"] {
        barrier.state_changed(&key, 9, State::Failed, at(0));
    }
    barrier.state_changed(&"d", 9, State::Aborted, at(0));
    reader.sync(at(0));
    assert_eq!(
        barrier.to_string(),
        "Barrier{destination: HTTP, batching: no, [\
         {key: \"a\", failed: 9, in flight: [], enabled}, \
         {key: \"b\", failed: none, in flight: [2, 4], enabled}, \
         {key: \"c\", failed: none, in flight: [], disabled}, \
         {key: \"d\", failed: none, in flight: [], draining}]}"
    );
    let stats = barrier.stats();
    assert_eq!((stats.keys, stats.blocked, stats.draining, stats.disabled, stats.in_flight), (4, 1, 1, 1, 2));
    assert_eq!(barrier.size(), 4);
    assert_eq!(Barrier::<&str>::new(0).0.to_string(), "Barrier{[]}");
}

// Observers.

#[test]
fn an_observer_may_call_the_barrier() {
    let shared: Arc<OnceLock<Barrier<&'static str>>> = Arc::default();
    let inside = Arc::clone(&shared);
    let (barrier, _reader) = Barrier::<&str>::builder()
        .observer(move |notice: &Notice<'_, _, _>| {
            let barrier = inside.get().unwrap();
            assert_eq!(barrier.peek(notice.key()), Some(3), "what it is told has happened");
            assert_eq!(barrier.size(), 1);
            assert!(barrier.release(notice.key()));
            barrier.set_limits(Limits::default().drain(1)).unwrap();
            assert!(barrier.to_string().contains("failed: 3"));
        })
        .build()
        .unwrap();
    shared.set(barrier.clone()).unwrap();
    fail(&barrier, 5);
    fail(&barrier, 3);
}

#[test]
fn an_observer_that_panics_leaves_the_barrier_as_it_should_be() {
    let (barrier, mut reader) =
        Barrier::<&str>::builder().observer(|_| panic!("the observer")).build().unwrap();
    fail(&barrier, 5);
    assert!(catch_unwind(AssertUnwindSafe(|| fail(&barrier, 3))).is_err());
    assert_eq!(barrier.peek(&KEY), Some(3));
    assert_eq!(enters(&barrier, 5), Blocked(3));
    for job in [3, 5] {
        barrier.state_changed(&KEY, job, State::Succeeded, at(0));
        assert_eq!(reader.sync(at(0)).opened, [KEY]);
    }
    assert_eq!(barrier.size(), 0);
}

#[test]
fn notices_carry_the_key_and_the_metadata() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let notes = Arc::clone(&seen);
    let (barrier, _reader) = Barrier::<&str>::builder()
        .metadata("destination", "HTTP")
        .observer(move |notice: &Notice<'_, &str, u64>| {
            notes.lock().unwrap().push(format!("{} {:?}", notice.key(), notice.metadata()));
            assert_eq!(notice.debug_info(), None, "there is no provider");
        })
        .build()
        .unwrap();
    fail(&barrier, 5);
    fail(&barrier, 3);
    assert_eq!(*seen.lock().unwrap(), [r#"ada [("destination", "HTTP")]"#]);
}

// Memory.

#[test]
fn keys_in_good_order_have_no_record() {
    let (barrier, mut reader) = Barrier::<u64>::builder().build().unwrap();
    for key in 0..1000 {
        let permit = barrier.enter(&key, 1, at(0)).permit().unwrap();
        assert_eq!(barrier.size(), 0);
        permit.settle(State::Succeeded, at(0));
    }
    reader.sync(at(0));
    assert_eq!(barrier.stats(), relaykit_event_barrier::Stats::default());
}

#[test]
fn keys_that_are_over_leave_nothing() {
    let limits = Limits::default().key_threshold(3).drain(1).drain_for(ms(100));
    let (barrier, mut reader) = Barrier::<u64>::builder().limits(limits).build().unwrap();
    for key in 0..1000 {
        for job in 1..=3 {
            let Some(permit) = barrier.enter(&key, job, at(0)).permit() else { continue };
            match (key + job) % 4 {
                0 => drop(permit),
                1 => drop(permit.fail_on_drop()),
                2 => drop(permit.settle(State::Aborted, at(0))),
                _ => drop(permit.settle(State::Succeeded, at(0))),
            }
        }
    }
    for key in 0..1000 {
        for job in 1..=3 {
            barrier.state_changed(&key, job, State::Aborted, at(0));
        }
    }
    reader.sync(at(0));
    reader.sync(at(100));
    assert_eq!((barrier.size(), barrier.stats().in_flight), (0, 0));
}

#[test]
fn memory_is_bounded_by_the_known_keys_without_a_sync() {
    let key = Arc::new(7);
    let off = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let check = Arc::clone(&off);
    let (barrier, mut reader) = Barrier::<Arc<i32>>::builder()
        .limits(Limits::default().key_threshold(2).drain(1))
        .order_off(move |_| check.load(std::sync::atomic::Ordering::Relaxed))
        .build()
        .unwrap();
    for round in 0..200 {
        for job in 0..5 {
            if let Some(permit) = barrier.enter(&key, job, at(round)).permit() {
                permit.detach();
            }
            barrier.state_changed(&key, job, State::Failed, at(round));
            barrier.state_changed(&key, job, State::Aborted, at(round));
            barrier.leave(&key, job);
        }
        // What was known is forgotten, and known again in the next round.
        off.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(barrier.enter(&key, 1, at(round)));
        off.store(false, std::sync::atomic::Ordering::Relaxed);
    }
    assert!(Arc::strong_count(&key) <= 3, "{} copies of one key", Arc::strong_count(&key));
    reader.sync(at(0));
    reader.sync(at(1_000_000));
    assert_eq!((barrier.size(), Arc::strong_count(&key)), (0, 1));
}

// Sharing.

#[test]
fn two_clones_are_one_barrier_and_two_barriers_are_not() {
    let (barrier, mut reader) = plain();
    let clone = barrier.clone();
    fail(&clone, 5);
    assert_eq!(enters(&barrier, 6), Blocked(5));
    barrier.state_changed(&KEY, 5, State::Succeeded, at(0));
    reader.sync(at(0));
    assert_eq!(enters(&clone, 6), Accepted);

    // That is why two processes need a lease on the key.
    let (other, _reader) = plain();
    fail(&barrier, 7);
    assert_eq!(enters(&other, 8), Accepted);
}

#[test]
fn threads_share_it_and_lose_nothing() {
    let (barrier, mut reader) = Barrier::<u64>::builder().build().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let barrier = barrier.clone();
            scope.spawn(move || {
                for key in 0..300 {
                    barrier.state_changed(&key, thread, State::Failed, at(0));
                    barrier.state_changed(&key, thread, State::Succeeded, at(0));
                }
            });
        }
        for _ in 0..100 {
            reader.sync(at(0));
        }
    });
    reader.sync(at(0));
    assert_eq!(barrier.size(), 0, "{barrier}");
}

// Odd keys and jobs.

#[test]
fn job_ids_at_the_extremes_are_jobs_like_others() {
    let (barrier, mut reader) = plain();
    fail(&barrier, u64::MAX);
    assert_eq!(enters(&barrier, 0), Accepted);
    fail(&barrier, 0);
    assert_eq!(enters(&barrier, u64::MAX), Blocked(0));
    barrier.state_changed(&KEY, 0, State::Succeeded, at(0));
    reader.sync(at(0));
    assert_eq!(enters(&barrier, u64::MAX), Retry);
    barrier.state_changed(&KEY, u64::MAX, State::Succeeded, at(0));
    reader.sync(relaykit_pipeline_traits::Monotonic::NEVER);
    assert_eq!(barrier.size(), 0);

    let (signed, _reader) = Barrier::<&str, i32>::new(0);
    signed.state_changed(&KEY, i32::MIN, State::Failed, at(0));
    assert!(signed.enter(&KEY, -1, at(0)).permit().is_none());
    // A job may be any ordered value: two parts, say.
    let (pairs, _reader) = Barrier::<String, (u32, u8)>::new(0);
    pairs.state_changed(&KEY.to_owned(), (1, 9), State::Failed, at(0));
    assert!(pairs.enter(&KEY.to_owned(), (2, 0), at(0)).permit().is_none());
}

#[test]
fn limits_at_the_extremes_hold() {
    let limits = Limits::default()
        .key_threshold(u32::MAX)
        .drain(u32::MAX)
        .over_threshold(OverThreshold::Waive)
        .disabled_for(Duration::MAX)
        .half_enabled_for(Duration::MAX)
        .drain_for(Duration::MAX);
    let (barrier, mut reader) = limited(limits);
    fail(&barrier, 1);
    barrier.state_changed(&KEY, 1, State::Aborted, at(0));
    reader.sync(at(0));
    assert_eq!(enters(&barrier, 2), Accepted);
    barrier.state_changed(&KEY, 2, State::Succeeded, at(0));
    reader.sync(at(u64::MAX));
    assert_eq!(barrier.size(), 0);

    barrier.set_limits(limits.key_threshold(1)).unwrap();
    assert_eq!([enters(&barrier, 3), enters(&barrier, 4)], [Accepted, Bypassed]);
    assert!(barrier.disabled(&KEY, at(u64::MAX / 1_000_000)), "for ever");
}

/// A key whose traits panic on request, at the n-th call from then on.
#[derive(Debug)]
struct Bomb(u32);

thread_local!(static FUSE: Cell<Option<u32>> = const { Cell::new(None) });

fn burn() {
    FUSE.with(|fuse| match fuse.get() {
        Some(0) => {
            fuse.set(None);
            panic!("the key");
        }
        Some(left) => fuse.set(Some(left - 1)),
        None => {}
    });
}

impl Clone for Bomb {
    fn clone(&self) -> Self {
        burn();
        Self(self.0)
    }
}

impl PartialEq for Bomb {
    fn eq(&self, other: &Self) -> bool {
        burn();
        self.0 == other.0
    }
}

impl Eq for Bomb {}

impl Hash for Bomb {
    fn hash<H: Hasher>(&self, state: &mut H) {
        burn();
        self.0.hash(state);
    }
}

/// A job whose order panics, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BombJob(u32);

impl PartialOrd for BombJob {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for BombJob {
    fn cmp(&self, other: &Self) -> Ordering {
        burn();
        self.0.cmp(&other.0)
    }
}

/// Every call is blown up at every one of its uses of the key and the job; afterwards the same call works, and the key
/// opens in the end.
#[test]
fn a_key_or_job_that_panics_does_not_wedge_the_barrier() {
    type Bombs = (Barrier<Bomb, BombJob>, Reader<Bomb, BombJob>);
    type Call = fn(&mut Bombs);
    let calls: [(&str, Call); 10] = [
        ("enter", |b| drop(b.0.enter(&Bomb(1), BombJob(5), at(0)))),
        ("enter another", |b| drop(b.0.enter(&Bomb(2), BombJob(5), at(0)))),
        ("wait", |b| _ = b.0.wait(&Bomb(1), BombJob(6), at(0))),
        ("leave", |b| b.0.leave(&Bomb(1), BombJob(5))),
        ("fail", |b| _ = b.0.state_changed(&Bomb(1), BombJob(4), State::Failed, at(0))),
        ("succeed", |b| _ = b.0.state_changed(&Bomb(1), BombJob(5), State::Succeeded, at(0))),
        ("abort", |b| _ = b.0.state_changed(&Bomb(1), BombJob(7), State::Aborted, at(0))),
        ("skip", |b| _ = b.0.skip(&Bomb(1), BombJob(7))),
        ("sync", |b| drop(b.1.sync(at(0)))),
        ("blocked", |b| drop(b.0.blocked(at(0), 10))),
    ];
    let mut exploded = 0;
    for (name, call) in calls {
        for fuse in 0..50 {
            let limits = Limits::default().key_threshold(10).drain(1);
            let mut bombs: Bombs = Barrier::builder().limits(limits).build().unwrap();
            bombs.0.enter(&Bomb(1), BombJob(6), at(0)).permit().unwrap().detach();
            for job in [7, 5] {
                bombs.0.state_changed(&Bomb(1), BombJob(job), State::Failed, at(0));
            }
            for key in 10..20 {
                bombs.0.state_changed(&Bomb(key), BombJob(1), State::Failed, at(0));
                bombs.0.state_changed(&Bomb(key), BombJob(1), State::Succeeded, at(0));
            }
            FUSE.set(Some(fuse));
            let blown = catch_unwind(AssertUnwindSafe(|| call(&mut bombs))).is_err();
            FUSE.set(None);
            exploded += u32::from(blown);

            // The same again, then everything ends.
            call(&mut bombs);
            for job in [4, 5, 6, 7] {
                bombs.0.state_changed(&Bomb(1), BombJob(job), State::Succeeded, at(0));
            }
            bombs.1.sync(at(0));
            bombs.1.sync(at(0) + Duration::from_secs(3600));
            assert_eq!(bombs.0.size(), 0, "{name}, at use {fuse}: {:?}", bombs.0.blocked(at(0), 10));
            if !blown {
                break;
            }
        }
    }
    assert!(exploded > 30, "{exploded} explosions");
}

// The wake list.

#[derive(Debug, Clone, Copy)]
enum Act {
    /// A pass over these keys, as bits, of at most so many jobs each.
    Pass(u8, usize),
    /// The worker's next job of a key ends, or is held back.
    End(usize, State),
    /// The last job that entered is not handed on.
    Leave(usize),
    Reload(u32, u32),
    Time(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let state = prop::sample::select(vec![State::Succeeded, State::Failed, State::Aborted]);
    prop_oneof![
        4 => (0_u8..8, 1_usize..5).prop_map(|(keys, most)| Act::Pass(keys, most)),
        8 => (0_usize..3, state).prop_map(|(key, state)| Act::End(key, state)),
        1 => (0_usize..3).prop_map(Act::Leave),
        1 => (0_u32..4, 0_u32..3).prop_map(|(threshold, drain)| Act::Reload(threshold, drain)),
        1 => (0_u64..200).prop_map(Act::Time),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A reader that looks only at keys that opened misses nothing: a job that was refused, and may pass after a
    /// sync, has its key in that sync's `opened` or in an earlier one's since it was refused, as long as jobs enter in order.
    #[test]
    fn the_wake_list_is_complete(
        acts in prop::collection::vec(act(), 1..120),
        waive: bool,
        threshold in 0_u32..4,
        drain in 0_u32..3,
    ) {
        let over = if waive { OverThreshold::Waive } else { OverThreshold::Block };
        let limits = |threshold, drain| {
            Limits::default()
                .key_threshold(threshold)
                .over_threshold(over)
                .drain(drain)
                .disabled_for(ms(50))
                .half_enabled_for(ms(50))
                .drain_for(ms(50))
        };
        let (barrier, mut reader) =
            Barrier::<usize, usize>::builder().limits(limits(threshold, drain)).build().unwrap();
        // Of each key: the jobs that can be read, and those in flight, in the order of their entry.
        let mut readable = vec![(0..30_usize).collect::<BTreeSet<_>>(); 3];
        let mut in_flight = vec![VecDeque::new(); 3];
        let mut now = 0;
        // The keys that were refused and not woken since, each with the job.
        let mut asleep: BTreeSet<(usize, usize)> = BTreeSet::new();
        for act in acts {
            match act {
                Act::Pass(keys, most) => {
                    let opened = reader.sync(at(now)).opened;
                    let unique: BTreeSet<_> = opened.iter().collect();
                    prop_assert_eq!(unique.len(), opened.len(), "each key once");
                    asleep.retain(|(key, _)| !opened.contains(key));
                    for key in (0..3).filter(|key| keys & (1 << key) != 0) {
                        for job in readable[key].iter().copied().take(most).collect::<Vec<_>>() {
                            let Some(permit) = barrier.enter(&key, job, at(now)).permit() else {
                                asleep.insert((key, job));
                                break;
                            };
                            permit.detach();
                            readable[key].remove(&job);
                            in_flight[key].push_back(job);
                        }
                    }
                }
                Act::End(key, state) => {
                    let Some(job) = in_flight[key].pop_front() else { continue };
                    let turn = barrier.wait(&key, job, at(now));
                    let state = if turn == Turn::Go { state } else { State::Waiting };
                    if matches!(state, State::Failed | State::Waiting) {
                        readable[key].insert(job);
                    }
                    barrier.state_changed(&key, job, state, at(now));
                }
                Act::Leave(key) => {
                    let Some(job) = in_flight[key].pop_back() else { continue };
                    readable[key].insert(job);
                    barrier.leave(&key, job);
                }
                Act::Reload(threshold, drain) => barrier.set_limits(limits(threshold, drain)).unwrap(),
                Act::Time(ms) => now += ms,
            }
        }
        // Only here, since asking counts.
        let opened = reader.sync(at(now)).opened;
        asleep.retain(|(key, _)| !opened.contains(key));
        while let Some((key, job)) = asleep.pop_first() {
            if barrier.peek(&key).is_some_and(|head| job < head) {
                // It was refused behind a later job, which then failed: the key did not enter in order.
                continue;
            }
            let was_disabled = barrier.disabled(&key, at(now));
            let passes = match barrier.enter(&key, job, at(now)) {
                // Unless it is this job itself that exceeds the threshold.
                Admission::Bypassed(_) => was_disabled,
                admission => admission.is_accepted(),
            };
            prop_assert!(!passes, "job {job} of key {key} may pass, and nobody woke it");
            // Asking may have lifted the key's order, which wakes the others of it.
            let opened = reader.sync(at(now)).opened;
            asleep.retain(|(key, _)| !opened.contains(key));
        }
    }
}
