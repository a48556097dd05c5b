use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard};

use relaykit_pipeline_traits::{
    BatchContext, BatchOutcome, Clock as _, Failure, ManualClock, Message, MessageId, MetricKind, NoRecorder,
    OrderingKey, RetryPolicy, Rng, Timestamp, Verdict,
};

use super::super::handler::Lent;
use super::super::open::OpenTransactions;
use super::super::row::{ReadFrom, RowId, Seq, Settled, Settlement, Stored, Suspicion};
use super::*;
use crate::judge::discard;
use crate::{LeaseKeeper, MemoryLeaseStore, Shards};

static ANY: Metric = Metric { name: "any", kind: MetricKind::Counter, help: "any", labels: &[] };

static METRICS: StreamMetrics = StreamMetrics {
    sent: &ANY,
    retried: &ANY,
    dead: &ANY,
    lease_lost: &ANY,
    redelivered: &ANY,
    lag: &ANY,
    send: &ANY,
    settle: &ANY,
    page: &ANY,
    pending: &ANY,
    oldest: &ANY,
    dead_letters: &ANY,
    shards: &ANY,
    paused: &ANY,
};

/// Messages of one key, and which were handled.
#[derive(Clone, Default)]
struct Store {
    state: Arc<Mutex<State>>,
    clock: ManualClock,
    /// How long it takes to note something.
    note_takes: Duration,
    /// Whether its shard is another's.
    is_anothers: bool,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<Seq, Message>,
    handled: Vec<i64>,
    /// How often something was noted, and how often that was taken back.
    notes: usize,
    notes_back: usize,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn add(&self, seq: i64) {
        let at = Timestamp::from_millis(1);
        let id = MessageId::new(at, &mut Rng::seeded(seq.unsigned_abs()));
        let message = Message::builder(id, "kind", at).ordering_key(OrderingKey::new("k").unwrap().as_str());
        self.lock().rows.insert(Seq(seq), message.build().unwrap());
    }
}

fn stale() -> Settled {
    Settled { stale: vec![Shard::new(0)], ..Settled::default() }
}

impl StreamStore for Store {
    async fn page(&self, from: &[ReadFrom], _: &OpenTransactions, limit: u32) -> Result<Page, StoreError> {
        let state = self.lock();
        let rows = state.rows.iter().filter(|(seq, _)| **seq > from[0].after).take(limit as usize);
        let rows = rows.map(|(seq, message)| Stored {
            row: RowId { shard: from[0].shard, seq: *seq },
            message: message.clone(),
            attempts: 0,
            age: Duration::ZERO,
            failing_for: None,
            waited: false,
            suspicion: Suspicion::Clear,
        });
        Ok(Page { rows: rows.collect(), ..Page::default() })
    }

    async fn suspect(&self, _: &[Lease], _: &[RowId], suspicion: Suspicion) -> Result<Settled, StoreError> {
        {
            let mut state = self.lock();
            let State { notes, notes_back, .. } = &mut *state;
            *if suspicion == Suspicion::Clear { notes_back } else { notes } += 1;
        }
        if !self.note_takes.is_zero() {
            self.clock.sleep(self.note_takes).await;
        }
        Ok(if self.is_anothers { stale() } else { Settled::default() })
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        if self.is_anothers {
            return Ok(stale());
        }
        let mut state = self.lock();
        let retried =
            settlement.retry.iter().filter(|waiting| state.rows.contains_key(&waiting.row.seq)).count();
        let done = settlement.done.iter().filter(|row| state.rows.remove(&row.seq).is_some()).count();
        Ok(Settled { written: (retried + done) as u64, ..Settled::default() })
    }

    async fn depth(&self) -> Result<Depth, StoreError> {
        Ok(Depth::default())
    }
}

/// Ends a message in the store, as a transaction does that has its effects as well. Of the first it learns no answer, and another is
/// added meanwhile.
struct Transactional(Store);

impl StreamHandler for Transactional {
    type Error = StoreError;

    async fn handle(&self, lent: &Lent<'_>, _: &BatchContext) -> BatchOutcome<(), StoreError> {
        let seq = lent.rows[0].0.seq;
        if seq == Seq(1) {
            self.0.add(3);
        }
        let mut state = self.0.lock();
        state.rows.remove(&seq);
        state.handled.push(seq.0);
        let verdict = if seq == Seq(1) {
            let error = StoreError::CommitUnknown { op: "handle", source: "gone".into() };
            Verdict::Retry { after: None, error }
        } else {
            Verdict::Done(())
        };
        discard(BatchOutcome::Each(vec![verdict]))
    }

    fn ends_itself(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Later;

impl RetryPolicy for Later {
    fn decide(&self, _: &Failure, _: &mut Rng) -> RetryDecision {
        RetryDecision::RetryAfter(Duration::from_secs(1))
    }
}

/// A stream over the store, with these times for a call and to settle.
fn shared<H>(store: &Store, handler: H, (send, reserve): (Duration, Duration)) -> Arc<Shared<Store, H>> {
    Arc::new(Shared {
        name: "test".to_owned(),
        labels: Vec::new(),
        metrics: &METRICS,
        store: store.clone(),
        handler,
        clock: Arc::new(store.clock.clone()),
        retry: Arc::new(Later),
        rng: Mutex::new(Rng::seeded(1)),
        recorder: Arc::new(NoRecorder),
        careful: Mutex::default(),
        observer: None,
        link: None,
        callback_panicked: AtomicBool::new(false),
        send_timeout: send,
        settle_reserve: reserve,
    })
}

const ONE_BY_ONE: Settings = Settings { batch_size: 1, concurrency: 1, counts: false, ordered: true };

/// How often an idle stream looks.
const POLL: Duration = Duration::from_millis(10);

/// Moves time on, from one sleeper to the next, until the work has ended.
async fn through<T>(clock: &ManualClock, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        let idle = async {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            ended = &mut work => break ended,
            () = idle => {}
        }
        clock.advance_to_next_sleeper().unwrap();
    }
}

#[tokio::test]
async fn what_was_committed_without_an_answer_is_not_overtaken_by_what_is_added_later() {
    let store = Store::default();
    let second = Duration::from_secs(1);
    let shared = shared(&store, Transactional(store.clone()), (second, second));
    let leases = MemoryLeaseStore::new(Shards::new(1).unwrap(), store.clock.clone());
    let keeper = LeaseKeeper::builder(leases, store.clock.clone()).rng(Rng::seeded(1)).build().unwrap();
    keeper.run_once().await.unwrap();
    for seq in [1, 2] {
        store.add(seq);
    }
    let poller = shared.poller(&crate::Wake::new(), (POLL, POLL)).unwrap();
    let engine = Engine::new(&shared, &ONE_BY_ONE, keeper.leases());
    let stop = store.clock.sleep(second * 10);
    let run = engine.run(Until::Stopped, Some(poller), stop, Duration::ZERO);
    let summary = through(&store.clock, run).await;
    assert_eq!(store.lock().handled, [1, 2, 3]);
    assert_eq!((summary.sent, summary.retried), (2, 1));
}

#[test]
fn a_page_that_was_slow_puts_off_what_is_due_by_a_second_at_most() {
    let millis = Duration::from_millis;
    assert_eq!(back_wait(millis(0)), millis(20));
    assert_eq!(back_wait(millis(5)), millis(100));
    assert_eq!(back_wait(millis(4_000)), millis(1_000));
}

mod leases;
