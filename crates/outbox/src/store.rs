use relaykit_pipeline_traits::{MessageId, OrderingKey};
pub use relaykit_sql_store::{
    Depth, Dying, OpenTransactions, Page, ReadFrom, RowId, Seq, Settled, Settlement, Snapshot, Stored,
    Suspicion, Unreadable, Waiting,
};
use relaykit_sql_store::{Lease, LeaseStore, StoreError};

use crate::dead::{BlockedKey, DeadFilter, DeadLetter};

/// Where messages are kept. The relay works on any; users need not know it.
///
/// For every store:
///
/// - a message is in it as soon as, and only if, the transaction that added it has committed;
/// - messages that transactions of one key add one after another get ascending places;
/// - [`page`](Self::page) shows one moment. A row is on it if its own wait is over, and no earlier row of its key holds it: one
///   that still waits, or one whose wait is over and that lies at or before the place from which the shard is read, so that
///   it is not on the page itself;
/// - [`settle`](Self::settle) writes all that is under leases that still hold, in one transaction, and nothing under others.
pub trait OutboxStore: Send + Sync + 'static {
    /// Keeps the leases of this store.
    type Leases: LeaseStore;

    /// Returns where the leases are kept.
    fn leases(&self) -> Self::Leases;

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

    /// Lists dead letters in the order of their places, at most `limit`.
    fn dead_letters(
        &self,
        filter: &DeadFilter,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<DeadLetter>, StoreError>> + Send;

    /// Makes dead letters messages again, in their old places, due now and with no attempt spent; at most `limit`, the first
    /// first. Returns their ids. One that cannot be read stays.
    fn replay(
        &self,
        filter: &DeadFilter,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<MessageId>, StoreError>> + Send;

    /// Deletes dead letters, at most `limit`, the first first. Returns how many.
    fn purge(&self, filter: &DeadFilter, limit: u32) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Lists rows that wait and have no earlier one of their key that waits, the oldest first, at most `limit`.
    fn blocked(&self, limit: u32) -> impl Future<Output = Result<Vec<BlockedKey>, StoreError>> + Send;

    /// Makes the first message of a key a dead letter, and the next one due now unless it waits already. Returns the id of the
    /// one skipped.
    ///
    /// A message that a relay has in memory may be sent all the same; the order of its key is kept.
    fn skip(&self, key: &OrderingKey) -> impl Future<Output = Result<Option<MessageId>, StoreError>> + Send;

    /// Makes the first message of a key wait until [`resume`](Self::resume). Returns its id.
    ///
    /// One that a relay has in memory may be sent all the same; the order of its key is kept.
    fn park(&self, key: &OrderingKey) -> impl Future<Output = Result<Option<MessageId>, StoreError>> + Send;

    /// Makes the first message of a key due now. Returns its id. If it is a dead letter that was replayed, and a later message is
    /// parked, that stays so until it is the first and this is called again.
    fn resume(&self, key: &OrderingKey)
    -> impl Future<Output = Result<Option<MessageId>, StoreError>> + Send;
}
