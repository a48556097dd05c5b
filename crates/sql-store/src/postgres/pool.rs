use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, InvalidSetting, Rng};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, PgTransaction, Postgres};

use super::classify::{Call, commit_error, is_conflict, spoils_connection, store_error};
use super::statement::Statement;
use crate::race::within;
use crate::{Sql, StoreError};

/// What a call does with its connection.
pub type Work<'c, T> = Pin<Box<dyn Future<Output = Result<T, sqlx::Error>> + Send + 'c>>;

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish<T> {
    /// It commits.
    Commit(T),
    /// It rolls back.
    Rollback(T),
    /// Its connection is closed, which rolls back: nobody knows what is under way on it.
    Abandon(T),
}

/// How often a call is tried when other transactions are in the way.
const MAX_TRIES: u32 = 5;

/// The longest wait before the second try; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(10);

/// A pool whose connections are never handed out inside somebody's forgotten transaction.
///
/// A future of sqlx that is dropped while `BEGIN` is on the wire returns its connection to the pool *inside* a
/// transaction (sqlx 0.8.4 to 0.9.0); the next statement there is acknowledged and later rolled back. Two
/// things keep that from us. Every call runs in a task of its own, to its end or its timeout, even if the caller
/// is dropped; after a timeout the connection is closed, not returned. And on a pool that others use too
/// ([`shared`](Self::shared)), each call first ends what may be open there, in one round trip.
///
/// Each call has a bound for getting a connection and one for its work. In transactions, the server keeps the
/// second bound as well, and ends a session that stays idle in one. A call that loses against another transaction is
/// tried again, up to five times.
#[derive(Clone)]
pub struct Guarded {
    inner: Arc<Inner>,
}

struct Inner {
    pool: PgPool,
    access: Access,
    clock: Arc<dyn Clock>,
    rng: Mutex<Rng>,
    acquire_timeout: Duration,
    call_timeout: Duration,
}

/// Who else is between us and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Access {
    /// Others borrow connections of this pool, too.
    shared: bool,
    /// A pooler gives each transaction a session of its own choice.
    pooler: bool,
}

/// Builds a [`Guarded`] pool.
#[must_use = "a pool is made by `build`"]
pub struct GuardedBuilder {
    source: Source,
    clock: Arc<dyn Clock>,
    rng: Rng,
    max_connections: u32,
    acquire_timeout: Duration,
    call_timeout: Duration,
    pooler: bool,
}

enum Source {
    Connect(Box<PgConnectOptions>),
    Shared(PgPool),
}

impl Guarded {
    /// Begins a pool of its own. It connects when it is first used.
    pub fn connect(options: PgConnectOptions, clock: impl Clock) -> GuardedBuilder {
        GuardedBuilder::new(Source::Connect(Box::new(options)), Arc::new(clock))
    }

    /// Begins to guard a pool that others use, too. Each call costs one round trip more than on a pool of its own.
    pub fn shared(pool: PgPool, clock: impl Clock) -> GuardedBuilder {
        GuardedBuilder::new(Source::Shared(pool), Arc::new(clock))
    }

    /// Runs statements on a connection, each a transaction of its own (behind a pooler, all in one).
    ///
    /// `op` says what is done, as a phrase that follows "could not". `work` must be right to repeat after its
    /// transaction was rolled back, and must leave no transaction open.
    ///
    /// # Errors
    ///
    /// Every variant of [`StoreError`] but [`CommitUnknown`](StoreError::CommitUnknown), except behind a pooler.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, and if `work` panics.
    ///
    /// # Cancel safety
    ///
    /// A call whose future is dropped goes on, to its end or its timeout, and its result is lost.
    pub async fn run<T, F>(&self, op: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> Work<'c, T> + Send + Sync + 'static,
    {
        // Outside of a transaction a pooler may give each statement another session, where another client's
        // prepared statement has the same name.
        let mode = if self.inner.access.pooler { Mode::Transaction } else { Mode::Plain };
        self.shielded(self.call(op), mode, committing(work)).await
    }

    /// Runs statements in a transaction. See [`run`](Self::run) about `op` and `work`.
    ///
    /// The transaction reads committed rows, whatever the database's default is.
    ///
    /// # Errors
    ///
    /// Every variant of [`StoreError`].
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    ///
    /// A call whose future is dropped goes on, to its end or its timeout, and its result is lost.
    pub async fn transaction<T, F>(&self, op: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> Work<'c, Finish<T>> + Send + Sync + 'static,
    {
        self.shielded(self.call(op), Mode::Transaction, work).await
    }

    /// Runs statements in a [`transaction`](Self::transaction) with a bound of its own for the work.
    ///
    /// # Errors
    ///
    /// Every variant of [`StoreError`].
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    ///
    /// A call whose future is dropped goes on, to its end or its timeout, and its result is lost.
    pub async fn transaction_within<T, F>(
        &self,
        op: &'static str,
        limit: Duration,
        work: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> Work<'c, Finish<T>> + Send + Sync + 'static,
    {
        self.shielded(Call { op, limit }, Mode::Transaction, work).await
    }

    /// Runs work in a [`transaction`](Self::transaction) once, never again, for `limit` at the longest.
    ///
    /// The server bounds each statement by `limit`, too; to begin and to commit, there is the time of a call beside.
    ///
    /// # Errors
    ///
    /// Every variant of [`StoreError`]. A conflict with another transaction is one as well.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    ///
    /// # Cancel safety
    ///
    /// A call whose future is dropped goes on, to its end or its timeout, and its result is lost.
    pub async fn transaction_once<T, F>(
        &self,
        op: &'static str,
        limit: Duration,
        work: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> Work<'c, Finish<T>> + Send + 'static,
    {
        let (this, call) = (self.clone(), Call { op, limit });
        let bound = limit.saturating_add(self.inner.call_timeout);
        let task = tokio::spawn(async move { this.attempt(call, bound, 1, Mode::Transaction, work).await });
        finished(op, task.await)?
    }

    /// Begins a transaction that the caller ends. If it is dropped instead, it rolls back.
    ///
    /// # Errors
    ///
    /// Every variant of [`StoreError`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a transaction that nobody waits for rolls back before its connection is used again.
    pub async fn begin(&self, op: &'static str) -> Result<PgTransaction<'static>, StoreError> {
        let call = self.call(op);
        let (pool, begin) = (self.inner.pool.clone(), self.inner.access.begin(call.limit));
        // This task is never dropped half-way: if nobody waits any more, the transaction is dropped when it has
        // begun, which sqlx handles well, and not while it begins.
        let task = tokio::spawn(async move { pool.begin_with(begin).await });
        match within(&*self.inner.clock, self.inner.acquire_timeout + call.limit, task).await {
            None => Err(StoreError::Timeout { op, limit: call.limit }),
            Some(joined) => finished(op, joined)?.map_err(|error| store_error(call, 1, error)),
        }
    }

    /// Closes a pool of our own, after the calls that run. A shared one is its owner's to close.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the pool takes no new calls from the first poll on.
    pub async fn close(&self) {
        if !self.inner.access.shared {
            self.inner.pool.close().await;
        }
    }

    /// Returns the clock that bounds the calls.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.inner.clock)
    }

    /// Makes a statement for this pool's connections.
    #[must_use]
    pub fn statement(&self, sql: Sql) -> Statement {
        Statement::new(sql, !self.inner.access.pooler)
    }

    fn call(&self, op: &'static str) -> Call {
        Call { op, limit: self.inner.call_timeout }
    }

    /// Runs a call in a task of its own, so that it comes to its end even if the caller is dropped.
    async fn shielded<T, F>(&self, call: Call, mode: Mode, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> Work<'c, Finish<T>> + Send + Sync + 'static,
    {
        let this = self.clone();
        let task = tokio::spawn(async move { this.retry(call, mode, &work).await });
        finished(call.op, task.await)?
    }

    async fn retry<T, F>(&self, call: Call, mode: Mode, work: &F) -> Result<T, StoreError>
    where
        T: Send,
        F: for<'c> Fn(&'c mut PgConnection) -> Work<'c, Finish<T>> + Send + Sync,
    {
        let mut tries = 1;
        loop {
            match self.attempt(call, call.limit, tries, mode, work).await {
                Err(StoreError::Conflict { .. }) if tries < MAX_TRIES => {
                    let wait = {
                        let mut rng = self.inner.rng.lock().unwrap_or_else(PoisonError::into_inner);
                        (FIRST_WAIT * (1 << tries)).mul_f64(rng.unit())
                    };
                    self.inner.clock.sleep(wait).await;
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    async fn attempt<T, F>(
        &self,
        call: Call,
        bound: Duration,
        tries: u32,
        mode: Mode,
        work: F,
    ) -> Result<T, StoreError>
    where
        T: Send,
        F: for<'c> FnOnce(&'c mut PgConnection) -> Work<'c, Finish<T>> + Send,
    {
        let mut conn = self.acquire(call).await?;
        let result = within(&*self.inner.clock, bound, async {
            match mode {
                Mode::Plain => self.plain(&mut conn, work).await.map_err(Failed::Work),
                Mode::Transaction => self.in_transaction(&mut conn, call, work).await,
            }
        });
        match result.await {
            Some(Ok(Finish::Abandon(value))) => {
                close(conn);
                Ok(value)
            }
            Some(Ok(Finish::Commit(value) | Finish::Rollback(value))) => Ok(value),
            Some(Err(failed)) => {
                if spoils_connection(failed.error()) {
                    close(conn);
                }
                Err(match failed {
                    Failed::Work(error) => store_error(call, tries, error),
                    Failed::Commit(error) => commit_error(call, tries, error),
                })
            }
            None => {
                close(conn);
                Err(StoreError::Timeout { op: call.op, limit: bound })
            }
        }
    }

    async fn acquire(&self, call: Call) -> Result<PoolConnection<Postgres>, StoreError> {
        let limit = self.inner.acquire_timeout;
        match within(&*self.inner.clock, limit, self.inner.pool.acquire()).await {
            None => Err(StoreError::PoolTimeout { op: call.op, limit }),
            Some(acquired) => acquired.map_err(|error| store_error(Call { limit, ..call }, 1, error)),
        }
    }

    async fn plain<T, F>(&self, conn: &mut PgConnection, work: F) -> Result<Finish<T>, sqlx::Error>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> Work<'c, Finish<T>>,
    {
        if self.inner.access.shared {
            sqlx::raw_sql(END_FORGOTTEN).execute(&mut *conn).await?;
        }
        work(conn).await
    }

    /// Answers as the work did, once the transaction has ended that way; but who abandons it is to close the connection.
    async fn in_transaction<T, F>(
        &self,
        conn: &mut PgConnection,
        call: Call,
        work: F,
    ) -> Result<Finish<T>, Failed>
    where
        F: for<'c> FnOnce(&'c mut PgConnection) -> Work<'c, Finish<T>>,
    {
        let mut tx = conn.begin_with(self.inner.access.begin(call.limit)).await.map_err(Failed::Work)?;
        match work(&mut tx).await {
            Ok(Finish::Commit(value)) => match tx.commit().await {
                // Work that left a transaction of its own open has had that one committed, and this one not.
                Ok(()) if conn.is_in_transaction() => {
                    Err(Failed::Work(sqlx::Error::Protocol("a nested transaction was left open".to_owned())))
                }
                Ok(()) => Ok(Finish::Commit(value)),
                Err(error) if is_conflict(&error) => Err(Failed::Work(error)),
                Err(error) => Err(Failed::Commit(error)),
            },
            Ok(Finish::Rollback(value)) => {
                tx.rollback().await.map(|()| Finish::Rollback(value)).map_err(Failed::Work)
            }
            // The rollback that begins when it is dropped comes to nothing.
            Ok(Finish::Abandon(value)) => Ok(Finish::Abandon(value)),
            Err(error) => {
                // What went wrong says more than whether the rollback got through; a connection that broke is
                // closed by its error.
                let _ = tx.rollback().await;
                Err(Failed::Work(error))
            }
        }
    }
}

/// Whether a call is a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    Transaction,
}

/// Where a call failed.
enum Failed {
    Work(sqlx::Error),
    Commit(sqlx::Error),
}

impl Failed {
    fn error(&self) -> &sqlx::Error {
        match self {
            Self::Work(error) | Self::Commit(error) => error,
        }
    }
}

/// Ends a transaction that somebody forgot. Beginning first avoids the server's warning that there is none.
const END_FORGOTTEN: &str = "begin; rollback";

impl Access {
    /// Writes how a transaction begins: one message, so the settings cost no round trip. They are local to the
    /// transaction, since behind a pooler the session is another's next.
    fn begin(self, limit: Duration) -> Sql {
        let millis =
            i64::try_from(limit.as_millis()).unwrap_or(i64::from(i32::MAX)).clamp(1, i32::MAX.into());
        let end_forgotten = if self.shared { "begin; rollback; " } else { "" };
        Sql::of_numbers(
            &[("limit", millis)],
            &[
                end_forgotten,
                "begin isolation level read committed; set local statement_timeout = {#limit}; \
                 set local idle_in_transaction_session_timeout = {#limit}",
            ],
        )
    }
}

/// Closes a connection at once, in whatever state it is; the pool opens another when it needs one.
fn close(conn: PoolConnection<Postgres>) {
    drop(conn.detach());
}

/// Makes work commit.
fn committing<T: 'static, F>(
    work: F,
) -> impl for<'c> Fn(&'c mut PgConnection) -> Work<'c, Finish<T>> + Send + Sync
where
    F: for<'c> Fn(&'c mut PgConnection) -> Work<'c, T> + Send + Sync,
{
    move |conn| {
        let work = work(conn);
        Box::pin(async move { work.await.map(Finish::Commit) })
    }
}

/// Passes a panic of a task on; a task is cancelled only with its runtime.
fn finished<T>(op: &'static str, joined: Result<T, tokio::task::JoinError>) -> Result<T, StoreError> {
    joined.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => StoreError::Unavailable { op, source: Box::new(error) },
    })
}

impl GuardedBuilder {
    fn new(source: Source, clock: Arc<dyn Clock>) -> Self {
        Self {
            source,
            clock,
            rng: Rng::from_entropy(),
            max_connections: 4,
            acquire_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(10),
            pooler: false,
        }
    }

    /// Sets how many connections a pool of our own opens at most. Default: 4. A shared pool has its own bound.
    pub const fn max_connections(mut self, count: u32) -> Self {
        self.max_connections = count;
        self
    }

    /// Sets how long a call waits for a connection. Default: 5 s.
    pub const fn acquire_timeout(mut self, limit: Duration) -> Self {
        self.acquire_timeout = limit;
        self
    }

    /// Sets how long the work of a call may take. Default: 10 s.
    pub const fn call_timeout(mut self, limit: Duration) -> Self {
        self.call_timeout = limit;
        self
    }

    /// Sets whether a pooler such as `PgBouncer` stands before the server in transaction mode. Default: no.
    ///
    /// Every call is then a transaction, and a [`Statement`] is not kept between calls; use those only.
    pub const fn behind_pooler(mut self, yes: bool) -> Self {
        self.pooler = yes;
        self
    }

    /// Sets where the jitter between tries comes from. Default: a seed of its own.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = rng;
        self
    }

    /// Makes the pool.
    ///
    /// # Errors
    ///
    /// A bound is zero.
    pub fn build(self) -> Result<Guarded, InvalidSetting> {
        for (field, value) in [("acquire_timeout", self.acquire_timeout), ("call_timeout", self.call_timeout)]
        {
            if value < Duration::from_millis(1) {
                return Err(InvalidSetting::new(field, format!("{value:?}"), "at least 1 ms"));
            }
        }
        if self.max_connections == 0 {
            return Err(InvalidSetting::new("max_connections", 0, "at least 1"));
        }
        let (pool, shared) = match self.source {
            Source::Shared(pool) => (pool, true),
            Source::Connect(options) => {
                let pool = PgPoolOptions::new()
                    .max_connections(self.max_connections)
                    .acquire_timeout(self.acquire_timeout)
                    .connect_lazy_with(*options);
                (pool, false)
            }
        };
        Ok(Guarded {
            inner: Arc::new(Inner {
                pool,
                access: Access { shared, pooler: self.pooler },
                clock: self.clock,
                rng: Mutex::new(self.rng),
                acquire_timeout: self.acquire_timeout,
                call_timeout: self.call_timeout,
            }),
        })
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options of the pool may hold a password.
        f.debug_struct("Guarded")
            .field("access", &self.inner.access)
            .field("connections", &self.inner.pool.size())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for GuardedBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedBuilder")
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("call_timeout", &self.call_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_on_a_shared_pool_first_ends_a_forgotten_one() {
        let own = Access { shared: false, pooler: false }.begin(Duration::from_secs(10));
        assert!(
            own.as_str()
                .starts_with("begin isolation level read committed; set local statement_timeout = 10000")
        );
        let shared = Access { shared: true, pooler: false }.begin(Duration::MAX);
        assert!(shared.as_str().starts_with("begin; rollback; begin "), "{shared:?}");
        assert!(shared.as_str().contains("statement_timeout = 2147483647"), "{shared:?}");
    }

    #[tokio::test]
    async fn bounds_of_zero_are_refused_by_name() {
        let clock = relaykit_pipeline_traits::ManualClock::new;
        let options = PgConnectOptions::new_without_pgpass;
        let error = Guarded::connect(options(), clock()).call_timeout(Duration::ZERO).build().unwrap_err();
        assert_eq!(error.to_string(), "call_timeout is 0ns, but must be at least 1 ms");
        assert!(Guarded::connect(options(), clock()).max_connections(0).build().is_err());
    }
}
