use std::path::{Path, PathBuf};
use std::time::Duration;

use relaykit_inbox::sqlite::rusqlite::Connection;
use relaykit_inbox::sqlite::{Database, SqliteInbox, SqliteInboxStore};
use relaykit_inbox::{
    DeadReason, Delivery, HandlerKey, IdConflict, InboxStore as _, Limits, OpenTransactions, Page, ReadFrom,
    Received, Route, Routes, RowId, Scope, Seq, Settled, Settlement, Stored, Waiting,
};
use relaykit_pipeline_traits::{Clock as _, ManualClock, Message, MessageId, OrderingKey, Rng};
use relaykit_sql_store::{Dying, Instance, Lease, LeaseStore as _, Names, Shard, Shards};
use tempfile::TempDir;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A file with tables, a store on it, and a connection of the application.
///
/// Of the kinds, `push` goes to `crm`, which is ordered, and to `mail`, which is not; `star` goes to `crm` alone, and `fork`
/// nowhere.
pub(crate) struct Harness {
    pub(crate) directory: TempDir,
    pub(crate) clock: ManualClock,
    pub(crate) store: SqliteInboxStore,
    pub(crate) routes: Routes,
    pub(crate) application: Connection,
    pub(crate) shards: Shards,
    pub(crate) leases: Vec<Lease>,
    pub(crate) rng: Rng,
}

impl Harness {
    /// With one shard, so that all deliveries are in one order.
    pub(crate) async fn new() -> Self {
        Self::with_shards(1).await
    }

    pub(crate) async fn with_shards(shards: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (clock, shards) = (ManualClock::new(), Shards::new(shards).unwrap());
        let path = directory.path().join("app.db");
        let store = SqliteInboxStore::new(database(&path, &clock), &names(), shards);
        store.migrate().await.unwrap();
        let mut rng = Rng::seeded(7);
        let instance = Instance::new(clock.now(), &mut rng);
        let all: Vec<_> = shards.all().collect();
        let leases = store.leases().take(instance, 1_000 * SECOND, &all).await.unwrap();
        let application = connect(&path);
        application.execute_batch("create table effects (id integer primary key, what text)").unwrap();
        let mut routes = Routes::new();
        for (kind, route) in [("push", crm()), ("push", mail()), ("star", crm())] {
            routes.add(kind, route).unwrap();
        }
        Self { directory, clock, store, routes, application, shards, leases, rng }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("app.db")
    }

    /// What the application receives with.
    pub(crate) fn inbox(&self) -> SqliteInbox {
        self.store.inbox(self.routes.clone()).clock(self.clock.clone())
    }

    pub(crate) fn message(&mut self, kind: &str, key: &str, payload: &str) -> Message {
        let (id, at) = (MessageId::new(self.clock.now(), &mut self.rng), self.clock.now());
        let message = Message::builder(id, kind, at).payload(payload.to_owned()).header("a", "1");
        let message = if key.is_empty() { message } else { message.ordering_key(key) };
        message.build().unwrap()
    }

    pub(crate) async fn receive_all(&self, messages: &[Message]) -> Vec<Result<Received, IdConflict>> {
        self.store.receive(&github(), messages, &self.routes).await.unwrap()
    }

    pub(crate) async fn receive(&mut self, kind: &str, key: &str, payload: &str) -> Message {
        let message = self.message(kind, key, payload);
        assert_eq!(self.receive_all(std::slice::from_ref(&message)).await, [Ok(Received::Stored)]);
        message
    }

    pub(crate) async fn page_after(&self, handler: &Route, after: i64, limit: u32) -> Page {
        let from: Vec<_> = self.shards.all().map(|shard| ReadFrom { shard, after: Seq(after) }).collect();
        self.store.page(&handler.handler, &from, &OpenTransactions::default(), limit).await.unwrap()
    }

    pub(crate) async fn page(&self, handler: &Route) -> Page {
        self.page_after(handler, 0, 1_000).await
    }

    /// The payloads that a handler can get, in order.
    pub(crate) async fn ready(&self, handler: &Route) -> Vec<String> {
        let payload = |row: &Stored| String::from_utf8(row.message.payload().to_vec()).unwrap();
        self.page(handler).await.rows.iter().map(payload).collect()
    }

    /// The first that a handler can get.
    pub(crate) async fn delivery(&self, handler: &Route) -> Delivery {
        let stored = self.page(handler).await.rows.remove(0);
        let lease = self.leases.iter().find(|lease| lease.shard == stored.row.shard).copied().unwrap();
        Delivery { row: stored.row, lease, handler: handler.handler.clone(), message: stored.message }
    }

    pub(crate) fn settlement(&self) -> Settlement {
        Settlement { leases: self.leases.clone(), ..Settlement::default() }
    }

    pub(crate) async fn done(&self, seqs: &[i64]) -> Settled {
        let done = seqs.iter().map(|seq| row(*seq)).collect();
        self.store.settle(&Settlement { done, ..self.settlement() }).await.unwrap()
    }

    pub(crate) async fn retry(&self, seq: i64, attempts: u32, wait: Duration) -> Settled {
        let retry = vec![Waiting {
            row: row(seq),
            attempts,
            wait,
            fresh: false,
            suspect: false,
            error: "refused".into(),
        }];
        self.store.settle(&Settlement { retry, ..self.settlement() }).await.unwrap()
    }

    pub(crate) async fn kill(&self, seq: i64, reason: DeadReason) -> Settled {
        let dead = vec![Dying { row: row(seq), attempts: 3, reason, error: "rejected for good".into() }];
        self.store.settle(&Settlement { dead, ..self.settlement() }).await.unwrap()
    }

    /// Gives all shards to another.
    pub(crate) async fn lose_leases(&mut self) -> Vec<Lease> {
        self.clock.advance(2_000 * SECOND);
        let other = Instance::new(self.clock.now(), &mut self.rng);
        let all: Vec<_> = self.shards.all().collect();
        self.store.leases().take(other, 1_000 * SECOND, &all).await.unwrap()
    }

    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.application.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

pub(crate) fn route(handler: &str, ordered: bool) -> Route {
    Route { handler: HandlerKey::new(handler).unwrap(), ordered }
}

pub(crate) fn crm() -> Route {
    route("crm", true)
}

pub(crate) fn mail() -> Route {
    route("mail", false)
}

pub(crate) fn github() -> Scope {
    Scope::new("github").unwrap()
}

pub(crate) fn row(seq: i64) -> RowId {
    RowId { shard: Shard::new(0), seq: Seq(seq) }
}

pub(crate) fn key(text: &str) -> OrderingKey {
    OrderingKey::new(text).unwrap()
}

pub(crate) fn names() -> Names {
    Names::new("inbox").unwrap()
}

pub(crate) fn limits(payload: usize) -> Limits {
    Limits::default().payload(payload).unwrap()
}

pub(crate) fn database(path: &Path, clock: &ManualClock) -> Database {
    Database::builder(path, clock.clone()).busy_timeout(Duration::from_millis(50)).open().unwrap()
}

/// Opens the file as an application does.
pub(crate) fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(5 * SECOND).unwrap();
    connection
}
