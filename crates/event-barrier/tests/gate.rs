//! The gate: jobs await their turn.
#![cfg(feature = "tokio")]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use relaykit_event_barrier::{Barrier, Gate, GatePermit, Limits, NotEntered, State};
use relaykit_pipeline_traits::{ManualClock, Rng};

type Key = &'static str;

fn gate() -> Gate<Key> {
    let (_, reader) = Barrier::builder().build().expect("the defaults are within bounds");
    Gate::new(reader, Arc::new(ManualClock::new()))
}

/// Polls a future once.
fn once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Enters at once, or fails the test.
fn enter(gate: &Gate<Key>, key: Key, job: u64) -> GatePermit<Key, u64> {
    match once(pin!(gate.enter(key, job))) {
        Poll::Ready(Ok(permit)) => permit,
        other => panic!("{key} {job}: {other:?}"),
    }
}

#[test]
fn the_jobs_of_a_key_enter_one_at_a_time_lowest_first() {
    let gate = gate();
    let first = enter(&gate, "ada", 1);
    let mut third = pin!(gate.enter("ada", 3));
    let mut second = pin!(gate.enter("ada", 2));
    assert!(once(third.as_mut()).is_pending() && once(second.as_mut()).is_pending());
    assert_eq!((gate.waiting(), gate.waiting_of(&"ada")), (2, 2));
    first.settle(State::Succeeded);
    assert!(once(third.as_mut()).is_pending());
    let Poll::Ready(Ok(permit)) = once(second.as_mut()) else { panic!("it is 2's turn") };
    permit.settle(State::Aborted);
    assert!(matches!(once(third.as_mut()), Poll::Ready(Ok(permit)) if permit.job() == 3));
}

#[test]
fn a_failed_job_holds_the_later_ones_until_it_has_entered_again_and_ended() {
    let gate = gate();
    enter(&gate, "ada", 5).settle(State::Failed);
    let mut later = pin!(gate.enter("ada", 6));
    assert!(once(later.as_mut()).is_pending());
    assert_eq!(
        gate.blocked(10).iter().map(|(key, waiting)| (key.head, *waiting)).collect::<Vec<_>>(),
        [(5, 1)]
    );
    let retry = enter(&gate, "ada", 5);
    assert!(retry.is_retry() && once(later.as_mut()).is_pending());
    retry.settle(State::Failed);
    assert!(once(later.as_mut()).is_pending());
    enter(&gate, "ada", 5).settle(State::Succeeded);
    assert!(once(later.as_mut()).is_ready());
}

#[test]
fn keys_have_nothing_to_do_with_each_other() {
    let gate = gate();
    let _ada = enter(&gate, "ada", 1);
    enter(&gate, "bob", 2).settle(State::Failed);
    let _eve = enter(&gate, "eve", 3);
    assert_eq!(gate.waiting(), 0);
}

#[test]
fn a_dropped_permit_leaves_and_after_fail_on_drop_it_has_failed() {
    let gate = gate();
    drop(enter(&gate, "ada", 1));
    drop(enter(&gate, "ada", 2).fail_on_drop());
    let mut later = pin!(gate.enter("ada", 3));
    assert!(once(later.as_mut()).is_pending());
    assert_eq!(gate.barrier().peek(&"ada"), Some(2));
    enter(&gate, "ada", 2).settle(State::Succeeded);
    assert!(once(later.as_mut()).is_ready());
}

#[test]
fn a_holder_that_panics_gives_its_turn_up() {
    let gate = gate();
    let holder = enter(&gate, "ada", 1);
    let mut next = pin!(gate.enter("ada", 2));
    assert!(once(next.as_mut()).is_pending());
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _holder = holder;
        panic!("the work fell over");
    }));
    assert!(caught.is_err());
    assert!(once(next.as_mut()).is_ready());
}

#[test]
fn a_dropped_enter_leaves_nothing_behind_whenever_it_is_dropped() {
    let gate = gate();
    // Before it was polled.
    drop(gate.enter("ada", 1));
    // While it waits.
    let holder = enter(&gate, "ada", 1);
    {
        let mut waiting = pin!(gate.enter("ada", 2));
        assert!(once(waiting.as_mut()).is_pending());
    }
    assert_eq!(gate.waiting(), 0);
    // After its turn has come, before it has seen it: the next one's turn comes.
    let mut next = pin!(gate.enter("ada", 4));
    {
        let mut granted = pin!(gate.enter("ada", 3));
        assert!(once(granted.as_mut()).is_pending() && once(next.as_mut()).is_pending());
        holder.settle(State::Succeeded);
    }
    assert!(once(next.as_mut()).is_ready());
}

#[test]
fn no_more_jobs_wait_than_may() {
    let gate = gate().max_waiting(1);
    let _holder = enter(&gate, "ada", 1);
    let mut waiting = pin!(gate.enter("ada", 2));
    assert!(once(waiting.as_mut()).is_pending());
    let refused = once(pin!(gate.enter("ada", 3)));
    assert!(matches!(refused, Poll::Ready(Err(NotEntered::GateFull { max: 1 }))), "{refused:?}");
    // Nobody in its way: it need not wait.
    let _other = enter(&gate, "bob", 1);
    assert_eq!(gate.waiting(), 1);
}

#[test]
fn closing_ends_all_waits_and_lets_nobody_enter() {
    let gate = gate();
    let holder = enter(&gate, "ada", 1);
    let mut waiting = pin!(gate.enter("ada", 2));
    assert!(once(waiting.as_mut()).is_pending());
    gate.close();
    assert!(matches!(once(waiting.as_mut()), Poll::Ready(Err(NotEntered::GateClosed))));
    assert!(matches!(once(pin!(gate.enter("bob", 1))), Poll::Ready(Err(NotEntered::GateClosed))));
    holder.settle(State::Succeeded);
    assert_eq!(gate.waiting(), 0);
}

#[test]
fn a_released_key_and_a_skipped_job_let_the_next_one_in_at_once() {
    let gate = gate();
    enter(&gate, "ada", 1).settle(State::Failed);
    enter(&gate, "bob", 1).settle(State::Failed);
    let mut ada = pin!(gate.enter("ada", 2));
    let mut bob = pin!(gate.enter("bob", 2));
    assert!(once(ada.as_mut()).is_pending() && once(bob.as_mut()).is_pending());
    assert!(gate.release(&"ada") && gate.skip(&"bob", 1));
    assert!(once(ada.as_mut()).is_ready() && once(bob.as_mut()).is_ready());
    assert!(!gate.release(&"nobody"));
}

#[test]
fn a_job_without_order_does_not_wait() {
    let (_, reader) = Barrier::builder().order_off(|key: &Key| *key == "bulk").build().unwrap();
    let gate: Gate<Key> = Gate::new(reader, Arc::new(ManualClock::new()));
    let first = enter(&gate, "bulk", 1);
    let second = enter(&gate, "bulk", 2);
    assert!(first.is_bypassed() && second.is_bypassed());
}

#[test]
fn a_drain_limit_holds_at_the_gate_too() {
    let (_, reader) = Barrier::builder().limits(Limits::default().drain(1)).build().unwrap();
    let gate: Gate<Key> = Gate::new(reader, Arc::new(ManualClock::new()));
    enter(&gate, "ada", 1).settle(State::Failed);
    enter(&gate, "ada", 1).settle(State::Aborted);
    enter(&gate, "ada", 2).settle(State::Succeeded);
    enter(&gate, "ada", 3).settle(State::Succeeded);
    assert_eq!(gate.barrier().size(), 0);
}

/// Many jobs of a few keys on several threads, each failing a few times at random: each key's jobs end in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_holds_through_random_failures() {
    let seed = Rng::from_entropy().next_u64();
    println!("seed {seed}");
    let rng = Arc::new(Mutex::new(Rng::seeded(seed)));
    let gate = gate();
    let ended: Arc<Mutex<BTreeMap<Key, Vec<u64>>>> = Arc::default();
    // All stand in line before the first is let go, since a gate can order only those that are there.
    let holders: Vec<_> = ["ada", "bob", "eve"].map(|key| enter(&gate, key, 0)).into_iter().collect();
    let mut tasks = Vec::new();
    for key in ["ada", "bob", "eve"] {
        for job in 1..=100 {
            let (gate, rng, ended) = (gate.clone(), Arc::clone(&rng), Arc::clone(&ended));
            tasks.push(tokio::spawn(async move {
                loop {
                    let permit = gate.enter(key, job).await.expect("it is open and has room");
                    tokio::task::yield_now().await;
                    if rng.lock().expect("nobody panics with it").chance(0.3) {
                        permit.settle(State::Failed);
                        continue;
                    }
                    ended.lock().expect("nobody panics with it").entry(key).or_default().push(job);
                    permit.settle(State::Succeeded);
                    return;
                }
            }));
        }
    }
    while gate.waiting() < 300 {
        tokio::task::yield_now().await;
    }
    for holder in holders {
        holder.settle(State::Succeeded);
    }
    for task in tasks {
        task.await.expect("no task panics");
    }
    let ended = ended.lock().expect("nobody panics with it");
    for (key, jobs) in &*ended {
        assert_eq!(*jobs, (1..=100).collect::<Vec<_>>(), "{key}, seed {seed}");
    }
    assert_eq!(ended.len(), 3);
}
