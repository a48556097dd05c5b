use std::fmt;
use std::sync::{Arc, Weak};

use relaykit_pipeline_traits::{BatchContext, BatchOutcome, Classify, ErrorClass, Message, Verdict};
use relaykit_sql_store::judge::{Called, call};
use relaykit_sql_store::postgres::{Finish, Statement};
use relaykit_sql_store::torture::{crash_point, planted};
use sqlx::{PgConnection, Row};

use crate::handler::{Answer, HandlerError, erase};
use crate::store::{Committed, Delivery};

/// Handles a message in the transaction in which its end is committed, so that what is written there takes effect exactly once.
///
/// If the verdict is [`Done`](Verdict::Done), the transaction commits with the end of the message; after any other verdict, a panic or
/// when time is up, it is rolled back. It reads committed rows. The handler may be called again for a message, but never after a
/// call of it has committed. What it does elsewhere, such as a request, is not part of the transaction: pass the message's id on as the
/// idempotency key.
///
/// The transaction is the engine's: do not end it, and set nothing for the session (`set local` is fine). Nested ones
/// (`tx.begin()`, which is a savepoint) are fine, too. An error of the database that is passed over without a savepoint
/// has aborted the transaction, and counts as a failed attempt, whatever the verdict is.
///
/// ```
/// use relaykit_inbox::postgres::TransactionalHandler;
/// use relaykit_pipeline_traits::{BatchContext, Classify, ErrorClass, Message, Verdict};
/// use sqlx::PgConnection;
///
/// struct CountStars;
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("could not count")]
/// struct CountError(#[from] sqlx::Error);
///
/// impl Classify for CountError {
///     fn class(&self) -> ErrorClass {
///         ErrorClass::Transient
///     }
/// }
///
/// impl TransactionalHandler for CountStars {
///     type Error = CountError;
///
///     async fn handle(&self, tx: &mut PgConnection, message: &Message, _: &BatchContext) -> Verdict<(), CountError> {
///         let count = sqlx::query("update stars set count = count + 1 where repository = $1");
///         match count.bind(&message.payload()[..]).execute(tx).await {
///             Ok(_) => Verdict::Done(()),
///             Err(error) => Verdict::Retry { after: None, error: error.into() },
///         }
///     }
/// }
/// ```
pub trait TransactionalHandler: Send + Sync {
    /// Why a message was not handled.
    type Error: Classify + fmt::Display + Send;

    /// Handles the message.
    ///
    /// The engine drops the future when its time is up.
    fn handle(
        &self,
        tx: &mut PgConnection,
        message: &Message,
        context: &BatchContext,
    ) -> impl Future<Output = Verdict<(), Self::Error>> + Send;
}

/// A [`TransactionalHandler`] of any type. Cheap to clone.
#[derive(Clone)]
pub struct PgTransactional(Arc<dyn Boxed>);

impl<H: TransactionalHandler + 'static> From<H> for PgTransactional {
    fn from(handler: H) -> Self {
        Self(Arc::new(Handler(handler)))
    }
}

impl fmt::Debug for PgTransactional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgTransactional").finish_non_exhaustive()
    }
}

trait Boxed: Send + Sync {
    fn handle<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        message: &'a Message,
        context: &'a BatchContext,
    ) -> Answer<'a>;
}

struct Handler<H>(H);

impl<H: TransactionalHandler> Boxed for Handler<H> {
    fn handle<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        message: &'a Message,
        context: &'a BatchContext,
    ) -> Answer<'a> {
        Box::pin(async move { erase(self.0.handle(tx, message, context).await) })
    }
}

/// A transactional handler's call: what it is given.
pub(super) struct Lending {
    pub(super) handler: PgTransactional,
    pub(super) delivery: Delivery,
    pub(super) context: BatchContext,
    pub(super) limit: std::time::Duration,
    pub(super) clock: Arc<dyn relaykit_pipeline_traits::Clock>,
    pub(super) finish: Statement,
    /// Gone with whoever waits for the answer.
    pub(super) asked: Weak<()>,
}

impl Lending {
    /// Lends the transaction that is open, and says how it is to end.
    pub(super) async fn run(self, tx: &mut PgConnection) -> Result<Finish<Committed>, sqlx::Error> {
        let (handler, message) = (&self.handler.0, &self.delivery.message);
        let lend = async || BatchOutcome::Each(vec![handler.handle(tx, message, &self.context).await]);
        let called = call(lend, self.limit, &*self.clock, std::future::pending()).await;
        let called = called.expect("only an interrupt leaves it without an end");
        match &called {
            Called::Outcome(BatchOutcome::Each(verdicts)) if verdicts[..] == [Verdict::Done(())] => {}
            Called::Outcome(_) => return Ok(Finish::Rollback(Committed::Not(called))),
            // It was cut off, maybe in the midst of a statement.
            _ => return Ok(Finish::Abandon(Committed::Not(called))),
        }
        crash_point("handle.wrote");
        if planted("ends_after_the_commit") {
            return Ok(Finish::Commit(Committed::Not(called)));
        }
        let finished = self.finish(tx).await;
        crash_point("handle.ended");
        match finished {
            Err(error) if is_aborted(&error) => {
                let text = "the handler passed over an error of the database, which aborted its transaction";
                Ok(Finish::Rollback(failed(text.to_owned())))
            }
            finished => finished,
        }
    }

    /// Ends the delivery, if the lease holds.
    async fn finish(&self, tx: &mut PgConnection) -> Result<Finish<Committed>, sqlx::Error> {
        let Delivery { row, lease, .. } = &self.delivery;
        let finish = self
            .finish
            .query()
            .bind([i32::from(lease.shard.number())])
            .bind([lease.token])
            .bind(row.seq.0)
            .fetch_one(tx)
            .await?;
        Ok(match (finish.try_get(0)?, finish.try_get(1)?) {
            // Whoever gave the call up writes that the delivery waits. Before it is gone, or after: then nothing is written, and
            // they see it. If it went later, nobody would.
            (true, true) if self.asked.strong_count() == 0 => Finish::Rollback(Committed::Stale),
            (true, true) => Finish::Commit(Committed::Done),
            // Nobody but whoever has the lease ends it: an earlier call did, and its answer was lost.
            (true, false) => Finish::Rollback(Committed::Done),
            (false, _) => Finish::Rollback(Committed::Stale),
        })
    }
}

/// Says that the handler failed, whatever it said itself.
pub(super) fn failed(text: String) -> Committed {
    let error = HandlerError::new(text, ErrorClass::Transient);
    Committed::Not(Called::Outcome(BatchOutcome::Each(vec![Verdict::Retry { after: None, error }])))
}

/// Tells whether the transaction had been aborted before.
fn is_aborted(error: &sqlx::Error) -> bool {
    const IN_FAILED_TRANSACTION: &str = "25P02";
    matches!(error, sqlx::Error::Database(error) if error.code().is_some_and(|code| code == IN_FAILED_TRANSACTION))
}
