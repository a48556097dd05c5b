use std::sync::Arc;

use relaykit_pipeline_traits::{Clock, Message, OrderingKey, SystemClock, Timestamp};
use relaykit_sql_store::message::write_headers;
use relaykit_sql_store::sqlite::rusqlite::{self, Connection, Error, Result as SqlResult, params};
use relaykit_sql_store::sqlite::{CountedShards, SqliteError, in_savepoint, store_error};
use relaykit_sql_store::{Limits, Names, Shard, Shards, Sql, StoreError, TooLarge};

use super::route::Lead;
use crate::content::{digest_of, shard_of};
use crate::name::Scope;
use crate::received::{IdConflict, ReceiveError, Received};
use crate::routes::{Route, Routes};

pub(super) const OP: &str = "receive messages";

/// Writes nothing if the id is known. If the tables have another number of shards, its shard is null, which they refuse.
///
/// One row of values: for `insert … select` SQLite keeps what pages were like before, to go back to.
const INSERT: &str = "insert into {messages}
(scope, message_id, shard, kind, ordering_key, payload, headers, occurred_at, received_at, digest, handlers)
values (?2, ?3, case when (select max(shard) + 1 from {shards}) = ?1 then ?4 end, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
on conflict (scope, message_id) do nothing";

const TAKE_BACK: [&str; 2] =
    ["delete from {deliveries} where message_seq = ?1", "delete from {messages} where seq = ?1"];

const KNOWN: &str = "select digest from {messages} where scope = ?1 and message_id = ?2";

/// Receives messages in transactions of the application's own connections to the file.
///
/// A message is stored, and will be handled, if and only if the transaction commits. Without a transaction each call is one of
/// its own.
///
/// Begin transactions with `BEGIN IMMEDIATE`: one that begins by reading, and finds that somebody has written since, cannot
/// write any more ([`StoreError::Conflict`]). Set a busy timeout too, and
/// [`synchronous = FULL`](https://www.sqlite.org/pragma.html#pragma_synchronous) if a commit must survive the loss of power.
///
/// ```
/// use relaykit_inbox::sqlite::rusqlite::{Connection, TransactionBehavior};
/// use relaykit_inbox::sqlite::{SqliteInbox, migration_sql};
/// use relaykit_inbox::{HandlerKey, Limits, Received, Route, Routes, Scope};
/// use relaykit_pipeline_traits::{Clock, Message, MessageId, Rng, SystemClock};
/// use relaykit_sql_store::{Names, Shards};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut routes = Routes::new();
/// routes.add("push", Route { handler: HandlerKey::new("crm")?, ordered: true })?;
/// let names = Names::new("inbox")?;
/// let inbox = SqliteInbox::new(&names, Shards::default(), routes, Limits::default());
///
/// let mut connection = Connection::open_in_memory()?;
/// connection.execute_batch(&migration_sql(&names, Shards::default()))?;
/// let clock = SystemClock::new();
/// let id = MessageId::new(clock.now(), &mut Rng::from_entropy());
/// let push = Message::builder(id, "push", clock.now()).ordering_key("repository-7").payload("{}").build()?;
///
/// let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
/// let github = Scope::new("github")?;
/// assert_eq!(inbox.receive(&transaction, &github, &push)?, Received::Stored);
/// assert_eq!(inbox.receive(&transaction, &github, &push)?, Received::AlreadyKnown);
/// transaction.commit()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SqliteInbox {
    store: Store,
    routes: Routes,
    limits: Limits,
    clock: Arc<dyn Clock>,
}

impl SqliteInbox {
    /// Makes it for tables of these names, which were made for so many shards. Messages are led by these routes.
    #[must_use]
    pub fn new(names: &Names, shards: Shards, routes: Routes, limits: Limits) -> Self {
        let store = Store::new(&names.on_sqlite(), shards);
        Self { store, routes, limits, clock: Arc::new(SystemClock::new()) }
    }

    /// Sets where time comes from. Default: the system's clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Receives a message, in the transaction that is open on the connection.
    ///
    /// # Errors
    ///
    /// It is too large, its id is that of another message, the tables have another number of shards, or SQLite refuses.
    /// After a [`ReceiveError::Store`], roll the transaction back: SQLite may have ended it already, and what is written after
    /// that is not part of it.
    pub fn receive(
        &self,
        connection: &Connection,
        scope: &Scope,
        message: &Message,
    ) -> Result<Received, ReceiveError> {
        let received = self.receive_all(connection, scope, std::slice::from_ref(message))?;
        received.into_iter().next().map_or(Ok(Received::AlreadyKnown), |one| Ok(one?))
    }

    /// Receives messages in their order, and answers each in the same order. One that conflicts with what is stored under its id
    /// is left out; the others are stored.
    ///
    /// # Errors
    ///
    /// One is too large, there are too many, the tables have another number of shards, or SQLite refuses. Nothing was
    /// written then; what is said of [`receive`](Self::receive) holds here, too.
    pub fn receive_all(
        &self,
        connection: &Connection,
        scope: &Scope,
        messages: &[Message],
    ) -> Result<Vec<Result<Received, IdConflict>>, ReceiveError> {
        let arrivals = self.store.prepare(scope, messages, &self.routes, self.limits)?;
        let now = self.clock.now();
        let write = || self.store.write(connection, &arrivals, now);
        // A savepoint in a transaction would keep what each page was like before, which takes longer than all the rest.
        let received = if connection.is_autocommit() {
            in_savepoint(connection, write, Failed::Sqlite)
        } else {
            write()
        };
        received.map_err(|failed| failed.into_error().into())
    }
}

/// A message, and what is worked out of it before anybody waits for its transaction.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    scope: Scope,
    message: Message,
    shard: Shard,
    headers: String,
    digest: [u8; 32],
    routes: Vec<Route>,
}

/// Why arrivals could not be written.
#[derive(Debug)]
pub(super) enum Failed {
    Sqlite(Error),
    /// The tables are not as they are thought to be.
    Rejected(relaykit_pipeline_traits::InvalidSetting),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Failed {
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Sqlite(error) => store_error(OP, SqliteError::of(error)),
            Self::Rejected(error) => StoreError::Rejected { op: OP, source: error.into() },
        }
    }
}

/// How messages are stored.
#[derive(Debug, Clone)]
pub(super) struct Store {
    shards: CountedShards,
    insert: Sql,
    take_back: [Sql; 2],
    known: Sql,
    lead: Lead,
}

impl Store {
    pub(super) fn new(names: &Names, shards: Shards) -> Self {
        Self {
            shards: CountedShards::new(names, shards),
            insert: Sql::new(names, &[INSERT]),
            take_back: TAKE_BACK.map(|sql| Sql::new(names, &[sql])),
            known: Sql::new(names, &[KNOWN]),
            lead: Lead::new(names),
        }
    }

    pub(super) fn prepare(
        &self,
        scope: &Scope,
        messages: &[Message],
        routes: &Routes,
        limits: Limits,
    ) -> Result<Vec<Arrival>, TooLarge> {
        limits.check_all(messages)?;
        let arrival = |message: &Message| Arrival {
            scope: scope.clone(),
            message: message.clone(),
            shard: shard_of(self.shards.given(), message),
            headers: write_headers(message.headers()),
            digest: digest_of(message),
            routes: routes.of(message.kind()).to_vec(),
        };
        Ok(messages.iter().map(arrival).collect())
    }

    /// Stores within a transaction: all, or none, as long as the transaction lasts.
    pub(super) fn write(
        &self,
        connection: &Connection,
        arrivals: &[Arrival],
        now: Timestamp,
    ) -> Result<Vec<Result<Received, IdConflict>>, Failed> {
        let mut stored = Vec::new();
        let write = |arrival| self.one(connection, arrival, now, &mut stored);
        let received: Result<Vec<_>, _> = arrivals.iter().map(write).collect();
        // Some errors end the transaction, and what was stored is gone with it.
        if received.is_err()
            && !connection.is_autocommit()
            && let Err(error) = self.take_back(connection, &stored)
        {
            // The answer is the first error, which says why; whoever gets it rolls back.
            tracing::warn!(%error, "could not take back what was stored of a list");
        }
        received
    }

    fn take_back(&self, connection: &Connection, stored: &[i64]) -> SqlResult<()> {
        for sql in &self.take_back {
            let mut take_back = connection.prepare_cached(sql.as_str())?;
            for seq in stored {
                take_back.execute([seq])?;
            }
        }
        Ok(())
    }

    fn one(
        &self,
        connection: &Connection,
        arrival: &Arrival,
        now: Timestamp,
        stored: &mut Vec<i64>,
    ) -> Result<Result<Received, IdConflict>, Failed> {
        let Arrival { message, shard, routes, .. } = arrival;
        let written = match self.insert(connection, arrival, now) {
            Err(error) if is_null_refused(&error) => {
                self.shards.check(connection)?.map_err(Failed::Rejected)?;
                return Err(error.into());
            }
            written => written?,
        };
        if written > 0 {
            let seq = connection.last_insert_rowid();
            stored.push(seq);
            let key = message.ordering_key().map(OrderingKey::as_str);
            for route in routes {
                self.lead.add(connection, shard.number(), seq, key, route)?;
            }
            return Ok(Ok(Received::Stored));
        }
        let id = message.id();
        let mut known = connection.prepare_cached(self.known.as_str())?;
        let digest: [u8; 32] =
            known.query_row(params![arrival.scope.as_str(), id.as_bytes()], |row| row.get(0))?;
        if digest == arrival.digest {
            return Ok(Ok(Received::AlreadyKnown));
        }
        Ok(Err(IdConflict { scope: arrival.scope.clone(), id }))
    }

    fn insert(&self, connection: &Connection, arrival: &Arrival, now: Timestamp) -> SqlResult<usize> {
        let Arrival { scope, message, shard, headers, digest, routes } = arrival;
        connection.prepare_cached(self.insert.as_str())?.execute(params![
            self.shards.given().count(),
            scope.as_str(),
            message.id().as_bytes(),
            shard.number(),
            message.kind(),
            message.ordering_key().map(OrderingKey::as_str),
            &message.payload()[..],
            headers,
            message.occurred_at().as_micros(),
            now.as_micros(),
            digest,
            Lead::list(routes),
        ])
    }
}

fn is_null_refused(error: &Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_NOTNULL)
}
