use relaykit_pipeline_traits::{MessageId, OrderingKey};
use relaykit_sql_store::sqlite::{self, Database, PageQueries, SettleQueries, SqliteLeaseStore, Tables};
use relaykit_sql_store::{Difference, Lease, Migrated, Names, Schema, Shards, Sql, StoreError};

use super::add::SqliteOutbox;
use super::archive::{Keep, SqliteArchive};
use super::dead::{DEPTH, Operate, depth};
use super::page::pages;
use super::schema::{archive_schema, schema};
use super::settle::settle;
use crate::dead::{BlockedKey, DeadFilter, DeadLetter, check_limit};
use crate::store::{
    Depth, OpenTransactions, OutboxStore, Page, ReadFrom, RowId, Settled, Settlement, Suspicion,
};
use relaykit_sql_store::Limits;

/// Messages in a SQLite file that the application writes too, through connections of its own. Cheap to clone.
///
/// Pages are read on a connection of its own, so polling takes no write lock.
#[derive(Debug, Clone)]
pub struct SqliteOutboxStore {
    tables: Tables,
    archive: bool,
    pages: PageQueries,
    settle: SettleQueries,
    keep: Keep,
    operate: Operate,
    depth: Sql,
}

impl SqliteOutboxStore {
    /// Makes a store on the tables of these names, which [`migrate`](Self::migrate) makes for so many shards.
    #[must_use]
    pub fn new(database: Database, names: &Names, shards: Shards) -> Self {
        let names = names.on_sqlite();
        Self {
            pages: pages(&names),
            settle: settle(&names),
            keep: Keep::new(&names),
            operate: Operate::new(&names, shards),
            depth: Sql::new(&names, &[DEPTH]),
            tables: Tables::new(database, schema(&names, shards), shards),
            archive: false,
        }
    }

    /// Says that [`migrate`](Self::migrate) makes an archive, in which sent messages are kept until [`Retention`](crate::Retention) deletes
    /// them. Default: none is made, and they are deleted as they are sent.
    ///
    /// It may be asked for at any time, while relays run: from then on they archive. An archive that is there stays in use, by every
    /// process, whatever this says there.
    #[must_use]
    pub const fn with_archive(mut self) -> Self {
        self.archive = true;
        self
    }

    /// Returns the archive of the same tables.
    #[must_use]
    pub fn archive(&self) -> SqliteArchive {
        SqliteArchive::new(self.tables.database().clone(), self.tables.schema().names())
    }

    /// Returns what adds messages to the same tables, by the system's clock.
    #[must_use]
    pub fn outbox(&self, limits: Limits) -> SqliteOutbox {
        SqliteOutbox::new(self.tables.schema().names(), self.tables.shards(), limits)
    }

    /// Makes the tables, or brings them to this version. The number of shards is fixed with that. The answer is about the tables without
    /// the archive, which follows in a transaction of its own.
    ///
    /// # Errors
    ///
    /// The tables are newer, or have another number of shards, or any error of [`Database::write`]. Nothing was changed
    /// then, unless the error is in doubt.
    ///
    /// # Cancel safety
    ///
    /// A dropped migration is done as a whole, or not at all.
    pub async fn migrate(&self) -> Result<Migrated, StoreError> {
        let migrated = self.tables.migrate().await?;
        if self.archive {
            sqlite::migrate(self.tables.database(), &self.archive_schema()).await?;
        }
        Ok(migrated)
    }

    /// Lists how the tables differ from what this version needs; nothing, if they are fine.
    ///
    /// # Errors
    ///
    /// The tables are newer or older, or have another number of shards, or any error of [`Database::read`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    pub async fn verify(&self) -> Result<Vec<Difference>, StoreError> {
        let mut differences = self.tables.verify().await?;
        if self.archive {
            differences.extend(sqlite::verify(self.tables.database(), &self.archive_schema()).await?);
        }
        Ok(differences)
    }

    fn archive_schema(&self) -> Schema {
        archive_schema(self.tables.schema().names())
    }
}

impl OutboxStore for SqliteOutboxStore {
    type Leases = SqliteLeaseStore;

    fn leases(&self) -> SqliteLeaseStore {
        SqliteLeaseStore::new(self.tables.database().clone(), self.tables.schema().names())
    }

    async fn page(&self, from: &[ReadFrom], _: &OpenTransactions, limit: u32) -> Result<Page, StoreError> {
        let (pages, from) = (self.pages.clone(), from.to_vec());
        self.tables
            .read("read messages", move |connection, now| pages.read(connection, None, &from, limit, now))
            .await
    }

    async fn suspect(
        &self,
        leases: &[Lease],
        rows: &[RowId],
        suspicion: Suspicion,
    ) -> Result<Settled, StoreError> {
        let (settle, leases, rows) = (self.settle.clone(), leases.to_vec(), rows.to_vec());
        let write = self.tables.write("note what is sent", move |connection, _| {
            settle.suspect(connection, &leases, &rows, suspicion)
        });
        write.await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let (settle, keep, settlement) = (self.settle.clone(), self.keep.clone(), settlement.clone());
        let write = self.tables.write("settle messages", move |connection, now| {
            settle.run(connection, &settlement, now, keep.statement(connection)?)
        });
        write.await
    }

    async fn depth(&self) -> Result<Depth, StoreError> {
        let sql = self.depth.clone();
        self.tables.read("count messages", move |connection, now| depth(connection, &sql, now)).await
    }

    async fn dead_letters(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        check_limit("list dead letters", limit)?;
        let (operate, filter) = (self.operate.clone(), filter.clone());
        self.tables
            .read("list dead letters", move |connection, _| operate.list(connection, &filter, limit))
            .await
    }

    async fn replay(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<MessageId>, StoreError> {
        check_limit("replay dead letters", limit)?;
        let (operate, filter) = (self.operate.clone(), filter.clone());
        self.tables
            .write("replay dead letters", move |connection, now| {
                operate.replay(connection, &filter, limit, now)
            })
            .await
    }

    async fn purge(&self, filter: &DeadFilter, limit: u32) -> Result<u64, StoreError> {
        check_limit("purge dead letters", limit)?;
        let (operate, filter) = (self.operate.clone(), filter.clone());
        self.tables
            .write("purge dead letters", move |connection, _| operate.purge(connection, &filter, limit))
            .await
    }

    async fn blocked(&self, limit: u32) -> Result<Vec<BlockedKey>, StoreError> {
        check_limit("list blocked keys", limit)?;
        let operate = self.operate.clone();
        self.tables
            .read("list blocked keys", move |connection, now| operate.blocked(connection, limit, now))
            .await
    }

    async fn skip(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        let (operate, key) = (self.operate.clone(), key.clone());
        self.tables.write("skip a message", move |connection, now| operate.skip(connection, &key, now)).await
    }

    async fn park(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        let (operate, key) = (self.operate.clone(), key.clone());
        self.tables.write("park a key", move |connection, _| operate.park(connection, &key)).await
    }

    async fn resume(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        let (operate, key) = (self.operate.clone(), key.clone());
        self.tables.write("resume a key", move |connection, now| operate.resume(connection, &key, now)).await
    }
}
