//! The gate: jobs await their turn.
#![cfg(feature = "tokio")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use relaykit_event_barrier::{Barrier, Gate, GatePermit, Limits, NotEntered, State};
use relaykit_pipeline_traits::{ManualClock, Rng};

type Key = &'static str;

fn gate() -> Gate<Key> {
    let (_, reader) = Barrier::builder().build().expect("the defaults are within bounds");
    Gate::new(reader, Arc::new(ManualClock::new()))
}

/// Polls a future once.
fn once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
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
    // One after the other, since whatever happens at the gate opens all that may open.
    assert!(gate.release(&"ada"));
    assert!(once(ada.as_mut()).is_ready());
    assert!(gate.skip(&"bob", 1));
    assert!(once(bob.as_mut()).is_ready());
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
fn a_drain_limit_strands_nobody() {
    let (_, reader) = Barrier::builder().limits(Limits::default().drain(1)).build().unwrap();
    let gate: Gate<Key> = Gate::new(reader, Arc::new(ManualClock::new()));
    enter(&gate, "ada", 1).settle(State::Failed);
    enter(&gate, "ada", 1).settle(State::Aborted);
    assert_eq!(gate.barrier().stats().draining, 1);
    let draining = enter(&gate, "ada", 2);
    let mut next = pin!(gate.enter("ada", 3));
    assert!(once(next.as_mut()).is_pending());
    draining.settle(State::Succeeded);
    let Poll::Ready(Ok(permit)) = once(next.as_mut()) else { panic!("it is 3's turn") };
    permit.settle(State::Succeeded);
    assert_eq!(gate.barrier().size(), 0);
}

/// Says whether the future it was polled with was woken since.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

type Entering<'g> = Pin<Box<dyn Future<Output = Result<GatePermit<Key, u64>, NotEntered>> + 'g>>;

/// A job on its way through the gate, in a run without a runtime: it is polled when it was woken, and at no other time.
enum Job<'g> {
    Entering(Entering<'g>, Arc<Woken>),
    Inside(GatePermit<Key, u64>),
}

/// Lets everybody go on who was woken. Returns the jobs that got in.
fn go_on(jobs: &mut BTreeMap<(Key, u64), Job<'_>>) -> Vec<(Key, u64)> {
    let mut entered = Vec::new();
    for (&name, job) in jobs {
        let Job::Entering(entering, woken) = job else { continue };
        if !woken.0.swap(false, Ordering::AcqRel) {
            continue;
        }
        let waker = Waker::from(Arc::clone(woken));
        if let Poll::Ready(permit) = entering.as_mut().poll(&mut Context::from_waker(&waker)) {
            *job = Job::Inside(permit.expect("it is open and has room"));
            entered.push(name);
        }
    }
    entered
}

/// Random jobs come, are cancelled at any moment, fail, end and leave. Whenever everybody has gone on who was woken, each
/// key that has a job not later than its oldest failed one has exactly one inside.
#[test]
fn no_wake_up_is_lost_and_no_failed_job_is_overtaken_whatever_is_cancelled() {
    let seed = Rng::from_entropy().next_u64();
    println!("seed {seed}");
    let mut turns = 0;
    for run in 0..300 {
        let mut rng = Rng::seeded(seed.wrapping_add(run));
        let gate = gate();
        let mut jobs: BTreeMap<(Key, u64), Job<'_>> = BTreeMap::new();
        let mut failed: BTreeSet<(Key, u64)> = BTreeSet::new();
        for step in 0..300 {
            let key = ["ada", "bob"][usize::from(rng.chance(0.5))];
            let name = (key, rng.below(6));
            let at = format!("seed {seed}, run {run}, step {step}");
            let dice = rng.below(10);
            match jobs.remove(&name) {
                None => {
                    let woken = Arc::new(Woken(AtomicBool::new(true)));
                    jobs.insert(name, Job::Entering(Box::pin(gate.enter(name.0, name.1)), woken));
                }
                Some(Job::Entering(entering, _)) if dice < 4 => drop(entering),
                Some(Job::Inside(permit)) => match dice {
                    0..3 => {
                        failed.insert(name);
                        permit.settle(State::Failed);
                    }
                    3..7 => {
                        failed.remove(&name);
                        permit.settle([State::Succeeded, State::Aborted][usize::from(dice == 3)]);
                    }
                    7 => drop(permit),
                    8 => {
                        failed.insert(name);
                        drop(permit.fail_on_drop());
                    }
                    _ => {
                        jobs.insert(name, Job::Inside(permit));
                    }
                },
                Some(job) => {
                    jobs.insert(name, job);
                }
            }
            // Now and then somebody is cancelled who was woken and has not seen it yet.
            if rng.chance(0.3) {
                continue;
            }
            for name in go_on(&mut jobs) {
                turns += 1;
                let head = failed.iter().find(|other| other.0 == name.0);
                assert!(head.is_none_or(|head| name <= *head), "{name:?} went before {head:?}: {at}");
            }
            for key in ["ada", "bob"] {
                let of_key = || jobs.iter().filter(|(name, _)| name.0 == key);
                let inside = of_key().filter(|(_, job)| matches!(job, Job::Inside(_))).count();
                assert!(inside <= 1, "{inside} are inside: {at}");
                let head = failed.iter().find(|other| other.0 == key);
                let may_go = of_key().any(|(name, _)| head.is_none_or(|head| name <= head));
                assert_eq!(inside == 1, may_go, "{key} is stuck: {at}");
            }
        }
        drop(jobs);
        assert_eq!(gate.waiting(), 0);
        for (key, _) in failed {
            gate.release(&key);
        }
        assert_eq!(gate.barrier().size(), 0, "seed {seed}, run {run}");
    }
    assert!(turns > 300, "{turns} turns are too few to show anything: seed {seed}");
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
