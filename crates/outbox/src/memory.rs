use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, Message, MessageId, OrderingKey, Timestamp};
use relaykit_sql_store::{Lease, MemoryLeaseStore, Shard, Shards, StoreError};

use crate::added::{AddError, Added};
use crate::content::{same, shard_of};
use crate::dead::{BlockedKey, DeadFilter, DeadLetter, DeadReason, check_limit};
use crate::store::{
    Depth, OpenTransactions, OutboxStore, Page, ReadFrom, RowId, Seq, Settled, Settlement, Stored, Suspicion,
    Waiting,
};
use relaykit_sql_store::Limits;
use relaykit_sql_store::error_text;

/// A store in memory, for a user's tests: gone with the process. Copies are one store.
#[derive(Debug, Clone)]
pub struct MemoryOutbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    leases: MemoryLeaseStore,
    shards: Shards,
    limits: Limits,
}

#[derive(Debug, Default)]
struct State {
    last: i64,
    rows: BTreeMap<Seq, Row>,
    dead: BTreeMap<Seq, DeadLetter>,
}

#[derive(Debug, Clone)]
struct Row {
    shard: Shard,
    message: Message,
    added_at: Timestamp,
    /// When its wait ends; `None` if it never waited.
    retry_at: Option<Timestamp>,
    attempts: u32,
    first_failed_at: Option<Timestamp>,
    error: Option<String>,
    suspicion: Suspicion,
}

/// Until when a parked message waits.
const PARKED: Timestamp = Timestamp::from_micros(i64::MAX);

impl MemoryOutbox {
    /// Makes an empty store of so many shards.
    #[must_use]
    pub fn new(shards: Shards, clock: impl Clock) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(clock);
        Self {
            inner: Arc::new(Inner {
                state: Mutex::default(),
                leases: MemoryLeaseStore::new(shards, Arc::clone(&clock)),
                clock,
                shards,
                limits: Limits::default(),
            }),
        }
    }

    /// Adds messages: all of them or, if one is refused, none.
    ///
    /// # Errors
    ///
    /// Every variant of [`AddError`] but that of a store that failed.
    pub fn add_all(&self, messages: &[Message], delay: Option<Duration>) -> Result<Vec<Added>, AddError> {
        self.inner.limits.check_all(messages)?;
        let now = self.inner.clock.now();
        let mut state = self.lock();
        let mut added = Vec::with_capacity(messages.len());
        let mut rows: Vec<Row> = Vec::new();
        for message in messages {
            let known = state.rows.values().chain(&rows).find(|row| row.message.id() == message.id());
            added.push(match known {
                None => {
                    rows.push(Row {
                        shard: shard_of(self.inner.shards, message),
                        message: message.clone(),
                        added_at: now,
                        retry_at: delay.map(|delay| now + delay),
                        attempts: 0,
                        first_failed_at: None,
                        error: None,
                        suspicion: Suspicion::Clear,
                    });
                    Added::Added
                }
                Some(row) if same(&row.message, message) => Added::AlreadyAdded,
                Some(_) => return Err(AddError::IdConflict { id: message.id() }),
            });
        }
        for row in rows {
            state.last += 1;
            let seq = Seq(state.last);
            state.rows.insert(seq, row);
        }
        Ok(added)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns whether an earlier row of the same key still waits, or has waited and lies at or before `after`.
    fn is_held(&self, seq: Seq, row: &Row, after: Seq, now: Timestamp) -> bool {
        let Some(key) = row.message.ordering_key() else { return false };
        self.rows.range(..seq).any(|(place, earlier)| {
            let holds = earlier.waits(now) || (earlier.retry_at.is_some() && *place <= after);
            holds && earlier.message.ordering_key() == Some(key)
        })
    }

    fn head(&self, key: &OrderingKey) -> Option<Seq> {
        self.rows.iter().find(|(_, row)| row.message.ordering_key() == Some(key)).map(|(seq, _)| *seq)
    }

    fn bury(&mut self, seq: Seq, reason: DeadReason, error: String, attempts: u32, now: Timestamp) {
        let Some(row) = self.rows.remove(&seq) else { return };
        let first = row.first_failed_at.or((reason != DeadReason::Skipped).then_some(now));
        let letter = DeadLetter::new(
            seq,
            row.message.id(),
            Some(row.message),
            reason,
            error,
            attempts,
            row.added_at,
            first,
            now,
        );
        self.dead.insert(seq, letter);
    }

    fn keep(&mut self, waiting: &Waiting, now: Timestamp) -> bool {
        let Some(row) = self.rows.get_mut(&waiting.row.seq) else { return false };
        row.attempts = waiting.attempts;
        row.retry_at = Some(now + waiting.wait);
        row.first_failed_at = row.first_failed_at.filter(|_| !waiting.fresh).or(Some(now));
        row.error = Some(error_text(&waiting.error));
        row.suspicion = if waiting.suspect { Suspicion::Company } else { Suspicion::Clear };
        true
    }

    fn meant(&self, filter: &DeadFilter, limit: u32) -> Vec<Seq> {
        let meant = self
            .dead
            .values()
            .filter(|letter| filter.matches(letter.id, letter.message.as_ref(), letter.reason, letter.seq));
        meant.take(limit as usize).map(|letter| letter.seq).collect()
    }
}

impl Row {
    fn waits(&self, now: Timestamp) -> bool {
        self.retry_at.is_some_and(|at| at > now)
    }
}

impl OutboxStore for MemoryOutbox {
    type Leases = MemoryLeaseStore;

    fn leases(&self) -> MemoryLeaseStore {
        self.inner.leases.clone()
    }

    async fn page(&self, from: &[ReadFrom], _: &OpenTransactions, limit: u32) -> Result<Page, StoreError> {
        let now = self.inner.clock.now();
        let state = self.lock();
        let mut page = Page::default();
        for ReadFrom { shard, after } in from {
            let own = || state.rows.iter().filter(|(_, row)| row.shard == *shard);
            let eligible = own().filter(|(seq, row)| {
                **seq > *after && !row.waits(now) && !state.is_held(**seq, row, *after, now)
            });
            page.rows.extend(eligible.take(limit as usize).map(|(seq, row)| Stored {
                row: RowId { shard: *shard, seq: *seq },
                message: row.message.clone(),
                attempts: row.attempts,
                age: now.since(row.added_at),
                failing_for: row.first_failed_at.map(|first| now.since(first)),
                waited: row.retry_at.is_some(),
                suspicion: row.suspicion,
            }));
            let due = own().find(|(seq, row)| {
                row.retry_at.is_some_and(|at| at <= now) && !state.is_held(**seq, row, Seq::default(), now)
            });
            page.due.extend(due.map(|(seq, _)| RowId { shard: *shard, seq: *seq }));
            let next =
                own().filter_map(|(_, row)| row.retry_at.filter(|at| *at > now && *at != PARKED)).min();
            page.next_due = [page.next_due, next.map(|at| at.since(now))].into_iter().flatten().min();
        }
        Ok(page)
    }

    async fn suspect(
        &self,
        leases: &[Lease],
        rows: &[RowId],
        suspicion: Suspicion,
    ) -> Result<Settled, StoreError> {
        Ok(self.inner.leases.fenced(leases, |stale| {
            let mut state = self.lock();
            let fenced = |row: &RowId| {
                leases.iter().any(|lease| lease.shard == row.shard) && !stale.contains(&row.shard)
            };
            let mut written = 0;
            for row in rows.iter().filter(|row| fenced(row)) {
                if let Some(row) = state.rows.get_mut(&row.seq) {
                    row.suspicion = suspicion;
                    written += 1;
                }
            }
            Settled { stale: stale.to_vec(), written, waited: Vec::new() }
        }))
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let now = self.inner.clock.now();
        Ok(self.inner.leases.fenced(&settlement.leases, |stale| {
            let mut state = self.lock();
            let fenced = |row: &RowId| {
                settlement.leases.iter().any(|lease| lease.shard == row.shard) && !stale.contains(&row.shard)
            };
            let dead = settlement.dead.iter().map(|dying| &dying.row);
            let waits = |row: &&RowId| state.rows.get(&row.seq).is_some_and(|row| row.retry_at.is_some());
            let leaving = settlement.done.iter().chain(dead).filter(|row| fenced(row));
            let waited = leaving.filter(waits).copied().collect();
            let mut written = 0;
            for row in settlement.done.iter().filter(|row| fenced(row)) {
                written += u64::from(state.rows.remove(&row.seq).is_some());
            }
            for waiting in settlement.retry.iter().filter(|waiting| fenced(&waiting.row)) {
                written += u64::from(state.keep(waiting, now));
            }
            for dying in settlement.dead.iter().filter(|dying| fenced(&dying.row)) {
                written += u64::from(state.rows.contains_key(&dying.row.seq));
                state.bury(dying.row.seq, dying.reason, error_text(&dying.error), dying.attempts, now);
            }
            Settled { stale: stale.to_vec(), written, waited }
        }))
    }

    async fn depth(&self) -> Result<Depth, StoreError> {
        let now = self.inner.clock.now();
        let state = self.lock();
        Ok(Depth {
            pending: state.rows.len() as u64,
            oldest: state.rows.values().map(|row| now.since(row.added_at)).max(),
            dead: state.dead.len() as u64,
        })
    }

    async fn dead_letters(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        check_limit("list dead letters", limit)?;
        let state = self.lock();
        Ok(state.meant(filter, limit).iter().filter_map(|seq| state.dead.get(seq)).cloned().collect())
    }

    async fn replay(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<MessageId>, StoreError> {
        check_limit("replay dead letters", limit)?;
        let now = self.inner.clock.now();
        let mut state = self.lock();
        let mut replayed = Vec::new();
        for seq in state.meant(filter, limit) {
            let Some(letter) = state.dead.remove(&seq) else { continue };
            let Some(message) = letter.message else { continue };
            replayed.push(message.id());
            let row = Row {
                shard: shard_of(self.inner.shards, &message),
                message,
                added_at: letter.added_at,
                retry_at: Some(now),
                attempts: 0,
                first_failed_at: None,
                error: None,
                suspicion: Suspicion::Clear,
            };
            state.rows.insert(seq, row);
        }
        Ok(replayed)
    }

    async fn purge(&self, filter: &DeadFilter, limit: u32) -> Result<u64, StoreError> {
        check_limit("purge dead letters", limit)?;
        let mut state = self.lock();
        let meant = state.meant(filter, limit);
        for seq in &meant {
            state.dead.remove(seq);
        }
        Ok(meant.len() as u64)
    }

    async fn blocked(&self, limit: u32) -> Result<Vec<BlockedKey>, StoreError> {
        check_limit("list blocked keys", limit)?;
        let now = self.inner.clock.now();
        let state = self.lock();
        let heads = state
            .rows
            .iter()
            .filter(|(seq, row)| row.waits(now) && !state.is_held(**seq, row, Seq::default(), now));
        Ok(heads
            .take(limit as usize)
            .map(|(seq, row)| {
                let due = row.retry_at.filter(|at| *at != PARKED).map(|at| at.since(now));
                let (key, age) = (row.message.ordering_key().cloned(), now.since(row.added_at));
                BlockedKey::new(key, row.message.id(), *seq, row.attempts, row.error.clone(), age, due)
            })
            .collect())
    }

    async fn skip(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        let now = self.inner.clock.now();
        let mut state = self.lock();
        let Some(seq) = state.head(key) else { return Ok(None) };
        let row = &state.rows[&seq];
        let (id, attempts) = (row.message.id(), row.attempts);
        let error = row.error.clone().unwrap_or_default();
        state.bury(seq, DeadReason::Skipped, error, attempts, now);
        if let Some(next) = state.head(key)
            && let Some(row) = state.rows.get_mut(&next)
        {
            row.retry_at = row.retry_at.or(Some(now));
        }
        Ok(Some(id))
    }

    async fn park(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        Ok(self.set_head(key, PARKED))
    }

    async fn resume(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        Ok(self.set_head(key, self.inner.clock.now()))
    }
}

impl MemoryOutbox {
    fn set_head(&self, key: &OrderingKey, at: Timestamp) -> Option<MessageId> {
        let mut state = self.lock();
        let seq = state.head(key)?;
        let row = state.rows.get_mut(&seq)?;
        row.retry_at = Some(at);
        Some(row.message.id())
    }
}
