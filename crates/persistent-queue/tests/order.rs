//! The order of each key, whatever becomes of its items.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Bench, Oops, Reaction, SECOND, Script, done, each, until};
use proptest::prelude::*;
use relaykit_persistent_queue::{Builder, DeadReason, Durability, Plain, Queue, WhenFull};
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Merging, Rng, Verdict};
use relaykit_retry::{Backoff, Jitter, Policy};

fn every(wait: Duration) -> Policy {
    Backoff::fixed(wait).jitter(Jitter::None).unlimited_attempts().build().unwrap()
}

/// The tens are the key.
fn tens(bench: &Bench, script: &Script) -> Builder<u32, Plain<Script>> {
    bench.builder(script).retry(every(10 * SECOND)).order_by(|item| Some(item / 10))
}

/// Fails these items at their first attempt, and handles all others.
fn fails_once(items: &'static [u32]) -> Script {
    let failed = Mutex::new(Vec::new());
    Script::new(move |batch, _| {
        each(batch, |item| {
            let mut failed = failed.lock().expect("no test panics with the lock");
            if items.contains(&item) && !failed.contains(&item) {
                failed.push(item);
                return Verdict::Retry { after: None, error: Oops::Broken };
            }
            Verdict::Done(())
        })
    })
}

/// Lets everything happen that does not need time to pass.
async fn settle_down(queue: &Queue<u32>) {
    for _ in 0..5 {
        queue.list(0, 0).await.expect("the queue is open");
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn while_an_item_waits_for_its_retry_later_ones_of_its_key_are_held_and_others_go_on() {
    let bench = Bench::new();
    let script = fails_once(&[10]);
    let queue = tens(&bench, &script).max_items(2).open().unwrap();
    queue.push_all([10, 20, 11, 21, 12, 13, 22]).await.unwrap();
    queue.flush().await.unwrap();
    until(|| queue.stats().processed == 3).await;
    settle_down(&queue).await;
    assert_eq!(script.lent(), [vec![10, 20], vec![21], vec![22]]);
    bench.clock.advance(10 * SECOND);
    until(|| queue.stats().stored_items == 0).await;
    assert_eq!(script.items()[4..], [10, 11, 12, 13]);
    assert_eq!(script.attempts(), [1, 1, 1, 2, 1, 1, 1], "what was held spent no attempt");
}

#[tokio::test]
async fn a_call_has_one_item_of_a_key_and_what_follows_a_failed_one_is_held() {
    let bench = Bench::new();
    let script = fails_once(&[11]);
    let queue = tens(&bench, &script).open().unwrap();
    queue.push_all([10, 20, 11, 21, 12]).await.unwrap();
    queue.flush().await.unwrap();
    until(|| queue.stats().processed == 3).await;
    settle_down(&queue).await;
    assert_eq!(script.lent(), [vec![10, 20], vec![11, 21]]);
    bench.clock.advance(10 * SECOND);
    until(|| queue.stats().stored_items == 0).await;
    assert_eq!(script.lent()[2..], [vec![11], vec![12]]);
}

#[tokio::test]
async fn a_held_item_goes_on_as_soon_as_the_older_one_is_done_though_its_batch_waits() {
    let bench = Bench::new();
    let script = fails_once(&[10, 20]);
    let queue = tens(&bench, &script).max_items(2).open().unwrap();
    queue.push_all([10, 30]).await.unwrap();
    queue.flush().await.unwrap();
    until(|| queue.stats().processed == 1).await;
    bench.clock.advance(5 * SECOND);
    // 11 is held by 10 in the batch before; 20 fails, and waits until 15 s.
    queue.push_all([11, 20]).await.unwrap();
    queue.flush().await.unwrap();
    until(|| script.items().contains(&20)).await;
    settle_down(&queue).await;
    assert_eq!(script.lent(), [vec![10, 30], vec![20]]);
    bench.clock.advance(5 * SECOND);
    until(|| queue.stats().processed == 3).await;
    assert_eq!(script.items()[3..], [10, 11]);
    settle_down(&queue).await;
    assert_eq!(script.items()[5..], [] as [u32; 0]);
    bench.clock.advance(5 * SECOND);
    until(|| queue.stats().stored_items == 0).await;
    assert_eq!(script.items()[5..], [20]);
}

#[tokio::test]
async fn a_delayed_item_holds_later_ones_of_its_key_also_after_a_restart() {
    let bench = Bench::new();
    let script = Script::done();
    let queue = tens(&bench, &script).open().unwrap();
    queue.pause();
    queue.push(10).await.unwrap();
    queue.push_after(11, 10 * SECOND).await.unwrap();
    queue.push_all([12, 20]).await.unwrap();
    assert!(queue.close(SECOND).await.file_closed);
    let queue = tens(&bench, &script).open().unwrap();
    until(|| queue.stats().processed == 2).await;
    settle_down(&queue).await;
    assert_eq!(script.items(), [10, 20]);
    bench.clock.advance(10 * SECOND);
    until(|| queue.stats().stored_items == 0).await;
    assert_eq!(script.items(), [10, 20, 11, 12]);
}

#[tokio::test]
async fn beyond_the_bound_of_keys_all_later_batches_are_held() {
    let bench = Bench::new();
    let script = fails_once(&[10, 20]);
    let queue = tens(&bench, &script).max_items(1).order_keys(2).open().unwrap();
    queue.push_all([10, 20, 30, 40]).await.unwrap();
    queue.flush().await.unwrap();
    until(|| script.items().len() == 2).await;
    settle_down(&queue).await;
    assert_eq!(script.items(), [10, 20], "30 and 40 might be held, which nobody can know");
    bench.clock.advance(10 * SECOND);
    until(|| queue.stats().stored_items == 0).await;
    assert_eq!(script.items(), [10, 20, 10, 20, 30, 40]);
}

#[tokio::test]
async fn an_item_without_a_key_is_held_by_nothing() {
    let bench = Bench::new();
    let script = fails_once(&[10]);
    let queue =
        tens(&bench, &script).order_by(|item| (*item < 20).then_some(())).max_items(1).open().unwrap();
    queue.push_all([10, 11, 30, 31]).await.unwrap();
    queue.flush().await.unwrap();
    until(|| queue.stats().processed == 2).await;
    settle_down(&queue).await;
    assert_eq!(script.items(), [10, 30, 31]);
    bench.clock.advance(10 * SECOND);
    until(|| queue.stats().stored_items == 0).await;
    assert_eq!(script.items()[3..], [10, 11]);
}

#[tokio::test]
async fn with_several_workers_an_item_waits_for_the_older_one_that_another_has() {
    let bench = Bench::new();
    let script = Script::new(|batch, _| if batch == [10] { Reaction::Hang } else { done(batch) });
    let builder = tens(&bench, &script).workers(3).max_items(1).timeout(100 * SECOND);
    let queue = builder.open().unwrap();
    queue.push_all([10, 11, 20, 21]).await.unwrap();
    queue.flush().await.unwrap();
    until(|| queue.stats().processed == 2).await;
    settle_down(&queue).await;
    let mut lent = script.items();
    lent.sort_unstable();
    assert_eq!(lent, [10, 20, 21]);
    let _ = queue.close(Duration::ZERO).await;
}

#[tokio::test]
async fn a_batch_that_kills_the_process_is_found_though_older_ones_are_held() {
    let bench = Bench::new();
    // 100 old batches wait or are held, more than are ever in flight; the killer comes after them.
    let kills = Script::new(|batch, _| match batch {
        [999] => Reaction::Hang,
        [10] => common::broken(),
        _ => done(batch),
    });
    let at = |path: std::path::PathBuf| {
        let builder = Queue::builder(path, kills.clone()).clock(bench.clock.clone()).ballast_bytes(0);
        builder.order_by(|item| Some(item / 100)).max_items(1).unsettled(1).retry(every(3_600 * SECOND))
    };
    let queue = at(bench.path()).open().unwrap();
    queue.push_all((10..90).chain([999])).await.unwrap();
    queue.flush().await.unwrap();
    let mut path = bench.path();
    for death in 0..4 {
        until(|| kills.items().iter().filter(|item| **item == 999).count() > death).await;
        let copy = bench.dir.path().join(format!("crash-{death}.db"));
        for suffix in ["", "-wal"] {
            let with = |path: &std::path::Path| format!("{}{suffix}", path.display());
            std::fs::copy(with(&path), with(&copy)).unwrap();
        }
        path = copy;
        let queue = at(path.clone()).open().unwrap();
        if death == 3 {
            let dead = queue.dead_letters(0, 10).await.unwrap();
            assert_eq!(dead.iter().map(|dead| dead.reason).collect::<Vec<_>>(), [DeadReason::Crashed]);
            assert_eq!(queue.stats().stored_items, 80);
        }
        std::mem::forget(queue);
    }
}

#[tokio::test]
async fn a_full_queue_drops_its_oldest_though_that_waits() {
    let bench = Bench::new();
    let script = fails_once(&[10]);
    let builder = tens(&bench, &script).max_items(1).linger(Duration::ZERO);
    let queue = builder.bounds(5, 1 << 30, WhenFull::DropOldest).max_bytes(1_000).open().unwrap();
    for item in 10..16 {
        queue.push_durable(item).await.unwrap();
        settle_down(&queue).await;
    }
    until(|| queue.stats().dropped == 1).await;
    // 10, which waited, is gone, and its key is free.
    until(|| queue.stats().stored_items == 0).await;
    assert_eq!(script.items(), [10, 11, 12, 13, 14, 15]);
}

#[tokio::test]
async fn a_full_queue_drops_what_is_held_before_what_a_worker_has() {
    let bench = Bench::new();
    let script = Script::new(|batch, _| if batch == [10] { Reaction::Hang } else { done(batch) });
    let builder = tens(&bench, &script).workers(2).max_items(1).linger(Duration::ZERO);
    let queue = builder.bounds(5, 1 << 30, WhenFull::DropOldest).max_bytes(1_000).open().unwrap();
    for item in 10..16 {
        queue.push_durable(item).await.unwrap();
        settle_down(&queue).await;
    }
    until(|| queue.stats().dropped == 1).await;
    let left: Vec<_> = queue.list(0, 10).await.unwrap().iter().map(|batch| batch.id).collect();
    assert_eq!(left, [1, 3, 4, 5, 6]);
    bench.clock.advance(30 * SECOND);
    until(|| queue.stats().calls == 1).await;
    let _ = queue.close(Duration::ZERO).await;
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    PushAfter(u64),
    Flush,
    Pause,
    Resume,
    Advance(u64),
    /// Close and open.
    Reopen,
    /// Leave the file as it is, and open a copy.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_usize..30).prop_map(Step::Push),
        1 => (0_u64..20).prop_map(Step::PushAfter),
        3 => Just(Step::Flush),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        5 => (1_u64..12).prop_map(Step::Advance),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    keys: u32,
    max_items: usize,
    batches: usize,
    workers: usize,
    memory_bytes: usize,
    order_keys: usize,
    merges: bool,
    seed: u64,
}

fn settings() -> impl Strategy<Value = Settings> {
    (
        1_u32..8,
        1_usize..12,
        1_usize..5,
        1_usize..4,
        prop_oneof![Just(0_usize), Just(200), Just(1 << 20)],
        prop_oneof![Just(1_usize), 2_usize..30, Just(1_000)],
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(|(keys, max_items, batches, workers, memory_bytes, order_keys, merges, seed)| {
            Settings { keys, max_items, batches, workers, memory_bytes, order_keys, merges, seed }
        })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Lent(u32),
    /// Said to be done, or dead.
    Final(u32),
}

/// Does anything a handler may do, by chance, and remembers it in its order.
#[derive(Clone)]
struct Moody {
    rng: Arc<Mutex<Rng>>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Moody {
    fn chance(&self, of: u64) -> u64 {
        self.rng.lock().expect("no test panics with the lock").below(of)
    }

    fn note(&self, events: impl IntoIterator<Item = Event>) {
        self.events.lock().expect("no test panics with the lock").extend(events);
    }
}

impl BatchHandler<u32> for Moody {
    type Output = ();
    type Error = Oops;

    async fn handle(&self, batch: &[u32], _cx: &BatchContext) -> BatchOutcome<(), Oops> {
        self.note(batch.iter().copied().map(Event::Lent));
        for _ in 0..self.chance(4) {
            tokio::task::yield_now().await;
        }
        match self.chance(20) {
            0 => return BatchOutcome::RetryBatch { after: None, error: Oops::Broken },
            1 => return BatchOutcome::Split(Oops::Broken),
            2 => return BatchOutcome::Refused(Oops::Bad),
            3 => return BatchOutcome::Each(Vec::new()),
            // A panic, without its report on the terminal.
            4 => std::panic::resume_unwind(Box::new("a mood")),
            _ => {}
        }
        let mut verdicts = Vec::new();
        for item in batch {
            let verdict = match self.chance(16) {
                0 => Verdict::Retry { after: None, error: Oops::Broken },
                1 => Verdict::Retry { after: Some(Duration::from_secs(self.chance(9))), error: Oops::Broken },
                2 => Verdict::Dead(Oops::Bad),
                3 => Verdict::Isolate(Oops::Broken),
                4 => Verdict::Untried,
                _ => Verdict::Done(()),
            };
            if matches!(verdict, Verdict::Done(()) | Verdict::Dead(_)) {
                self.note([Event::Final(*item)]);
            }
            verdicts.push(verdict);
        }
        BatchOutcome::Each(verdicts)
    }
}

fn builder(bench: &Bench, name: &str, moody: &Moody, settings: Settings) -> Builder<u32, Plain<Moody>> {
    // An item that runs out of attempts would be over without a word of the handler.
    let policy = every(5 * SECOND);
    let builder = Queue::builder(bench.dir.path().join(name), moody.clone())
        .clock(bench.clock.clone())
        .rng(Rng::seeded(settings.seed))
        .retry(policy)
        .durability(Durability::ProcessCrashOnly)
        .max_items(settings.max_items)
        .batches(settings.batches)
        .workers(settings.workers)
        .memory_bytes(settings.memory_bytes)
        .order_keys(settings.order_keys)
        .order_by(move |item| Some(item % settings.keys))
        .max_crashes(1_000)
        .ballast_bytes(0);
    if settings.merges {
        // No two items become one, so that each can be followed.
        return builder.buffer(|| Merging::new(|item: &u32| *item, |_, _| {}));
    }
    builder
}

/// Says where an item was lent while an older one of its key was neither done nor dead, and still to come.
fn overtaken(events: &[Event], keys: u32) -> Vec<(u32, u32)> {
    let mut last_lent = HashMap::new();
    let mut first_final = HashMap::new();
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Lent(item) => drop(last_lent.insert(*item, at)),
            Event::Final(item) => drop(first_final.entry(*item).or_insert(at)),
        }
    }
    let mut of_key: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for item in last_lent.keys() {
        of_key.entry(item % keys).or_default().push(*item);
    }
    let mut found = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let Event::Lent(item) = event else { continue };
        for older in of_key[&(item % keys)].iter().filter(|older| *older < item) {
            let is_final = first_final.get(older).is_some_and(|said| *said < at);
            if !is_final && last_lent[older] > at {
                found.push((*older, *item));
            }
        }
    }
    found
}

async fn run(steps: Vec<Step>, settings: Settings) {
    let bench = Bench::new();
    let moody = Moody { rng: Arc::new(Mutex::new(Rng::seeded(settings.seed))), events: Arc::default() };
    let mut name = "queue-0.db".to_owned();
    let mut queue = builder(&bench, &name, &moody, settings).open().unwrap();
    let (mut next, mut crashes) = (0, 0);
    for step in steps {
        match step {
            Step::Push(items) => {
                for _ in 0..items {
                    queue.push(next).await.unwrap();
                    next += 1;
                }
            }
            Step::PushAfter(seconds) => {
                queue.push_after(next, Duration::from_secs(seconds)).await.unwrap();
                next += 1;
            }
            Step::Flush => queue.flush().await.unwrap(),
            Step::Pause => queue.pause(),
            Step::Resume => queue.resume(),
            Step::Advance(seconds) => {
                settle_down(&queue).await;
                bench.clock.advance(Duration::from_secs(seconds));
            }
            Step::Reopen => {
                let report = queue.close(60 * SECOND).await;
                assert!(report.unsaved.is_empty() && report.file_closed);
                queue = builder(&bench, &name, &moody, settings).open().unwrap();
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
                queue = builder(&bench, &name, &moody, settings).open().unwrap();
            }
        }
    }
    queue.flush().await.unwrap();
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
        (0, 0, 0, 0),
        "seed {}",
        settings.seed
    );
    assert!(queue.close(60 * SECOND).await.file_closed);
    let events = moody.events.lock().unwrap().clone();
    let overtaken = overtaken(&events, settings.keys);
    assert!(overtaken.is_empty(), "seed {}: older, and what overtook it: {overtaken:?}", settings.seed);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_item_overtakes_an_older_one_of_its_key_whatever_happens(
        steps in prop::collection::vec(step(), 1..50),
        settings in settings(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps, settings));
    }
}
