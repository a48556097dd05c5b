use std::collections::HashSet;
use std::sync::Arc;

use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult};
use relaykit_sql_store::sqlite::{Request, SqliteError};

use super::Queue;
use crate::metrics;
use crate::shared::Shared;
use crate::state::Stored;
use crate::store;

impl<T: Send + Sync + 'static> Queue<T> {
    /// Deletes the oldest batches that nobody has, until the queue holds no more than it may.
    pub(super) fn drop_oldest(&self) {
        let shared = self.shared();
        let request = {
            let mut state = shared.state();
            let mut victims = Vec::new();
            while state.is_over(&shared.config)
                && let Some(victim) = state.take_victim()
            {
                victims.push(victim);
            }
            let more = state.is_over(&shared.config);
            DropOldest {
                shared: Arc::clone(shared),
                victims,
                more,
                taken: state.in_use(),
                dropped: Vec::new(),
            }
        };
        shared.writer.submit(Box::new(request));
    }
}

/// Deletes the oldest batches.
struct DropOldest<T> {
    shared: Arc<Shared<T>>,
    victims: Vec<Stored<T>>,
    /// One more is to go, which is on disk only.
    more: bool,
    taken: HashSet<i64>,
    dropped: Vec<store::Dropped>,
}

impl<T: Send + Sync + 'static> Request for DropOldest<T> {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        self.dropped.clear();
        for victim in &self.victims {
            store::remove(transaction, victim.id)?;
        }
        if self.more {
            self.dropped.extend(store::drop_oldest(transaction, &self.taken)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let Self { shared, victims, dropped, .. } = *self;
        let mut state = shared.state();
        state.dropping = false;
        if result.is_ok() {
            let now = shared.now();
            for victim in &victims {
                state.taken.remove(&victim.id);
                state.forget(victim.id, now);
                state.counts.dropped += u64::from(victim.count);
            }
            for one in &dropped {
                state.unbook(one.id, one.items, one.bytes);
                // It may have been read meanwhile.
                state.unready(one.id);
                state.taken.remove(&one.id);
                state.forget(one.id, now);
                state.counts.dropped += u64::from(one.items);
            }
            let items: u64 = victims.iter().map(|victim| u64::from(victim.count)).sum();
            let items = items + dropped.iter().map(|one| u64::from(one.items)).sum::<u64>();
            drop(state);
            shared.record(|recorder, queue| recorder.add(&metrics::DROPPED, &[queue], items));
            shared.room.notify_waiters();
            shared.work.notify_one();
            return;
        }
        // They stay, and the next push tries again.
        for victim in victims.into_iter().rev() {
            state.book(victim.id, victim.added_at, victim.count, victim.bytes);
            state.put_first(victim);
        }
    }
}
