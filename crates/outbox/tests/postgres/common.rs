use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relaykit_outbox::conformance::Harness;
use relaykit_outbox::postgres::{PgOutbox, PgOutboxStore, PgSchema};
use relaykit_outbox::{
    AddError, Added, Dying, Limits, OpenTransactions, OutboxStore, Page, ReadFrom, RowId, Seq, Settlement,
    Waiting,
};
use relaykit_pipeline_traits::{
    Clock, ManualClock, Message, MessageBuilder, MessageId, OrderingKey, Rng, SystemClock, Timestamp,
};
use relaykit_sql_store::postgres::{Guarded, TestPostgres, TestRole};
use relaykit_sql_store::{Instance, Lease, LeaseStore, Shard, Shards, Sql};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::role::{MIGRATOR, RELAY, WRITER};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// The environment variable with the URL of a `PgBouncer` before the server; `cargo xtask test` sets it if there is one.
pub(crate) const TEST_PGBOUNCER: &str = "RELAYKIT_TEST_PGBOUNCER";

/// An outbox in a schema of its own.
#[expect(clippy::struct_field_names, reason = "it is the outbox's")]
pub(crate) struct Outbox {
    pub(crate) db: TestPostgres,
    pub(crate) pool: Guarded,
    pub(crate) outbox: PgOutbox,
    pub(crate) store: PgOutboxStore,
    /// The relays'; the server has its own.
    pub(crate) clock: ManualClock,
    /// What the test itself has leased.
    pub(crate) leases: Vec<Lease>,
    /// How producers connect.
    pub(crate) writer: PgConnectOptions,
    /// The roles that were made for it.
    pub(crate) roles: Vec<TestRole>,
}

/// The shards of an outbox without relays: few, so that keys share them.
pub(crate) fn shards() -> Shards {
    Shards::new(4).unwrap()
}

pub(crate) fn schema(db: &TestPostgres) -> PgSchema {
    PgSchema::new(db.names("t")).shards(shards())
}

impl Outbox {
    /// Four shards, all leased by the test.
    pub(crate) async fn new() -> Option<Self> {
        let db = TestPostgres::new().await?;
        let pool = db.pool().build().unwrap();
        Some(Self::on(db, pool).await.leased().await)
    }

    /// Sixteen shards, for relays to lease.
    pub(crate) async fn for_relays() -> Option<Self> {
        Some(Self::for_relays_on(TestPostgres::new().await?, false).await)
    }

    /// The same through `PgBouncer` in transaction mode.
    pub(crate) async fn behind_pooler() -> Option<Self> {
        Some(Self::for_relays_on(TestPostgres::on(TEST_PGBOUNCER).await?, true).await)
    }

    /// Sixteen shards, and nobody may do more than it must: the tables are a migrator's, a writer adds, and the store is a
    /// relay's.
    pub(crate) async fn under_roles() -> Option<Self> {
        let db = TestPostgres::new().await?;
        let migrator = TestRole::new(&db, &MIGRATOR).await;
        let pool = migrator.pool();
        PgSchema::new(db.names("t")).shards(Shards::new(16).unwrap()).migrate(&pool).await.unwrap();
        pool.close().await;
        let (writer, relay) = (TestRole::new(&db, &WRITER).await, TestRole::new(&db, &RELAY).await);
        let this = Self::of(db, relay.pool(), false);
        Some(Self { writer: writer.options(), roles: vec![migrator, writer, relay], ..this })
    }

    async fn for_relays_on(db: TestPostgres, pooler: bool) -> Self {
        let pool = db.pool().max_connections(6).behind_pooler(pooler).build().unwrap();
        PgSchema::new(db.names("t")).shards(Shards::new(16).unwrap()).migrate(&pool).await.unwrap();
        Self::of(db, pool, pooler)
    }

    async fn on(db: TestPostgres, pool: Guarded) -> Self {
        schema(&db).migrate(&pool).await.unwrap();
        Self::of(db, pool, false)
    }

    /// On tables that are there.
    fn of(db: TestPostgres, pool: Guarded, pooler: bool) -> Self {
        let names = db.names("t");
        let store = PgOutboxStore::new(pool.clone(), &names);
        let outbox = PgOutbox::new(&names, Limits::default()).behind_pooler(pooler);
        let (writer, clock) = (db.options(), ManualClock::new());
        Self { db, pool, outbox, store, clock, leases: Vec::new(), writer, roles: Vec::new() }
    }

    /// Leases all shards.
    pub(crate) async fn leased(self) -> Self {
        Self { leases: take_all(&self.store).await, ..self }
    }

    /// Adds a message in a transaction of its own.
    pub(crate) async fn add(&self, message: &Message) {
        self.add_all(std::slice::from_ref(message)).await;
    }

    /// Adds messages in a transaction of their own.
    pub(crate) async fn add_all(&self, messages: &[Message]) {
        Harness::add(self, messages, None).await.unwrap();
    }

    pub(crate) async fn add_after(&self, message: &Message, delay: Duration) {
        Harness::add(self, std::slice::from_ref(message), Some(delay)).await.unwrap();
    }

    /// Adds messages of one key, and returns them.
    pub(crate) async fn add_to(&self, key: &str, count: usize) -> Vec<Message> {
        let messages: Vec<_> = (0..count).map(|_| keyed(key)).collect();
        self.add_all(&messages).await;
        messages
    }

    /// Reads all shards that the test has leased from their beginnings.
    pub(crate) async fn page(&self) -> Page {
        self.page_of(1000).await
    }

    /// Reads them behind this place, as a relay does that has read them before.
    pub(crate) async fn page_behind(&self, after: Seq, open: &mut OpenTransactions) -> Page {
        let behind = |lease: &Lease| ReadFrom { shard: lease.shard, after };
        let from: Vec<_> = self.leases.iter().map(behind).collect();
        let page = self.store.page(&from, open, 1000).await.unwrap();
        open.read(&page.snapshot);
        page
    }

    pub(crate) async fn page_of(&self, limit: u32) -> Page {
        let of_mine = |lease: &Lease| ReadFrom { shard: lease.shard, after: Seq(0) };
        let from: Vec<_> = self.leases.iter().map(of_mine).collect();
        self.store.page(&from, &OpenTransactions::default(), limit).await.unwrap()
    }

    /// Returns the ids that a page shows now.
    pub(crate) async fn ids(&self) -> Vec<MessageId> {
        ids(&self.page().await)
    }

    pub(crate) async fn row(&self, message: &Message) -> RowId {
        let sql = Sql::new(&self.db.names("t"), &["select shard, seq from {messages} where message_id = $1"]);
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
        for role in self.roles {
            role.drop(&self.db).await;
        }
        self.db.clean().await;
    }

    /// Runs SQL with one parameter, a number.
    async fn run(&self, sql: &'static str, number: i64) {
        let sql = Sql::new(&self.db.names("t"), &[sql]);
        // In a transaction: between two, a pooler may change the session, and with it the statement.
        let mut conn = self.db.connection().await;
        let mut tx = conn.begin().await.unwrap();
        sqlx::query(sql).persistent(false).bind(number).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }
}

impl Harness for Outbox {
    type Store = PgOutboxStore;

    fn store(&self) -> PgOutboxStore {
        self.store.clone()
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn add(&self, messages: &[Message], delay: Option<Duration>) -> Result<Vec<Added>, AddError> {
        let mut conn = self.writer.connect().await.unwrap();
        let mut tx = conn.begin().await.unwrap();
        let added = match delay {
            None => self.outbox.add_all(&mut tx, messages).await?,
            Some(delay) => {
                let mut added = Vec::new();
                for message in messages {
                    added.push(self.outbox.add_after(&mut tx, message, delay).await?);
                }
                added
            }
        };
        tx.commit().await.unwrap();
        Ok(added)
    }

    async fn add_and_abort(&self, messages: &[Message]) {
        let mut conn = self.writer.connect().await.unwrap();
        let mut tx = conn.begin().await.unwrap();
        self.outbox.add_all(&mut tx, messages).await.unwrap();
        tx.rollback().await.unwrap();
    }

    async fn pass(&self, time: Duration) {
        let micros = i64::try_from(time.as_micros()).unwrap();
        self.run(
            "update {messages} set added_at = added_at - $1 * interval '1 microsecond',
                retry_at = retry_at - $1 * interval '1 microsecond',
                first_failed_at = first_failed_at - $1 * interval '1 microsecond'",
            micros,
        )
        .await;
        self.run("update {shards} set until = until - $1 * interval '1 microsecond'", micros).await;
        self.run("update {members} set until = until - $1 * interval '1 microsecond'", micros).await;
    }

    async fn clean(self) {
        Self::clean(self).await;
    }
}

pub(crate) fn waiting(row: RowId, attempts: u32, wait: Duration) -> Waiting {
    Waiting { row, attempts, wait, fresh: false, suspect: false, error: "busy".to_owned() }
}

/// Returns the ids that are on a page.
pub(crate) fn ids(page: &Page) -> Vec<MessageId> {
    page.rows.iter().map(|stored| stored.message.id()).collect()
}

pub(crate) fn from_the_beginning() -> Vec<ReadFrom> {
    shards().all().map(|shard| ReadFrom { shard, after: Seq(0) }).collect()
}

pub(crate) async fn take_all(store: &PgOutboxStore) -> Vec<Lease> {
    let clock = SystemClock::new();
    let instance = Instance::new(clock.now(), &mut Rng::from_entropy());
    let leases = store.leases();
    let free = leases.heartbeat(instance, HOUR).await.unwrap().free;
    leases.take(instance, HOUR, &free).await.unwrap()
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
    with_payload(key, "{}")
}

pub(crate) fn with_payload(key: &str, payload: &str) -> Message {
    message().ordering_key(key).payload(payload.to_owned()).build().unwrap()
}

pub(crate) fn id(message: &Message) -> MessageId {
    message.id()
}
