use std::fmt;
use std::time::Duration;

use crate::dead::DeadLetter;
use crate::error::{QueueError, Rejected};
use crate::queue::{BatchInfo, Queue};
use crate::stats::{CloseReport, Stats};

/// A handle of a queue for threads that are not asynchronous; made by [`Queue::blocking`]. Cheap to clone.
///
/// Each method blocks its thread for as long as its asynchronous sibling would wait, and panics if it is called by a task
/// of a runtime, which must not be blocked.
#[derive(Clone)]
pub struct Blocking<T: Send + Sync + 'static> {
    queue: Queue<T>,
}

impl<T: Send + Sync + 'static> Blocking<T> {
    pub(crate) const fn new(queue: Queue<T>) -> Self {
        Self { queue }
    }

    /// Adds an item. As [`Queue::push`].
    ///
    /// # Errors
    ///
    /// The item comes back with the reason.
    pub fn push(&self, item: T) -> Result<(), Rejected<T>> {
        // Mostly there is room, and nothing to wait for.
        match self.queue.try_push(item) {
            Err(Rejected { item, reason }) if self.queue.waits_for(&reason) => {
                self.queue.runtime().block_on(self.queue.push(item))
            }
            done => done,
        }
    }

    /// Adds an item if there is room now.
    ///
    /// # Errors
    ///
    /// The item comes back with the reason.
    pub fn try_push(&self, item: T) -> Result<(), Rejected<T>> {
        self.queue.try_push(item)
    }

    /// Adds an item and waits until it is on disk. As [`Queue::push_durable`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn push_durable(&self, item: T) -> Result<(), Rejected<Option<T>>> {
        self.queue.runtime().block_on(self.queue.push_durable(item))
    }

    /// Adds items one after the other. As [`Queue::push_all`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn push_all(&self, items: impl IntoIterator<Item = T>) -> Result<(), Rejected<Vec<T>>> {
        self.queue.runtime().block_on(self.queue.push_all(items))
    }

    /// Adds an item that is lent after `delay` at the earliest. As [`Queue::push_after`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn push_after(&self, item: T, delay: Duration) -> Result<(), Rejected<Option<T>>> {
        self.queue.runtime().block_on(self.queue.push_after(item, delay))
    }

    /// Stores everything that was pushed before, and returns once it is on disk.
    ///
    /// # Errors
    ///
    /// If the disk failed. What could not be stored is kept and tried again.
    pub fn flush(&self) -> Result<(), QueueError> {
        self.queue.runtime().block_on(self.queue.flush())
    }

    /// Lists stored batches. As [`Queue::list`].
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn list(&self, after: i64, limit: usize) -> Result<Vec<BatchInfo>, QueueError> {
        self.queue.runtime().block_on(self.queue.list(after, limit))
    }

    /// Lists dead letters. As [`Queue::dead_letters`].
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn dead_letters(&self, after: i64, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.queue.runtime().block_on(self.queue.dead_letters(after, limit))
    }

    /// Puts dead letters back. As [`Queue::replay`].
    ///
    /// # Errors
    ///
    /// If the file cannot be written. Then none was moved.
    pub fn replay(&self, ids: &[i64]) -> Result<u64, QueueError> {
        self.queue.runtime().block_on(self.queue.replay(ids))
    }

    /// Deletes dead letters. As [`Queue::purge`].
    ///
    /// # Errors
    ///
    /// If the file cannot be written. Then none was deleted.
    pub fn purge(&self, ids: &[i64]) -> Result<u64, QueueError> {
        self.queue.runtime().block_on(self.queue.purge(ids))
    }

    /// Stops lending batches to the handler.
    pub fn pause(&self) {
        self.queue.pause();
    }

    /// Lends batches again.
    pub fn resume(&self) {
        self.queue.resume();
    }

    /// Returns what the queue holds and has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.queue.stats()
    }

    /// Closes the queue. As [`Queue::close`].
    pub fn close(&self, within: Duration) -> CloseReport<T> {
        self.queue.runtime().block_on(self.queue.close(within))
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Blocking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Blocking").field(&self.queue).finish()
    }
}
