use relaykit_outbox::{
    Added, BlockedKey, DeadFilter, DeadLetter, Depth, MemoryOutbox, OpenTransactions, OutboxStore, Page,
    ReadFrom, RowId, Settled, Settlement, Suspicion,
};
use relaykit_pipeline_traits::{Message, MessageId, OrderingKey};
use relaykit_sql_store::{Lease, StoreError};

use super::leases::FarLeases;
use super::line::Line;
use super::settled::{Settling, noted, read};
use super::trace::What;
use super::world::{Known, OUTBOX, Side};
use crate::history::Id;

/// An outbox at the other end of a line.
#[derive(Debug, Clone)]
pub(super) struct FarOutbox {
    pub(super) inner: MemoryOutbox,
    pub(super) line: Line,
}

impl FarOutbox {
    /// Adds a message.
    pub(super) async fn add(
        &self,
        message: Message,
        key: Option<u64>,
        delay: Option<std::time::Duration>,
    ) -> Result<(), StoreError> {
        let Self { inner, line } = self.clone();
        let world = std::sync::Arc::clone(&line.world);
        let call = async move {
            let added = inner.add_all(std::slice::from_ref(&message), delay);
            let added = added.map_err(|error| StoreError::Rejected { op: "add", source: error.into() })?;
            if added[..] == [Added::Added] {
                let now = world.now();
                let mut state = world.lock();
                // The store numbers what it adds; so do we.
                let id = state.streams[OUTBOX].items() + 1;
                let known = Known { message, key, sent: Some(id), received: None };
                state.known.insert(known.message.id(), known);
                state.streams[OUTBOX].stored(id, key);
                state.trace.push(now, None, What::Stored { stream: OUTBOX, id, key });
            }
            Ok(())
        };
        line.call(Side::Outbox, "add", call).await
    }
}

fn numbered(known: &Known) -> Option<Id> {
    known.sent
}

impl OutboxStore for FarOutbox {
    type Leases = FarLeases;

    fn leases(&self) -> FarLeases {
        FarLeases { inner: self.inner.leases(), line: self.line.clone(), side: Side::Outbox }
    }

    async fn page(&self, from: &[ReadFrom], open: &OpenTransactions, limit: u32) -> Result<Page, StoreError> {
        let (Self { inner, line }, from, open) = (self.clone(), from.to_vec(), open.clone());
        let call = async move {
            let page = inner.page(&from, &open, limit).await?;
            read(&line, OUTBOX, &page, numbered);
            Ok(page)
        };
        self.line.call(Side::Outbox, "read messages", call).await
    }

    async fn suspect(
        &self,
        leases: &[Lease],
        rows: &[RowId],
        suspicion: Suspicion,
    ) -> Result<Settled, StoreError> {
        let (Self { inner, line }, leases, rows) = (self.clone(), leases.to_vec(), rows.to_vec());
        let call = async move {
            let settled = inner.suspect(&leases, &rows, suspicion).await?;
            noted(&line, OUTBOX, &rows, suspicion, &settled);
            Ok(settled)
        };
        self.line.call(Side::Outbox, "note what is sent", call).await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let (Self { inner, line }, settlement) = (self.clone(), settlement.clone());
        let call = async move {
            let settled = inner.settle(&settlement).await?;
            Settling { line: &line, stream: OUTBOX }.took_effect(&settlement, &settled);
            Ok(settled)
        };
        self.line.call(Side::Outbox, "settle", call).await
    }

    async fn depth(&self) -> Result<Depth, StoreError> {
        self.inner.depth().await
    }

    async fn dead_letters(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        self.inner.dead_letters(filter, limit).await
    }

    async fn replay(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<MessageId>, StoreError> {
        self.inner.replay(filter, limit).await
    }

    async fn purge(&self, filter: &DeadFilter, limit: u32) -> Result<u64, StoreError> {
        self.inner.purge(filter, limit).await
    }

    async fn blocked(&self, limit: u32) -> Result<Vec<BlockedKey>, StoreError> {
        self.inner.blocked(limit).await
    }

    async fn skip(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        self.inner.skip(key).await
    }

    async fn park(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        self.inner.park(key).await
    }

    async fn resume(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        self.inner.resume(key).await
    }
}
