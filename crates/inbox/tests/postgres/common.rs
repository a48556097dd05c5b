use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relaykit_inbox::postgres::{PgInbox, PgInboxStore, PgSchema};
use relaykit_inbox::{
    DeadReason, HandlerKey, IdConflict, InboxStore, Limits, OpenTransactions, Page, ReadFrom, Received,
    Route, Routes, RowId, Scope, Seq, Settlement, Waiting,
};
use relaykit_pipeline_traits::{Clock, Message, MessageBuilder, MessageId, Rng, SystemClock, Timestamp};
use relaykit_sql_store::postgres::{Guarded, PgUuid, TestPostgres};
use relaykit_sql_store::{Dying, Instance, Lease, LeaseStore, Shard, Shards, Sql};
use sqlx::{Connection, PgConnection};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// The sessions of this test that wait for a lock.
pub(crate) const WAITS: &str = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name = trim('\"' from '{@schema}')";

/// An inbox in a schema of its own, with four shards, all leased. `push` goes to `crm`, in order, and to `mail`; `star` goes to
/// `crm`; nothing else goes anywhere.
#[expect(clippy::struct_field_names, reason = "it is the inbox's")]
pub(crate) struct Inbox {
    pub(crate) db: TestPostgres,
    pub(crate) pool: Guarded,
    pub(crate) inbox: PgInbox,
    pub(crate) store: PgInboxStore,
    pub(crate) leases: Vec<Lease>,
}

pub(crate) fn shards() -> Shards {
    Shards::new(4).unwrap()
}

pub(crate) fn schema(db: &TestPostgres) -> PgSchema {
    PgSchema::new(db.names("t")).shards(shards())
}

pub(crate) fn handler(key: &str) -> HandlerKey {
    HandlerKey::new(key).unwrap()
}

pub(crate) fn scope() -> Scope {
    Scope::new("github").unwrap()
}

pub(crate) fn route(key: &str, ordered: bool) -> Route {
    Route { handler: handler(key), ordered }
}

pub(crate) fn routes() -> Routes {
    let mut routes = Routes::new();
    routes.add("push", route("crm", true)).unwrap();
    routes.add("push", route("mail", false)).unwrap();
    routes.add("star", route("crm", true)).unwrap();
    routes
}

impl Inbox {
    pub(crate) async fn new() -> Option<Self> {
        let db = TestPostgres::new().await?;
        let pool = db.pool().build().unwrap();
        Some(Self::on(db, pool, false).await)
    }

    pub(crate) async fn on(db: TestPostgres, pool: Guarded, pooler: bool) -> Self {
        schema(&db).migrate(&pool).await.unwrap();
        let names = db.names("t");
        let store = PgInboxStore::new(pool.clone(), &names);
        let inbox = PgInbox::new(&names, routes(), Limits::default()).behind_pooler(pooler);
        let leases = take_all(&store).await;
        Self { db, pool, inbox, store, leases }
    }

    /// Receives messages in a call of the store.
    pub(crate) async fn receive(&self, messages: &[Message]) -> Vec<Result<Received, IdConflict>> {
        self.store.receive(&scope(), messages, &routes()).await.unwrap()
    }

    /// Receives new messages of one key, and returns them.
    pub(crate) async fn receive_of(&self, key: &str, count: usize) -> Vec<Message> {
        let messages: Vec<_> = (0..count).map(|_| keyed(key)).collect();
        assert!(self.receive(&messages).await.iter().all(|answer| *answer == Ok(Received::Stored)));
        messages
    }

    /// Reads all shards from their beginnings.
    pub(crate) async fn page(&self, key: &str) -> Page {
        self.store
            .page(&handler(key), &from_the_beginning(), &OpenTransactions::default(), 1000)
            .await
            .unwrap()
    }

    /// Reads a handler's deliveries behind this place, as a worker does that has read them before.
    pub(crate) async fn page_behind(&self, key: &str, after: Seq, open: &mut OpenTransactions) -> Page {
        let from: Vec<_> = shards().all().map(|shard| ReadFrom { shard, after }).collect();
        let page = self.store.page(&handler(key), &from, open, 1000).await.unwrap();
        open.read(&page.snapshot);
        page
    }

    /// Returns the ids that a page of a handler shows now.
    pub(crate) async fn ids(&self, key: &str) -> Vec<MessageId> {
        on_page(&self.page(key).await)
    }

    /// Returns the place of a message's delivery to a handler.
    pub(crate) async fn row(&self, key: &str, message: &Message) -> RowId {
        let sql = Sql::new(
            &self.db.names("t"),
            &["select d.shard, d.seq from {deliveries} d join {messages} m on m.seq = d.message_seq
               where m.message_id = $1 and d.handler = $2"],
        );
        let id = PgUuid(message.id().as_uuid());
        // In a transaction, since a pooler may give each message of a statement outside of one another session.
        let mut conn = self.db.connection().await;
        let mut tx = conn.begin().await.unwrap();
        let row = sqlx::query_as(sql).persistent(false).bind(id).bind(key).fetch_one(&mut *tx).await;
        let (shard, seq): (i32, i64) = row.unwrap();
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

    pub(crate) async fn finish(&self, key: &str, message: &Message) {
        let done = vec![self.row(key, message).await];
        assert_eq!(self.settle(Settlement { done, ..self.settlement() }).await, 1);
    }

    pub(crate) async fn retry(&self, key: &str, message: &Message, attempts: u32, wait: Duration) {
        let retry = vec![waiting(self.row(key, message).await, attempts, wait)];
        assert_eq!(self.settle(Settlement { retry, ..self.settlement() }).await, 1);
    }

    pub(crate) async fn kill(&self, key: &str, message: &Message, reason: DeadReason) {
        let row = self.row(key, message).await;
        let dead = vec![Dying { row, attempts: 3, reason, error: "refused\0".to_owned() }];
        assert_eq!(self.settle(Settlement { dead, ..self.settlement() }).await, 1);
    }

    /// Makes all waits end now.
    pub(crate) async fn let_waits_end(&self) {
        self.db.execute("update {deliveries} set retry_at = now() where retry_at is not null").await;
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
    Waiting { row, attempts, wait, fresh: false, suspect: false, error: "busy".to_owned() }
}

/// Returns the ids that are on a page.
pub(crate) fn on_page(page: &Page) -> Vec<MessageId> {
    ids(page.rows.iter().map(|stored| &stored.message))
}

pub(crate) fn from_the_beginning() -> Vec<ReadFrom> {
    shards().all().map(|shard| ReadFrom { shard, after: Seq(0) }).collect()
}

pub(crate) async fn take_all(store: &PgInboxStore) -> Vec<Lease> {
    let clock = SystemClock::new();
    let instance = Instance::new(clock.now(), &mut Rng::from_entropy());
    let leases = store.leases();
    leases.heartbeat(instance, HOUR).await.unwrap();
    leases.take(instance, HOUR, &shards().all().collect::<Vec<_>>()).await.unwrap()
}

/// Begins a message of a kind that no other is like.
pub(crate) fn message(kind: &str) -> MessageBuilder {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let at = Timestamp::from_millis(1_763_683_200_000);
    let id = MessageId::new(at, &mut Rng::seeded(COUNT.fetch_add(1, Ordering::Relaxed)));
    Message::builder(id, kind, at)
}

pub(crate) fn keyed(key: &str) -> Message {
    message("push").ordering_key(key).payload("{}").build().unwrap()
}

/// Makes another message of the same id.
pub(crate) fn other(message: &Message) -> Message {
    Message::builder(message.id(), message.kind(), message.occurred_at()).payload("other").build().unwrap()
}

pub(crate) fn ids<'m>(messages: impl IntoIterator<Item = &'m Message>) -> Vec<MessageId> {
    messages.into_iter().map(Message::id).collect()
}
