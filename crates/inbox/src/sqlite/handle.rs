use std::convert::Infallible;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use relaykit_pipeline_traits::{
    BatchContext, BatchOutcome, Classify, Clock, ErrorClass, Message, Monotonic, Verdict,
};
use relaykit_sql_store::judge::{Called, panic_text};
use relaykit_sql_store::sqlite::rusqlite::{Connection, Error, InterruptHandle, Result as SqlResult, params};
use relaykit_sql_store::sqlite::{SettleQueries, in_savepoint};
use relaykit_sql_store::torture::{crash_point, planted};
use relaykit_sql_store::{Names, Sql, StoreError};

use super::settle::settle;
use crate::handler::{HandlerError, erase};
use crate::store::{Committed, Delivery};

/// Handles a message in the transaction in which it ends: what is written there and the end of the message are committed
/// together.
///
/// It runs on the thread that writes the file, within a savepoint, and others that write wait meanwhile: **be quick**, and
/// call nobody over the network. It may run more than once, each time on a transaction in which the former run left nothing; only
/// one of them is committed. If it says anything but [`Verdict::Done`], panics, or takes longer than it may, what it wrote is
/// rolled back. A statement that takes too long is interrupted, and so is one whose worker does not wait for it any more.
///
/// Leave transactions as they are: end none but your own savepoints. Leave the connection's settings as they are, too.
///
/// ```
/// use relaykit_inbox::sqlite::rusqlite::{Connection, params};
/// use relaykit_inbox::sqlite::{SqliteError, TransactionalHandler};
/// use relaykit_pipeline_traits::{BatchContext, Message, Verdict};
///
/// struct CountStars;
///
/// impl TransactionalHandler for CountStars {
///     type Error = SqliteError;
///
///     fn handle(&self, tx: &Connection, message: &Message, _cx: &BatchContext) -> Verdict<(), SqliteError> {
///         let repository = message.ordering_key().map(|key| key.as_str());
///         match tx.execute("update repositories set stars = stars + 1 where id = ?1", params![repository]) {
///             Ok(_) => Verdict::Done(()),
///             Err(error) => Verdict::Retry { after: None, error: SqliteError::of(error) },
///         }
///     }
/// }
/// ```
pub trait TransactionalHandler: Send + Sync {
    /// Why a message was not handled.
    type Error: Classify + fmt::Display;

    /// Handles the message, and writes through `tx` alone.
    fn handle(&self, tx: &Connection, message: &Message, cx: &BatchContext) -> Verdict<(), Self::Error>;
}

impl<F, E> TransactionalHandler for F
where
    F: Fn(&Connection, &Message, &BatchContext) -> Verdict<(), E> + Send + Sync,
    E: Classify + fmt::Display,
{
    type Error = E;

    fn handle(&self, tx: &Connection, message: &Message, cx: &BatchContext) -> Verdict<(), E> {
        self(tx, message, cx)
    }
}

/// A [`TransactionalHandler`] of any type. Cheap to clone.
#[derive(Clone)]
pub struct SqliteTransactional(Arc<dyn Transactional>);

impl fmt::Debug for SqliteTransactional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteTransactional").finish_non_exhaustive()
    }
}

impl<H: TransactionalHandler + 'static> From<H> for SqliteTransactional {
    fn from(handler: H) -> Self {
        Self(Arc::new(Erased(handler)))
    }
}

trait Transactional: Send + Sync {
    fn handle(&self, tx: &Connection, message: &Message, cx: &BatchContext) -> Verdict<(), HandlerError>;
}

struct Erased<H>(H);

impl<H: TransactionalHandler> Transactional for Erased<H> {
    fn handle(&self, tx: &Connection, message: &Message, cx: &BatchContext) -> Verdict<(), HandlerError> {
        erase(self.0.handle(tx, message, cx))
    }
}

const OPEN: &str =
    "select exists (select 1 from {deliveries} where seq = ?1 and shard = ?2 and handler = ?3)";

/// What a call asks the tables.
#[derive(Debug, Clone)]
pub(super) struct Deliveries {
    open: Sql,
    settle: SettleQueries,
}

impl Deliveries {
    pub(super) fn new(names: &Names) -> Self {
        Self { open: Sql::new(names, &[OPEN]), settle: settle(names) }
    }

    fn is_open(&self, connection: &Connection, delivery: &Delivery) -> SqlResult<bool> {
        let Delivery { row, handler, .. } = delivery;
        let mut open = connection.prepare_cached(self.open.as_str())?;
        open.query_row(params![row.seq.0, row.shard.number(), handler.as_str()], |row| row.get(0))
    }
}

/// A call of a handler, shared by whoever asks for it and the thread that makes it.
pub(super) struct Call {
    handler: SqliteTransactional,
    delivery: Delivery,
    context: BatchContext,
    limit: Duration,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether nobody waits for the answer any more.
    gone: bool,
    /// While the handler runs: since when, and how to interrupt its statement.
    running: Option<(Monotonic, InterruptHandle)>,
    /// How the last run ended, as far as nobody else tells.
    ended: Option<Ended>,
}

enum Ended {
    /// The handler was done; the rest is the database's.
    Said,
    /// The handler was not done, and an error ended the transaction.
    Not(Called<HandlerError>),
}

/// Why everything was rolled back.
enum Undone {
    Gone,
    Not(Called<HandlerError>),
    Sqlite(Error),
}

/// How long a handler is left alone between two interrupts.
const AGAIN: Duration = Duration::from_millis(100);

impl Call {
    pub(super) fn new(
        handler: &SqliteTransactional,
        delivery: &Delivery,
        context: &BatchContext,
        limit: Duration,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        Self {
            handler: handler.clone(),
            delivery: delivery.clone(),
            context: context.clone(),
            limit,
            clock: Arc::clone(clock),
            state: Mutex::default(),
        }
    }

    /// Calls the handler within a transaction, unless there is no need to.
    pub(super) fn run(&self, deliveries: &Deliveries, connection: &Connection) -> SqlResult<Committed> {
        self.state().ended = None;
        if !deliveries.settle.holds(connection, &self.delivery.lease)? {
            return Ok(Committed::Stale);
        }
        // It was committed before, but the answer was lost.
        if !deliveries.is_open(connection, &self.delivery)? {
            return Ok(Committed::Done);
        }
        let handle = || {
            if !self.begin(connection) {
                return Err(Undone::Gone);
            }
            self.lend(connection).map_err(Undone::Not)?;
            crash_point("handle.wrote");
            self.state().ended = Some(Ended::Said);
            if planted("ends_after_the_commit") {
                return Ok(true);
            }
            let done = deliveries.settle.done(connection, self.delivery.row).map_err(Undone::Sqlite);
            crash_point("handle.ended");
            done
        };
        match in_savepoint(connection, handle, Undone::Sqlite) {
            Ok(_) => Ok(Committed::Done),
            Err(Undone::Not(called)) => {
                if connection.is_autocommit() {
                    // The writer sees it too, and makes an error of whatever is answered here.
                    self.state().ended = Some(Ended::Not(called));
                    return Ok(Committed::Stale);
                }
                Ok(Committed::Not(called))
            }
            Err(Undone::Gone) => Ok(Committed::Stale),
            Err(Undone::Sqlite(error)) => Err(error),
        }
    }

    /// Says that the handler runs, unless nobody wants it to.
    fn begin(&self, connection: &Connection) -> bool {
        let mut state = self.state();
        if !state.gone {
            state.running = Some((self.clock.monotonic(), connection.get_interrupt_handle()));
        }
        !state.gone
    }

    fn lend(&self, connection: &Connection) -> Result<(), Called<HandlerError>> {
        let said = catch_unwind(AssertUnwindSafe(|| {
            self.handler.0.handle(connection, &self.delivery.message, &self.context)
        }));
        let begun = self.state().running.take();
        let said = said.map_err(|panic| Called::Panicked(panic_text(panic.as_ref())))?;
        if begun.is_some_and(|(begun, _)| self.clock.monotonic().since(begun) >= self.limit) {
            return Err(Called::TimedOut(self.limit));
        }
        match said {
            Verdict::Done(()) if connection.is_autocommit() => {
                Err(failed("an error ended the transaction, though the handler said that it is done"))
            }
            Verdict::Done(()) => Ok(()),
            other => Err(Called::Outcome(BatchOutcome::Each(vec![other]))),
        }
    }

    /// Interrupts the handler's statements once it takes too long.
    pub(super) async fn watch(&self) -> Infallible {
        let mut wait = self.limit;
        loop {
            self.clock.sleep(wait.max(Duration::from_millis(1))).await;
            wait = self.interrupt_late();
        }
    }

    /// Returns when to look again.
    fn interrupt_late(&self) -> Duration {
        // The lock is kept, so that it is the handler's statement, and nobody else's.
        let state = self.state();
        let Some((begun, interrupt)) = &state.running else { return self.limit };
        let left = self.limit.saturating_sub(self.clock.monotonic().since(*begun));
        if state.gone || left.is_zero() {
            interrupt.interrupt();
            return AGAIN;
        }
        left
    }

    /// Tells the handler's failures from the database's.
    pub(super) fn judge(&self, written: Result<Committed, StoreError>) -> Result<Committed, StoreError> {
        let ended = self.state().ended.take();
        match (written, ended) {
            (Err(_), Some(Ended::Not(called))) => Ok(Committed::Not(called)),
            // Such as a deferred foreign key, which is checked at the end.
            (Err(StoreError::Rejected { source, .. }), Some(Ended::Said)) => {
                Ok(Committed::Not(failed(format!("what the handler wrote was not committed: {source}"))))
            }
            (written, _) => written,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever asks for a call. When they are gone before the handler has ended, it is interrupted: it would keep everybody from
/// writing, and nobody would commit it again.
pub(super) struct Asked(pub(super) Arc<Call>);

impl Drop for Asked {
    fn drop(&mut self) {
        let Self(call) = self;
        let mut state = call.state();
        state.gone = true;
        let runs = state.running.is_some();
        drop(state);
        if runs {
            call.interrupt_late();
            // What was not under way just then is met by and by.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(interrupt_on(Arc::downgrade(call), Arc::clone(&call.clock)));
            }
        }
    }
}

async fn interrupt_on(call: Weak<Call>, clock: Arc<dyn Clock>) {
    loop {
        clock.sleep(AGAIN).await;
        // The thread holds it as long as it runs.
        let Some(call) = call.upgrade() else { return };
        call.interrupt_late();
    }
}

fn failed(text: impl Into<String>) -> Called<HandlerError> {
    let error = HandlerError::new(text, ErrorClass::Transient);
    Called::Outcome(BatchOutcome::Each(vec![Verdict::Retry { after: None, error }]))
}
