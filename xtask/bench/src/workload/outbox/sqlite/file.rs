use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use relaykit_outbox::Limits;
use relaykit_outbox::sqlite::rusqlite::{Connection, params};
use relaykit_outbox::sqlite::{Database, SqliteOutbox, SqliteOutboxStore, migration_sql};
use relaykit_pipeline_traits::{Clock, Rng, SystemClock};
use relaykit_sql_store::{Names, Shards};
use tempfile::TempDir;

use super::super::common::{KEYS, payload};
use super::super::database::{SHARDS, message};
use super::raw;

/// The outbox's own table.
pub(super) const MESSAGES: &str = "t_messages";

/// How long a connection waits for others.
const BUSY: Duration = Duration::from_secs(5);

/// A file with an outbox, and beside it a plain table of the same columns, with its place alone as its key.
#[derive(Debug)]
pub(super) struct File {
    directory: TempDir,
}

impl File {
    /// Makes the tables.
    ///
    /// # Errors
    ///
    /// The file cannot be made.
    pub(super) fn new() -> anyhow::Result<Self> {
        let this = Self { directory: tempfile::tempdir()? };
        let connection = this.connect()?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.execute_batch(&migration_sql(&names()?, Shards::new(SHARDS)?))?;
        connection.execute_batch(raw::CREATE)?;
        Ok(this)
    }

    /// Opens a connection of the application's.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub(super) fn connect(&self) -> anyhow::Result<Connection> {
        let connection = Connection::open(self.path())?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "synchronous", "full")?;
        Ok(connection)
    }

    pub(super) fn outbox() -> anyhow::Result<SqliteOutbox> {
        Ok(SqliteOutbox::new(&names()?, Shards::new(SHARDS)?, Limits::default()))
    }

    /// Opens the file for one relay.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub(super) fn store(&self) -> anyhow::Result<SqliteOutboxStore> {
        let database = Database::builder(self.path(), SystemClock::new()).open()?;
        Ok(SqliteOutboxStore::new(database, &names()?, Shards::new(SHARDS)?))
    }

    /// Commits a backlog at once.
    ///
    /// # Errors
    ///
    /// SQLite fails.
    pub(super) fn fill(&self, table: &str, messages: u32) -> anyhow::Result<()> {
        let (clock, mut rng, shards) = (SystemClock::new(), Rng::from_entropy(), Shards::new(SHARDS)?);
        let mut connection = self.connect()?;
        let tx = connection.transaction()?;
        let mut insert = tx.prepare(&raw::insert_into(table))?;
        for number in 0..u64::from(messages) {
            let (message, key) = (message(number, &clock, &mut rng)?, format!("k{}", number % KEYS));
            let (shard, at) = (shards.of(key.as_bytes()).number(), clock.now().as_micros());
            let id = message.id();
            insert.execute(params![
                shard,
                id.as_bytes(),
                "bench",
                key,
                payload(number).as_bytes(),
                "{}",
                at,
                at
            ])?;
        }
        drop(insert);
        Ok(tx.commit()?)
    }

    /// Waits until each of the relays holds its share of the shards.
    ///
    /// # Errors
    ///
    /// They do not within half a minute.
    pub(super) async fn shared_out(&self, relays: u32) -> anyhow::Result<()> {
        let (connection, clock) = (self.connect()?, SystemClock::new());
        for _ in 0..1_500 {
            let now = clock.now().as_micros();
            let owners: u32 = connection.query_row(
                "select count(*) filter (where held between 64 / owners and 64 / owners + 1) from (
                    select count(*) as held, count(*) over () as owners, sum(count(*)) over () as all_held
                    from t_shards where owner is not null and until > ?1 group by owner
                ) where all_held = 64",
                [now],
                |row| row.get(0),
            )?;
            if owners == relays {
                return Ok(());
            }
            clock.sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("{relays} relays have not shared the shards out among them")
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// A message is left over.
    pub(super) fn clean(self) -> anyhow::Result<()> {
        let left = "select (select count(*) from t_messages) + (select count(*) from t_raw)";
        let left: u32 = self.connect()?.query_row(left, [], |row| row.get(0))?;
        ensure!(left == 0, "{left} messages are left over");
        Ok(self.directory.close()?)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("app.db")
    }
}

fn names() -> anyhow::Result<Names> {
    Ok(Names::new("t")?)
}
