use std::time::Duration;

use relaykit_inbox::{
    Committed, DeadFilter, DeadLetter, Delivery, Depth, Erased, HandlerKey, IdConflict, InboxStore,
    MemoryInbox, MemoryTransactional, OpenTransactions, Page, ReadFrom, ReceiveError, Received, Retention,
    Route, Routes, RowId, Scope, Seq, Settled, Settlement, Unrouted,
};
use relaykit_pipeline_traits::{BatchContext, Clock as _, Message, MessageId};
use relaykit_sql_store::judge::Called;
use relaykit_sql_store::{Lease, StoreError, Suspicion};

use super::facts::Became;
use super::handlers::{self, LEDGER};
use super::leases::FarLeases;
use super::line::{HANDLE, Line};
use super::settled::{Settling, noted, read};
use super::trace::{StreamNo, What};
use super::world::{Hand, Known, Side};
use crate::history::{Id, Said};

/// An inbox at the other end of a line.
#[derive(Debug, Clone)]
pub(super) struct FarInbox {
    pub(super) inner: MemoryInbox,
    pub(super) line: Line,
}

fn numbered(known: &Known) -> Option<Id> {
    known.received
}

/// Takes note of messages that were stored.
fn stored(line: &Line, messages: &[Message], answers: &[Result<Received, IdConflict>]) {
    let now = line.world.now();
    let mut guard = line.world.lock();
    let state = &mut *guard;
    for (message, answer) in messages.iter().zip(answers) {
        match answer {
            Ok(Received::AlreadyKnown) => {}
            Ok(Received::Stored) => {
                let id = state.streams[handlers::STREAMS[0]].items() + 1;
                let Some(known) = state.known.get_mut(&message.id()) else { continue };
                if known.received.replace(id).is_some() {
                    state.words.push(format!("{} was stored twice", message.id()));
                }
                for stream in handlers::STREAMS {
                    let key = known.key.filter(|_| handlers::is_ordered(stream));
                    state.streams[stream].stored(id, key);
                    state.trace.push(now, line.life, What::Stored { stream, id, key });
                }
            }
            Err(conflict) => state.words.push(conflict.to_string()),
        }
    }
}

/// The stream of the handler whose deliveries these rows are.
fn stream_of(line: &Line, rows: impl IntoIterator<Item = RowId>) -> StreamNo {
    let state = line.world.lock();
    let mut rows = rows.into_iter();
    // Each place is of one handler.
    rows.find_map(|row| handlers::STREAMS.into_iter().find(|at| state.streams[*at].at(row.seq.0).is_some()))
        .unwrap_or(handlers::STREAMS[0])
}

impl InboxStore for FarInbox {
    type Leases = FarLeases;
    type Transactional = MemoryTransactional;

    fn leases(&self) -> FarLeases {
        FarLeases { inner: self.inner.leases(), line: self.line.clone(), side: Side::Inbox }
    }

    async fn receive(
        &self,
        scope: &Scope,
        messages: &[Message],
        routes: &Routes,
    ) -> Result<Vec<Result<Received, IdConflict>>, ReceiveError> {
        let (Self { inner, line }, scope) = (self.clone(), scope.clone());
        let (messages, routes) = (messages.to_vec(), routes.clone());
        let call = async move {
            match inner.receive(&scope, &messages, &routes).await {
                Ok(answers) => {
                    stored(&line, &messages, &answers);
                    Ok(answers)
                }
                Err(error) => Err(StoreError::Rejected { op: "receive", source: error.into() }),
            }
        };
        Ok(self.line.call(Side::Inbox, "receive", call).await?)
    }

    async fn page(
        &self,
        handler: &HandlerKey,
        from: &[ReadFrom],
        open: &OpenTransactions,
        limit: u32,
    ) -> Result<Page, StoreError> {
        let (Self { inner, line }, handler) = (self.clone(), handler.clone());
        let (from, open) = (from.to_vec(), open.clone());
        let call = async move {
            let page = inner.page(&handler, &from, &open, limit).await?;
            read(&line, handlers::stream(&handler), &page, numbered);
            Ok(page)
        };
        self.line.call(Side::Inbox, "read deliveries", call).await
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
            noted(&line, stream_of(&line, rows.iter().copied()), &rows, suspicion, &settled);
            Ok(settled)
        };
        self.line.call(Side::Inbox, "note what is handled", call).await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let (Self { inner, line }, settlement) = (self.clone(), settlement.clone());
        let call = async move {
            let settled = inner.settle(&settlement).await?;
            let Settlement { done, retry, dead, .. } = &settlement;
            let waiting = retry.iter().map(|waiting| waiting.row);
            let rows = done.iter().copied().chain(waiting).chain(dead.iter().map(|dying| dying.row));
            let stream = stream_of(&line, rows);
            Settling { line: &line, stream }.took_effect(&settlement, &settled);
            Ok(settled)
        };
        self.line.call(Side::Inbox, "settle", call).await
    }

    async fn handle(
        &self,
        handler: &MemoryTransactional,
        delivery: &Delivery,
        context: &BatchContext,
        limit: Duration,
    ) -> Result<Committed, StoreError> {
        let Self { inner, line } = self.clone();
        let hand = Hand::begin(&line.world, line.life.unwrap_or_default(), LEDGER, &delivery.message);
        if line.world.goes_wrong(line.world.menu.calls.hang) {
            line.clock.sleep(limit).await;
            return Ok(Committed::Not(Called::TimedOut(limit)));
        }
        let (handler, delivery, context) = (handler.clone(), delivery.clone(), context.clone());
        let (mark, at) = (hand.mark(), line.clone());
        let call = async move {
            let name = handlers::counter(&delivery.message);
            let before = inner.value(&name);
            let committed = inner.handle(&handler, &delivery, &context, limit).await?;
            if inner.value(&name) != before {
                mark.takes(Said::Done);
                Settling { line: &at, stream: LEDGER }.became(delivery.row, Became::Done);
            }
            Ok(committed)
        };
        let committed = line.call(Side::Inbox, HANDLE, call).await?;
        match &committed {
            Committed::Done => hand.says(Some(Said::Done)),
            Committed::Not(Called::Outcome(outcome)) => hand.says(handlers::said(outcome)),
            Committed::Stale | Committed::Not(_) => {}
        }
        Ok(committed)
    }

    async fn route(&self, routes: &Routes, limit: u32) -> Result<u64, StoreError> {
        let (inner, routes) = (self.inner.clone(), routes.clone());
        let call = async move { inner.route(&routes, limit).await };
        self.line.call(Side::Inbox, "route messages", call).await
    }

    async fn catch_up(
        &self,
        kind: &str,
        route: &Route,
        after: Seq,
        limit: u32,
    ) -> Result<Option<(Seq, u64)>, StoreError> {
        self.inner.catch_up(kind, route, after, limit).await
    }

    async fn depth(&self, handler: &HandlerKey) -> Result<Depth, StoreError> {
        self.inner.depth(handler).await
    }

    async fn unrouted(&self, after: Seq, limit: u32) -> Result<Vec<Unrouted>, StoreError> {
        self.inner.unrouted(after, limit).await
    }

    async fn dead_letters(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        self.inner.dead_letters(handler, filter, limit).await
    }

    async fn replay(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> Result<Vec<MessageId>, StoreError> {
        self.inner.replay(handler, filter, limit).await
    }

    async fn purge(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> Result<u64, StoreError> {
        self.inner.purge(handler, filter, limit).await
    }

    async fn erase(&self, retention: &Retention, limit: u32) -> Result<Erased, StoreError> {
        self.inner.erase(retention, limit).await
    }
}
