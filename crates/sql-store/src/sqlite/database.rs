use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, InvalidSetting};
use rusqlite::{Connection, Result as SqlResult};
use tokio::sync::oneshot;

use super::reader::Reader;
use super::{
    Durability, Location, Options, Request, Sharing, SqliteError, Writer, WriterOptions, open, store_error,
};
use crate::StoreError;
use crate::race::within;

const OPEN: &str = "open the database";

/// A file that other connections write too, theirs and other processes': one connection that writes and one that reads, each
/// on a thread of its own. Cheap to clone.
///
/// Writes that wait together are committed together. Each call ends within its timeout.
#[derive(Debug, Clone)]
pub struct Database {
    writer: Writer,
    reader: Reader,
    clock: Arc<dyn Clock>,
    limit: Duration,
}

impl Database {
    /// Returns a builder for the file. The path is taken as it is, whatever characters it has.
    pub fn builder(path: impl Into<PathBuf>, clock: impl Clock) -> DatabaseBuilder {
        DatabaseBuilder {
            path: path.into(),
            clock: Arc::new(clock),
            durability: Durability::Full,
            busy_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(15),
        }
    }

    /// Does something in a transaction that may write. It may run more than once, each time on a transaction in which the
    /// former run left nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Conflict`] if another connection wrote for longer than the busy timeout, [`StoreError::Timeout`] if no
    /// answer came within the call timeout, and what SQLite says. Nothing was written, unless the error is in doubt.
    ///
    /// # Cancel safety
    ///
    /// A dropped call is done as a whole, or not at all.
    pub async fn write<T, W>(&self, op: &'static str, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> SqlResult<T> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        self.writer.submit(Box::new(Write { work, done: None, tell }));
        match self.wait(op, told).await? {
            Ok(done) => Ok(done),
            // The commit may have been under way.
            Err(error @ SqliteError::Io { .. }) => {
                Err(StoreError::CommitUnknown { op, source: error.into() })
            }
            Err(error) => Err(store_error(op, error)),
        }
    }

    /// Reads something, as of one moment. It waits for no writer.
    ///
    /// # Errors
    ///
    /// [`StoreError::Timeout`] if no answer came within the call timeout, and what SQLite says.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    pub async fn read<T, W>(&self, op: &'static str, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> SqlResult<T> + Send + 'static,
    {
        let (tell, told) = oneshot::channel::<Result<T, SqliteError>>();
        self.reader.submit(Box::new(move |connection| {
            // Whoever asked may be gone.
            if tell.is_closed() {
                return true;
            }
            let (result, good) = match connection {
                Ok(connection) => snapshot(connection, work),
                Err(error) => (Err(error), true),
            };
            let _ = tell.send(result);
            good
        }));
        self.wait(op, told).await?.map_err(|error| store_error(op, error))
    }

    /// Returns the clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Returns how long a call takes at the most.
    #[must_use]
    pub const fn call_timeout(&self) -> Duration {
        self.limit
    }

    /// Returns the same with another timeout of its calls.
    #[must_use]
    pub fn with_call_timeout(&self, limit: Duration) -> Self {
        Self { limit, ..self.clone() }
    }

    async fn wait<T>(
        &self,
        op: &'static str,
        told: oneshot::Receiver<Result<T, SqliteError>>,
    ) -> Result<Result<T, SqliteError>, StoreError> {
        match within(&*self.clock, self.limit, told).await {
            Some(Ok(result)) => Ok(result),
            Some(Err(gone)) => Err(StoreError::Unavailable { op, source: gone.into() }),
            None => Err(StoreError::Timeout { op, limit: self.limit }),
        }
    }
}

struct Write<T, W> {
    work: W,
    done: Option<T>,
    tell: oneshot::Sender<Result<T, SqliteError>>,
}

impl<T: Send, W: FnMut(&Connection) -> SqlResult<T> + Send> Request for Write<T, W> {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        self.done = Some((self.work)(transaction)?);
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let Self { done, tell, .. } = *self;
        let _ = tell.send(result.and_then(|()| done.ok_or(SqliteError::Closed)));
    }
}

/// Reads in a transaction of its own. Also returns whether the connection is still of use.
fn snapshot<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> SqlResult<T>,
) -> (Result<T, SqliteError>, bool) {
    let read = catch_unwind(AssertUnwindSafe(|| {
        connection.prepare_cached("BEGIN")?.execute([])?;
        work(connection)
    }));
    let result = read.map_or(Err(SqliteError::Panicked), |read| read.map_err(SqliteError::of));
    let ended = connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
    let good = ended && !matches!(result, Err(SqliteError::Io { .. } | SqliteError::Panicked));
    (result, good)
}

/// Opens a [`Database`].
#[derive(Debug, Clone)]
#[must_use = "a file is opened by `open`"]
pub struct DatabaseBuilder {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    durability: Durability,
    busy_timeout: Duration,
    call_timeout: Duration,
}

/// The longest timeout.
const LONGEST: Duration = Duration::from_secs(3600);

impl DatabaseBuilder {
    /// Sets what a commit of this connection survives. Default: [`Durability::Full`]. The connections of others have a setting of
    /// their own.
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how long a write waits while others write. Default: 5 s. At most 1 h, and less than the call timeout.
    pub const fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Sets how long a call takes at the most. Default: 15 s. At most 1 h.
    pub const fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Opens the file, and makes it if it is not there, readable and writable for its owner only. Its directory must exist.
    ///
    /// It is put in WAL mode, which stays with the file and is shared by all who open it.
    ///
    /// # Errors
    ///
    /// A timeout is out of its bounds, the linked SQLite is too old, somebody has locked the file, or it is no database.
    pub fn open(self) -> Result<Database, StoreError> {
        self.check().map_err(|error| StoreError::Rejected { op: OPEN, source: error.into() })?;
        let location = Location::file(self.path);
        let options = Options {
            durability: self.durability,
            sharing: Sharing::Shared,
            wait: self.busy_timeout,
            ..Options::default()
        };
        let failed = |error| store_error(OPEN, error);
        let connection = open(&location, &options).map_err(failed)?;
        let reader = Reader::start(location.clone(), options, Arc::clone(&self.clock)).map_err(failed)?;
        let writer_options = WriterOptions {
            // What is unused is the application's as well.
            vacuum_pages: u32::MAX,
            reopen: Some((location, options)),
            ..WriterOptions::default()
        };
        let writer = Writer::start(connection, Arc::clone(&self.clock), writer_options)
            .map_err(|source| StoreError::Unavailable { op: OPEN, source: source.into() })?;
        Ok(Database { writer, reader, clock: self.clock, limit: self.call_timeout })
    }

    fn check(&self) -> Result<(), InvalidSetting> {
        if self.call_timeout > LONGEST {
            return Err(InvalidSetting::new(
                "call_timeout",
                format!("{:?}", self.call_timeout),
                "at most 1 h",
            ));
        }
        if self.busy_timeout >= self.call_timeout {
            let bound = format!("less than the call timeout, {:?}", self.call_timeout);
            return Err(InvalidSetting::new("busy_timeout", format!("{:?}", self.busy_timeout), bound));
        }
        Ok(())
    }
}
