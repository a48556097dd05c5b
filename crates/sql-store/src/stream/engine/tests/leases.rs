//! What is sent where the leases leave little time for it.

use super::*;
use crate::stream::{leased, told};
use crate::{Instance, LeaseStore, View};

const MS: fn(u64) -> Duration = Duration::from_millis;

const LEASE: Duration = Duration::from_millis(1_200);

/// Leases in a store whose heartbeats take their time.
#[derive(Debug, Clone)]
struct SlowLeases {
    store: MemoryLeaseStore,
    clock: ManualClock,
    heartbeat_takes: Duration,
}

impl LeaseStore for SlowLeases {
    async fn heartbeat(&self, instance: Instance, lease: Duration) -> Result<View, StoreError> {
        let view = self.store.heartbeat(instance, lease).await;
        if !self.heartbeat_takes.is_zero() {
            self.clock.sleep(self.heartbeat_takes).await;
        }
        view
    }

    async fn take(
        &self,
        instance: Instance,
        lease: Duration,
        shards: &[Shard],
    ) -> Result<Vec<Lease>, StoreError> {
        self.store.take(instance, lease, shards).await
    }

    async fn give_back(&self, instance: Instance, leases: &[Lease]) -> Result<(), StoreError> {
        self.store.give_back(instance, leases).await
    }

    async fn leave(&self, instance: Instance) -> Result<(), StoreError> {
        self.store.leave(instance).await
    }
}

/// Handles a message in so long.
struct Takes(Store, Duration);

impl StreamHandler for Takes {
    type Error = StoreError;

    async fn handle(&self, lent: &Lent<'_>, _: &BatchContext) -> BatchOutcome<(), StoreError> {
        if !self.1.is_zero() {
            self.0.clock.sleep(self.1).await;
        }
        self.0.lock().handled.extend(lent.rows.iter().map(|(row, _)| row.seq.0));
        BatchOutcome::Each(lent.rows.iter().map(|_| Verdict::Done(())).collect())
    }
}

/// A stream of one shard, beside a keeper that renews its lease.
struct Scene {
    store: Store,
    handle_takes: Duration,
    leases: SlowLeases,
    times: (Duration, Duration),
}

impl Scene {
    fn new(times: (Duration, Duration)) -> Self {
        let store = Store::default();
        let leases = MemoryLeaseStore::new(Shards::new(1).unwrap(), store.clock.clone());
        let leases =
            SlowLeases { store: leases, clock: store.clock.clone(), heartbeat_takes: Duration::ZERO };
        Self { store, handle_takes: Duration::ZERO, leases, times }
    }

    fn keeper(&self, seed: u64) -> Arc<LeaseKeeper<SlowLeases>> {
        let builder = LeaseKeeper::builder(self.leases.clone(), self.store.clock.clone());
        Arc::new(builder.lease(LEASE).rng(Rng::seeded(seed)).build().unwrap())
    }

    /// Lets somebody die who held the shard.
    async fn inherit(&self) {
        self.keeper(1).run_once().await.unwrap();
        self.store.clock.advance(LEASE + MS(1));
    }

    /// Adds a message when a lease has little time left.
    fn adds_late(&self) -> tokio::task::JoinHandle<()> {
        let (store, clock) = (self.store.clone(), self.store.clock.clone());
        tokio::spawn(async move {
            clock.sleep(MS(300)).await;
            store.add(1);
        })
    }

    /// Runs for so long, then stops. Returns what it says, and how long the stop took.
    async fn run(&self, long: Duration) -> (StreamSummary, Duration) {
        let handler = Takes(self.store.clone(), self.handle_takes);
        let (clock, shared) = (&self.store.clock, shared(&self.store, handler, self.times));
        let poller = shared.poller(&crate::Wake::new(), (POLL, POLL)).unwrap();
        let keeper = self.keeper(2);
        let work = |stopped| {
            let engine = Engine::new(&shared, &ONE_BY_ONE, keeper.leases());
            engine.run(Until::Stopped, Some(poller), told(stopped), Duration::from_secs(10))
        };
        let end = clock.monotonic() + long;
        let (summary, kept) = through(clock, leased(&keeper, clock.sleep(long), work)).await;
        assert_eq!(kept, 0);
        (summary, clock.monotonic().since(end))
    }
}

#[tokio::test]
async fn what_is_noted_slowly_before_it_is_sent_is_sent() {
    let mut scene = Scene::new((LEASE * 5 / 12, LEASE * 5 / 12));
    scene.store.note_takes = MS(600);
    scene.inherit().await;
    scene.leases.heartbeat_takes = MS(300);
    scene.store.add(1);
    let (summary, _) = scene.run(Duration::from_secs(30)).await;
    let state = scene.store.lock();
    assert_eq!((&state.handled[..], state.notes, state.notes_back), (&[1][..], 1, 0));
    assert_eq!((summary.sent, summary.retried), (1, 0));
}

#[tokio::test]
async fn a_call_waits_for_the_renewal_that_gives_it_time() {
    let mut scene = Scene::new((MS(330), MS(750)));
    scene.handle_takes = MS(100);
    let late = scene.adds_late();
    let (summary, _) = scene.run(Duration::from_secs(5)).await;
    late.await.unwrap();
    assert_eq!((summary.sent, summary.retried), (1, 0));
}

#[tokio::test]
async fn a_stop_waits_for_no_call_that_has_not_begun() {
    let mut scene = Scene::new((MS(330), MS(750)));
    scene.handle_takes = MS(100);
    let late = scene.adds_late();
    let (summary, took) = scene.run(MS(325)).await;
    late.await.unwrap();
    assert_eq!((summary.sent, summary.retried, summary.unfinished), (0, 0, 0));
    assert_eq!((took, &scene.store.lock().handled[..]), (Duration::ZERO, &[][..]));
}

#[tokio::test]
async fn what_the_store_says_is_anothers_is_not_sent_again_until_the_leases_are_renewed() {
    let mut scene = Scene::new((MS(330), MS(750)));
    scene.store.is_anothers = true;
    scene.store.add(1);
    let (summary, _) = scene.run(MS(350)).await;
    assert_eq!((&scene.store.lock().handled[..], summary.sent, summary.lost), (&[1][..], 0, 1));
}

#[tokio::test]
async fn what_cannot_be_noted_since_its_shard_is_anothers_is_not_noted_again_until_the_leases_are_renewed() {
    let mut scene = Scene::new((MS(330), MS(750)));
    scene.inherit().await;
    scene.store.is_anothers = true;
    scene.store.add(1);
    let (summary, _) = scene.run(MS(350)).await;
    let state = scene.store.lock();
    assert_eq!((state.notes, &state.handled[..], summary.lost), (1, &[][..], 1));
}
