//! The promises, on a real file that the application writes to, too.

use std::time::Duration;

use relaykit_outbox::conformance::Harness;
use relaykit_outbox::sqlite::{SqliteOutbox, SqliteOutboxStore};
use relaykit_outbox::{AddError, Added, Limits, outbox_conformance};
use relaykit_pipeline_traits::{ManualClock, Message};
use relaykit_sql_store::Shards;
use tempfile::TempDir;

use crate::common::{connect, database, names};

struct File {
    directory: TempDir,
    clock: ManualClock,
    store: SqliteOutboxStore,
    outbox: SqliteOutbox,
}

impl File {
    async fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (clock, shards) = (ManualClock::new(), Shards::new(16).unwrap());
        let store =
            SqliteOutboxStore::new(database(&directory.path().join("app.db"), &clock), &names(), shards);
        store.migrate().await.unwrap();
        let outbox = SqliteOutbox::new(&names(), shards, Limits::default()).clock(clock.clone());
        Some(Self { directory, clock, store, outbox })
    }
}

impl Harness for File {
    type Store = SqliteOutboxStore;

    fn store(&self) -> SqliteOutboxStore {
        self.store.clone()
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn add(&self, messages: &[Message], delay: Option<Duration>) -> Result<Vec<Added>, AddError> {
        let mut application = connect(&self.directory.path().join("app.db"));
        let transaction = application.transaction().unwrap();
        let added = match delay {
            None => self.outbox.add_all(&transaction, messages)?,
            Some(delay) => messages
                .iter()
                .map(|message| self.outbox.add_after(&transaction, message, delay))
                .collect::<Result<_, _>>()?,
        };
        transaction.commit().unwrap();
        Ok(added)
    }

    async fn add_and_abort(&self, messages: &[Message]) {
        let mut application = connect(&self.directory.path().join("app.db"));
        let transaction = application.transaction().unwrap();
        self.outbox.add_all(&transaction, messages).unwrap();
        transaction.rollback().unwrap();
    }

    /// The relays' clock is the store's.
    async fn pass(&self, _time: Duration) {}
}

outbox_conformance!(File::new());

/// Every promise again, with an archive.
mod archiving {
    use super::*;

    async fn file() -> Option<File> {
        let file = File::new().await?;
        file.store.clone().with_archive().migrate().await.unwrap();
        Some(file)
    }

    outbox_conformance!(file());
}
