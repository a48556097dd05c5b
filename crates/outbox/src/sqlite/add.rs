use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, Message, OrderingKey, SystemClock};
use relaykit_sql_store::sqlite::rusqlite::{Connection, OptionalExtension as _, Result as SqlResult, params};
use relaykit_sql_store::sqlite::{CountedShards, RawMessage, SqliteError, due_at, in_savepoint, store_error};
use relaykit_sql_store::{Names, Shards, Sql, StoreError};

use super::schema::COLUMNS;
use super::statement::AddStatement;
use crate::added::{AddError, Added};
use crate::content::{same, shard_of};
use relaykit_sql_store::message::write_headers;
use relaykit_sql_store::{Limits, TooLarge};

const OP: &str = "add a message";

/// Writes nothing if the tables have another number of shards, or the id is there.
const INSERT: &str = "insert into {messages}
(shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at, retry_at)
select ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10 where (select max(shard) + 1 from {shards}) = ?1
on conflict (message_id) do nothing";

const KNOWN: [&str; 2] = [COLUMNS, " from {messages} m where m.message_id = ?1"];

/// Adds messages to the outbox, in transactions of the application's own connections to the file.
///
/// A message is sent if, and only if, the transaction commits. Without a transaction each call is one of its own.
///
/// Begin transactions with `BEGIN IMMEDIATE`: one that begins by reading, and finds that somebody has written since, cannot
/// write any more ([`StoreError::Conflict`]). Set a busy timeout too, and
/// [`synchronous = FULL`](https://www.sqlite.org/pragma.html#pragma_synchronous) if a commit must survive the loss of power.
#[derive(Debug, Clone)]
pub struct SqliteOutbox {
    shards: CountedShards,
    limits: Limits,
    clock: Arc<dyn Clock>,
    insert: Sql,
    known: Sql,
    statement: Sql,
}

impl SqliteOutbox {
    /// Makes it for tables of these names, which were made for so many shards.
    #[must_use]
    pub fn new(names: &Names, shards: Shards, limits: Limits) -> Self {
        let names = names.on_sqlite();
        Self {
            shards: CountedShards::new(&names, shards),
            limits,
            clock: Arc::new(SystemClock::new()),
            insert: Sql::new(&names, &[INSERT]),
            known: Sql::new(&names, &KNOWN),
            statement: AddStatement::sql(&names),
        }
    }

    /// Sets where time comes from. Default: the system's clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Adds a message, in the transaction that is open on the connection.
    ///
    /// The same message is known as long as it is not sent. After that it is new again, archive or not.
    ///
    /// # Errors
    ///
    /// It is too large, its id is that of another message, the tables have another number of shards, or SQLite refuses.
    /// After an [`AddError::Store`], roll the transaction back: SQLite may have ended it already, and what is written after
    /// that is not part of it.
    pub fn add(&self, connection: &Connection, message: &Message) -> Result<Added, AddError> {
        self.limits.check(message)?;
        self.write(connection, message, None)
    }

    /// Adds a message that is sent after `delay` at the earliest. Later messages of its key wait for it.
    ///
    /// # Errors
    ///
    /// Those of [`add`](Self::add).
    pub fn add_after(
        &self,
        connection: &Connection,
        message: &Message,
        delay: Duration,
    ) -> Result<Added, AddError> {
        self.limits.check(message)?;
        self.write(connection, message, Some(delay))
    }

    /// Adds messages in their order, all or none. The answers are in the same order.
    ///
    /// # Errors
    ///
    /// Those of [`add`](Self::add), or there are too many.
    pub fn add_all(&self, connection: &Connection, messages: &[Message]) -> Result<Vec<Added>, AddError> {
        self.limits.check_all(messages)?;
        let add = || messages.iter().map(|message| self.write(connection, message, None)).collect();
        in_savepoint(connection, add, failed)
    }

    /// Returns one SQL statement with one parameter that adds the messages, for connections that are not rusqlite's.
    ///
    /// # Errors
    ///
    /// A message is too large, or there are too many.
    pub fn statement(&self, messages: &[Message]) -> Result<AddStatement, TooLarge> {
        self.limits.check_all(messages)?;
        Ok(AddStatement::new(&self.statement, self.shards.given(), messages, self.clock.now()))
    }

    fn write(
        &self,
        connection: &Connection,
        message: &Message,
        delay: Option<Duration>,
    ) -> Result<Added, AddError> {
        let written = self.insert(connection, message, delay).map_err(failed)?;
        if written > 0 {
            return Ok(Added::Added);
        }
        let checked = self.shards.check(connection).map_err(failed)?;
        checked.map_err(|error| StoreError::Rejected { op: OP, source: error.into() })?;
        let id = message.id();
        match self.known(connection, message).map_err(failed)? {
            Some(Ok(known)) if same(&known, message) => Ok(Added::AlreadyAdded),
            // Without a transaction it may have been sent since.
            None => Ok(Added::AlreadyAdded),
            Some(_) => Err(AddError::IdConflict { id }),
        }
    }

    fn insert(
        &self,
        connection: &Connection,
        message: &Message,
        delay: Option<Duration>,
    ) -> SqlResult<usize> {
        let (now, shards) = (self.clock.now(), self.shards.given());
        connection.prepare_cached(self.insert.as_str())?.execute(params![
            shards.count(),
            shard_of(shards, message).number(),
            message.id().as_bytes(),
            message.kind(),
            message.ordering_key().map(OrderingKey::as_str),
            &message.payload()[..],
            write_headers(message.headers()),
            message.occurred_at().as_micros(),
            now.as_micros(),
            delay.map(|delay| due_at(now, delay)),
        ])
    }

    fn known(
        &self,
        connection: &Connection,
        message: &Message,
    ) -> SqlResult<Option<Result<Message, String>>> {
        let mut known = connection.prepare_cached(self.known.as_str())?;
        known.query_row([message.id().as_bytes()], |row| Ok(RawMessage::read(row)?.message)).optional()
    }
}

fn failed(error: relaykit_sql_store::sqlite::rusqlite::Error) -> AddError {
    AddError::Store(store_error(OP, SqliteError::of(error)))
}
