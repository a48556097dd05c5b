//! The relay at work: stopping, waking, and a store that fails.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_outbox::conformance::{Call, TestSender};
use relaykit_outbox::{
    BlockedKey, DeadFilter, DeadLetter, Depth, MemoryOutbox, OpenTransactions, OutboxStore, Page, ReadFrom,
    Relay, RelayBuilder, RelayEvent, RelaySummary, RowId, Settled, Settlement, Suspicion,
};
use relaykit_pipeline_traits::{
    Clock, ManualClock, MemoryRecorder, Message, MessageId, Monotonic, OrderingKey, Rng, Sleep, SystemClock,
    Timestamp,
};
use relaykit_sql_store::{Lease, LeaseStore, MemoryLeaseStore, Shards, StoreError};
use tokio::sync::oneshot;

const SECOND: Duration = Duration::from_secs(1);

fn messages(key: &str, count: usize, rng: &mut Rng) -> Vec<Message> {
    let at = Timestamp::from_millis(1_763_683_200_000);
    let message = |number: usize| {
        let builder = Message::builder(MessageId::new(at, rng), "kind", at);
        builder.ordering_key(key).payload(format!("{key}{number}")).build().unwrap()
    };
    (1..=count).map(message).collect()
}

/// A store that fails as it is told.
#[derive(Clone)]
struct Faulty {
    store: MemoryOutbox,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    /// How many pages, and how many settlements, fail from now on.
    pages: AtomicUsize,
    settles: AtomicUsize,
    /// How many counts fail from now on.
    depths: AtomicUsize,
    /// Whether a settlement that fails takes effect all the same.
    in_doubt: AtomicBool,
    settlements: Mutex<Vec<Settlement>>,
}

impl Faulty {
    fn new(clock: &ManualClock) -> Self {
        Self { store: MemoryOutbox::new(Shards::new(8).unwrap(), clock.clone()), faults: Arc::default() }
    }

    fn fails(counter: &AtomicUsize) -> bool {
        counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

fn down(op: &'static str) -> StoreError {
    StoreError::Unavailable { op, source: "the test says so".into() }
}

impl OutboxStore for Faulty {
    type Leases = MemoryLeaseStore;

    fn leases(&self) -> MemoryLeaseStore {
        self.store.leases()
    }

    async fn page(&self, from: &[ReadFrom], open: &OpenTransactions, limit: u32) -> Result<Page, StoreError> {
        if Self::fails(&self.faults.pages) {
            return Err(down("read messages"));
        }
        self.store.page(from, open, limit).await
    }

    async fn suspect(
        &self,
        leases: &[Lease],
        rows: &[RowId],
        suspicion: Suspicion,
    ) -> Result<Settled, StoreError> {
        self.store.suspect(leases, rows, suspicion).await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        self.faults.settlements.lock().unwrap().push(settlement.clone());
        if Self::fails(&self.faults.settles) {
            if self.faults.in_doubt.load(Ordering::SeqCst) {
                self.store.settle(settlement).await?;
            }
            return Err(down("settle"));
        }
        self.store.settle(settlement).await
    }

    async fn depth(&self) -> Result<Depth, StoreError> {
        if Self::fails(&self.faults.depths) {
            return Err(down("count messages"));
        }
        self.store.depth().await
    }

    async fn dead_letters(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        self.store.dead_letters(filter, limit).await
    }

    async fn replay(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<MessageId>, StoreError> {
        self.store.replay(filter, limit).await
    }

    async fn purge(&self, filter: &DeadFilter, limit: u32) -> Result<u64, StoreError> {
        self.store.purge(filter, limit).await
    }

    async fn blocked(&self, limit: u32) -> Result<Vec<BlockedKey>, StoreError> {
        self.store.blocked(limit).await
    }

    async fn skip(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        self.store.skip(key).await
    }

    async fn park(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        self.store.park(key).await
    }

    async fn resume(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        self.store.resume(key).await
    }
}

fn relay(store: &Faulty, sender: &TestSender, clock: &ManualClock) -> RelayBuilder<Faulty, TestSender> {
    Relay::builder(store.clone(), sender.clone()).clock(clock.clone()).rng(Rng::seeded(3))
}

/// Runs a relay until it has come to `done`, moving the clock whenever everything waits for it.
async fn run_until(
    relay: &Relay<Faulty, TestSender>,
    clock: &ManualClock,
    done: impl Fn() -> bool,
) -> RelaySummary {
    let (stop, stopped) = oneshot::channel::<()>();
    let mut stop = Some(stop);
    let mut run = std::pin::pin!(relay.run(async {
        let _ = stopped.await;
    }));
    for _ in 0..100_000 {
        // Whatever can run runs first.
        for _ in 0..20 {
            tokio::select! {
                biased;
                summary = &mut run => return summary,
                () = tokio::task::yield_now() => {}
            }
        }
        if done() {
            stop.take();
        }
        clock.advance(Duration::from_millis(50));
    }
    panic!("the relay did not come to its end");
}

#[tokio::test]
async fn a_relay_that_runs_finds_what_is_added_and_stops_when_told() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    let added = messages("k", 20, &mut Rng::seeded(1));
    store.store.add_all(&added, None).unwrap();
    let relay = relay(&store, &sender, &clock).build().unwrap();
    let summary = run_until(&relay, &clock, || sender.taken().len() == 20).await;
    assert_eq!((summary.sent, summary.unfinished, summary.kept_shards), (20, 0, 0));
    sender.assert_complete_and_in_order(&added);
}

#[tokio::test]
async fn what_cannot_be_settled_at_once_is_settled_later_and_not_sent_again() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    let added = messages("k", 3, &mut Rng::seeded(1));
    store.store.add_all(&added, None).unwrap();
    store.faults.settles.store(4, Ordering::SeqCst);
    let relay = relay(&store, &sender, &clock).build().unwrap();
    let summary = run_until(&relay, &clock, || sender.taken().len() == 3).await;
    assert_eq!((summary.sent, summary.lost), (3, 0));
    assert_eq!(sender.payloads(), ["k1", "k2", "k3"], "nothing twice");
    let settlements = store.faults.settlements.lock().unwrap();
    assert!(settlements[..5].windows(2).all(|two| two[0] == two[1]), "the same again");
}

#[tokio::test]
async fn a_settlement_whose_answer_was_lost_is_repeated_and_nothing_is_sent_twice() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    let added = messages("k", 3, &mut Rng::seeded(1));
    store.store.add_all(&added, None).unwrap();
    store.faults.settles.store(2, Ordering::SeqCst);
    store.faults.in_doubt.store(true, Ordering::SeqCst);
    let relay = relay(&store, &sender, &clock).build().unwrap();
    run_until(&relay, &clock, || sender.taken().len() == 3).await;
    assert_eq!(sender.payloads(), ["k1", "k2", "k3"]);
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_tried_again_less_and_less_often() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    store.store.add_all(&messages("k", 1, &mut Rng::seeded(1)), None).unwrap();
    store.faults.pages.store(8, Ordering::SeqCst);
    let events: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = Arc::clone(&events);
    let relay = relay(&store, &sender, &clock)
        .on_event(move |event| {
            if let RelayEvent::StoreFailed { error } = event {
                seen.lock().unwrap().push(error.clone());
            }
        })
        .build()
        .unwrap();
    let begun = Clock::monotonic(&clock);
    let summary = run_until(&relay, &clock, || !sender.taken().is_empty()).await;
    assert_eq!((summary.sent, summary.store_failures), (1, 8));
    let said = "could not read messages: the database is not available: the test says so";
    assert_eq!(*events.lock().unwrap(), [said; 8]);
    let took = Clock::monotonic(&clock).since(begun);
    // 0.1, 0.2, 0.4, … 10 s, at least half of each.
    assert!(took >= SECOND * 11, "{took:?}");
}

#[tokio::test]
async fn an_observer_that_panics_stops_nobody() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    store.store.add_all(&messages("k", 3, &mut Rng::seeded(1)), None).unwrap();
    sender.script(|_| Call::Reject);
    store.faults.pages.store(1, Ordering::SeqCst);
    let told = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&told);
    let relay = relay(&store, &sender, &clock)
        .on_event(move |event| {
            seen.fetch_add(1, Ordering::SeqCst);
            panic!("the observer cannot take {event:?}");
        })
        .build()
        .unwrap();
    let summary = run_until(&relay, &clock, || sender.batches().len() == 3).await;
    assert_eq!((summary.dead, summary.store_failures, summary.kept_shards), (3, 1, 0));
    assert_eq!(told.load(Ordering::SeqCst), 4, "it is told each time");
}

/// A clock that counts how often somebody begins to wait.
#[derive(Debug, Clone)]
struct CountingClock {
    clock: ManualClock,
    sleeps: Arc<AtomicUsize>,
}

impl Clock for CountingClock {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn monotonic(&self) -> Monotonic {
        self.clock.monotonic()
    }

    fn sleep_until(&self, at: Monotonic) -> Sleep {
        self.sleeps.fetch_add(1, Ordering::SeqCst);
        self.clock.sleep_until(at)
    }
}

#[tokio::test]
async fn a_relay_whose_store_is_down_sleeps_until_it_may_be_asked_again() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    store.faults.pages.store(usize::MAX, Ordering::SeqCst);
    store.faults.depths.store(usize::MAX, Ordering::SeqCst);
    let counting = CountingClock { clock: clock.clone(), sleeps: Arc::default() };
    let relay = Relay::builder(store.clone(), sender.clone())
        .clock(counting.clone())
        .rng(Rng::seeded(3))
        // With one, messages are counted now and then.
        .recorder(Arc::new(MemoryRecorder::new()))
        .build()
        .unwrap();
    let mut run = std::pin::pin!(relay.run(std::future::pending()));
    for _ in 0..20_000 {
        for _ in 0..3 {
            tokio::select! {
                biased;
                _ = &mut run => unreachable!(),
                () = tokio::task::yield_now() => {}
            }
        }
        clock.advance(Duration::from_millis(1));
    }
    let asked = usize::MAX - store.faults.pages.load(Ordering::SeqCst);
    assert!((5..20).contains(&asked), "{asked}");
    let sleeps = counting.sleeps.load(Ordering::SeqCst);
    assert!(sleeps < 200, "it woke {sleeps} times in 20 s");
}

#[tokio::test]
async fn whoever_loses_its_lease_settles_nothing_says_so_and_sends_no_successor() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    store.store.add_all(&messages("k", 2, &mut Rng::seeded(1)), None).unwrap();
    // Somebody else takes all shards while the first message is on its way.
    let (leases, thief) = (store.leases(), clock.clone());
    sender.script(move |_| {
        thief.advance(SECOND * 40);
        let other = relaykit_sql_store::Instance::new(Timestamp::from_millis(1), &mut Rng::seeded(9));
        let shards: Vec<_> = Shards::new(8).unwrap().all().collect();
        let mut take = std::pin::pin!(leases.take(other, SECOND * 30, &shards));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(take.as_mut().poll(&mut cx).is_ready());
        Call::Take
    });
    let lost: Arc<Mutex<Vec<usize>>> = Arc::default();
    let seen = Arc::clone(&lost);
    let recorder = Arc::new(MemoryRecorder::new());
    let relay = relay(&store, &sender, &clock)
        .recorder(recorder.clone())
        .on_event(move |event| {
            if let RelayEvent::LeaseLost { messages, .. } = event {
                seen.lock().unwrap().push(*messages);
            }
        })
        .build()
        .unwrap();
    let summary = relay.run_once().await.unwrap();
    assert_eq!((summary.sent, summary.lost), (0, 1));
    assert_eq!(sender.payloads(), ["k1"]);
    assert_eq!(*lost.lock().unwrap(), [1]);
    assert_eq!(store.depth().await.unwrap().pending, 2);
    assert_eq!(recorder.value("outbox_messages_lease_lost_total", &["outbox"]), Some(1.0));
}

#[tokio::test]
async fn a_send_never_outlives_its_lease() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    store.store.add_all(&messages("k", 1, &mut Rng::seeded(1)), None).unwrap();
    sender.script(|_| Call::Hang);
    let relay = relay(&store, &sender, &clock).send_timeout(SECOND * 21).build().unwrap();
    let begun = Clock::monotonic(&clock);
    let run = relay.run_once();
    let moved = async {
        loop {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            clock.advance(SECOND);
        }
    };
    let summary = tokio::select! {
        summary = run => summary.unwrap(),
        () = moved => unreachable!(),
    };
    // The lease counts for 27 s, of which 5 s are kept to settle.
    let took = Clock::monotonic(&clock).since(begun);
    assert!(took <= SECOND * 23, "{took:?}");
    assert_eq!((summary.retried, summary.lost), (1, 0), "there was time to settle");
}

#[tokio::test]
async fn a_run_that_is_dropped_sends_nothing_more_and_its_messages_are_sent_by_another() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    let added = messages("k", 3, &mut Rng::seeded(1));
    store.store.add_all(&added, None).unwrap();
    sender.script(|_| Call::Hang);
    let dropped = relay(&store, &sender, &clock).build().unwrap();
    {
        let mut run = std::pin::pin!(dropped.run(std::future::pending()));
        for _ in 0..200 {
            tokio::select! {
                biased;
                _ = &mut run => unreachable!(),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(sender.batches().len(), 1);
    }
    sender.take_all();
    clock.advance(SECOND * 31);
    let other = relay(&store, &sender, &clock).rng(Rng::seeded(4)).build().unwrap();
    assert_eq!(other.run_once().await.unwrap().sent, 3);
    sender.assert_complete_and_in_order(&added);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_sender_longer_than_the_time_to_drain() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    store.store.add_all(&messages("k", 1, &mut Rng::seeded(1)), None).unwrap();
    sender.script(|_| Call::Hang);
    let relay = relay(&store, &sender, &clock).drain(SECOND * 2).build().unwrap();
    let begun = Clock::monotonic(&clock);
    let summary = run_until(&relay, &clock, || !sender.batches().is_empty()).await;
    let took = Clock::monotonic(&clock).since(begun);
    assert_eq!(summary.unfinished, 1);
    assert!(took <= SECOND * 6, "{took:?}");
}

#[tokio::test]
async fn a_nudge_makes_an_idle_relay_look_at_once() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    let relay = relay(&store, &sender, &clock).build().unwrap();
    let wake = relay.wake();
    let mut run = std::pin::pin!(relay.run(std::future::pending()));
    let mut turn = async |turns: usize| {
        for _ in 0..turns {
            tokio::select! {
                biased;
                _ = &mut run => unreachable!(),
                () = tokio::task::yield_now() => {}
            }
        }
    };
    for _ in 0..100 {
        turn(20).await;
        clock.advance(SECOND);
    }
    turn(100).await;
    store.store.add_all(&messages("k", 1, &mut Rng::seeded(1)), None).unwrap();
    turn(100).await;
    assert!(sender.taken().is_empty(), "it looks again in some seconds");
    wake.nudge();
    turn(100).await;
    assert_eq!(sender.taken().len(), 1);
}

#[tokio::test]
async fn a_throttled_batch_pauses_the_relay_and_spends_nothing() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    let added = messages("k", 2, &mut Rng::seeded(1));
    store.store.add_all(&added, None).unwrap();
    let mut left = 3;
    sender.script(move |_| {
        left -= 1;
        if left >= 0 { Call::Refuse } else { Call::Take }
    });
    let relay = relay(&store, &sender, &clock).build().unwrap();
    let summary = run_until(&relay, &clock, || sender.taken().len() == 2).await;
    assert_eq!((summary.pauses, summary.retried, summary.dead), (3, 0, 0));
    assert!(sender.attempts().iter().all(|attempt| *attempt == 1));
    let settlements = store.faults.settlements.lock().unwrap();
    assert_eq!(settlements.len(), 2, "nothing was written while it refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_relays_on_two_threads_lose_and_reorder_nothing() {
    let clock = SystemClock::new();
    let store = MemoryOutbox::new(Shards::new(16).unwrap(), clock);
    let sender = TestSender::new();
    let mut rng = Rng::from_entropy();
    let mut faults = rng.fork();
    sender.script(move |_| if faults.chance(0.05) { Call::Fail } else { Call::Take });
    let mut added = Vec::new();
    for key in 0..50 {
        added.extend(messages(&format!("k{key}-"), 10, &mut rng));
    }
    store.add_all(&added, None).unwrap();
    let (stop, _) = tokio::sync::broadcast::channel::<()>(1);
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let retry = relaykit_retry::Backoff::fixed(Duration::from_millis(1)).unlimited_attempts();
        let retry = retry.max_hint(Duration::from_millis(1)).build().unwrap();
        let relay = Relay::builder(store.clone(), sender.clone())
            .batch_size(7)
            .lease(SECOND * 3)
            .send_timeout(SECOND)
            .settle_timeout(SECOND)
            .poll(Duration::from_millis(1), Duration::from_millis(5))
            .retry(retry)
            .build()
            .unwrap();
        let mut stopped = stop.subscribe();
        tasks.push(tokio::spawn(async move {
            relay
                .run(async move {
                    let _ = stopped.recv().await;
                })
                .await
        }));
    }
    while store.depth().await.unwrap().pending > 0 {
        tokio::task::yield_now().await;
    }
    drop(stop);
    let mut sent = 0;
    for task in tasks {
        sent += task.await.unwrap().sent;
    }
    assert_eq!(sent, 500);
    sender.assert_complete_and_in_order(&added);
}

#[tokio::test]
async fn a_relay_with_a_seed_repeats_itself() {
    async fn waits(seed: u64) -> Vec<Duration> {
        let clock = ManualClock::new();
        let (store, sender) = (Faulty::new(&clock), TestSender::new());
        let relay = relay(&store, &sender, &clock).rng(Rng::seeded(seed)).build().unwrap();
        let mut run = std::pin::pin!(relay.run(std::future::pending()));
        let mut waits = Vec::new();
        while waits.len() < 50 {
            for _ in 0..20 {
                tokio::select! {
                    biased;
                    _ = &mut run => panic!("nobody stopped it"),
                    () = tokio::task::yield_now() => {}
                }
            }
            waits.push(clock.advance_to_next_sleeper().unwrap());
        }
        waits
    }

    assert_eq!(waits(7).await, waits(7).await);
    assert_ne!(waits(7).await, waits(8).await);
}

#[test]
fn settings_out_of_bounds_are_refused_by_name() {
    let clock = ManualClock::new();
    let (store, sender) = (Faulty::new(&clock), TestSender::new());
    let field = |builder: RelayBuilder<Faulty, TestSender>| builder.build().unwrap_err().field;
    let relay = || relay(&store, &sender, &clock);
    assert_eq!(field(relay().batch_size(0)), "batch_size");
    assert_eq!(field(relay().batch_size(1_001)), "batch_size");
    assert_eq!(field(relay().concurrency(0)), "concurrency");
    assert_eq!(field(relay().concurrency(65)), "concurrency");
    assert_eq!(field(relay().lease(SECOND * 20)), "lease");
    assert_eq!(field(relay().send_timeout(Duration::ZERO)), "lease");
    assert_eq!(field(relay().poll(SECOND, SECOND / 2)), "max");
}
