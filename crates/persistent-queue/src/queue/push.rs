use std::time::Duration;

use relaykit_pipeline_traits::FlushReason;
use relaykit_sql_store::torture::planted;
use tokio::sync::oneshot;

use super::Queue;
use crate::error::{QueueError, RejectReason, Rejected};
use crate::format;
use crate::metrics;
use crate::state::{NotStored, Phase, Waiter};
use crate::store::Due;

impl<T: Send + Sync + 'static> Queue<T> {
    /// Adds an item. Returns once the queue holds it in memory; it is on disk after the linger, or the next
    /// [`flush`](Self::flush). Waits for room under [`WhenFull::Block`](crate::WhenFull::Block).
    ///
    /// # Errors
    ///
    /// The item comes back with the reason.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for room, the item is dropped with it and was not added.
    pub async fn push(&self, item: T) -> Result<(), Rejected<T>> {
        let mut item = item;
        loop {
            let freed = self.shared().room.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.put(item, None) {
                Err(Rejected { item: back, reason }) if self.waits_for(&reason) => item = back,
                done => return done,
            }
            freed.await;
        }
    }

    /// Adds an item if there is room now.
    ///
    /// # Errors
    ///
    /// The item comes back with the reason.
    pub fn try_push(&self, item: T) -> Result<(), Rejected<T>> {
        self.put(item, None)
    }

    /// Adds an item and waits until it is on disk. Items of several callers share one commit.
    ///
    /// # Errors
    ///
    /// The item comes back with the reason. If the disk failed while it was written, `None` comes back instead of an item that
    /// was merged with others: it is kept and stored when that is possible again.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for room, the item was not added. Dropped later, it was, and is stored all the same.
    pub async fn push_durable(&self, item: T) -> Result<(), Rejected<Option<T>>> {
        let mut item = item;
        let told = loop {
            let freed = self.shared().room.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let (tell, told) = oneshot::channel();
            match self.put(item, Some(tell)) {
                Ok(()) => break told,
                Err(Rejected { item: back, reason }) if self.waits_for(&reason) => item = back,
                Err(Rejected { item, reason }) => return Err(Rejected { item: Some(item), reason }),
            }
            freed.await;
        };
        match told.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(NotStored { item, reason })) => Err(Rejected { item, reason }),
            Err(_gone) => Err(Rejected { item: None, reason: RejectReason::Closed }),
        }
    }

    /// Adds items one after the other.
    ///
    /// # Errors
    ///
    /// At the first item that is refused. It comes back first, with those after it; the ones before it were added.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for room, the items added so far stay added.
    pub async fn push_all(&self, items: impl IntoIterator<Item = T>) -> Result<(), Rejected<Vec<T>>> {
        let mut items = items.into_iter();
        while let Some(item) = items.next() {
            if let Err(Rejected { item, reason }) = self.push(item).await {
                return Err(Rejected { item: std::iter::once(item).chain(items).collect(), reason });
            }
        }
        Ok(())
    }

    /// Adds an item that is lent after `delay` at the earliest, in a batch of its own, and waits until it is on disk.
    ///
    /// # Errors
    ///
    /// The item comes back with the reason.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the item is added even if the future is dropped.
    pub async fn push_after(&self, item: T, delay: Duration) -> Result<(), Rejected<Option<T>>> {
        let shared = self.shared();
        let mut records = format::Records::default();
        if let Err(error) = records.push(&item, &*shared.config.codec) {
            let reason = RejectReason::Unencodable { reason: error.to_string() };
            return Err(Rejected { item: Some(item), reason });
        }
        let (tell, told) = oneshot::channel();
        {
            let mut state = shared.state();
            if let Err(reason) = self.admit(&state, records.len()) {
                drop(state);
                return Err(Rejected { item: Some(item), reason });
            }
            state.counts.pushed += 1;
            let due = (!delay.is_zero()).then(|| Due { at: shared.now() + delay, delay });
            let waiters = vec![Waiter { at: Some(0), tell }];
            if shared.config.key.is_some() {
                // It must not overtake what was pushed before it.
                shared.seal(&mut state, FlushReason::Asked);
            }
            shared.enqueue(&mut state, vec![item], records, waiters, FlushReason::Asked, due);
        }
        shared.pump();
        shared.record(|recorder, queue| recorder.add(&metrics::PUSHED, &[queue], 1));
        match told.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(NotStored { item, reason })) => Err(Rejected { item, reason }),
            Err(_gone) => Err(Rejected { item: None, reason: RejectReason::Closed }),
        }
    }

    /// Stores everything that was pushed before, and returns once it is on disk.
    ///
    /// # Errors
    ///
    /// If the disk failed. What could not be stored is kept and tried again.
    ///
    /// # Cancel safety
    ///
    /// Dropped, everything is stored all the same.
    pub async fn flush(&self) -> Result<(), QueueError> {
        let shared = self.shared();
        let wait = {
            let mut state = shared.state();
            if state.phase == Phase::Closed {
                return Err(QueueError::Closed);
            }
            if !planted("flush_forgets_the_tail") {
                shared.seal(&mut state, FlushReason::Asked);
            }
            if state.unsaved.is_empty() {
                return Ok(());
            }
            if state.phase == Phase::Closing && state.unsaved.len() == state.refused.len() {
                // Nothing is on its way, and what was refused is not tried again: nobody would answer.
                return Err(QueueError::Closed);
            }
            let (done, wait) = oneshot::channel();
            let number = state.sealed;
            state.flushes.push((number, done));
            wait
        };
        shared.pump();
        wait.await.unwrap_or(Err(QueueError::Closed))
    }
}
