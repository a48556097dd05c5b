use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use relaykit_outbox::postgres::{PgOutbox, PgOutboxStore, PgSchema};
use relaykit_outbox::{Limits, Relay};
use relaykit_pipeline_traits::{
    BatchContext, BatchHandler, BatchOutcome, Clock as _, Message, MessageId, Rng, SystemClock, Verdict,
};
use relaykit_sql_store::postgres::sqlx::{self, Connection as _, PgConnection, Row as _};
use relaykit_sql_store::postgres::{Guarded, TestPostgres};

use crate::bench::Bench;
use crate::queue::child::Mood;
use crate::report::Report;
use crate::stage::place::Kind;

/// What goes wrong with statements that suggest themselves. Each is shown to go wrong, or the reason for ours would be forgotten, and
/// the outbox is shown to do better beside the same transactions.
pub(crate) async fn shown(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("anomalies");
    if !Kind::Postgres.is_there() {
        bench.skip(&mut report, "needs a Postgres server");
        return report;
    }
    let results = [
        ("a cursor passes over what commits late", late_commit().await),
        ("transactions' numbers are not the order of a key", number_before_lock().await),
        ("a horizon of transactions waits for strangers", stranger().await),
        ("rows that skip locked ones part a key", parted_key().await),
        ("a session's advisory lock outlives its work in a pool", leaked_lock().await),
    ];
    for (anomaly, result) in results {
        report.trials += 1;
        if let Err(error) = result {
            report.fail(format!("{anomaly}: {error:#}"));
        }
    }
    report.note("each of 5 anomalies shows with other statements, and not with the outbox's");
    report
}

/// An outbox, and a table that others would make of one: rows in the order of their ids, with the number of the transaction.
struct Shop {
    db: TestPostgres,
    pool: Guarded,
    outbox: PgOutbox,
    store: PgOutboxStore,
    rng: Mutex<Rng>,
}

const RIVAL: &str = "create table {@schema}.rival (
    id bigint generated always as identity primary key,
    xid xid8 not null default pg_current_xact_id(),
    key text not null,
    name text not null)";

/// Messages by key, in the order in which they were sent.
type Sent = BTreeMap<String, Vec<String>>;

impl Shop {
    async fn open() -> anyhow::Result<Self> {
        let db = TestPostgres::new().await.context("there is no server")?;
        let (pool, names) = (db.pool().max_connections(3).build()?, db.names("t"));
        PgSchema::new(names.clone()).migrate(&pool).await?;
        db.execute(RIVAL).await;
        let (outbox, store) =
            (PgOutbox::new(&names, Limits::default()), PgOutboxStore::new(pool.clone(), &names));
        Ok(Self { db, pool, outbox, store, rng: Mutex::new(Rng::seeded(1)) })
    }

    /// Adds a message to both.
    async fn add(&self, tx: &mut PgConnection, key: &str, name: &str) -> anyhow::Result<()> {
        let clock = SystemClock::new();
        let id = MessageId::new(clock.now(), &mut self.rng.lock().unwrap_or_else(PoisonError::into_inner));
        let message = Message::builder(id, "named", clock.now())
            .ordering_key(key)
            .payload(name.as_bytes().to_vec())
            .build()?;
        self.outbox.add(tx, &message).await?;
        let rival = self.rival("insert into {@schema}.rival (key, name) values ($1, $2)");
        sqlx::query(rival).bind(key).bind(name).execute(tx).await?;
        Ok(())
    }

    fn rival(&self, sql: &'static str) -> relaykit_sql_store::Sql {
        relaykit_sql_store::Sql::new(&self.db.names("t"), &[sql])
    }

    fn relay(&self) -> anyhow::Result<(Relay<PgOutboxStore, Collects>, Collects)> {
        let collects = Collects::default();
        let relay = Relay::builder(self.store.clone(), collects.clone())
            .poll(Duration::from_millis(1), Duration::from_millis(5))
            .build()?;
        Ok((relay, collects))
    }

    async fn close(self) {
        self.pool.close().await;
        self.db.clean().await;
    }
}

/// Takes all it is given.
#[derive(Debug, Clone, Default)]
struct Collects(Arc<Mutex<Sent>>);

impl Collects {
    fn sent(&self) -> Sent {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl BatchHandler<Message> for Collects {
    type Output = ();
    type Error = Mood;

    async fn handle(&self, batch: &[Message], _cx: &BatchContext) -> BatchOutcome<(), Mood> {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for message in batch {
            let key = message.ordering_key().map(ToString::to_string).unwrap_or_default();
            let name = String::from_utf8_lossy(message.payload()).into_owned();
            sent.entry(key).or_default().push(name);
        }
        BatchOutcome::Each(batch.iter().map(|_| Verdict::Done(())).collect())
    }
}

fn sent(keys: &[(&str, &[&str])]) -> Sent {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    keys.iter().map(|(key, names)| ((*key).to_owned(), owned(names))).collect()
}

async fn names(connection: &mut PgConnection, sql: relaykit_sql_store::Sql) -> anyhow::Result<Vec<String>> {
    let rows = sqlx::query(sql).fetch_all(connection).await?;
    Ok(rows.iter().map(|row| row.get("name")).collect())
}

/// A place is given before its transaction commits, so a reader that remembers the last place passes over it.
async fn late_commit() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let (relay, collects) = shop.relay()?;
    let (mut slow, mut quick) = (shop.db.connection().await, shop.db.connection().await);
    let mut reader = shop.db.connection().await;
    let mut late = slow.begin().await?;
    shop.add(&mut late, "a", "late").await?;
    let mut early = quick.begin().await?;
    shop.add(&mut early, "b", "early").await?;
    early.commit().await?;
    relay.run_once().await?;
    let seen =
        names(&mut reader, shop.rival("select name from {@schema}.rival where id > 0 order by id")).await?;
    ensure!(seen == ["early"], "the cursor saw {seen:?}");
    late.commit().await?;
    relay.run_once().await?;
    let behind = shop.rival("select name from {@schema}.rival where id > 2 order by id");
    let missed = names(&mut reader, behind).await?;
    ensure!(missed.is_empty(), "the cursor was to pass over it, and saw {missed:?}");
    ensure!(collects.sent() == sent(&[("a", &["late"]), ("b", &["early"])]), "sent {:?}", collects.sent());
    drop(relay);
    shop.close().await;
    Ok(())
}

/// A transaction gets its number with its first write, and may lock the key only after another one.
async fn number_before_lock() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let (relay, collects) = shop.relay()?;
    let (mut one, mut two) = (shop.db.connection().await, shop.db.connection().await);
    let mut first = one.begin().await?;
    sqlx::query("select pg_current_xact_id()").execute(&mut *first).await?;
    let mut second = two.begin().await?;
    // This one has the key first.
    shop.add(&mut second, "k", "1").await?;
    second.commit().await?;
    shop.add(&mut first, "k", "2").await?;
    first.commit().await?;
    let mut reader = shop.db.connection().await;
    let by_number =
        names(&mut reader, shop.rival("select name from {@schema}.rival order by xid, id")).await?;
    ensure!(by_number == ["2", "1"], "numbers were to contradict the key's order, and gave {by_number:?}");
    relay.run_once().await?;
    ensure!(collects.sent() == sent(&[("k", &["1", "2"])]), "sent {:?}", collects.sent());
    drop(relay);
    shop.close().await;
    Ok(())
}

/// Whoever reads only what lies before the oldest transaction waits for any that writes, whatever it writes.
async fn stranger() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let (relay, collects) = shop.relay()?;
    let (mut other, mut producer) = (shop.db.connection().await, shop.db.connection().await);
    shop.db.execute("create table {@schema}.unrelated (id int)").await;
    let mut unrelated = other.begin().await?;
    sqlx::query(shop.rival("insert into {@schema}.unrelated values (1)")).execute(&mut *unrelated).await?;
    let mut adds = producer.begin().await?;
    shop.add(&mut adds, "k", "1").await?;
    adds.commit().await?;
    let horizon = "select name from {@schema}.rival where xid < pg_snapshot_xmin(pg_current_snapshot())";
    let seen = names(&mut producer, shop.rival(horizon)).await?;
    ensure!(seen.is_empty(), "the horizon was to hide it, and showed {seen:?}");
    relay.run_once().await?;
    ensure!(collects.sent() == sent(&[("k", &["1"])]), "sent {:?}", collects.sent());
    unrelated.rollback().await?;
    drop(relay);
    shop.close().await;
    Ok(())
}

/// Two who each claim the next row that is not locked have two rows of one key at once.
async fn parted_key() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let ((one, first), (two, second)) = (shop.relay()?, shop.relay()?);
    let mut producer = shop.db.connection().await;
    let mut adds = producer.begin().await?;
    for name in ["1", "2"] {
        shop.add(&mut adds, "k", name).await?;
    }
    adds.commit().await?;
    let claim = || shop.rival("select name from {@schema}.rival order by id limit 1 for update skip locked");
    let (mut a, mut b) = (shop.db.connection().await, shop.db.connection().await);
    let (mut a, mut b) = (a.begin().await?, b.begin().await?);
    let claimed = (names(&mut a, claim()).await?, names(&mut b, claim()).await?);
    ensure!(claimed == (vec!["1".to_owned()], vec!["2".to_owned()]), "they claimed {claimed:?}");
    a.rollback().await?;
    b.rollback().await?;
    tokio::try_join!(one.run_once(), two.run_once())?;
    // One of them holds the key's shard. If each has a part of the shards, the other one has it after its next look.
    one.run_once().await?;
    two.run_once().await?;
    let both = [first.sent(), second.sent()];
    let whole = sent(&[("k", &["1", "2"])]);
    ensure!(both.contains(&whole) && both.contains(&Sent::new()), "sent {both:?}");
    drop((one, two));
    shop.close().await;
    Ok(())
}

/// A lock of a session belongs to the connection, which goes back to the pool with it; another one cannot unlock it.
async fn leaked_lock() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let (mut pooled, mut other) = (shop.db.connection().await, shop.db.connection().await);
    sqlx::query("select pg_advisory_lock(hashtext(current_setting('application_name')))")
        .execute(&mut pooled)
        .await?;
    let unlock = "select pg_advisory_unlock(hashtext(current_setting('application_name')))";
    let unlocked: bool = sqlx::query_scalar(unlock).fetch_one(&mut other).await?;
    ensure!(!unlocked, "another connection was not to be able to unlock it");
    let held = "select count(*) from pg_locks l join pg_stat_activity a using (pid)
        where l.locktype = 'advisory' and a.application_name = current_setting('application_name')";
    ensure!(shop.db.number(held).await == 1, "the lock was to be held still");
    pooled.close().await?;
    // The tables were made, and everything below runs, through a pool whose connections stay.
    let (relay, _) = shop.relay()?;
    let mut tx = shop.pool.begin("add").await?;
    shop.add(&mut tx, "k", "1").await?;
    tx.commit().await?;
    relay.run_once().await?;
    let left = shop.db.number(held).await;
    ensure!(left == 0, "{left} locks are held by sessions of the outbox");
    drop(relay);
    shop.close().await;
    Ok(())
}
