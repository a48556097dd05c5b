use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, Rng, SystemClock};
use relaykit_sql_store::postgres::{Guarded, PgLeaseStore, TestPostgres};
use relaykit_sql_store::{FENCE, Instance, Lease, LeaseKeeper, LeaseStore, Shard, Sql};

use crate::common::{execute, tables};

const LEASE: Duration = Duration::from_secs(30);

struct Cluster {
    db: TestPostgres,
    pool: Guarded,
    rng: Rng,
}

impl Cluster {
    async fn new(shards: i64) -> Option<Self> {
        let db = TestPostgres::new().await?;
        let pool = db.pool().max_connections(8).build().unwrap();
        tables(&db, &pool, shards).await;
        Some(Self { db, pool, rng: Rng::seeded(9) })
    }

    fn store(&self) -> PgLeaseStore {
        PgLeaseStore::new(self.pool.clone(), &self.db.names("t"))
    }

    fn instance(&mut self) -> Instance {
        Instance::new(SystemClock::new().now(), &mut self.rng)
    }

    /// Lets the leases of an instance run out now, as if it had been silent for that long.
    async fn expire(&self, instance: Instance) {
        let names = self.db.names("t");
        let sql = [
            "update {shards} set until = clock_timestamp() - interval '1 ms' where owner = $1",
            "update {members} set until = clock_timestamp() - interval '1 ms' where instance = $1",
        ];
        for sql in sql {
            sqlx::query(Sql::new(&names, &[sql]))
                .bind(relaykit_sql_store::postgres::PgUuid(instance.as_uuid()))
                .execute(&mut self.db.connection().await)
                .await
                .unwrap();
        }
    }
}

fn shards(numbers: impl IntoIterator<Item = u16>) -> Vec<Shard> {
    numbers.into_iter().map(Shard::new).collect()
}

#[tokio::test]
async fn a_shard_has_one_owner_and_each_owner_a_higher_token() {
    let Some(mut cluster) = Cluster::new(4).await else { return };
    let (store, one, two) = (cluster.store(), cluster.instance(), cluster.instance());
    let view = store.heartbeat(one, LEASE).await.unwrap();
    assert_eq!((view.held.len(), view.free.len(), view.shards), (0, 4, 4));
    assert_eq!((view.membership.members, view.membership.rank), (1, 0));
    let taken = store.take(one, LEASE, &shards([0, 2])).await.unwrap();
    assert_eq!(taken, [0, 2].map(|shard| Lease { shard: Shard::new(shard), token: 1 }));
    let view = store.heartbeat(two, LEASE).await.unwrap();
    assert_eq!((view.free, view.membership.members), (shards([1, 3]), 2));
    assert_eq!(store.take(two, LEASE, &shards(0..3)).await.unwrap().len(), 1, "only what is free");
    assert_eq!(store.heartbeat(one, LEASE).await.unwrap().held, taken);
    store.give_back(one, &taken[..1]).await.unwrap();
    let free = store.heartbeat(two, LEASE).await.unwrap();
    assert_eq!((free.free, free.expired), (shards([0, 3]), Vec::new()), "given back, not left");
    let again = store.take(two, LEASE, &shards([0])).await.unwrap();
    assert_eq!(again, [Lease { shard: Shard::new(0), token: 2 }]);
    store.give_back(one, &taken[..1]).await.unwrap();
    assert_eq!(
        store.heartbeat(two, LEASE).await.unwrap().held.len(),
        2,
        "a late give-back takes nothing away"
    );
    cluster.db.clean().await;
}

#[tokio::test]
async fn the_shards_of_a_killed_member_are_free_after_its_lease() {
    let Some(mut cluster) = Cluster::new(2).await else { return };
    let (store, killed, other) = (cluster.store(), cluster.instance(), cluster.instance());
    store.heartbeat(killed, LEASE).await.unwrap();
    store.take(killed, LEASE, &shards(0..2)).await.unwrap();
    assert_eq!(store.heartbeat(other, LEASE).await.unwrap().free, []);
    cluster.expire(killed).await;
    let view = store.heartbeat(other, LEASE).await.unwrap();
    assert_eq!((view.free, view.membership.members), (shards(0..2), 1));
    assert_eq!(view.expired, shards(0..2));
    assert_eq!(store.take(other, LEASE, &shards([0])).await.unwrap()[0].token, 2);
    // It was only paused: what nobody took is still its own, what somebody took is not.
    let back = store.heartbeat(killed, LEASE).await.unwrap();
    assert_eq!(back.held, [Lease { shard: Shard::new(1), token: 1 }]);
    assert_eq!(cluster.db.number("select count(*) from {members}").await, 2);
    cluster.db.clean().await;
}

#[tokio::test]
async fn members_that_are_gone_are_forgotten() {
    let Some(mut cluster) = Cluster::new(1).await else { return };
    let (store, gone, left, here) =
        (cluster.store(), cluster.instance(), cluster.instance(), cluster.instance());
    store.heartbeat(gone, LEASE).await.unwrap();
    store.heartbeat(left, LEASE).await.unwrap();
    store.leave(left).await.unwrap();
    cluster.expire(gone).await;
    store.heartbeat(here, LEASE).await.unwrap();
    assert_eq!(cluster.db.number("select count(*) from {members}").await, 1);
    cluster.db.clean().await;
}

/// Eight members come, work, get stuck and go on one database, with leases so short that they often run out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_never_hold_one_shard_among_eight_that_come_and_go() {
    let Some(cluster) = Cluster::new(16).await else { return };
    // Who works on a shard, and under which token: the judge.
    let working: Arc<Mutex<BTreeMap<Shard, i64>>> = Arc::default();
    let highest: Arc<Mutex<BTreeMap<Shard, i64>>> = Arc::default();
    let tasks: Vec<_> = (0..8)
        .map(|member: u64| {
            let (store, working, highest) = (cluster.store(), Arc::clone(&working), Arc::clone(&highest));
            tokio::spawn(async move {
                let mut rng = Rng::seeded(member);
                let (clock, mut worked) = (SystemClock::new(), 0);
                for _life in 0..4 {
                    let keeper = LeaseKeeper::builder(store.clone(), clock)
                        .lease(Duration::from_millis(300))
                        .rng(rng.fork())
                        .build()
                        .unwrap();
                    for _turn in 0..10 {
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
    assert!(worked > 100, "{worked}");
    cluster.db.clean().await;
}

#[tokio::test]
async fn members_come_to_fair_shares_and_a_stopped_ones_shards_are_taken_at_once() {
    let Some(cluster) = Cluster::new(64).await else { return };
    let keepers: Vec<_> = (0..3)
        .map(|seed| {
            let keeper = LeaseKeeper::builder(cluster.store(), SystemClock::new()).lease(LEASE);
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
    cluster.db.clean().await;
}

async fn settle(cluster: &Cluster, shard: i32, token: i64) -> u64 {
    let sql = Sql::new(
        &cluster.db.names("t"),
        &[FENCE, "delete from {messages} m using fence f where m.shard = f.shard and m.id = any($3::int[])"],
    );
    let (shards, tokens) = (vec![shard], vec![token]);
    let settled = cluster.pool.run("settle", move |conn| {
        let (sql, shards, tokens) = (sql.clone(), shards.clone(), tokens.clone());
        Box::pin(async move {
            let query = sqlx::query(sql).bind(shards).bind(tokens).bind(vec![1, 2]);
            Ok(query.execute(conn).await?.rows_affected())
        })
    });
    settled.await.unwrap()
}

#[tokio::test]
async fn what_is_settled_under_a_stale_token_settles_nothing() {
    let Some(mut cluster) = Cluster::new(2).await else { return };
    execute(&cluster.pool, &cluster.db, "insert into {messages} values (1, 0), (2, 1)").await.unwrap();
    let (store, one, two) = (cluster.store(), cluster.instance(), cluster.instance());
    let old = store.take(one, LEASE, &shards([0])).await.unwrap()[0].token;
    cluster.expire(one).await;
    let new = store.take(two, LEASE, &shards([0])).await.unwrap()[0].token;
    assert_eq!(settle(&cluster, 0, old).await, 0);
    assert_eq!(settle(&cluster, 0, new).await, 1, "message 2 is another shard's");
    cluster.db.clean().await;
}

#[tokio::test]
async fn a_shard_cannot_change_its_owner_while_its_messages_are_settled() {
    let Some(mut cluster) = Cluster::new(1).await else { return };
    let (store, one, two) = (cluster.store(), cluster.instance(), cluster.instance());
    // It runs out at once, so that only the settling keeps others from it.
    let token = store.take(one, Duration::ZERO, &shards([0])).await.unwrap()[0].token;
    let mut tx = cluster.pool.begin("settle").await.unwrap();
    let sql = Sql::new(&cluster.db.names("t"), &[FENCE, "select shard from fence"]);
    let fenced: Vec<i32> =
        sqlx::query_scalar(sql).bind(vec![0]).bind(vec![token]).fetch_all(&mut *tx).await.unwrap();
    assert_eq!(fenced, [0]);
    assert_eq!(store.take(two, LEASE, &shards([0])).await.unwrap(), [], "the row is locked");
    tx.commit().await.unwrap();
    assert_eq!(store.take(two, LEASE, &shards([0])).await.unwrap().len(), 1);
    cluster.db.clean().await;
}

#[tokio::test]
async fn keeping_leases_costs_one_statement_in_the_steady_state() {
    let Some(cluster) = Cluster::new(8).await else { return };
    let keeper = LeaseKeeper::builder(cluster.store(), SystemClock::new()).build().unwrap();
    keeper.run_once().await.unwrap();
    let counted = Arc::new(Mutex::new(0));
    let store = Counting { store: cluster.store(), calls: Arc::clone(&counted) };
    let other = LeaseKeeper::builder(store, SystemClock::new()).instance(keeper.instance()).build().unwrap();
    for _ in 0..5 {
        other.run_once().await.unwrap();
    }
    assert_eq!(*counted.lock().unwrap(), 5);
    assert_eq!(other.leases().held().len(), 8);
    cluster.db.clean().await;
}

/// Counts calls.
struct Counting {
    store: PgLeaseStore,
    calls: Arc<Mutex<u32>>,
}

impl LeaseStore for Counting {
    async fn heartbeat(
        &self,
        instance: Instance,
        lease: Duration,
    ) -> Result<relaykit_sql_store::View, relaykit_sql_store::StoreError> {
        *self.calls.lock().unwrap() += 1;
        self.store.heartbeat(instance, lease).await
    }

    async fn take(
        &self,
        instance: Instance,
        lease: Duration,
        shards: &[Shard],
    ) -> Result<Vec<Lease>, relaykit_sql_store::StoreError> {
        *self.calls.lock().unwrap() += 1;
        self.store.take(instance, lease, shards).await
    }

    async fn give_back(
        &self,
        instance: Instance,
        leases: &[Lease],
    ) -> Result<(), relaykit_sql_store::StoreError> {
        *self.calls.lock().unwrap() += 1;
        self.store.give_back(instance, leases).await
    }

    async fn leave(&self, instance: Instance) -> Result<(), relaykit_sql_store::StoreError> {
        self.store.leave(instance).await
    }
}
