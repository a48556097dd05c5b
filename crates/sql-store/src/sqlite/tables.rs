use relaykit_pipeline_traits::{InvalidSetting, Timestamp};
use rusqlite::{Connection, Result as SqlResult};

use super::{Database, migrate, verify};
use crate::{Difference, Migrated, Schema, Shards, Sql, StoreError};

const COUNT: &str = "select coalesce(max(shard) + 1, 0) from {shards}";

/// A store's tables in a file, whose rows are divided into shards. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tables {
    database: Database,
    schema: Schema,
    shards: CountedShards,
}

impl Tables {
    /// Takes the file and what its tables are; the tables of [`LEASE_MIGRATION`](super::LEASE_MIGRATION) are among them.
    #[must_use]
    pub fn new(database: Database, schema: Schema, shards: Shards) -> Self {
        Self { shards: CountedShards::new(schema.names(), shards), database, schema }
    }

    /// Returns the file.
    #[must_use]
    pub const fn database(&self) -> &Database {
        &self.database
    }

    /// Returns what the tables are.
    #[must_use]
    pub const fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Returns into how many shards they are thought to be divided.
    #[must_use]
    pub const fn shards(&self) -> Shards {
        self.shards.given
    }

    /// Makes the tables, or brings them to this version. The number of shards is fixed with that.
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
        let migrated = migrate(&self.database, &self.schema).await?;
        self.check_shards("migrate tables").await?;
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
        let differences = verify(&self.database, &self.schema).await?;
        if differences.is_empty() {
            self.check_shards("verify tables").await?;
        }
        Ok(differences)
    }

    async fn check_shards(&self, op: &'static str) -> Result<(), StoreError> {
        let shards = self.shards.clone();
        let checked = self.database.read(op, move |connection| shards.check(connection)).await?;
        checked.map_err(|error| StoreError::Rejected { op, source: error.into() })
    }

    /// Reads something, as of one moment, and told the time.
    ///
    /// # Errors
    ///
    /// Those of [`Database::read`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    pub async fn read<T, W>(&self, op: &'static str, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection, Timestamp) -> SqlResult<T> + Send + 'static,
    {
        let clock = self.database.clock().clone();
        self.database.read(op, move |connection| work(connection, clock.now())).await
    }

    /// Does something in a transaction that may write, and told the time. It may run more than once, each time on a transaction
    /// in which the former run left nothing.
    ///
    /// # Errors
    ///
    /// Those of [`Database::write`].
    ///
    /// # Cancel safety
    ///
    /// A dropped call is done as a whole, or not at all.
    pub async fn write<T, W>(&self, op: &'static str, mut work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&Connection, Timestamp) -> SqlResult<T> + Send + 'static,
    {
        let clock = self.database.clock().clone();
        self.database.write(op, move |connection| work(connection, clock.now())).await
    }
}

/// A number of shards that is given, and what asks the tables for theirs.
#[derive(Debug, Clone)]
pub struct CountedShards {
    given: Shards,
    count: Sql,
}

impl CountedShards {
    /// Takes the number that is given.
    #[must_use]
    pub fn new(names: &crate::Names, given: Shards) -> Self {
        Self { given, count: Sql::new(names, &[COUNT]) }
    }

    /// Returns the number that is given.
    #[must_use]
    pub const fn given(&self) -> Shards {
        self.given
    }

    /// Reads into how many shards the tables divide their rows; 0 if there are none.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub fn count(&self, connection: &Connection) -> SqlResult<u16> {
        connection.prepare_cached(self.count.as_str())?.query_row([], |row| row.get(0))
    }

    /// Fails within if the tables have another number of shards than is given.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub fn check(&self, connection: &Connection) -> SqlResult<Result<(), InvalidSetting>> {
        let found = self.count(connection)?;
        if found == self.given.count() {
            return Ok(Ok(()));
        }
        let bound = format!("{found}, as many as the tables have");
        Ok(Err(InvalidSetting::new("shards", self.given.count(), bound)))
    }
}
