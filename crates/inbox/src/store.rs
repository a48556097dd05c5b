use std::time::Duration;

use relaykit_pipeline_traits::{BatchContext, Message, MessageId};
use relaykit_sql_store::judge::Called;
use relaykit_sql_store::{
    DeadFilter, Depth, Lease, LeaseStore, OpenTransactions, Page, ReadFrom, RowId, Seq, Settled, Settlement,
    StoreError, Suspicion,
};

use crate::dead::DeadLetter;
use crate::handler::HandlerError;
use crate::name::{HandlerKey, Scope};
use crate::received::{IdConflict, ReceiveError, Received};
use crate::retention::{Erased, Retention};
use crate::routes::Routes;

/// One handler's share of a message, on its way to a transactional handler.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its place.
    pub row: RowId,
    /// The lease under which it is handled.
    pub lease: Lease,
    /// The handler.
    pub handler: HandlerKey,
    /// The message.
    pub message: Message,
}

/// How the call of a transactional handler ended.
#[derive(Debug)]
pub enum Committed {
    /// What the handler wrote and the end of the delivery are committed, together.
    Done,
    /// The lease is another's now. Everything was rolled back.
    Stale,
    /// The handler did not say that it is done: this is how the call ended. Everything was rolled back.
    Not(Called<HandlerError>),
}

/// A message that no handler was there for when it came.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unrouted {
    /// Its place among the messages.
    pub seq: Seq,
    /// Whose message it is.
    pub scope: Scope,
    /// Its id.
    pub id: MessageId,
    /// Its kind.
    pub kind: String,
    /// How long ago it was received.
    pub age: Duration,
}

impl Unrouted {
    /// Makes it of its parts; for stores.
    #[must_use]
    pub const fn new(seq: Seq, scope: Scope, id: MessageId, kind: String, age: Duration) -> Self {
        Self { seq, scope, id, kind, age }
    }
}

/// Where messages are kept. [`Inbox`](crate::Inbox) and [`Worker`](crate::Worker) work on any; users need not know it.
///
/// A stored message has a *delivery* for each handler: a row of its own with its own place, attempts and end. For every store:
///
/// - a message is stored once for each scope and id, as long as its id is remembered, with a delivery for each of its routes, all
///   in one transaction; one without a route is kept as unrouted;
/// - deliveries to one handler that transactions of one key add one after another get ascending places;
/// - [`page`](Self::page) shows one moment. A delivery is on it if its own wait is over and, if its handler is ordered, no earlier one of
///   its key and handler holds it: one that still waits, or one whose wait is over and that lies at or before the place
///   from which the shard is read, so that it is not on the page itself;
/// - [`settle`](Self::settle) writes all that is under leases that still hold, in one transaction, and nothing under others;
/// - [`handle`](Self::handle) commits what the handler wrote with the end of the delivery, or nothing;
/// - nothing but an end takes a delivery away, and no message that has a delivery, a dead letter, or no route is ever erased.
pub trait InboxStore: Clone + Send + Sync + 'static {
    /// Keeps the leases of this store.
    type Leases: LeaseStore;

    /// A handler that gets this store's open transaction.
    type Transactional: Clone + Send + Sync + 'static;

    /// Returns where the leases are kept.
    fn leases(&self) -> Self::Leases;

    /// Stores messages in their order, each unless its id is known, and answers each. One that conflicts is left out, and keeps no
    /// other from being stored.
    fn receive(
        &self,
        scope: &Scope,
        messages: &[Message],
        routes: &Routes,
    ) -> impl Future<Output = Result<Vec<Result<Received, IdConflict>>, ReceiveError>> + Send;

    /// Reads up to `limit` deliveries of a handler from each shard, in order.
    fn page(
        &self,
        handler: &HandlerKey,
        from: &[ReadFrom],
        open: &OpenTransactions,
        limit: u32,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Notes of deliveries that they are about to be lent, before they are, or takes that back: under leases that still hold, in one
    /// transaction, and nothing under others. May be repeated. A replayed delivery has nothing noted.
    ///
    /// Workers call it only after somebody let a lease of the shard run out.
    fn suspect(
        &self,
        leases: &[Lease],
        rows: &[RowId],
        suspicion: Suspicion,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send;

    /// Writes what became of deliveries. May be repeated if its answer was lost: what is written already is left alone.
    fn settle(&self, settlement: &Settlement) -> impl Future<Output = Result<Settled, StoreError>> + Send;

    /// Lends a message to a transactional handler, in a transaction of its own, for `limit` at the longest; commits if the
    /// handler is done and the lease holds.
    fn handle(
        &self,
        handler: &Self::Transactional,
        delivery: &Delivery,
        context: &BatchContext,
        limit: Duration,
    ) -> impl Future<Output = Result<Committed, StoreError>> + Send;

    /// Gives up to `limit` unrouted messages whose kinds have routes their deliveries, the oldest first. Returns how many.
    fn route(&self, routes: &Routes, limit: u32) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Gives up to `limit` stored messages of a kind that were never led to this handler a delivery to it, the oldest behind `after`
    /// first. Returns the place of the last it looked at, and how many got one; `None` at the end.
    fn catch_up(
        &self,
        kind: &str,
        route: &crate::routes::Route,
        after: Seq,
        limit: u32,
    ) -> impl Future<Output = Result<Option<(Seq, u64)>, StoreError>> + Send;

    /// Names the transactions that have begun to write messages and have not ended, each by a name that no other gets. Stores whose
    /// writers wait for each other have none.
    fn writing(&self) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Counts what waits for a handler.
    fn depth(&self, handler: &HandlerKey) -> impl Future<Output = Result<Depth, StoreError>> + Send;

    /// Lists messages that have no handler, in the order of their places behind `after`, at most `limit`.
    fn unrouted(
        &self,
        after: Seq,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Unrouted>, StoreError>> + Send;

    /// Lists dead letters in the order of their places, at most `limit`; of all handlers, or of one.
    fn dead_letters(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<DeadLetter>, StoreError>> + Send;

    /// Makes dead letters deliveries again, in their old places, due now and with no attempt spent; at most `limit`, the first
    /// first. Returns the ids of their messages.
    fn replay(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<MessageId>, StoreError>> + Send;

    /// Deletes dead letters, at most `limit`, the first first. Returns how many.
    fn purge(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Erases what is past its time, at most `limit` of each sort.
    fn erase(
        &self,
        retention: &Retention,
        limit: u32,
    ) -> impl Future<Output = Result<Erased, StoreError>> + Send;
}
