//! Random operations, restarts and crashes among them: what was accepted is handled, once if nothing crashed, or is a dead
//! letter, or is still there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Bench, Oops, SECOND};
use proptest::prelude::*;
use relaykit_persistent_queue::{Builder, Durability, Plain, Queue};
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Rng, Verdict};
use relaykit_retry::{Backoff, Jitter};

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    PushDurable,
    PushAfter(u64),
    Flush,
    Pause,
    Resume,
    Advance(u64),
    /// Close and open.
    Reopen,
    /// Leave the file as it is, and open a copy.
    Crash,
    Replay,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..30).prop_map(Step::Push),
        2 => Just(Step::PushDurable),
        1 => (0_u64..20).prop_map(Step::PushAfter),
        2 => Just(Step::Flush),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        3 => (1_u64..30).prop_map(Step::Advance),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        1 => Just(Step::Replay),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    max_items: usize,
    batches: usize,
    workers: usize,
    memory_bytes: usize,
    seed: u64,
}

fn settings() -> impl Strategy<Value = Settings> {
    (1_usize..12, 1_usize..5, 1_usize..4, prop_oneof![Just(0_usize), Just(200), Just(1 << 20)], any::<u64>())
        .prop_map(|(max_items, batches, workers, memory_bytes, seed)| Settings {
            max_items,
            batches,
            workers,
            memory_bytes,
            seed,
        })
}

/// Does anything a handler may do, by chance, and remembers what it said was done or dead.
#[derive(Clone)]
struct Moody {
    rng: Arc<Mutex<Rng>>,
    said: Arc<Mutex<BTreeMap<u32, u32>>>,
}

impl BatchHandler<u32> for Moody {
    type Output = ();
    type Error = Oops;

    async fn handle(&self, batch: &[u32], _cx: &BatchContext) -> BatchOutcome<(), Oops> {
        let mood = self.rng.lock().expect("no test panics with the lock").below(20);
        match mood {
            0 => return BatchOutcome::RetryBatch { after: None, error: Oops::Broken },
            1 => return BatchOutcome::Split(Oops::Broken),
            2 => return BatchOutcome::Refused(Oops::Bad),
            3 => return BatchOutcome::Each(Vec::new()),
            // A panic, without its report on the terminal.
            4 => std::panic::resume_unwind(Box::new("a mood")),
            5 => tokio::task::yield_now().await,
            _ => {}
        }
        let mut verdicts = Vec::new();
        for item in batch {
            let verdict = match self.rng.lock().expect("no test panics with the lock").below(20) {
                0 => Verdict::Retry { after: None, error: Oops::Broken },
                1 => Verdict::Retry { after: None, error: Oops::Throttled },
                2 => Verdict::Dead(Oops::Bad),
                3 => Verdict::Isolate(Oops::Broken),
                4 => Verdict::Untried,
                _ => Verdict::Done(()),
            };
            if verdict.is_done() {
                *self.said.lock().expect("no test panics with the lock").entry(*item).or_default() += 1;
            }
            verdicts.push(verdict);
        }
        BatchOutcome::Each(verdicts)
    }
}

fn builder(bench: &Bench, name: &str, moody: &Moody, settings: Settings) -> Builder<u32, Plain<Moody>> {
    let policy =
        Backoff::fixed(5 * SECOND).jitter(Jitter::None).max_attempts(4).build().expect("within bounds");
    Queue::builder(bench.dir.path().join(name), moody.clone())
        .clock(bench.clock.clone())
        .rng(Rng::seeded(settings.seed))
        .retry(policy)
        .durability(Durability::ProcessCrashOnly)
        .max_items(settings.max_items)
        .batches(settings.batches)
        .workers(settings.workers)
        .memory_bytes(settings.memory_bytes)
        .max_crashes(1_000)
        .ballast_bytes(0)
}

async fn settle_down(queue: &Queue<u32>) {
    for _ in 0..3 {
        queue.list(0, 0).await.expect("the queue is open");
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
}

async fn run(steps: Vec<Step>, settings: Settings) {
    let bench = Bench::new();
    let moody = Moody { rng: Arc::new(Mutex::new(Rng::seeded(settings.seed))), said: Arc::default() };
    let mut name = "queue-0.db".to_owned();
    let mut queue = builder(&bench, &name, &moody, settings).open().unwrap();
    let mut next = 0_u32;
    // What a crash may lose: accepted, and nobody was told that it is on disk.
    let (mut safe, mut doubtful, mut unsafe_from, mut crashes) = (Vec::new(), Vec::new(), 0, 0);
    for step in steps {
        match step {
            Step::Push(items) => {
                for _ in 0..items {
                    queue.push(next).await.unwrap();
                    next += 1;
                }
            }
            Step::PushDurable => {
                queue.push_durable(next).await.unwrap();
                next += 1;
                // One producer: what came before is in this batch or an earlier one.
                safe.extend(unsafe_from..next);
                unsafe_from = next;
            }
            Step::PushAfter(seconds) => {
                queue.flush().await.unwrap();
                queue.push_after(next, Duration::from_secs(seconds)).await.unwrap();
                next += 1;
                safe.extend(unsafe_from..next);
                unsafe_from = next;
            }
            Step::Flush => {
                queue.flush().await.unwrap();
                safe.extend(unsafe_from..next);
                unsafe_from = next;
            }
            Step::Pause => queue.pause(),
            Step::Resume => queue.resume(),
            Step::Advance(seconds) => {
                settle_down(&queue).await;
                bench.clock.advance(Duration::from_secs(seconds));
            }
            Step::Reopen => {
                let report = queue.close(SECOND).await;
                assert!(report.unsaved.is_empty() && report.file_closed);
                safe.extend(unsafe_from..next);
                unsafe_from = next;
                queue = builder(&bench, &name, &moody, settings).open().unwrap();
                assert_eq!(queue.stats().stored_items, report.stored_items);
            }
            Step::Crash => {
                crashes += 1;
                let copy = format!("queue-{crashes}.db");
                let at = |name: &str| bench.dir.path().join(name);
                // No commit may happen between the two, as none does while a real process is dead.
                queue.pause();
                settle_down(&queue).await;
                std::fs::copy(at(&name), at(&copy)).unwrap();
                std::fs::copy(at(&format!("{name}-wal")), at(&format!("{copy}-wal"))).unwrap();
                let _ = queue.close(Duration::ZERO).await;
                name = copy;
                doubtful.extend(unsafe_from..next);
                unsafe_from = next;
                queue = builder(&bench, &name, &moody, settings).open().unwrap();
            }
            Step::Replay => {
                let ids: Vec<_> =
                    queue.dead_letters(0, 1_000).await.unwrap().iter().map(|dead| dead.id).collect();
                queue.replay(&ids).await.unwrap();
            }
        }
    }
    queue.flush().await.unwrap();
    safe.extend(unsafe_from..next);
    queue.resume();
    for _ in 0..10_000 {
        settle_down(&queue).await;
        if queue.stats().stored_items == 0 {
            break;
        }
        bench.clock.advance(5 * SECOND);
    }
    let stats = queue.stats();
    assert_eq!(
        (stats.stored_items, stats.stored_batches, stats.stored_bytes, stats.in_flight_items),
        (0, 0, 0, 0)
    );
    let dead: u64 =
        queue.dead_letters(0, 10_000).await.unwrap().iter().map(|dead| u64::from(dead.items)).sum();
    assert_eq!(stats.dead_items, dead);
    let said = moody.said.lock().unwrap().clone();
    let not_done = |items: &[u32]| items.iter().filter(|item| !said.contains_key(item)).count() as u64;
    let (lost, maybe) = (not_done(&safe), not_done(&doubtful));
    assert!((lost..=lost + maybe).contains(&dead), "{lost} not done, {maybe} in doubt, {dead} dead letters");
    if crashes == 0 {
        let twice: Vec<_> = said.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "done twice: {twice:?}");
    }
    assert!(queue.close(SECOND).await.file_closed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_durable_is_lost_and_without_a_crash_nothing_is_done_twice(
        steps in prop::collection::vec(step(), 1..40),
        settings in settings(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps, settings));
    }
}
