mod file;
mod intake;
mod room;

// These have public methods, which are documented in this order.
mod open;
mod push;

mod dead;
mod list;

mod close;

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;

use crate::blocking::Blocking;
use crate::shared::Shared;
use crate::stats::Stats;

pub use list::BatchInfo;

/// A durable queue in one SQLite file. Cheap to clone; all clones are one queue.
///
/// When the last clone is dropped, the queue closes by itself: what was accepted is stored, handlers are interrupted. Use
/// [`close`](Self::close) to wait for that, and to learn what is left.
pub struct Queue<T: Send + Sync + 'static> {
    handle: Arc<Handle<T>>,
}

struct Handle<T: Send + Sync + 'static> {
    shared: Arc<Shared<T>>,
    runtime: tokio::runtime::Handle,
    tasks: Mutex<Option<JoinSet<()>>>,
}

impl<T: Send + Sync + 'static> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle) }
    }
}

impl<T: Send + Sync + 'static> Queue<T> {
    /// Stops lending batches to the handler; calls under way go on. Pushing goes on.
    pub fn pause(&self) {
        self.shared().state().paused = true;
    }

    /// Lends batches again.
    pub fn resume(&self) {
        self.shared().state().paused = false;
        self.shared().work.notify_one();
    }

    /// Returns what the queue holds and has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = self.shared();
        let state = shared.state();
        Stats {
            buffered_items: state.buffered_items() as u64,
            stored_items: state.stored.items,
            stored_batches: state.stored.batches,
            stored_bytes: state.stored.bytes,
            in_flight_items: state.in_flight_items as u64,
            dead_items: state.dead_items,
            oldest_age: shared.oldest_age(&state),
            pushed: state.counts.pushed,
            flushed: state.counts.flushed,
            processed: state.counts.processed,
            died: state.counts.dead,
            dropped: state.counts.dropped,
            calls: state.counts.calls,
        }
    }

    fn shared(&self) -> &Arc<Shared<T>> {
        &self.handle.shared
    }

    /// Returns a handle for threads that are not asynchronous.
    #[must_use]
    pub fn blocking(&self) -> Blocking<T> {
        Blocking::new(self.clone())
    }

    pub(crate) fn runtime(&self) -> &tokio::runtime::Handle {
        &self.handle.runtime
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("location", &self.shared().config.location).finish_non_exhaustive()
    }
}
