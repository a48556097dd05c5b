use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, Message, OrderingKey, SystemClock};
use relaykit_sql_store::sqlite::rusqlite::{
    self, Connection, OptionalExtension as _, Result as SqlResult, params,
};
use relaykit_sql_store::sqlite::{CountedShards, RawMessage, SqliteError, due_at, store_error};
use relaykit_sql_store::{Names, Shards, Sql, StoreError};

use super::schema::COLUMNS;
use super::statement::AddStatement;
use crate::added::{AddError, Added};
use crate::content::{same, shard_of};
use relaykit_sql_store::message::write_headers;
use relaykit_sql_store::{Limits, TooLarge};

const OP: &str = "add a message";

/// Writes nothing if the id is there. If the tables have another number of shards, its shard is null, which they refuse.
///
/// One row of values: for `insert … select` SQLite keeps what pages were like before, to go back to.
const INSERT: &str = "insert into {messages}
(shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at, retry_at)
values (case when (select max(shard) + 1 from {shards}) = ?1 then ?2 end, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
on conflict (message_id) do nothing";

const TAKE_BACK: &str = "delete from {messages} where message_id = ?1";

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
    take_back: Sql,
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
            take_back: Sql::new(&names, &[TAKE_BACK]),
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
        // A savepoint in a transaction would keep what each page was like before, which takes longer than all the rest.
        if !connection.is_autocommit() {
            return self.write_all(connection, messages);
        }
        connection.execute_batch("begin immediate").map_err(failed)?;
        let added = self.write_all(connection, messages);
        let ended = if added.is_ok() { connection.execute_batch("commit") } else { Ok(()) };
        // Some errors end the transaction; after the others nothing may be left open.
        if !connection.is_autocommit() {
            let _ = connection.execute_batch("rollback");
        }
        let added = added?;
        ended.map_err(failed)?;
        Ok(added)
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

    /// Writes all of them, or takes back those that it wrote.
    fn write_all(&self, connection: &Connection, messages: &[Message]) -> Result<Vec<Added>, AddError> {
        let mut added = Vec::with_capacity(messages.len());
        for message in messages {
            match self.write(connection, message, None) {
                Ok(answer) => added.push(answer),
                // After others the caller rolls back.
                Err(error @ AddError::IdConflict { .. }) => {
                    self.take_back(connection, messages, &added).map_err(failed)?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(added)
    }

    fn take_back(&self, connection: &Connection, messages: &[Message], added: &[Added]) -> SqlResult<()> {
        let mut take_back = connection.prepare_cached(self.take_back.as_str())?;
        for (message, _) in messages.iter().zip(added).filter(|(_, added)| **added == Added::Added) {
            take_back.execute([message.id().as_bytes()])?;
        }
        Ok(())
    }

    fn write(
        &self,
        connection: &Connection,
        message: &Message,
        delay: Option<Duration>,
    ) -> Result<Added, AddError> {
        let written = match self.insert(connection, message, delay) {
            Err(error) if is_null_refused(&error) => {
                let checked = self.shards.check(connection).map_err(failed)?;
                checked.map_err(|error| StoreError::Rejected { op: OP, source: error.into() })?;
                return Err(failed(error));
            }
            written => written.map_err(failed)?,
        };
        if written > 0 {
            return Ok(Added::Added);
        }
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

fn is_null_refused(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_NOTNULL)
}

fn failed(error: rusqlite::Error) -> AddError {
    AddError::Store(store_error(OP, SqliteError::of(error)))
}
