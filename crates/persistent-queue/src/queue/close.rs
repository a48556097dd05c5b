use std::sync::PoisonError;
use std::time::Duration;

use relaykit_pipeline_traits::FlushReason;
use relaykit_sql_store::torture::crash_point;

use super::{Handle, Queue};
use crate::error::QueueError;
use crate::shared::Shared;
use crate::state::Phase;
use crate::stats::CloseReport;
use crate::store;

/// How long a close waits, beyond its deadline, for handlers to give way and for the disk.
const GRACE: Duration = Duration::from_secs(1);

impl<T: Send + Sync + 'static> Queue<T> {
    /// Closes the queue: takes no more, stores what was accepted, waits for handlers until `within` has passed, interrupts the
    /// rest without spending an attempt, and closes the file. A second close finds nothing left to do.
    ///
    /// A handler that blocks its thread, or a disk that does not answer, holds it up for a second each beyond that.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the queue takes no more, and closes when its last handle is gone.
    pub async fn close(&self, within: Duration) -> CloseReport<T> {
        let shared = self.shared();
        let clock = &shared.config.clock;
        let deadline = clock.monotonic() + within;
        self.handle.begin_close();
        crash_point("close.begun");
        let tasks = self.handle.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut tasks) = tasks {
            let all = async { while tasks.join_next().await.is_some() {} };
            tokio::pin!(all);
            tokio::select! {
                biased;
                () = &mut all => {}
                () = clock.sleep_until(deadline) => {
                    shared.interrupt.send_replace(true);
                    // A handler that gives way is dropped now; one that blocks its thread keeps it.
                    tokio::select! {
                        () = &mut all => {}
                        () = clock.sleep(GRACE) => {}
                    }
                }
            }
        }
        // What was handled and could not be written down gets its last try, and so does what could not be stored.
        shared.take_later().into_iter().for_each(|act| act());
        Shared::take_up_refused(&mut shared.state());
        shared.pump();
        // Everything submitted before this is done before it. A disk that hangs must not hold up the caller for ever.
        let grace = (clock.monotonic() + GRACE).max(deadline);
        let mark = async {
            let marked = match shared.ask(store::set_clean).await {
                // The disk may have failed for a moment.
                Err(QueueError::Storage { .. }) => shared.ask(store::set_clean).await,
                marked => marked,
            };
            marked.and(shared.ask(store::let_go_of_log).await)
        };
        let clean = tokio::select! {
            biased;
            clean = mark => clean,
            () = clock.sleep_until(grace) => Err(QueueError::Closed),
        };
        if let Err(error) = clean
            && !matches!(error, QueueError::Closed)
        {
            tracing::warn!(%error, "could not mark the queue as closed");
        }
        crash_point("close.marked_clean");
        shared.writer.stop();
        let writer = shared.writer.clone();
        let left = deadline.since(clock.monotonic()).max(GRACE);
        let file_closed = self.runtime().spawn_blocking(move || writer.join(left)).await.unwrap_or(false);
        let mut state = shared.state();
        state.phase = Phase::Closed;
        state.trouble = None;
        let refused = std::mem::take(&mut state.refused);
        state.unsaved.clear();
        (state.unsaved_items, state.unsaved_bytes) = (0, 0);
        for (_, flush) in state.flushes.drain(..) {
            // Who flushed may be gone.
            let _ = flush.send(Err(QueueError::Closed));
        }
        CloseReport {
            stored_items: state.stored.items,
            interrupted_items: (state.interrupted_items + state.in_flight_items) as u64,
            unsaved: refused.into_iter().flat_map(|sealed| sealed.items).collect(),
            file_closed,
        }
    }
}

impl<T: Send + Sync + 'static> Handle<T> {
    /// Takes no more, and sends what is open to the disk.
    fn begin_close(&self) {
        let shared = &self.shared;
        {
            let mut state = shared.state();
            if state.phase != Phase::Open {
                return;
            }
            state.phase = Phase::Closing;
            shared.seal(&mut state, FlushReason::Stop);
            Shared::take_up_refused(&mut state);
        }
        shared.pump();
        shared.work.notify_waiters();
        shared.keep.notify_waiters();
        shared.keep.notify_one();
        shared.room.notify_waiters();
    }
}

impl<T: Send + Sync + 'static> Drop for Handle<T> {
    fn drop(&mut self) {
        self.begin_close();
        // Workers that are in a call end with it being dropped; the writer ends once all requests are done.
        if self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            self.shared.take_later().into_iter().for_each(|act| act());
            self.shared.tell(store::set_clean);
            self.shared.tell(store::let_go_of_log);
        }
        self.shared.writer.stop();
    }
}
