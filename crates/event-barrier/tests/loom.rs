//! The shared handle under every interleaving of up to three threads, with at most three preemptions.
//!
//! `RUSTFLAGS="--cfg relaykit_loom" cargo test -p relaykit-event-barrier --test loom --release`; a part of `cargo xtask test`.
#![cfg(relaykit_loom)]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic, and says how much it tried")]

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use relaykit_event_barrier::{Admission, Barrier, Limits, OverThreshold, Permit, Reader, State, Turn};
use relaykit_pipeline_traits::Monotonic;

/// Ada and Bob are in one shard; so is Eve if there is but one, else in another.
const ADA: u64 = 0;
const BOB: u64 = 2;
const EVE: u64 = 1;

type Keys = Barrier<u64, u64, Spread>;
type KeysReader = Reader<u64, u64, Spread>;

/// Hashes a key to itself, in the bits that choose its shard: each run of a model must do the same.
#[derive(Debug, Clone, Default)]
struct Spread(u64);

impl BuildHasher for Spread {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self::default()
    }
}

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key << 40;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Runs a model in each interleaving, and prints how many there were.
fn explore(model: impl Fn() + Send + Sync + 'static) {
    let ran = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let count = std::sync::Arc::clone(&ran);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let ran = ran.load(Ordering::Relaxed);
    println!("{}: {ran} interleavings", std::thread::current().name().unwrap_or("a model"));
    assert!(ran > 1, "the barrier's locks are not those of the model");
}

const fn at(millis: u64) -> Monotonic {
    Monotonic::from_origin(Duration::from_millis(millis))
}

const NOW: Monotonic = at(1);

fn barrier(limits: Limits) -> (Keys, KeysReader) {
    Barrier::builder().limits(limits).hasher(Spread::default()).build().unwrap()
}

fn unlimited() -> (Keys, KeysReader) {
    barrier(Limits::default())
}

/// Enters, and leaves the job in flight.
fn enters(barrier: &Keys, key: u64, job: u64) -> bool {
    barrier.enter(&key, job, NOW).permit().map(Permit::detach).is_some()
}

fn blocked_by(barrier: &Keys, key: u64, job: u64) -> Option<u64> {
    match barrier.enter(&key, job, NOW) {
        Admission::Blocked { by } => Some(by),
        _ => None,
    }
}

fn tell(barrier: &Keys, key: u64, job: u64, state: State) {
    barrier.state_changed(&key, job, state, NOW);
}

/// Where threads may overtake each other.
///
/// The model knows of an atomic only who used it last, so it misses the orders of a load with a later load and store of
/// one other thread. All threads change this one word before they call, so each order of the calls is tried. It is relaxed, so it
/// hands nothing over.
#[derive(Clone)]
struct Race(Arc<AtomicUsize>);

impl Race {
    fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(0)))
    }

    fn step(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Another thread's word that it is done.
#[derive(Clone)]
struct Said(Arc<AtomicBool>);

impl Said {
    fn new() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    fn say(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_heard(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[test]
fn a_failure_that_was_heard_of_blocks_later_jobs() {
    explore(|| {
        let (barrier, _reader) = unlimited();
        let (race, failed) = (Race::new(), Said::new());
        let worker = thread::spawn({
            let (barrier, race, failed) = (barrier.clone(), race.clone(), failed.clone());
            move || {
                race.step();
                tell(&barrier, ADA, 5, State::Failed);
                failed.say();
            }
        });
        race.step();
        if failed.is_heard() {
            assert_eq!(barrier.wait(&ADA, 6, NOW), Turn::Wait { by: 5 });
            assert_eq!(blocked_by(&barrier, ADA, 6), Some(5));
        }
        worker.join().unwrap();
        assert_eq!(blocked_by(&barrier, ADA, 6), Some(5));
    });
}

#[test]
fn a_failure_blocks_later_jobs_while_a_sync_forgets_the_last_key_before_it() {
    a_failure_blocks_while_a_sync_forgets(BOB);
}

#[test]
fn a_failure_blocks_later_jobs_while_a_sync_forgets_a_key_in_another_shard() {
    a_failure_blocks_while_a_sync_forgets(EVE);
}

fn a_failure_blocks_while_a_sync_forgets(other: u64) {
    explore(move || {
        let (barrier, mut reader) = unlimited();
        tell(&barrier, other, 1, State::Failed);
        tell(&barrier, other, 1, State::Succeeded);
        let (race, failed) = (Race::new(), Said::new());
        let worker = thread::spawn({
            let (barrier, race, failed) = (barrier.clone(), race.clone(), failed.clone());
            move || {
                race.step();
                tell(&barrier, ADA, 5, State::Failed);
                failed.say();
            }
        });
        let sender = thread::spawn({
            let (barrier, race) = (barrier.clone(), race.clone());
            move || {
                race.step();
                if failed.is_heard() {
                    assert_eq!(barrier.wait(&ADA, 6, NOW), Turn::Wait { by: 5 });
                }
            }
        });
        race.step();
        assert_eq!(reader.sync(NOW).opened, [other]);
        worker.join().unwrap();
        sender.join().unwrap();
        assert_eq!(blocked_by(&barrier, ADA, 6), Some(5));
        reader.sync(NOW);
        assert_eq!(blocked_by(&barrier, ADA, 6), Some(5));
        assert_eq!(barrier.size(), 1);
    });
}

#[test]
fn an_outcome_that_was_heard_of_is_applied_by_the_next_sync() {
    explore(|| {
        let (barrier, mut reader) = unlimited();
        tell(&barrier, ADA, 5, State::Failed);
        let (race, ended) = (Race::new(), Said::new());
        let worker = thread::spawn({
            let (barrier, race, ended) = (barrier.clone(), race.clone(), ended.clone());
            move || {
                race.step();
                tell(&barrier, ADA, 5, State::Succeeded);
                ended.say();
            }
        });
        race.step();
        let heard = ended.is_heard();
        let first = reader.sync(NOW);
        if heard {
            assert_eq!((first.applied, first.opened.as_slice()), (1, [ADA].as_slice()));
        }
        if first.opened.is_empty() {
            assert_eq!(blocked_by(&barrier, ADA, 6), Some(5), "only a sync opens");
        }
        worker.join().unwrap();
        let second = reader.sync(NOW);
        assert_eq!(first.applied + second.applied, 1);
        assert_eq!([first.opened, second.opened].concat(), [ADA]);
        assert!(enters(&barrier, ADA, 6));
        assert_eq!(barrier.size(), 0);
    });
}

#[test]
fn of_two_outcomes_during_a_sync_none_is_lost() {
    of_two_outcomes_none_is_lost(BOB);
}

#[test]
fn of_two_outcomes_in_two_shards_during_a_sync_none_is_lost() {
    of_two_outcomes_none_is_lost(EVE);
}

fn of_two_outcomes_none_is_lost(other: u64) {
    explore(move || {
        let (barrier, mut reader) = unlimited();
        let race = Race::new();
        let workers = [(ADA, 5), (other, 7)].map(|(key, job)| {
            tell(&barrier, key, job, State::Failed);
            let (barrier, race) = (barrier.clone(), race.clone());
            thread::spawn(move || {
                race.step();
                tell(&barrier, key, job, State::Succeeded);
            })
        });
        race.step();
        let first = reader.sync(NOW);
        for worker in workers {
            worker.join().unwrap();
        }
        let second = reader.sync(NOW);
        assert_eq!(first.applied + second.applied, 2);
        let opened = [first.opened, second.opened].concat();
        assert!(opened.len() == 2 && opened.contains(&ADA) && opened.contains(&other), "{opened:?}");
        assert_eq!(barrier.size(), 0);
        assert_eq!(reader.sync(NOW).applied, 0);
    });
}

#[test]
fn of_two_failures_in_two_shards_both_block() {
    explore(|| {
        let (barrier, mut reader) = unlimited();
        let race = Race::new();
        let workers = [(ADA, 5), (EVE, 7)].map(|(key, job)| {
            let (barrier, race) = (barrier.clone(), race.clone());
            thread::spawn(move || {
                race.step();
                tell(&barrier, key, job, State::Failed);
            })
        });
        race.step();
        reader.sync(NOW);
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(blocked_by(&barrier, ADA, 6), Some(5));
        assert_eq!(blocked_by(&barrier, EVE, 8), Some(7));
    });
}

#[test]
fn a_drain_limit_of_one_lets_one_of_two_jobs_in() {
    explore(|| {
        let (barrier, mut reader) = barrier(Limits::default().drain(1));
        tell(&barrier, ADA, 1, State::Failed);
        tell(&barrier, ADA, 1, State::Aborted);
        reader.sync(NOW);
        let race = Race::new();
        let other = thread::spawn({
            let (barrier, race) = (barrier.clone(), race.clone());
            move || {
                race.step();
                enters(&barrier, ADA, 2)
            }
        });
        race.step();
        let one = enters(&barrier, ADA, 3);
        let other = other.join().unwrap();
        assert!(one != other, "3 entered: {one}, 2 entered: {other}");
    });
}

#[test]
fn under_a_threshold_of_one_jobs_are_never_in_flight_together() {
    explore(|| {
        let (barrier, _reader) = barrier(Limits::default().key_threshold(1));
        let inside = Arc::new(AtomicUsize::new(0));
        let pass = |job| {
            let (barrier, inside) = (barrier.clone(), Arc::clone(&inside));
            move || match barrier.enter(&ADA, job, NOW) {
                Admission::Accepted(permit) => {
                    assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "two jobs are in flight");
                    inside.fetch_sub(1, Ordering::Relaxed);
                    drop(permit);
                }
                refused => assert!(matches!(refused, Admission::Full)),
            }
        };
        let others = [1, 2].map(|job| thread::spawn(pass(job)));
        pass(3)();
        for other in others {
            other.join().unwrap();
        }
        assert!(enters(&barrier, ADA, 4), "every permit left");
    });
}

#[test]
fn of_two_failures_the_older_one_is_the_gate_in_either_order() {
    explore(|| {
        let (barrier, mut reader) = unlimited();
        let race = Race::new();
        let workers = [5, 6].map(|job| {
            let (barrier, race) = (barrier.clone(), race.clone());
            thread::spawn(move || {
                race.step();
                tell(&barrier, ADA, job, State::Failed);
            })
        });
        race.step();
        // Whatever has failed so far is the gate.
        assert!(matches!(barrier.wait(&ADA, 7, NOW), Turn::Go | Turn::Wait { by: 5 | 6 }));
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(barrier.peek(&ADA), Some(5));
        tell(&barrier, ADA, 5, State::Succeeded);
        reader.sync(NOW);
        assert_eq!(barrier.peek(&ADA), Some(6), "the later failure is not forgotten");
    });
}

#[test]
fn a_leave_during_a_sync_loses_no_wake_up() {
    explore(|| {
        let (barrier, mut reader) = barrier(Limits::default().key_threshold(1));
        let permit = barrier.enter(&ADA, 1, NOW).permit().unwrap().into_owned();
        assert!(!enters(&barrier, ADA, 2));
        let (race, left) = (Race::new(), Said::new());
        let worker = thread::spawn({
            let (race, left) = (race.clone(), left.clone());
            move || {
                race.step();
                drop(permit);
                left.say();
            }
        });
        race.step();
        let heard = left.is_heard();
        let mut opened = reader.sync(NOW).opened;
        assert!(!heard || opened == [ADA], "the leave came before the sync");
        worker.join().unwrap();
        opened.extend(reader.sync(NOW).opened);
        assert_eq!(opened, [ADA]);
        assert!(enters(&barrier, ADA, 2));
    });
}

#[test]
fn a_refusal_beside_a_leave_loses_no_wake_up() {
    explore(|| {
        let (barrier, mut reader) = barrier(Limits::default().key_threshold(1));
        let permit = barrier.enter(&ADA, 1, NOW).permit().unwrap().into_owned();
        let race = Race::new();
        let worker = thread::spawn({
            let race = race.clone();
            move || {
                race.step();
                drop(permit);
            }
        });
        race.step();
        let refused = !enters(&barrier, ADA, 2);
        worker.join().unwrap();
        // A job that met the full key is told; one that did not need not be.
        assert_eq!(reader.sync(NOW).opened.len(), usize::from(refused));
    });
}

#[test]
fn a_key_that_is_waived_during_a_sync_is_restored_in_its_time() {
    explore(|| {
        let limits = Limits::default()
            .key_threshold(1)
            .over_threshold(OverThreshold::Waive)
            .disabled_for(Duration::from_millis(10))
            .half_enabled_for(Duration::from_millis(10));
        let (barrier, mut reader) = barrier(limits);
        let race = Race::new();
        let waive = |key| {
            let (barrier, race) = (barrier.clone(), race.clone());
            move || {
                race.step();
                assert!(enters(&barrier, key, 1) && enters(&barrier, key, 2));
            }
        };
        // Due at 11 ms and 21 ms, so that the sync in between does what time alone does.
        waive(BOB)();
        let worker = thread::spawn(waive(ADA));
        race.step();
        reader.sync(at(11));
        worker.join().unwrap();
        reader.sync(at(40));
        assert_eq!(barrier.size(), 0, "a waived key is kept for ever");
    });
}
