use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use relaykit_pipeline_traits::{
    BatchContext, BatchOutcome, Classify as _, Clock, ErrorClass, Message, Verdict,
};
use relaykit_sql_store::judge::{Called, call};
use relaykit_sql_store::stream::{
    Depth, Lent, OpenTransactions, Page, ReadFrom, RowId, Settled, Settlement, StreamHandler, StreamStore,
    Suspicion,
};
use relaykit_sql_store::{Lease, StoreError, error_chain};

use crate::handler::{HandlerError, How};
use crate::name::HandlerKey;
use crate::store::{Committed, Delivery, InboxStore};

/// The deliveries of one handler as a stream.
pub(crate) struct Deliveries<S> {
    pub(crate) store: S,
    pub(crate) handler: HandlerKey,
}

impl<S: InboxStore> StreamStore for Deliveries<S> {
    fn page(
        &self,
        from: &[ReadFrom],
        open: &OpenTransactions,
        limit: u32,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send {
        self.store.page(&self.handler, from, open, limit)
    }

    fn settle(&self, settlement: &Settlement) -> impl Future<Output = Result<Settled, StoreError>> + Send {
        self.store.settle(settlement)
    }

    fn suspect(
        &self,
        leases: &[Lease],
        rows: &[RowId],
        suspicion: Suspicion,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send {
        self.store.suspect(leases, rows, suspicion)
    }

    fn depth(&self) -> impl Future<Output = Result<Depth, StoreError>> + Send {
        self.store.depth(&self.handler)
    }
}

/// Lends messages to a handler: those of a batch beside each other, each with a time of its own, so that one that panics or hangs
/// is judged by itself.
pub(crate) struct Deliver<S: InboxStore> {
    pub(crate) how: How<S>,
    pub(crate) store: S,
    pub(crate) handler: HandlerKey,
    pub(crate) timeout: Duration,
    pub(crate) clock: Arc<dyn Clock>,
}

impl<S: InboxStore> StreamHandler for Deliver<S> {
    type Error = HandlerError;

    async fn handle(&self, lent: &Lent<'_>, context: &BatchContext) -> BatchOutcome<(), HandlerError> {
        let limit = self.limit(context);
        let context = context.clone().with_deadline(self.clock.monotonic() + limit);
        let context = &context;
        let each = lent.messages.iter().zip(lent.rows);
        let verdicts = join_all(each.map(|(message, (row, lease))| async move {
            match &self.how {
                How::Plain(handler) => {
                    let handle = async || BatchOutcome::Each(vec![handler.handle(message, context).await]);
                    let called = call(handle, limit, &*self.clock, std::future::pending()).await;
                    verdict(called.unwrap_or(Called::TimedOut(limit)))
                }
                How::Transactional(handler) => {
                    self.commit(handler, message, *row, *lease, context, limit).await
                }
            }
        }));
        BatchOutcome::Each(verdicts.await)
    }

    fn ends_itself(&self) -> bool {
        matches!(self.how, How::Transactional(_))
    }
}

impl<S: InboxStore> Deliver<S> {
    /// Returns how long a message may take: a little less than the batch, so that it is this message that ran out of time.
    fn limit(&self, context: &BatchContext) -> Duration {
        let now = self.clock.monotonic();
        let left = context.deadline().map_or(self.timeout, |deadline| deadline.since(now));
        self.timeout.min(left.mul_f64(0.9))
    }

    async fn commit(
        &self,
        handler: &S::Transactional,
        message: &Message,
        row: RowId,
        lease: Lease,
        context: &BatchContext,
        limit: Duration,
    ) -> Verdict<(), HandlerError> {
        let delivery = Delivery { row, lease, handler: self.handler.clone(), message: message.clone() };
        match self.store.handle(handler, &delivery, context, limit).await {
            Ok(Committed::Done) => Verdict::Done(()),
            // The settlement will find the same, and that the delivery is lost. To say that it was not tried would pause all shards.
            Ok(Committed::Stale) => {
                let error = HandlerError::new("the lease is another's", ErrorClass::Transient);
                Verdict::Retry { after: None, error }
            }
            Ok(Committed::Not(called)) => verdict(called),
            Err(error) => Verdict::Retry { after: None, error: failed(&error) },
        }
    }
}

/// Returns what a call says of its one message.
fn verdict(called: Called<HandlerError>) -> Verdict<(), HandlerError> {
    let failed = |text| Verdict::Retry { after: None, error: HandlerError::new(text, ErrorClass::Transient) };
    match called {
        Called::Outcome(BatchOutcome::Each(verdicts)) => {
            verdicts.into_iter().next().unwrap_or(Verdict::Untried)
        }
        Called::Outcome(_) => Verdict::Untried,
        Called::Panicked(text) => failed(format!("the handler panicked: {text}")),
        Called::TimedOut(after) => failed(format!("the handler took longer than {after:?}")),
    }
}

/// Says whether a transaction that did not commit is the message's fault, and costs it an attempt: what it or its handler wrote was
/// refused, or took too long. That the database was not there is nobody's.
fn failed(error: &StoreError) -> HandlerError {
    let own = match error {
        StoreError::Timeout { .. } | StoreError::Conflict { .. } => true,
        other => !other.is_transient(),
    };
    let class = if own { ErrorClass::Transient } else { ErrorClass::Throttled };
    HandlerError::new(error_chain(error), class)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use relaykit_pipeline_traits::{ManualClock, MessageId, Rng, Timestamp};
    use relaykit_sql_store::{Instance, LeaseStore as _, Seq, Shard, Shards};

    use super::*;
    use crate::handler::{Handlers, Registration};
    use crate::memory::{MemoryInbox, MemoryTransaction, MemoryTransactional};
    use crate::name::Scope;
    use crate::worker::Worker;

    #[tokio::test]
    async fn what_a_stale_lease_kept_from_being_committed_is_not_done() {
        let (clock, shard) = (ManualClock::new(), Shard::new(0));
        let done =
            |_: &mut MemoryTransaction, _: &Message, _: &BatchContext| Verdict::<(), HandlerError>::Done(());
        let deliver = Deliver {
            how: How::Transactional(MemoryTransactional::new(done)),
            store: MemoryInbox::new(Shards::new(1).unwrap(), clock.clone()),
            handler: HandlerKey::new("w").unwrap(),
            timeout: Duration::from_secs(1),
            clock: Arc::new(clock),
        };
        let id = MessageId::new(Timestamp::from_millis(1), &mut Rng::seeded(1));
        let message = Message::builder(id, "push", Timestamp::from_millis(1)).build().unwrap();
        let rows = [(RowId { shard, seq: Seq(1) }, Lease { shard, token: 7 })];
        let lent = Lent { messages: &[message], rows: &rows };
        let outcome = deliver.handle(&lent, &BatchContext::new(1)).await;
        assert!(
            matches!(&outcome, BatchOutcome::Each(each) if matches!(each[..], [Verdict::Retry { .. }])),
            "{outcome:?}"
        );
    }

    #[tokio::test]
    async fn a_shard_that_another_took_during_a_call_is_lost_and_does_not_pause_the_others() {
        let lease = Duration::from_secs(30);
        let clock = ManualClock::new();
        let store = MemoryInbox::new(Shards::new(1).unwrap(), clock.clone());
        let (leases, stall) = (store.leases(), clock.clone());
        let taken = move |_: &mut MemoryTransaction, _: &Message, _: &BatchContext| {
            stall.advance(lease + Duration::from_millis(1));
            let other = Instance::new(stall.now(), &mut Rng::seeded(2));
            let took = leases.take(other, lease, &[Shard::new(0)]).now_or_never();
            assert_eq!(took.unwrap().unwrap().len(), 1);
            Verdict::<(), HandlerError>::Done(())
        };
        let mut handlers = Handlers::new();
        let key = HandlerKey::new("w").unwrap();
        let registration = Registration::transactional(key, MemoryTransactional::new(taken));
        handlers.register(registration.on("push")).unwrap();
        let id = MessageId::new(Timestamp::from_millis(1), &mut Rng::seeded(1));
        let message = Message::builder(id, "push", Timestamp::from_millis(1)).build().unwrap();
        let scope = Scope::new("github").unwrap();
        store.receive(&scope, &[message], handlers.routes()).await.unwrap();
        let worker = Worker::builder(store, handlers).lease(lease).clock(clock).build().unwrap();
        let summary = worker.run_once().await.unwrap().handlers[0].1;
        assert_eq!((summary.sent, summary.lost, summary.pauses), (0, 1, 0));
    }

    #[test]
    fn a_database_that_is_away_spends_no_attempt_and_a_statement_that_is_refused_does() {
        let away = StoreError::Unavailable { op: "handle", source: "gone".into() };
        let refused = StoreError::Rejected { op: "handle", source: "25P02".into() };
        let slow = StoreError::Timeout { op: "handle", limit: Duration::from_secs(1) };
        assert_eq!(failed(&away).class(), ErrorClass::Throttled);
        assert_eq!(failed(&refused).class(), ErrorClass::Transient);
        assert_eq!(failed(&slow).class(), ErrorClass::Transient);
        assert!(failed(&refused).to_string().contains("25P02"));
    }
}
