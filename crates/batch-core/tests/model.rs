//! Random operations on a processor whose handler does random things, checked against what must hold whatever
//! happens: each accepted item is answered exactly once or returned by a stop, nothing comes from nowhere, limits
//! hold, and the items of a key keep their order. A failing case is shrunk, and prints its settings and seed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{HOUR, Oops, Outcome, SECOND, Times, idle, run_out};
use proptest::prelude::*;
use relaykit_batch_core::{
    Cause, Overflow, Processor, Recovery, RejectReason, Rejected, Response, Responses, StopReport, Ticket,
};
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, ManualClock, Rng, Verdict};

#[derive(Debug, Clone, Copy)]
struct Settings {
    max_items: usize,
    max_bytes: usize,
    capacity: usize,
    capacity_bytes: Option<usize>,
    concurrency: usize,
    linger: Duration,
    attempts: u32,
    recovery: Recovery,
    ordered: bool,
    responses: usize,
    overflow: Overflow,
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
enum Op {
    Add,
    TryAdd,
    AddTimeout,
    Send,
    TrySend,
    Reserve,
    /// Waits for room and gives up after so many polls.
    GiveUp(usize),
    Flush,
    /// Asks for a flush and does not wait for it.
    FlushAndForget,
    Read,
    /// Moves the clock by so many quarters of a second.
    Pass(u32),
    /// Lets everything come to its next wait.
    Idle,
    /// Stops within so many quarters of a second, and starts again.
    Restart(u32),
    /// Begins a stop, gives up after so many polls, stops again and starts.
    RestartTwice(usize),
}

const QUARTER: Duration = Duration::from_millis(250);

fn settings() -> impl Strategy<Value = Settings> {
    let sizes = (1_usize..8, 0_usize..12, 10_usize..40, proptest::option::of(1_usize..4), 1_usize..5);
    let linger = prop_oneof![Just(Duration::ZERO), Just(SECOND), Just(Duration::MAX)];
    let recovery = prop_oneof![
        Just(Recovery::Off),
        Just(Recovery::Bisect),
        (1_usize..4).prop_map(|concurrency| Recovery::Individual { concurrency }),
    ];
    let overflow = prop_oneof![Just(Overflow::Wait), Just(Overflow::DropNewest)];
    (sizes, linger, 1_u32..4, recovery, any::<bool>(), (1_usize..9, overflow), any::<u64>()).prop_map(
        |(
            (max_items, more, max_bytes, times, concurrency),
            linger,
            attempts,
            recovery,
            ordered,
            stream,
            seed,
        )| {
            Settings {
                max_items,
                max_bytes,
                capacity: max_items + more,
                // An endless linger needs room for twice the largest item.
                capacity_bytes: times
                    .map(|times| max_bytes * times.max(1 + usize::from(linger == Duration::MAX))),
                concurrency,
                linger,
                attempts,
                recovery,
                ordered,
                responses: stream.0,
                overflow: stream.1,
                seed,
            }
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => Just(Op::Add),
        4 => Just(Op::TryAdd),
        2 => Just(Op::AddTimeout),
        4 => Just(Op::Send),
        3 => Just(Op::TrySend),
        2 => Just(Op::Reserve),
        2 => (0_usize..4).prop_map(Op::GiveUp),
        1 => Just(Op::Flush),
        1 => Just(Op::FlushAndForget),
        4 => Just(Op::Read),
        3 => (1_u32..9).prop_map(Op::Pass),
        3 => Just(Op::Idle),
        1 => (0_u32..20).prop_map(Op::Restart),
        1 => (0_usize..6).prop_map(Op::RestartTwice),
    ]
}

/// Bytes of an item, from its number.
fn weight(item: u32) -> usize {
    (item as usize * 7) % 10
}

/// Ordering key of an item, from its number: every fourth has none.
fn key(item: u32) -> Option<u32> {
    Some(item % 4).filter(|key| *key != 0)
}

/// Does random things, and watches over the limits and the order.
struct Chaos {
    settings: Settings,
    state: Arc<Mutex<State>>,
}

struct State {
    rng: Rng,
    running: usize,
    singles: usize,
    running_keys: BTreeSet<u32>,
    last_of_key: BTreeMap<u32, u32>,
    /// Items of which a call said that they are through.
    judged: BTreeSet<u32>,
    violations: Vec<String>,
}

enum Mood {
    Say(Outcome),
    Hang,
    Panic,
}

impl State {
    fn begin(&mut self, batch: &[u32], settings: &Settings) {
        let bytes: usize = batch.iter().map(|item| weight(*item)).sum();
        if batch.is_empty() || batch.len() > settings.max_items || bytes > settings.max_bytes {
            self.violations.push(format!("a batch of {} items and {bytes} bytes", batch.len()));
        }
        self.running += 1;
        self.singles += usize::from(batch.len() == 1);
        let most = match settings.recovery {
            // Single items run beside the batches.
            Recovery::Individual { concurrency } => settings.concurrency + concurrency,
            _ => settings.concurrency,
        };
        if self.running > most {
            self.violations.push(format!("{} calls at once", self.running));
        }
        for item in batch {
            if self.judged.contains(item) {
                self.violations.push(format!("{item} is lent although it is through"));
            }
            if let Some(key) = key(*item).filter(|_| settings.ordered) {
                if !self.running_keys.insert(key) {
                    self.violations.push(format!("{item} is lent while another item of its key is"));
                }
                let last = self.last_of_key.insert(key, *item).unwrap_or(0);
                if last > *item {
                    self.violations.push(format!("{item} is lent after {last}"));
                }
            }
        }
    }

    fn end(&mut self, batch: &[u32]) {
        self.running -= 1;
        self.singles -= usize::from(batch.len() == 1);
        for item in batch {
            key(*item).map(|key| self.running_keys.remove(&key));
        }
    }

    fn mood(&mut self, batch: &[u32]) -> Mood {
        let error = [Oops::Broken, Oops::Throttled, Oops::Bad][usize::try_from(self.rng.below(3)).unwrap()];
        let after = self.rng.chance(0.3).then_some(2 * SECOND);
        Mood::Say(match self.rng.below(24) {
            0 => return Mood::Hang,
            1 => return Mood::Panic,
            2 => BatchOutcome::Split(error),
            3 => BatchOutcome::RetryBatch { after, error },
            4 => {
                self.judged.extend(batch);
                BatchOutcome::Refused(error)
            }
            5 => BatchOutcome::Each(vec![Verdict::Untried; batch.len() - 1]),
            6 => BatchOutcome::Each(vec![Verdict::Untried; batch.len() + 1]),
            _ => BatchOutcome::Each(batch.iter().map(|item| self.verdict(*item, after, error)).collect()),
        })
    }

    fn verdict(&mut self, item: u32, after: Option<Duration>, error: Oops) -> Verdict<u32, Oops> {
        match self.rng.below(16) {
            0 | 1 => Verdict::Retry { after, error },
            2 => Verdict::Isolate(error),
            3 => Verdict::Untried,
            4 => {
                self.judged.insert(item);
                Verdict::Dead(error)
            }
            _ => {
                self.judged.insert(item);
                Verdict::Done(item)
            }
        }
    }
}

/// Ends a call however it ends.
struct Call<'a> {
    batch: &'a [u32],
    state: &'a Mutex<State>,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.state.lock().unwrap().end(self.batch);
    }
}

impl BatchHandler<u32> for Chaos {
    type Output = u32;
    type Error = Oops;

    async fn handle(&self, batch: &[u32], _: &BatchContext) -> Outcome {
        self.state.lock().unwrap().begin(batch, &self.settings);
        let _call = Call { batch, state: &self.state };
        let turns = self.state.lock().unwrap().rng.below(3);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        let mood = self.state.lock().unwrap().mood(batch);
        match mood {
            Mood::Say(outcome) => outcome,
            Mood::Hang => std::future::pending().await,
            Mood::Panic => std::panic::resume_unwind(Box::new("by chance")),
        }
    }
}

/// How an item came to its end, as the outside saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Done,
    Failed,
    Returned,
}

struct World {
    settings: Settings,
    clock: ManualClock,
    processor: Processor<u32, Chaos>,
    responses: Responses<u32, u32, Oops>,
    state: Arc<Mutex<State>>,
    next: u32,
    tickets: Vec<(u32, Ticket<u32, u32, Oops>)>,
    sent: BTreeSet<u32>,
    ends: BTreeMap<u32, End>,
}

type Refusal = Rejected<u32>;

impl World {
    fn new(settings: Settings) -> Self {
        let clock = ManualClock::new();
        let mut rng = Rng::seeded(settings.seed);
        let state = Arc::new(Mutex::new(State {
            rng: rng.fork(),
            running: 0,
            singles: 0,
            running_keys: BTreeSet::new(),
            last_of_key: BTreeMap::new(),
            judged: BTreeSet::new(),
            violations: Vec::new(),
        }));
        let handler = Chaos { settings, state: Arc::clone(&state) };
        let mut builder = Processor::builder(handler)
            .clock(clock.clone())
            .rng(rng)
            .max_items(settings.max_items)
            .max_bytes(settings.max_bytes, |item| weight(*item))
            .capacity(settings.capacity)
            .concurrency(settings.concurrency)
            .linger(settings.linger)
            .timeout(3 * SECOND)
            .retry(Times { attempts: settings.attempts, delay: QUARTER })
            .recovery(settings.recovery);
        if let Some(bytes) = settings.capacity_bytes {
            builder = builder.capacity_bytes(bytes);
        }
        if settings.ordered {
            builder = builder.order_by(|item| key(*item));
        }
        let (processor, responses) =
            builder.build_with_responses(settings.responses, settings.overflow).unwrap();
        processor.start().unwrap();
        let (tickets, sent, ends) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        Self { settings, clock, processor, responses, state, next: 1, tickets, sent, ends }
    }

    fn item(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn added(&mut self, item: u32, added: Result<Ticket<u32, u32, Oops>, Refusal>, allowed: &[RejectReason]) {
        match added {
            Ok(ticket) => self.tickets.push((item, ticket)),
            Err(Rejected { item: back, reason }) => {
                assert_eq!(back, item);
                assert!(allowed.contains(&reason), "{reason} is no reason to refuse {item}");
            }
        }
    }

    fn sent(&mut self, item: u32, sent: &Result<(), Refusal>, allowed: &[RejectReason]) {
        match sent {
            Ok(()) => assert!(self.sent.insert(item)),
            Err(Rejected { item: back, reason }) => {
                assert_eq!(*back, item);
                assert!(allowed.contains(reason), "{reason} is no reason to refuse {item}");
            }
        }
    }

    /// Waits for the future. Responses are read meanwhile, since a full stream may hold everything up, and time
    /// passes only when nothing else moves.
    async fn wait<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        loop {
            for _ in 0..64 {
                if let std::task::Poll::Ready(output) = common::poll_once(future.as_mut()) {
                    return output;
                }
                self.read();
                tokio::task::yield_now().await;
            }
            assert!(self.clock.advance_to_next_sleeper().is_some(), "nothing moves: {:?}", self.processor);
        }
    }

    fn read(&mut self) {
        while let Some(response) = self.responses.try_recv() {
            self.answered(&response);
        }
    }

    fn answered(&mut self, response: &Response<u32, u32, Oops>) {
        assert!(self.sent.contains(&response.item), "a response for {} from nowhere", response.item);
        let end = if response.result.is_ok() { End::Done } else { End::Failed };
        self.ended(response.item, end);
    }

    fn ended(&mut self, item: u32, end: End) {
        let before = self.ends.insert(item, end);
        assert_eq!(before, None, "{item} came to an end twice, now {end:?}");
    }

    async fn apply(&mut self, op: Op) {
        let processor = self.processor.clone();
        let item = self.item();
        match op {
            Op::Add => {
                let added = self.wait(processor.add(item)).await;
                self.added(item, added, &[]);
            }
            Op::TryAdd => self.added(item, processor.try_add(item), &[RejectReason::Full]),
            Op::AddTimeout => {
                let added = self.wait(processor.add_timeout(item, QUARTER)).await;
                self.added(item, added, &[RejectReason::TimedOut { waited: QUARTER }]);
            }
            Op::Send => {
                let sent = self.wait(processor.send(item)).await;
                self.sent(item, &sent, &[]);
            }
            Op::TrySend => self.sent(item, &processor.try_send(item), &[RejectReason::Full]),
            Op::Reserve => {
                let permit = self.wait(processor.reserve()).await.unwrap();
                self.added(item, permit.add(item), &[]);
            }
            Op::GiveUp(polls) => {
                if let Some(added) = common::dropped_after_polls(polls, processor.add(item)).await {
                    self.added(item, added, &[]);
                }
            }
            Op::Flush => {
                let accepted = processor.stats().accepted;
                self.wait(processor.flush()).await.unwrap();
                let stats = processor.stats();
                assert!(stats.done + stats.failed + stats.handed_back >= accepted, "{stats:?}");
            }
            Op::FlushAndForget => drop(common::dropped_after_polls(1, processor.flush()).await),
            Op::Read => self.read(),
            Op::Pass(quarters) => {
                idle().await;
                self.clock.advance(quarters * QUARTER);
            }
            Op::Idle => idle().await,
            Op::Restart(quarters) => {
                let report = run_out(&self.clock, processor.stop(quarters * QUARTER)).await;
                self.stopped(report).await;
            }
            Op::RestartTwice(polls) => {
                let first = common::dropped_after_polls(polls, processor.stop(SECOND)).await;
                let report = run_out(&self.clock, processor.stop(SECOND)).await;
                if let Some(first) = first {
                    assert!(report.is_clean());
                    self.stopped(first).await;
                } else {
                    self.stopped(report).await;
                }
            }
        }
        let stats = self.processor.stats();
        assert!(stats.buffered <= self.settings.capacity, "{stats:?}");
        assert!(stats.in_flight <= self.settings.concurrency * self.settings.max_items, "{stats:?}");
    }

    /// Books what a stop returned, checks that nothing is open, and starts again.
    async fn stopped(&mut self, report: StopReport<u32, u32, Oops>) {
        assert_eq!(report.unreturned, 0);
        let returned: BTreeSet<u32> = report.unsent.iter().chain(&report.in_doubt).copied().collect();
        assert_eq!(returned.len(), report.unsent.len() + report.in_doubt.len(), "{report:?}");
        self.read();
        for response in &report.unread {
            self.answered(response);
        }
        for (item, ticket) in std::mem::take(&mut self.tickets) {
            // The run is over, so the answer is there.
            let mut ticket = std::pin::pin!(ticket);
            let std::task::Poll::Ready(answer) = common::poll_once(ticket.as_mut()) else {
                panic!("{item} is still open");
            };
            match answer {
                Ok(output) => {
                    assert_eq!(output, item);
                    self.ended(item, End::Done);
                }
                Err(failed) if matches!(failed.cause, Cause::Stopped) => {
                    assert!(failed.item.is_none() && returned.contains(&item), "{item} is not in the report");
                }
                Err(failed) => {
                    assert_eq!(failed.item, Some(item));
                    self.ended(item, End::Failed);
                }
            }
        }
        for item in returned {
            self.ended(item, End::Returned);
        }
        let stats = self.processor.stats();
        assert_eq!(stats.accepted, stats.done + stats.failed + stats.handed_back, "{stats:?}");
        assert_eq!((stats.buffered, stats.parked, stats.in_flight), (0, 0, 0), "{stats:?}");
        let ends = |end| self.ends.values().filter(|e| **e == end).count() as u64;
        assert_eq!(stats.handed_back, ends(End::Returned), "{stats:?}");
        let seen = ends(End::Done) + ends(End::Failed);
        assert_eq!(stats.done + stats.failed, seen + stats.responses_dropped, "{stats:?}");
        if self.settings.overflow == Overflow::Wait {
            assert_eq!(stats.responses_dropped, 0);
            assert!(self.sent.iter().all(|item| self.ends.contains_key(item)), "a sent item has no answer");
        }
        // Returned items may have been in flight: what a new run lends has nothing to do with them.
        let violations = self.state.lock().unwrap().violations.clone();
        assert!(violations.is_empty(), "{violations:?}");
        self.processor.start().unwrap();
        tokio::task::yield_now().await;
    }

    async fn run(mut self, ops: Vec<Op>) {
        for op in ops {
            self.apply(op).await;
        }
        let processor = self.processor.clone();
        let report = self.wait(processor.stop(24 * HOUR)).await;
        assert!(report.is_clean(), "a stop with time enough leaves nothing: {report:?}");
        self.stopped(report).await;
        // All room is back.
        let fits = (0..=self.settings.capacity).take_while(|_| processor.try_send(0).is_ok()).count();
        assert_eq!(fits, self.settings.capacity);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_each_item_comes_to_exactly_one_end(
        settings in settings(),
        ops in proptest::collection::vec(op(), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { World::new(settings).run(ops).await });
    }
}
