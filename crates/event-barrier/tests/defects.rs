//! One test for each fault that the original's rules have. Where a rule can be shown in a few lines, the same scenario runs on
//! a model of it first and must show the fault there; then it runs on the barrier.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use common::Answer::{Accepted, Blocked, Bypassed, Draining, Full, Retry};
use common::original::Original;
use common::{Events, answer, at, ms};
use relaykit_event_barrier::{
    Admission, At, Barrier, Change, Event, Limits, OverThreshold, Reader, State, Turn,
};

const KEY: &str = "user1";
/// Long after every state of a key is over.
const LATER: u64 = 10_000_000;

type Users = (Barrier<&'static str>, Reader<&'static str>);

fn barrier(limits: Limits) -> Users {
    Barrier::builder().limits(limits).build().unwrap()
}

/// The order of a key with more jobs in flight is waived for 100 ms, then half-enabled for 100 ms.
fn waiving(threshold: u32) -> Limits {
    Limits::default()
        .key_threshold(threshold)
        .over_threshold(OverThreshold::Waive)
        .disabled_for(ms(100))
        .half_enabled_for(ms(100))
}

#[test]
fn d01_a_threshold_reloaded_to_0_is_off() {
    let mut original = Original::new(2, 0);
    original.enter(KEY, 1, 0);
    original.threshold = 0;
    assert_eq!(original.enter(KEY, 2, 0), (true, None));
    assert!(original.disabled(KEY), "the order is off, although 0 means no threshold");

    let (barrier, mut reader) = barrier(waiving(2));
    assert_eq!(answer(barrier.enter(&KEY, 1, at(0))), Accepted);
    barrier.set_limits(waiving(0)).unwrap();
    for job in 2..10 {
        assert_eq!(answer(barrier.enter(&KEY, job, at(0))), Accepted);
    }
    assert!(!barrier.disabled(&KEY, at(0)));
    barrier.state_changed(&KEY, 1, State::Failed, at(0));
    assert_eq!(answer(barrier.enter(&KEY, 10, at(0))), Blocked(1), "the order is kept");
    barrier.state_changed(&KEY, 1, State::Succeeded, at(0));
    assert_eq!(reader.sync(at(0)).opened, [KEY]);
    assert_eq!(barrier.size(), 0, "jobs that were counted before do not keep the key");
}

#[test]
fn d02_a_drain_limit_reloaded_to_0_refuses_nobody() {
    let mut original = Original::new(0, 1);
    original.state_changed(KEY, 1, State::Failed);
    original.state_changed(KEY, 1, State::Aborted);
    original.sync();
    original.drain = 0;
    assert_eq!(original.enter(KEY, 2, 0), (false, None));
    original.sync();
    assert_eq!(original.enter(KEY, 2, LATER), (false, None), "for ever, with nothing in flight");

    let (barrier, mut reader) = barrier(Limits::default().drain(1));
    barrier.state_changed(&KEY, 1, State::Failed, at(0));
    barrier.state_changed(&KEY, 1, State::Aborted, at(0));
    reader.sync(at(0));
    assert_eq!(answer(barrier.enter(&KEY, 2, at(0))), Accepted);
    assert_eq!(answer(barrier.enter(&KEY, 3, at(0))), Draining);
    barrier.set_limits(Limits::default()).unwrap();
    assert_eq!(answer(barrier.enter(&KEY, 3, at(0))), Accepted);
    assert_eq!(reader.sync(at(0)).opened, [KEY], "whoever was refused is told");
    assert_eq!(barrier.size(), 0);
}

#[test]
fn d02_a_drain_limit_of_0_from_the_start_is_off() {
    let (barrier, mut reader) = Barrier::<&str>::new(0);
    barrier.state_changed(&KEY, 1, State::Failed, at(0));
    barrier.state_changed(&KEY, 1, State::Aborted, at(0));
    reader.sync(at(0));
    for job in 2..10 {
        assert_eq!(answer(barrier.enter(&KEY, job, at(0))), Accepted);
    }
    assert_eq!(barrier.size(), 0);
}

#[test]
fn d03_switching_the_order_off_forgets_the_failed_job() {
    let mut original = Original::new(200, 0);
    original.enter(KEY, 1, 0);
    original.state_changed(KEY, 1, State::Failed);
    original.order_off = true;
    original.enter(KEY, 1, 0);
    original.state_changed(KEY, 1, State::Succeeded);
    original.sync();
    original.order_off = false;
    for now in [1000, 2000, 3000] {
        assert_eq!(original.enter(KEY, 2, now), (false, Some(1)), "it waits for a job that ended");
    }

    let off = Arc::new(AtomicBool::new(false));
    let check = Arc::clone(&off);
    let (barrier, mut reader) = Barrier::<&str>::builder()
        .limits(waiving(200))
        .order_off(move |_| check.load(Ordering::Relaxed))
        .build()
        .unwrap();
    barrier.enter(&KEY, 1, at(0)).permit().unwrap().settle(State::Failed, at(0));
    off.store(true, Ordering::Relaxed);
    let retry = barrier.enter(&KEY, 1, at(0)).permit().unwrap();
    assert_eq!(retry.settle(State::Succeeded, at(0)), Change::Ignored);
    reader.sync(at(0));
    off.store(false, Ordering::Relaxed);
    assert_eq!(answer(barrier.enter(&KEY, 2, at(0))), Accepted);
}

/// The same with a job that entered before: its success counts although the order is off when it ends.
#[test]
fn d03_an_end_is_heard_while_the_order_is_off() {
    let off = Arc::new(AtomicBool::new(false));
    let check = Arc::clone(&off);
    let (barrier, mut reader) =
        Barrier::<&str>::builder().order_off(move |_| check.load(Ordering::Relaxed)).build().unwrap();
    barrier.state_changed(&KEY, 1, State::Failed, at(0));
    let retry = barrier.enter(&KEY, 1, at(0)).permit().unwrap();
    off.store(true, Ordering::Relaxed);
    retry.settle(State::Succeeded, at(0));
    off.store(false, Ordering::Relaxed);
    assert_eq!(reader.sync(at(0)).opened, [KEY]);
    assert_eq!(answer(barrier.enter(&KEY, 2, at(0))), Accepted);
}

#[test]
fn d04_a_waived_key_is_restored_by_any_look() {
    let mut original = Original::new(1, 0);
    original.enter(KEY, 1, 0);
    original.enter(KEY, 2, 0);
    // Its router does not ask to enter while the key is disabled.
    original.sync();
    assert!(original.disabled(KEY));
    original.sync();
    assert!(!original.wait(KEY, 1));
    assert!(original.disabled(KEY), "nothing but an enter moves its time");

    let looks: [fn(&mut Users); 5] = [
        |(barrier, _)| assert!(!barrier.disabled(&KEY, at(100))),
        |(barrier, _)| assert_eq!(barrier.wait(&KEY, 1, at(100)), Turn::Go),
        |(barrier, _)| assert_eq!(answer(barrier.enter(&KEY, 1, at(100))), Accepted),
        |(barrier, _)| {
            assert_eq!(barrier.state_changed(&KEY, 1, State::Failed, at(100)), Change::Applied);
        },
        |(_, reader)| assert_eq!(reader.sync(at(100)).applied, 0),
    ];
    for look in looks {
        let events = Events::default();
        let mut users =
            Barrier::<&str>::builder().limits(waiving(1)).observer(events.observer()).build().unwrap();
        assert_eq!(answer(users.0.enter(&KEY, 1, at(0))), Accepted);
        assert_eq!(answer(users.0.enter(&KEY, 2, at(0))), Bypassed);
        assert!(users.0.disabled(&KEY, at(99)));
        events.take();
        look(&mut users);
        assert_eq!(events.take(), [Event::OrderRestored]);
        assert!(!users.0.disabled(&KEY, at(0)), "and it stays so");
    }
}

#[test]
fn d05_a_job_without_order_stays_so_to_its_end() {
    // Its router skips the first gate while the order is off, but not what follows.
    let mut original = Original::new(0, 0);
    original.order_off = true;
    original.state_changed(KEY, 5, State::Failed);
    assert!(original.wait(KEY, 3), "an older job is held back, although the order is off");
    original.state_changed(KEY, 3, State::Failed);
    assert_eq!(original.explained, 1, "and reported, which panics by default");

    let (events, off) = (Events::default(), Arc::new(AtomicBool::new(true)));
    let check = Arc::clone(&off);
    let (barrier, _reader) = Barrier::<&str>::builder()
        .order_off(move |_| check.load(Ordering::Relaxed))
        .observer(events.observer())
        .build()
        .unwrap();
    let permit = |job| barrier.enter(&KEY, job, at(0)).permit().unwrap();
    let (three, five, six) = (permit(3), permit(5), permit(6));
    assert!(five.is_bypassed());
    assert_eq!(barrier.state_changed(&KEY, 5, State::Failed, at(0)), Change::Ignored);
    assert_eq!(barrier.wait(&KEY, 3, at(0)), Turn::Go);

    // The permits remember it, even when the order is kept again.
    off.store(false, Ordering::Relaxed);
    let four = permit(4);
    assert!(!four.is_bypassed());
    four.settle(State::Failed, at(0));
    assert_eq!(five.settle(State::Failed, at(0)), Change::Ignored);
    assert_eq!(six.wait(at(0)), Turn::Go);
    assert_eq!(three.settle(State::Failed, at(0)), Change::Ignored);
    drop(six.fail_on_drop());
    assert_eq!(barrier.peek(&KEY), Some(4));
    assert_eq!(events.take(), []);
}

#[test]
fn d06_waived_keys_end_by_time() {
    let mut original = Original::new(1, 0);
    for key in ["a", "b", "c"] {
        original.enter(key, 1, 0);
        original.enter(key, 2, 0);
    }
    original.sync();
    assert_eq!(original.size(), 3, "one record for each hot key, for ever");

    let (barrier, mut reader) = barrier(waiving(1));
    for key in ["a", "b", "c"] {
        assert_eq!(answer(barrier.enter(&key, 1, at(0))), Accepted);
        assert_eq!(answer(barrier.enter(&key, 2, at(0))), Bypassed);
    }
    reader.sync(at(199));
    assert_eq!(barrier.size(), 3);
    reader.sync(at(200));
    assert_eq!(barrier.size(), 0);
}

#[test]
fn d07_the_older_of_two_failed_jobs_is_the_gate() {
    let mut original = Original::new(0, 0);
    original.state_changed(KEY, 7, State::Failed);
    original.state_changed(KEY, 5, State::Failed);
    assert_eq!(original.enter(KEY, 5, 0), (false, Some(7)), "the older job waits for the newer");
    assert_eq!(original.enter(KEY, 7, 0), (true, Some(7)));

    let (barrier, mut reader) = barrier(Limits::default());
    barrier.state_changed(&KEY, 7, State::Failed, at(0));
    barrier.state_changed(&KEY, 5, State::Failed, at(0));
    assert_eq!(answer(barrier.enter(&KEY, 7, at(0))), Blocked(5));
    assert_eq!(answer(barrier.enter(&KEY, 5, at(0))), Retry);
    barrier.state_changed(&KEY, 5, State::Succeeded, at(0));
    reader.sync(at(0));
    assert_eq!(answer(barrier.enter(&KEY, 8, at(0))), Blocked(7), "the newer one is not forgotten");
    assert_eq!(answer(barrier.enter(&KEY, 7, at(0))), Retry);
    barrier.state_changed(&KEY, 7, State::Succeeded, at(0));
    reader.sync(at(0));
    assert_eq!(answer(barrier.enter(&KEY, 8, at(0))), Accepted);
}

#[test]
fn d08_each_loss_of_order_is_told_with_its_reason() {
    let mut original = Original::new(2, 0);
    original.enter(KEY, 1, 0);
    original.enter(KEY, 2, 0);
    original.state_changed(KEY, 1, State::Failed);
    original.enter(KEY, 1, 0);
    assert_eq!(original.enter(KEY, 3, 0), (true, None));
    assert_eq!(original.peek(KEY), None, "the failed job is forgotten without a word");

    let events = Events::default();
    let (barrier, _reader) =
        Barrier::<&str>::builder().limits(waiving(2)).observer(events.observer()).build().unwrap();
    let (one, _two) = (barrier.enter(&KEY, 1, at(0)), barrier.enter(&KEY, 2, at(0)));
    one.permit().unwrap().settle(State::Failed, at(0));
    let _one = barrier.enter(&KEY, 1, at(0));
    assert!(matches!(barrier.enter(&KEY, 3, at(0)), Admission::Bypassed(_)), "the admission says it");
    assert_eq!(events.take(), [Event::OrderWaived { failed: Some(1), in_flight: 2 }]);

    // Half-enabled: the older job passes both gates, and becomes the gate.
    barrier.state_changed(&KEY, 5, State::Failed, at(100));
    assert_eq!(events.take(), [Event::OrderRestored]);
    assert_eq!(barrier.wait(&KEY, 4, at(100)), Turn::Go);
    assert_eq!(answer(barrier.enter(&KEY, 4, at(100))), Accepted);
    barrier.state_changed(&KEY, 4, State::Failed, at(100));
    assert_eq!(barrier.peek(&KEY), Some(4));
}

#[test]
fn d08_a_threshold_can_block_instead() {
    let events = Events::default();
    let limits = Limits::default().key_threshold(2);
    let (barrier, mut reader) =
        Barrier::<&str>::builder().limits(limits).observer(events.observer()).build().unwrap();
    assert_eq!(answer(barrier.enter(&KEY, 1, at(0))), Accepted);
    assert_eq!(answer(barrier.enter(&KEY, 2, at(0))), Accepted);
    assert_eq!(answer(barrier.enter(&KEY, 3, at(0))), Full);
    assert_eq!(answer(barrier.enter(&KEY, 2, at(0))), Accepted, "it is in flight already");
    barrier.state_changed(&KEY, 1, State::Succeeded, at(0));
    assert_eq!(answer(barrier.enter(&KEY, 3, at(0))), Full, "until the next sync");
    assert_eq!(reader.sync(at(0)).opened, [KEY]);
    assert_eq!(answer(barrier.enter(&KEY, 3, at(0))), Accepted);
    assert_eq!(events.take(), [], "no order was waived");
}

#[test]
fn d09_the_threshold_counts_for_a_key_that_began_with_a_failure() {
    let mut original = Original::new(2, 100);
    original.state_changed(KEY, 1, State::Failed);
    original.state_changed(KEY, 1, State::Aborted);
    original.sync();
    for job in 2..10 {
        assert_eq!(original.enter(KEY, job, 0), (true, None));
    }
    assert!(!original.disabled(KEY), "eight jobs in flight in good order, with a threshold of 2");

    let (barrier, mut reader) = barrier(Limits::default().key_threshold(2).drain(100));
    barrier.state_changed(&KEY, 1, State::Failed, at(0));
    assert_eq!(answer(barrier.enter(&KEY, 1, at(0))), Retry);
    assert_eq!(barrier.stats().in_flight, 1);
    barrier.state_changed(&KEY, 1, State::Aborted, at(0));
    reader.sync(at(0));
    assert_eq!(answer(barrier.enter(&KEY, 2, at(0))), Accepted);
    assert_eq!(answer(barrier.enter(&KEY, 3, at(0))), Accepted);
    assert_eq!(answer(barrier.enter(&KEY, 4, at(0))), Full);
}

#[test]
fn d10_debug_info_runs_when_asked_and_outside_the_lock() {
    let mut original = Original::new(0, 0);
    original.state_changed(KEY, 5, State::Failed);
    original.enter(KEY, 3, 0);
    assert_eq!(original.explained, 1, "whether anybody reads the text or not");

    for asks in [false, true] {
        let asked = Arc::new(AtomicU32::new(0));
        let shared: Arc<std::sync::OnceLock<Barrier<&'static str>>> = Arc::default();
        let (counter, inside, again) = (Arc::clone(&asked), Arc::clone(&shared), Arc::clone(&shared));
        let (barrier, _reader) = Barrier::<&str>::builder()
            .debug_info(move |key| {
                counter.fetch_add(1, Ordering::Relaxed);
                // With the lock held, this would hang.
                let failed = inside.get().unwrap().peek(key);
                format!("{key} waits for {failed:?}")
            })
            .observer(move |notice| {
                assert_eq!(again.get().unwrap().size(), 1);
                if asks {
                    assert_eq!(notice.debug_info().as_deref(), Some("user1 waits for Some(5)"));
                }
            })
            .build()
            .unwrap();
        shared.set(barrier.clone()).unwrap();
        barrier.state_changed(&KEY, 5, State::Failed, at(0));
        assert_eq!(answer(barrier.enter(&KEY, 3, at(0))), Accepted);
        assert_eq!(asked.load(Ordering::Relaxed), u32::from(asks));
    }
}

#[test]
fn d11_an_illegal_sequence_is_a_report_and_refusals_differ() {
    let mut original = Original::new(0, 1);
    original.state_changed(KEY, 1, State::Failed);
    original.state_changed(KEY, 1, State::Aborted);
    original.sync();
    original.enter(KEY, 2, 0);
    assert_eq!(original.enter(KEY, 3, 0), (false, None), "refused by nobody, for no reason");

    let events = Events::default();
    let limits = Limits::default().drain(1).key_threshold(3);
    let (barrier, mut reader) =
        Barrier::<&str>::builder().limits(limits).observer(events.observer()).build().unwrap();
    barrier.state_changed(&KEY, 5, State::Failed, at(0));
    assert_eq!(barrier.wait(&KEY, 4, at(0)), Turn::Go);
    assert_eq!(events.take(), [Event::OutOfOrder { at: At::Wait, failed: 5, job: 4 }]);
    assert_eq!(answer(barrier.enter(&KEY, 6, at(0))), Blocked(5));
    barrier.state_changed(&KEY, 5, State::Aborted, at(0));
    reader.sync(at(0));
    assert_eq!(answer(barrier.enter(&KEY, 6, at(0))), Accepted);
    assert_eq!(answer(barrier.enter(&KEY, 7, at(0))), Draining);
    for job in [1, 2, 3] {
        assert_eq!(answer(barrier.enter(&"user2", job, at(0))), Accepted);
    }
    assert_eq!(answer(barrier.enter(&"user2", 4, at(0))), Full);
}

#[test]
fn d12_a_job_that_ends_without_a_word_holds_no_place() {
    let mut original = Original::new(1, 0);
    original.enter(KEY, 1, 0);
    // Its destination has vanished: the router returns without any status.
    original.enter(KEY, 2, LATER);
    assert!(original.disabled(KEY), "the key loses its order to a job that is long gone");

    let (barrier, mut reader) = barrier(waiving(1));
    let vanish = |admission: Admission<'_, &'static str, u64>| assert!(admission.is_accepted());
    vanish(barrier.enter(&KEY, 1, at(0)));
    assert_eq!(answer(barrier.enter(&KEY, 2, at(0))), Accepted);
    assert!(!barrier.disabled(&KEY, at(0)));
    barrier.leave(&KEY, 2);
    // One outcome for each permit: `settle` takes it away. And one reader, whom `sync` needs for itself.
    let permit = barrier.enter(&KEY, 3, at(0)).permit().unwrap();
    permit.settle(State::Succeeded, at(0));
    let only_reader: &mut Reader<&str> = &mut reader;
    assert_eq!(only_reader.sync(at(0)).applied, 1);
    assert_eq!(barrier.size(), 0);
}

/// What was only in memory is told again by the store: the oldest unfinished job comes first, and it is enough that
/// the caller tells its failure.
#[test]
fn d13_a_restarted_barrier_learns_its_failed_jobs_from_the_store() {
    let mut original = Original::new(0, 0);
    assert_eq!(original.enter(KEY, 6, 0), (true, None), "after a restart it knows nothing, either");

    let (barrier, mut reader) = barrier(Limits::default());
    for failed in [8, 5] {
        barrier.state_changed(&KEY, failed, State::Failed, at(0));
    }
    assert_eq!(barrier.peek(&KEY), Some(5), "in whatever order the rows come");
    assert_eq!(answer(barrier.enter(&KEY, 6, at(0))), Blocked(5));
    barrier.state_changed(&KEY, 5, State::Succeeded, at(0));
    reader.sync(at(0));
    assert_eq!(barrier.peek(&KEY), Some(8));
}

#[test]
fn d14_a_poison_job_is_seen_by_its_age_and_can_be_given_up() {
    let mut original = Original::new(0, 0);
    for _ in 0..1000 {
        original.state_changed(KEY, 1, State::Failed);
        original.sync();
    }
    assert_eq!(original.enter(KEY, 2, LATER), (false, Some(1)), "with no trace of how long this has gone on");

    let (barrier, mut reader) = barrier(Limits::default());
    for try_at in 0..1000 {
        barrier.state_changed(&KEY, 1, State::Failed, at(try_at));
        reader.sync(at(try_at));
        assert_eq!(answer(barrier.enter(&KEY, 2, at(try_at))), Blocked(1));
    }
    let blocked = barrier.blocked(at(LATER), 10);
    assert_eq!((blocked[0].key, blocked[0].head, blocked[0].age), (KEY, 1, ms(LATER)));
    assert_eq!(blocked[0].refused, 1000);
    assert!(barrier.skip(&KEY, 1));
    assert_eq!(reader.sync(at(LATER)).opened, [KEY]);
    assert_eq!(answer(barrier.enter(&KEY, 2, at(LATER))), Accepted);
}

#[test]
fn d15_changes_without_a_sync_do_not_pile_up() {
    let mut original = Original::new(1, 0);
    original.enter(KEY, 1, 0);
    original.enter(KEY, 2, 0);
    assert!(original.disabled(KEY));
    for job in 0..1000 {
        original.state_changed(KEY, job, State::Succeeded);
    }
    assert_eq!(original.queued(), 1000, "even for a key that ignores them");

    // Each note of a key to be synced holds a copy of it.
    let key = Arc::new(KEY);
    let (barrier, mut reader) = Barrier::<Arc<&str>>::builder().build().unwrap();
    barrier.state_changed(&key, 0, State::Failed, at(0));
    for job in 0..1000 {
        barrier.state_changed(&key, job, State::Succeeded, at(0));
    }
    assert!(Arc::strong_count(&key) <= 3, "{} copies of the key", Arc::strong_count(&key));
    assert_eq!(reader.sync(at(0)).applied, 1000, "they are counted nevertheless");
    assert_eq!(Arc::strong_count(&key), 1);
}

#[test]
fn d15_one_slow_key_does_not_stop_the_others() {
    // An observer that waits in a call of one key, while others go on: no lock is held meanwhile.
    let (entered, leave) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(std::sync::Barrier::new(2)));
    let (inside, outside) = (Arc::clone(&entered), Arc::clone(&leave));
    let (barrier, mut reader) = Barrier::<u32>::builder()
        .observer(move |_| {
            inside.wait();
            outside.wait();
        })
        .build()
        .unwrap();
    barrier.state_changed(&1, 5, State::Failed, at(0));
    std::thread::scope(|scope| {
        scope.spawn(|| barrier.state_changed(&1, 3, State::Failed, at(0)));
        entered.wait();
        for key in 0..1000 {
            barrier.state_changed(&key, 9, State::Failed, at(0));
            barrier.state_changed(&key, 9, State::Succeeded, at(0));
        }
        assert_eq!(reader.sync(at(0)).applied, 1000);
        leave.wait();
    });
}

#[test]
fn d16_time_is_the_callers_and_may_go_back() {
    let mut original = Original::new(1, 0);
    original.enter(KEY, 1, 0);
    original.enter(KEY, 2, 0);
    original.enter(KEY, 2, 100);
    assert!(original.disabled(KEY), "when its time is over, it needs a moment more");

    let (barrier, mut reader) = barrier(waiving(1));
    assert_eq!(answer(barrier.enter(&KEY, 1, at(1000))), Accepted);
    assert_eq!(answer(barrier.enter(&KEY, 2, at(1000))), Bypassed);
    assert!(barrier.disabled(&KEY, at(0)), "a look from the past changes nothing");
    reader.sync(at(0));
    assert!(barrier.disabled(&KEY, at(1099)));
    assert!(!barrier.disabled(&KEY, at(1100)));
    assert!(!barrier.disabled(&KEY, at(0)), "and does not bring back what is over");
    barrier.state_changed(&KEY, 1, State::Failed, at(1100));
    assert_eq!(barrier.blocked(at(0), 1)[0].age, ms(0));
}

#[test]
fn d17_a_sync_names_the_keys_worth_reading() {
    let mut original = Original::new(0, 0);
    original.state_changed(KEY, 1, State::Failed);
    original.enter(KEY, 2, 0);
    original.state_changed(KEY, 1, State::Succeeded);
    assert_eq!(original.sync(), 1, "a number, from which no reader learns where to look");

    let (barrier, mut reader) = barrier(Limits::default());
    for key in ["a", "b", "c"] {
        barrier.state_changed(&key, 1, State::Failed, at(0));
        assert_eq!(answer(barrier.enter(&key, 2, at(0))), Blocked(1));
    }
    assert_eq!(reader.sync(at(0)).opened.len(), 0);
    barrier.state_changed(&"b", 1, State::Succeeded, at(0));
    assert_eq!(reader.sync(at(0)).opened, ["b"]);
    assert_eq!(reader.sync(at(0)).opened.len(), 0);
}

#[test]
fn d18_only_an_admitted_job_lifts_the_drain_limit() {
    let mut original = Original::new(0, 1);
    original.state_changed(KEY, 1, State::Failed);
    original.state_changed(KEY, 1, State::Aborted);
    original.sync();
    assert_eq!(original.enter(KEY, 2, 0), (true, None));
    original.state_changed(KEY, 9, State::Aborted);
    original.sync();
    assert_eq!(original.enter(KEY, 3, 0), (true, None), "a job that never entered lifted it: two in flight");

    let (barrier, mut reader) = barrier(Limits::default().drain(1).drain_for(ms(100)));
    barrier.state_changed(&KEY, 1, State::Failed, at(0));
    barrier.state_changed(&KEY, 1, State::Aborted, at(0));
    reader.sync(at(0));
    assert_eq!(answer(barrier.enter(&KEY, 2, at(0))), Accepted);
    barrier.state_changed(&KEY, 9, State::Aborted, at(0));
    barrier.state_changed(&KEY, 2, State::Waiting, at(0));
    reader.sync(at(0));
    assert_eq!(answer(barrier.enter(&KEY, 2, at(0))), Accepted, "it was held back, and is picked again");
    assert_eq!(answer(barrier.enter(&KEY, 3, at(0))), Draining);
    barrier.state_changed(&KEY, 2, State::Succeeded, at(0));
    reader.sync(at(0));
    assert_eq!(answer(barrier.enter(&KEY, 3, at(0))), Accepted);
    assert_eq!(answer(barrier.enter(&KEY, 4, at(0))), Accepted);
}

#[test]
fn d18_a_drain_limit_with_nothing_in_flight_ends_by_time() {
    let mut original = Original::new(0, 1);
    original.state_changed(KEY, 1, State::Failed);
    original.state_changed(KEY, 1, State::Aborted);
    original.sync();
    original.sync();
    assert_eq!(original.size(), 1, "a user who never comes back is remembered for ever");

    let (barrier, mut reader) = barrier(Limits::default().drain(1).drain_for(ms(100)));
    barrier.state_changed(&KEY, 1, State::Failed, at(0));
    barrier.state_changed(&KEY, 1, State::Aborted, at(0));
    reader.sync(at(0));
    reader.sync(at(99));
    assert_eq!((barrier.size(), barrier.stats().draining), (1, 1));
    reader.sync(at(100));
    assert_eq!(barrier.size(), 0);
}
