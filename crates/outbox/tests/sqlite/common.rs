use std::path::{Path, PathBuf};
use std::time::Duration;

use relaykit_outbox::sqlite::rusqlite::Connection;
use relaykit_outbox::sqlite::{Database, SqliteOutbox, SqliteOutboxStore};
use relaykit_outbox::{DeadReason, Settled};
use relaykit_outbox::{
    Dying, Limits, OpenTransactions, OutboxStore, Page, ReadFrom, RowId, Seq, Settlement, Waiting,
};
use relaykit_pipeline_traits::{Clock as _, ManualClock, Message, MessageId, OrderingKey, Rng};
use relaykit_sql_store::{Instance, Lease, LeaseStore as _, Names, Shard, Shards};
use tempfile::TempDir;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A file with tables, a store on it, and a connection of the application.
pub(crate) struct Harness {
    pub(crate) directory: TempDir,
    pub(crate) clock: ManualClock,
    pub(crate) store: SqliteOutboxStore,
    pub(crate) outbox: SqliteOutbox,
    pub(crate) application: Connection,
    pub(crate) shards: Shards,
    pub(crate) leases: Vec<Lease>,
    pub(crate) rng: Rng,
}

impl Harness {
    /// With one shard, so that all messages are in one order.
    pub(crate) async fn new() -> Self {
        Self::with_shards(1).await
    }

    pub(crate) async fn with_shards(shards: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (clock, shards) = (ManualClock::new(), Shards::new(shards).unwrap());
        let path = directory.path().join("app.db");
        let store = SqliteOutboxStore::new(database(&path, &clock), &names(), shards);
        store.migrate().await.unwrap();
        let mut rng = Rng::seeded(7);
        let instance = Instance::new(clock.now(), &mut rng);
        let all: Vec<_> = shards.all().collect();
        let leases = store.leases().take(instance, 1_000 * SECOND, &all).await.unwrap();
        let application = connect(&path);
        application.execute_batch("create table orders (id integer primary key)").unwrap();
        let outbox = SqliteOutbox::new(&names(), shards, Limits::default()).clock(clock.clone());
        Self { directory, clock, store, outbox, application, shards, leases, rng }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("app.db")
    }

    pub(crate) fn message(&mut self, key: &str, payload: &str) -> Message {
        let (id, at) = (MessageId::new(self.clock.now(), &mut self.rng), self.clock.now());
        let message = Message::builder(id, "order.paid", at).payload(payload.to_owned()).header("a", "1");
        let message = if key.is_empty() { message } else { message.ordering_key(key) };
        message.build().unwrap()
    }

    pub(crate) fn add(&mut self, key: &str, payload: &str) -> MessageId {
        let message = self.message(key, payload);
        self.outbox.add(&self.application, &message).unwrap();
        message.id()
    }

    pub(crate) fn add_after(&mut self, key: &str, payload: &str, delay: Duration) -> MessageId {
        let message = self.message(key, payload);
        self.outbox.add_after(&self.application, &message, delay).unwrap();
        message.id()
    }

    pub(crate) async fn page_after(&self, after: i64, limit: u32) -> Page {
        let from: Vec<_> = self.shards.all().map(|shard| ReadFrom { shard, after: Seq(after) }).collect();
        self.store.page(&from, &OpenTransactions::default(), limit).await.unwrap()
    }

    pub(crate) async fn page(&self) -> Page {
        self.page_after(0, 100).await
    }

    /// The payloads that can be sent, in order.
    pub(crate) async fn ready(&self) -> Vec<String> {
        let payload =
            |row: &relaykit_outbox::Stored| String::from_utf8(row.message.payload().to_vec()).unwrap();
        self.page().await.rows.iter().map(payload).collect()
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

    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.application.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

pub(crate) fn row(seq: i64) -> RowId {
    RowId { shard: Shard::new(0), seq: Seq(seq) }
}

pub(crate) fn key(text: &str) -> OrderingKey {
    OrderingKey::new(text).unwrap()
}

pub(crate) fn names() -> Names {
    Names::new("outbox").unwrap()
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
