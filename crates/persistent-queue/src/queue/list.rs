use relaykit_pipeline_traits::Timestamp;

use super::Queue;
use crate::error::QueueError;
use crate::{format, store};

/// A stored batch, as [`Queue::list`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchInfo {
    /// Its id; ids ascend in the order of storing.
    pub id: i64,
    /// When it was stored.
    pub added_at: Timestamp,
    /// How many items it holds.
    pub items: u32,
    /// Its bytes.
    pub bytes: u64,
    /// Attempts spent.
    pub attempts: u32,
    /// When it is tried again, if it waits.
    pub due: Option<Timestamp>,
}

impl<T: Send + Sync + 'static> Queue<T> {
    /// Lists stored batches whose id is greater than `after`, up to `limit` of them.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn list(&self, after: i64, limit: usize) -> Result<Vec<BatchInfo>, QueueError> {
        self.shared().ask(move |tx| store::list(tx, after, limit)).await
    }

    /// Reads the items of stored batches, oldest first, up to `limit` items; what cannot be read is left out. They stay where
    /// they are.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn peek(&self, limit: usize) -> Result<Vec<T>, QueueError> {
        let stored = self.shared().ask(move |tx| store::first_items(tx, limit)).await?;
        let codec = &self.shared().config.codec;
        let readable = stored.iter().filter_map(|data| format::open(data, codec).ok());
        Ok(readable.flatten().take(limit).collect())
    }
}
