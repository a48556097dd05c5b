use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use relaykit_inbox::sqlite::rusqlite::Connection;
use relaykit_inbox::sqlite::{Database, SqliteInbox, SqliteInboxStore, migration_sql};
use relaykit_inbox::{Limits, Routes};
use relaykit_pipeline_traits::{Clock, Rng, SystemClock};
use relaykit_sql_store::{Names, Shards};
use tempfile::TempDir;

use super::super::SHARDS;
use super::super::incoming::{message, routes, scope};
use super::super::setting::{Setting, Side};
use super::raw;

/// How long a connection waits for others. They do not stand in line: where three loops commit all the time, one may wait long.
const BUSY: Duration = Duration::from_secs(60);

/// How many messages of a backlog are stored at once.
const FILLED: u64 = 1_000;

/// A file with an inbox, and beside it a plain table of the same columns, with its place and its ids as its keys.
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

    pub(super) fn inbox(routes: Routes) -> anyhow::Result<SqliteInbox> {
        Ok(SqliteInbox::new(&names()?, Shards::new(SHARDS)?, routes, Limits::default()))
    }

    /// Opens the file for a worker.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub(super) fn store(&self) -> anyhow::Result<SqliteInboxStore> {
        let database = Database::builder(self.path(), SystemClock::new()).open()?;
        Ok(SqliteInboxStore::new(database, &names()?, Shards::new(SHARDS)?))
    }

    /// Commits a backlog at once. On the plain side each handler has rows of its own.
    ///
    /// # Errors
    ///
    /// SQLite fails.
    pub(super) fn fill(&self, setting: &Setting) -> anyhow::Result<()> {
        let (clock, mut rng, scope) = (SystemClock::new(), Rng::from_entropy(), scope()?);
        let inbox = Self::inbox(routes(setting.handlers())?)?;
        let rows = if setting.side == Side::Ours { 1 } else { setting.handlers() };
        let (mut connection, wanted) = (self.connect()?, u64::from(setting.messages() * rows));
        let tx = connection.transaction()?;
        for first in (0..wanted).step_by(usize::try_from(FILLED)?) {
            let numbers = first..wanted.min(first + FILLED);
            let messages = numbers.map(|number| message(number, setting.bytes(), &clock, &mut rng));
            let messages = messages.collect::<Result<Vec<_>, _>>()?;
            match setting.side {
                Side::Ours => drop(inbox.receive_all(&tx, &scope, &messages)?),
                Side::Raw => raw::insert(&tx, &messages)?,
            }
        }
        Ok(tx.commit()?)
    }

    /// Waits until the worker holds all shards.
    ///
    /// # Errors
    ///
    /// It does not within half a minute.
    pub(super) async fn leased(&self) -> anyhow::Result<()> {
        let (connection, clock) = (self.connect()?, SystemClock::new());
        for _ in 0..1_500 {
            let held = "select count(*) from t_shards where owner is not null";
            if connection.query_row(held, [], |row| row.get::<_, u16>(0))? == SHARDS {
                return Ok(());
            }
            clock.sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("the worker has not taken all shards")
    }

    /// Checks how many messages are stored.
    ///
    /// # Errors
    ///
    /// They are more or less.
    pub(super) fn check_received(&self, side: Side, wanted: u32) -> anyhow::Result<()> {
        let stored = match side {
            Side::Ours => ["select count(*) from t_messages", "select count(*) from t_deliveries"],
            Side::Raw => ["select count(*) from t_raw"; 2],
        };
        for sql in stored {
            let stored: u32 = self.connect()?.query_row(sql, [], |row| row.get(0))?;
            ensure!(stored == wanted, "{sql}: {stored} of {wanted}");
        }
        Ok(())
    }

    /// Checks that nothing is left to be handled.
    ///
    /// # Errors
    ///
    /// Something is.
    pub(super) fn check_handled(&self) -> anyhow::Result<()> {
        let left = "select (select count(*) from t_deliveries) + (select count(*) from t_raw)";
        let left: u32 = self.connect()?.query_row(left, [], |row| row.get(0))?;
        ensure!(left == 0, "{left} are left over");
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("app.db")
    }
}

fn names() -> anyhow::Result<Names> {
    Ok(Names::new("t")?)
}
