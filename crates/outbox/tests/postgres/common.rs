use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relaykit_outbox::postgres::{PgOutbox, PgOutboxStore, PgSchema};
use relaykit_outbox::{Dying, Limits, OutboxStore, Page, ReadFrom, RowId, Seq, Settlement, Waiting};
use relaykit_pipeline_traits::{
    Clock, Message, MessageBuilder, MessageId, OrderingKey, Rng, SystemClock, Timestamp,
};
use relaykit_sql_store::postgres::{Guarded, TestPostgres};
use relaykit_sql_store::{Instance, Lease, LeaseStore, Shard, Shards};
use sqlx::{Connection, PgConnection};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// An outbox in a schema of its own, with four shards, all leased.
#[expect(clippy::struct_field_names, reason = "it is the outbox's")]
pub(crate) struct Outbox {
    pub(crate) db: TestPostgres,
    pub(crate) pool: Guarded,
    pub(crate) outbox: PgOutbox,
    pub(crate) store: PgOutboxStore,
    pub(crate) leases: Vec<Lease>,
}

pub(crate) fn shards() -> Shards {
    Shards::new(4).unwrap()
}

pub(crate) fn schema(db: &TestPostgres) -> PgSchema {
    PgSchema::new(db.names("t")).shards(shards())
}

impl Outbox {
    pub(crate) async fn new() -> Option<Self> {
        let db = TestPostgres::new().await?;
        let pool = db.pool().build().unwrap();
        Some(Self::on(db, pool, false).await)
    }

    pub(crate) async fn on(db: TestPostgres, pool: Guarded, pooler: bool) -> Self {
        schema(&db).migrate(&pool).await.unwrap();
        let store = PgOutboxStore::new(pool.clone(), &db.names("t"));
        let outbox = PgOutbox::new(&db.names("t"), Limits::default()).behind_pooler(pooler);
        let leases = take_all(&store).await;
        Self { db, pool, outbox, store, leases }
    }

    /// Adds a message in a transaction of its own.
    pub(crate) async fn add(&self, message: &Message) {
        let mut conn = self.db.connection().await;
        let mut tx = conn.begin().await.unwrap();
        self.outbox.add(&mut tx, message).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) async fn add_after(&self, message: &Message, delay: Duration) {
        let mut conn = self.db.connection().await;
        let mut tx = conn.begin().await.unwrap();
        self.outbox.add_after(&mut tx, message, delay).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Adds messages of one key, and returns them.
    pub(crate) async fn add_to(&self, key: &str, count: usize) -> Vec<Message> {
        let messages: Vec<_> = (0..count).map(|_| keyed(key)).collect();
        let mut conn = self.db.connection().await;
        let mut tx = conn.begin().await.unwrap();
        self.outbox.add_all(&mut tx, &messages).await.unwrap();
        tx.commit().await.unwrap();
        messages
    }

    /// Reads all shards from their beginnings.
    pub(crate) async fn page(&self) -> Page {
        self.page_of(1000).await
    }

    pub(crate) async fn page_of(&self, limit: u32) -> Page {
        self.store.page(&from_the_beginning(), limit).await.unwrap()
    }

    /// Returns the ids that a page shows now.
    pub(crate) async fn ids(&self) -> Vec<MessageId> {
        self.page().await.rows.iter().map(|stored| stored.message.id()).collect()
    }

    pub(crate) async fn row(&self, message: &Message) -> RowId {
        let sql = relaykit_sql_store::Sql::new(
            &self.db.names("t"),
            &["select shard, seq from {messages} where message_id = $1"],
        );
        let id = relaykit_sql_store::postgres::PgUuid(message.id().as_uuid());
        // In a transaction, since a pooler may give each message of a statement outside of one another session.
        let mut conn = self.db.connection().await;
        let mut tx = conn.begin().await.unwrap();
        let (shard, seq): (i32, i64) =
            sqlx::query_as(sql).persistent(false).bind(id).fetch_one(&mut *tx).await.unwrap();
        RowId { shard: Shard::new(shard.try_into().unwrap()), seq: Seq(seq) }
    }

    pub(crate) fn settlement(&self) -> Settlement {
        Settlement { leases: self.leases.clone(), ..Settlement::default() }
    }

    pub(crate) async fn settle(&self, settlement: Settlement) -> u64 {
        let settled = self.store.settle(&settlement).await.unwrap();
        assert_eq!(settled.stale, []);
        settled.written
    }

    pub(crate) async fn retry(&self, message: &Message, attempts: u32, wait: Duration) {
        let retry = vec![waiting(self.row(message).await, attempts, wait)];
        assert_eq!(self.settle(Settlement { retry, ..self.settlement() }).await, 1);
    }

    pub(crate) async fn kill(&self, message: &Message, reason: relaykit_outbox::DeadReason) {
        let row = self.row(message).await;
        let dead = vec![Dying { row, attempts: 3, reason, error: "refused".to_owned() }];
        assert_eq!(self.settle(Settlement { dead, ..self.settlement() }).await, 1);
    }

    /// Makes all waits end now, but for parked rows.
    pub(crate) async fn let_time_pass(&self) {
        self.db.execute("update {messages} set retry_at = now() where retry_at < 'infinity'").await;
    }

    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        self.db.number(sql).await
    }

    pub(crate) async fn connection(&self) -> PgConnection {
        self.db.connection().await
    }

    pub(crate) async fn clean(self) {
        self.pool.close().await;
        self.db.clean().await;
    }
}

pub(crate) fn waiting(row: RowId, attempts: u32, wait: Duration) -> Waiting {
    Waiting { row, attempts, wait, fresh: false, error: "busy".to_owned() }
}

pub(crate) fn from_the_beginning() -> Vec<ReadFrom> {
    shards().all().map(|shard| ReadFrom { shard, after: Seq(0) }).collect()
}

pub(crate) async fn take_all(store: &PgOutboxStore) -> Vec<Lease> {
    let clock = SystemClock::new();
    let instance = Instance::new(clock.now(), &mut Rng::from_entropy());
    let leases = store.leases();
    leases.heartbeat(instance, HOUR).await.unwrap();
    leases.take(instance, HOUR, &shards().all().collect::<Vec<_>>()).await.unwrap()
}

pub(crate) fn key(key: &str) -> OrderingKey {
    OrderingKey::new(key).unwrap()
}

/// Begins a message that no other is like.
pub(crate) fn message() -> MessageBuilder {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let at = Timestamp::from_millis(1_763_683_200_000);
    let id = MessageId::new(at, &mut Rng::seeded(COUNT.fetch_add(1, Ordering::Relaxed)));
    Message::builder(id, "order.paid", at)
}

pub(crate) fn keyed(key: &str) -> Message {
    message().ordering_key(key).payload("{}").build().unwrap()
}

pub(crate) fn id(message: &Message) -> MessageId {
    message.id()
}
