//! The promises, on a real file that the application writes to, too.

use std::time::Duration;

use relaykit_inbox::conformance::{Harness, Script};
use relaykit_inbox::sqlite::rusqlite::Connection;
use relaykit_inbox::sqlite::{SqliteInboxStore, SqliteTransactional};
use relaykit_inbox::{Routes, Scope, inbox_conformance};
use relaykit_pipeline_traits::{BatchContext, ManualClock, Message};
use relaykit_sql_store::Shards;
use tempfile::TempDir;

use crate::common::{connect, database, names};

struct File {
    directory: TempDir,
    clock: ManualClock,
    store: SqliteInboxStore,
}

impl File {
    async fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (clock, shards) = (ManualClock::new(), Shards::new(16).unwrap());
        let store =
            SqliteInboxStore::new(database(&directory.path().join("app.db"), &clock), &names(), shards);
        store.migrate().await.unwrap();
        let file = Self { directory, clock, store };
        file.connect().execute_batch("create table effects (payload text not null)").unwrap();
        Some(file)
    }

    fn connect(&self) -> Connection {
        connect(&self.directory.path().join("app.db"))
    }
}

impl Harness for File {
    type Store = SqliteInboxStore;

    fn store(&self) -> SqliteInboxStore {
        self.store.clone()
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn receive_and_abort(&self, scope: &Scope, messages: &[Message], routes: &Routes) {
        let mut application = self.connect();
        let transaction = application.transaction().unwrap();
        let inbox = self.store.inbox(routes.clone()).clock(self.clock.clone());
        inbox.receive_all(&transaction, scope, messages).unwrap();
        transaction.rollback().unwrap();
    }

    /// The workers' clock is the store's.
    async fn pass(&self, _time: Duration) {}

    fn writer(&self, script: Script) -> SqliteTransactional {
        let handler = move |tx: &Connection, message: &Message, _: &BatchContext| {
            let payload = std::str::from_utf8(message.payload()).unwrap();
            tx.execute("insert into effects values (?1)", [payload]).unwrap();
            script.ask(message).verdict()
        };
        handler.into()
    }

    async fn effects(&self) -> Vec<String> {
        let application = self.connect();
        let mut select = application.prepare("select payload from effects order by payload").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }
}

inbox_conformance!(File::new());
