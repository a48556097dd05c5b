//! Leases in a SQLite file.
#![cfg(all(feature = "sqlite", feature = "leases"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, ManualClock, Rng, SystemClock};
use relaykit_sql_store::sqlite::rusqlite::Connection;
use relaykit_sql_store::sqlite::{Database, LEASE_MIGRATION, LEASE_TABLES, SqliteLeaseStore, migrate};
use relaykit_sql_store::{Instance, Lease, LeaseKeeper, LeaseStore as _, Migration, Names, Schema, Shard};
use tempfile::TempDir;

const LEASE: Duration = Duration::from_secs(30);

static MIGRATIONS: [Migration; 1] = [Migration { version: 1, name: "leases", parts: &[LEASE_MIGRATION] }];

fn names() -> Names {
    Names::new("t").unwrap()
}

fn shards(numbers: impl IntoIterator<Item = u16>) -> Vec<Shard> {
    numbers.into_iter().map(Shard::new).collect()
}

fn open(path: &Path, clock: impl Clock) -> Database {
    Database::builder(path, clock).busy_timeout(Duration::from_secs(5)).open().unwrap()
}

struct Cluster {
    directory: TempDir,
    clock: ManualClock,
    rng: Rng,
    one: SqliteLeaseStore,
    two: SqliteLeaseStore,
}

impl Cluster {
    /// Two stores with connections of their own, and nobody who holds anything.
    async fn new(count: i64) -> Self {
        let (directory, clock) = (tempfile::tempdir().unwrap(), ManualClock::new());
        let path = directory.path().join("file.db");
        let database = open(&path, clock.clone());
        let schema = Schema::new(names(), &MIGRATIONS, &LEASE_TABLES).with_number("shards", count);
        migrate(&database, &schema).await.unwrap();
        let one = SqliteLeaseStore::new(database, &names());
        let two = SqliteLeaseStore::new(open(&path, clock.clone()), &names());
        Self { directory, clock, rng: Rng::seeded(7), one, two }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("file.db")
    }

    fn instance(&mut self) -> Instance {
        Instance::new(self.clock.now(), &mut self.rng)
    }

    /// Returns how many members the file knows.
    fn members(&self) -> i64 {
        let connection = Connection::open(self.path()).unwrap();
        connection.query_row("select count(*) from t_members", [], |row| row.get(0)).unwrap()
    }
}

#[tokio::test]
async fn a_shard_has_one_owner_and_each_owner_a_higher_token() {
    let mut cluster = Cluster::new(4).await;
    let (one, two) = (cluster.instance(), cluster.instance());
    let view = cluster.one.heartbeat(one, LEASE).await.unwrap();
    assert_eq!((view.held.len(), view.free.len(), view.shards), (0, 4, 4));
    assert_eq!((view.membership.members, view.membership.rank), (1, 0));
    let taken = cluster.one.take(one, LEASE, &shards([2, 0])).await.unwrap();
    assert_eq!(taken, [0, 2].map(|shard| Lease { shard: Shard::new(shard), token: 1 }));
    let view = cluster.two.heartbeat(two, LEASE).await.unwrap();
    assert_eq!((view.free, view.membership.members), (shards([1, 3]), 2));
    assert_eq!(view.membership.rank, u32::from(two > one));
    assert_eq!(cluster.two.take(two, LEASE, &shards(0..3)).await.unwrap().len(), 1, "only what is free");
    assert_eq!(cluster.one.heartbeat(one, LEASE).await.unwrap().held, taken);
    cluster.one.give_back(one, &taken[..1]).await.unwrap();
    let again = cluster.two.take(two, LEASE, &shards([0])).await.unwrap();
    assert_eq!(again, [Lease { shard: Shard::new(0), token: 2 }]);
    cluster.one.give_back(one, &taken[..1]).await.unwrap();
    let held = cluster.two.heartbeat(two, LEASE).await.unwrap().held;
    assert_eq!(held.len(), 2, "a late give-back takes nothing away");
}

#[tokio::test]
async fn the_shards_of_a_killed_member_are_free_after_its_lease() {
    let mut cluster = Cluster::new(2).await;
    let (killed, other) = (cluster.instance(), cluster.instance());
    cluster.one.heartbeat(killed, LEASE).await.unwrap();
    cluster.one.take(killed, LEASE, &shards(0..2)).await.unwrap();
    cluster.clock.advance(LEASE);
    assert_eq!(cluster.two.heartbeat(other, LEASE).await.unwrap().free, []);
    cluster.clock.advance(Duration::from_millis(1));
    let view = cluster.two.heartbeat(other, LEASE).await.unwrap();
    assert_eq!((view.free, view.membership.members), (shards(0..2), 1));
    assert_eq!(cluster.two.take(other, LEASE, &shards([0])).await.unwrap()[0].token, 2);
    // It was only paused: what nobody took is still its own, what somebody took is not.
    let back = cluster.one.heartbeat(killed, LEASE).await.unwrap();
    assert_eq!(back.held, [Lease { shard: Shard::new(1), token: 1 }]);
    assert_eq!(cluster.members(), 2);
}

#[tokio::test]
async fn no_step_of_the_wall_clock_ends_a_lease_or_makes_it_longer() {
    let mut cluster = Cluster::new(1).await;
    let (owner, other) = (cluster.instance(), cluster.instance());
    cluster.one.heartbeat(owner, LEASE).await.unwrap();
    cluster.one.take(owner, LEASE, &shards([0])).await.unwrap();
    let day = Duration::from_secs(86_400);
    cluster.clock.set_wall(cluster.clock.now() + day);
    assert_eq!(cluster.two.heartbeat(other, LEASE).await.unwrap().free, []);
    cluster.clock.set_wall(cluster.clock.now() - 2 * day);
    cluster.clock.advance(LEASE + Duration::from_millis(1));
    assert_eq!(cluster.two.heartbeat(other, LEASE).await.unwrap().free, shards([0]));
}

#[tokio::test]
async fn a_lease_of_before_the_machine_was_started_has_ended() {
    let mut cluster = Cluster::new(1).await;
    let (before, after) = (cluster.instance(), cluster.instance());
    cluster.clock.advance(2 * LEASE);
    cluster.one.heartbeat(before, LEASE).await.unwrap();
    cluster.one.take(before, LEASE, &shards([0])).await.unwrap();
    let path = cluster.directory.path().join("file.db");
    let restarted = SqliteLeaseStore::new(open(&path, ManualClock::new()), &names());
    let view = restarted.heartbeat(after, LEASE).await.unwrap();
    assert_eq!((view.free, view.membership.members), (shards([0]), 1));
    assert_eq!(restarted.take(after, LEASE, &shards([0])).await.unwrap().len(), 1);
}

#[tokio::test]
async fn members_that_are_gone_are_forgotten() {
    let mut cluster = Cluster::new(1).await;
    let (gone, left, here) = (cluster.instance(), cluster.instance(), cluster.instance());
    cluster.one.heartbeat(gone, LEASE).await.unwrap();
    cluster.one.heartbeat(left, 3 * LEASE).await.unwrap();
    cluster.one.leave(left).await.unwrap();
    cluster.clock.advance(2 * LEASE);
    cluster.two.heartbeat(here, LEASE).await.unwrap();
    assert_eq!(cluster.members(), 1);
}

/// Four members come, work, get stuck and go on one file, each with connections of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_never_hold_one_shard_among_four_that_come_and_go() {
    let cluster = Cluster::new(8).await;
    let working: Arc<Mutex<BTreeMap<Shard, i64>>> = Arc::default();
    let highest: Arc<Mutex<BTreeMap<Shard, i64>>> = Arc::default();
    let tasks: Vec<_> = (0..4)
        .map(|member: u64| {
            let (working, highest) = (Arc::clone(&working), Arc::clone(&highest));
            let path = cluster.path();
            tokio::spawn(async move {
                let mut rng = Rng::seeded(member);
                let (clock, mut worked) = (SystemClock::new(), 0);
                let store = SqliteLeaseStore::new(open(&path, clock), &names());
                for _life in 0..4 {
                    let keeper = LeaseKeeper::builder(store.clone(), clock)
                        .lease(Duration::from_millis(300))
                        .rng(rng.fork())
                        .build()
                        .unwrap();
                    for _turn in 0..8 {
                        let _ = keeper.run_once().await;
                        for lease in keeper.leases().held() {
                            let Some(permit) = keeper.leases().enter(lease.shard) else { continue };
                            assert_eq!(working.lock().unwrap().insert(permit.shard(), permit.token()), None);
                            let before = highest.lock().unwrap().insert(permit.shard(), permit.token());
                            assert!(before.is_none_or(|token| token <= permit.token()));
                            worked += 1;
                            tokio::task::yield_now().await;
                            // The judge must not outlive the lease that it judges.
                            working.lock().unwrap().remove(&permit.shard());
                            drop(permit);
                        }
                        clock.sleep(Duration::from_millis(rng.below(60))).await;
                    }
                    // Half of them stop, the others are killed.
                    if rng.chance(0.5) {
                        keeper.stop().await;
                    }
                }
                worked
            })
        })
        .collect();
    let mut worked = 0;
    for task in tasks {
        worked += task.await.unwrap();
    }
    assert!(worked > 50, "{worked}");
}

#[tokio::test]
async fn members_come_to_fair_shares_and_a_stopped_ones_shards_are_taken_at_once() {
    let cluster = Cluster::new(64).await;
    let stores = [cluster.one.clone(), cluster.two.clone(), cluster.two.clone()];
    let keepers: Vec<_> = (0..)
        .zip(stores)
        .map(|(seed, store)| {
            let keeper = LeaseKeeper::builder(store, cluster.clock.clone()).lease(LEASE);
            keeper.rng(Rng::seeded(seed)).build().unwrap()
        })
        .collect();
    for _ in 0..3 {
        for keeper in &keepers {
            keeper.run_once().await.unwrap();
        }
    }
    let mut shares: Vec<_> = keepers.iter().map(|keeper| keeper.leases().held().len()).collect();
    shares.sort_unstable();
    assert_eq!(shares, [21, 21, 22]);
    assert_eq!(keepers[0].stop().await, 0);
    for keeper in &keepers[1..] {
        keeper.run_once().await.unwrap();
        assert_eq!(keeper.leases().held().len(), 32);
    }
}
