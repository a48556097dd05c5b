use std::sync::Arc;

use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult};
use relaykit_sql_store::sqlite::{Request, SqliteError};
use tokio::sync::oneshot;

use super::Queue;
use crate::dead::DeadLetter;
use crate::error::QueueError;
use crate::shared::Shared;
use crate::state::{Levels, Oldest};
use crate::store;

impl<T: Send + Sync + 'static> Queue<T> {
    /// Lists dead letters whose id is greater than `after`, up to `limit` of them.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn dead_letters(&self, after: i64, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.shared().ask(move |tx| store::dead_letters(tx, after, limit)).await
    }

    /// Puts dead letters back to the end of the queue, as if they were never tried. Returns how many items that are; ids that
    /// are gone count nothing.
    ///
    /// # Errors
    ///
    /// If the file cannot be written. Then none was moved.
    ///
    /// # Cancel safety
    ///
    /// Dropped, they are moved all the same.
    pub async fn replay(&self, ids: &[i64]) -> Result<u64, QueueError> {
        let ids = ids.to_vec();
        let shared = self.shared();
        let request = Replay { shared: Arc::clone(shared), ids, moved: Levels::default(), tell: None };
        let (tell, told) = oneshot::channel();
        shared.writer.submit(Box::new(Replay { tell: Some(tell), ..request }));
        told.await.unwrap_or(Err(QueueError::Closed))
    }

    /// Deletes dead letters. Returns how many items they had.
    ///
    /// # Errors
    ///
    /// If the file cannot be written. Then none was deleted.
    ///
    /// # Cancel safety
    ///
    /// Dropped, they are deleted all the same.
    pub async fn purge(&self, ids: &[i64]) -> Result<u64, QueueError> {
        let ids = ids.to_vec();
        let shared = self.shared();
        let items = shared.ask(move |tx| store::purge(tx, &ids)).await?;
        let mut state = shared.state();
        state.dead_items = state.dead_items.saturating_sub(items);
        Ok(items)
    }
}

/// Puts dead letters back.
struct Replay<T> {
    shared: Arc<Shared<T>>,
    ids: Vec<i64>,
    moved: Levels,
    tell: Option<oneshot::Sender<Result<u64, QueueError>>>,
}

impl<T: Send + Sync + 'static> Request for Replay<T> {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        self.moved = store::replay(transaction, &self.ids)?;
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let Self { shared, moved, tell, .. } = *self;
        if result.is_ok() && moved.batches > 0 {
            let mut state = shared.state();
            state.stored.batches += moved.batches;
            state.stored.items += moved.items;
            state.stored.bytes += moved.bytes;
            state.dead_items = state.dead_items.saturating_sub(moved.items);
            state.more = true;
            let oldest = Oldest { id: i64::MAX, added_at: shared.now(), known: false };
            state.oldest.get_or_insert(oldest);
            drop(state);
            shared.work.notify_one();
            shared.keep.notify_one();
        }
        // Who asked may be gone.
        let _ = tell.map(|tell| tell.send(result.map(|()| moved.items).map_err(QueueError::of)));
    }
}
