use super::open::OpenTransactions;
use super::row::{Depth, Page, ReadFrom, RowId, Settled, Settlement, Suspicion};
use crate::{Lease, StoreError};

/// What a stream needs of a store: its rows by page, and to write what became of them.
///
/// For every store:
///
/// - messages that transactions of one key add one after another get ascending places;
/// - [`page`](Self::page) shows one moment. A row is on it if its own wait is over, and no earlier row of its key holds it: one
///   that still waits, or one whose wait is over and that lies at or before the place from which the shard is read, so that
///   it is not on the page itself (in a stream without order, no row holds another);
/// - [`settle`](Self::settle) writes all that is under leases that still hold, in one transaction, and nothing under others.
pub trait StreamStore: Send + Sync + 'static {
    /// Reads up to `limit` rows of each shard, in order; from before what they ask for, if a transaction among `open` has ended that adds
    /// there.
    fn page(
        &self,
        from: &[ReadFrom],
        open: &OpenTransactions,
        limit: u32,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Notes of rows that they are about to be sent, before they are, or takes that back: under leases that still hold, in one
    /// transaction, and nothing under others. May be repeated. A replayed message has nothing noted.
    ///
    /// Relays call it only after somebody let a lease of the shard run out.
    fn suspect(
        &self,
        leases: &[Lease],
        rows: &[RowId],
        suspicion: Suspicion,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send;

    /// Writes what became of rows. May be repeated if its answer was lost: what is written already is left alone.
    fn settle(&self, settlement: &Settlement) -> impl Future<Output = Result<Settled, StoreError>> + Send;

    /// Counts what waits.
    fn depth(&self) -> impl Future<Output = Result<Depth, StoreError>> + Send;
}
