use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{
    BatchContext, BatchOutcome, Classify, Clock, Message, MessageId, OrderingKey, Timestamp, Verdict,
};
use relaykit_sql_store::judge::{Called, panic_text};
use relaykit_sql_store::{
    DeadFilter, DeadReason, Depth, Lease, Limits, MemoryLeaseStore, OpenTransactions, Page, ReadFrom, RowId,
    Seq, Settled, Settlement, Shard, Shards, StoreError, Stored, Suspicion, Waiting, check_limit,
};

use crate::content::{digest_of, shard_of};
use crate::dead::DeadLetter;
use crate::handler::{HandlerError, erase};
use crate::name::{HandlerKey, Scope};
use crate::received::{IdConflict, ReceiveError, Received};
use crate::retention::{Erased, Retention};
use crate::routes::{Route, Routes};
use crate::store::{Committed, Delivery, InboxStore, Unrouted};

/// A store in memory, for a user's tests: gone with the process. Copies are one store.
#[derive(Debug, Clone)]
pub struct MemoryInbox {
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
    last_message: i64,
    last_delivery: i64,
    messages: BTreeMap<Seq, Row>,
    known: HashMap<(Scope, MessageId), Seq>,
    deliveries: BTreeMap<Seq, Share>,
    dead: BTreeMap<Seq, Dead>,
    values: BTreeMap<String, Vec<u8>>,
}

/// A message; `None` once it is erased.
#[derive(Debug)]
struct Row {
    scope: Scope,
    id: MessageId,
    shard: Shard,
    kind: String,
    message: Option<Message>,
    digest: [u8; 32],
    received_at: Timestamp,
    handlers: BTreeSet<HandlerKey>,
}

/// A delivery.
#[derive(Debug, Clone)]
struct Share {
    shard: Shard,
    handler: HandlerKey,
    message: Seq,
    key: Option<OrderingKey>,
    /// When its wait ends; `None` if it never waited.
    retry_at: Option<Timestamp>,
    attempts: u32,
    first_failed_at: Option<Timestamp>,
    suspicion: Suspicion,
}

#[derive(Debug)]
struct Dead {
    share: Share,
    reason: DeadReason,
    error: String,
    died_at: Timestamp,
}

/// What a transactional handler of a [`MemoryInbox`] writes: values under names, which are there once it is done, or not at
/// all.
#[derive(Debug, Default)]
pub struct MemoryTransaction {
    before: BTreeMap<String, Vec<u8>>,
    written: BTreeMap<String, Vec<u8>>,
}

impl MemoryTransaction {
    /// Returns the value under a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.written.get(name).or_else(|| self.before.get(name)).map(Vec::as_slice)
    }

    /// Writes a value.
    pub fn put(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.written.insert(name.into(), value.into());
    }
}

type Handle =
    dyn Fn(&mut MemoryTransaction, &Message, &BatchContext) -> Verdict<(), HandlerError> + Send + Sync;

/// A transactional handler of a [`MemoryInbox`].
#[derive(Clone)]
pub struct MemoryTransactional(Arc<Handle>);

impl MemoryTransactional {
    /// Makes a handler of a function.
    pub fn new<E, F>(handle: F) -> Self
    where
        E: Classify + fmt::Display,
        F: Fn(&mut MemoryTransaction, &Message, &BatchContext) -> Verdict<(), E> + Send + Sync + 'static,
    {
        Self(Arc::new(move |transaction, message, context| erase(handle(transaction, message, context))))
    }
}

impl fmt::Debug for MemoryTransactional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryTransactional")
    }
}

impl MemoryInbox {
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

    /// Returns what transactional handlers wrote under a name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<Vec<u8>> {
        self.lock().values.get(name).cloned()
    }

    /// Takes all deliveries away, as if they were done.
    #[cfg(test)]
    pub(crate) fn finish_all(&self) {
        self.lock().deliveries.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Stores a message, or says what is there.
    fn receive(
        &mut self,
        scope: &Scope,
        message: &Message,
        routes: &Routes,
        shard: Shard,
        now: Timestamp,
    ) -> Result<Received, IdConflict> {
        let (id, digest) = (message.id(), digest_of(message));
        if let Some(row) = self.known.get(&(scope.clone(), id)).and_then(|seq| self.messages.get(seq)) {
            let same = row.digest == digest;
            return if same {
                Ok(Received::AlreadyKnown)
            } else {
                Err(IdConflict { scope: scope.clone(), id })
            };
        }
        self.last_message += 1;
        let seq = Seq(self.last_message);
        self.known.insert((scope.clone(), id), seq);
        let row = Row {
            scope: scope.clone(),
            id,
            shard,
            kind: message.kind().to_owned(),
            message: Some(message.clone()),
            digest,
            received_at: now,
            handlers: BTreeSet::new(),
        };
        self.messages.insert(seq, row);
        for route in routes.of(message.kind()) {
            self.deliver(seq, route);
        }
        Ok(Received::Stored)
    }

    /// Gives a message a delivery to a handler, unless it had one. Returns whether it did.
    fn deliver(&mut self, seq: Seq, route: &Route) -> bool {
        let Some(row) = self.messages.get_mut(&seq) else { return false };
        let Some(message) = &row.message else { return false };
        if !row.handlers.insert(route.handler.clone()) {
            return false;
        }
        self.last_delivery += 1;
        let share = Share {
            shard: row.shard,
            handler: route.handler.clone(),
            message: seq,
            key: message.ordering_key().filter(|_| route.ordered).cloned(),
            retry_at: None,
            attempts: 0,
            first_failed_at: None,
            suspicion: Suspicion::Clear,
        };
        self.deliveries.insert(Seq(self.last_delivery), share);
        true
    }

    /// Returns whether an earlier delivery of the same key and handler still waits, or has waited and lies at or before `after`.
    fn is_held(&self, seq: Seq, share: &Share, after: Seq, now: Timestamp) -> bool {
        let Some(key) = &share.key else { return false };
        self.deliveries.range(..seq).any(|(place, earlier)| {
            let holds = earlier.waits(now) || (earlier.retry_at.is_some() && *place <= after);
            holds && earlier.handler == share.handler && earlier.key.as_ref() == Some(key)
        })
    }

    fn keep(&mut self, waiting: &Waiting, now: Timestamp) -> bool {
        let Some(share) = self.deliveries.get_mut(&waiting.row.seq) else { return false };
        share.attempts = waiting.attempts;
        share.retry_at = Some(now + waiting.wait);
        share.first_failed_at = share.first_failed_at.filter(|_| !waiting.fresh).or(Some(now));
        share.suspicion = if waiting.suspect { Suspicion::Company } else { Suspicion::Clear };
        true
    }

    fn letter(&self, seq: Seq, dead: &Dead) -> Option<DeadLetter> {
        let row = self.messages.get(&dead.share.message)?;
        Some(DeadLetter::new(
            seq,
            dead.share.handler.clone(),
            row.scope.clone(),
            row.id,
            row.message.clone(),
            dead.reason,
            dead.error.clone(),
            dead.share.attempts,
            row.received_at,
            dead.share.first_failed_at,
            dead.died_at,
        ))
    }

    fn meant(&self, handler: Option<&HandlerKey>, filter: &DeadFilter, limit: u32) -> Vec<DeadLetter> {
        let letters = self.dead.iter().filter_map(|(seq, dead)| self.letter(*seq, dead));
        letters
            .filter(|letter| handler.is_none_or(|handler| letter.handler == *handler))
            .filter(|letter| filter.matches(letter.id, letter.message.as_ref(), letter.reason, letter.seq))
            .take(limit as usize)
            .collect()
    }

    fn is_finished(&self, seq: Seq, row: &Row) -> bool {
        !row.handlers.is_empty()
            && !self.deliveries.values().any(|share| share.message == seq)
            && !self.dead.values().any(|dead| dead.share.message == seq)
    }
}

impl Share {
    fn waits(&self, now: Timestamp) -> bool {
        self.retry_at.is_some_and(|at| at > now)
    }
}

impl InboxStore for MemoryInbox {
    type Leases = MemoryLeaseStore;
    type Transactional = MemoryTransactional;

    fn leases(&self) -> MemoryLeaseStore {
        self.inner.leases.clone()
    }

    async fn receive(
        &self,
        scope: &Scope,
        messages: &[Message],
        routes: &Routes,
    ) -> Result<Vec<Result<Received, IdConflict>>, ReceiveError> {
        self.inner.limits.check_all(messages)?;
        let now = self.inner.clock.now();
        let mut state = self.lock();
        Ok(messages
            .iter()
            .map(|message| {
                let shard = shard_of(self.inner.shards, message);
                state.receive(scope, message, routes, shard, now)
            })
            .collect())
    }

    async fn page(
        &self,
        handler: &HandlerKey,
        from: &[ReadFrom],
        _: &OpenTransactions,
        limit: u32,
    ) -> Result<Page, StoreError> {
        let now = self.inner.clock.now();
        let state = self.lock();
        let mut page = Page::default();
        for ReadFrom { shard, after } in from {
            let own = || {
                let shares = state.deliveries.iter();
                shares.filter(|(_, share)| share.shard == *shard && share.handler == *handler)
            };
            let eligible = own().filter(|(seq, share)| {
                **seq > *after && !share.waits(now) && !state.is_held(**seq, share, *after, now)
            });
            for (seq, share) in eligible.take(limit as usize) {
                let row = state.messages.get(&share.message);
                let Some((row, message)) = row.and_then(|row| Some((row, row.message.clone()?))) else {
                    continue;
                };
                page.rows.push(Stored {
                    row: RowId { shard: *shard, seq: *seq },
                    message,
                    attempts: share.attempts,
                    age: now.since(row.received_at),
                    failing_for: share.first_failed_at.map(|first| now.since(first)),
                    waited: share.retry_at.is_some(),
                    suspicion: share.suspicion,
                });
            }
            let due = own().find(|(seq, share)| {
                share.retry_at.is_some_and(|at| at <= now)
                    && !state.is_held(**seq, share, Seq::default(), now)
            });
            page.due.extend(due.map(|(seq, _)| RowId { shard: *shard, seq: *seq }));
            let next = own().filter_map(|(_, share)| share.retry_at.filter(|at| *at > now)).min();
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
            let mut written = 0;
            for row in rows.iter().filter(|row| !stale.contains(&row.shard)) {
                if let Some(share) = state.deliveries.get_mut(&row.seq) {
                    share.suspicion = suspicion;
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
            let mut written = 0;
            for row in settlement.done.iter().filter(|row| fenced(row)) {
                written += u64::from(state.deliveries.remove(&row.seq).is_some());
            }
            for waiting in settlement.retry.iter().filter(|waiting| fenced(&waiting.row)) {
                written += u64::from(state.keep(waiting, now));
            }
            for dying in settlement.dead.iter().filter(|dying| fenced(&dying.row)) {
                let Some(mut share) = state.deliveries.remove(&dying.row.seq) else { continue };
                share.attempts = dying.attempts;
                share.first_failed_at = share.first_failed_at.or(Some(now));
                let dead = Dead { share, reason: dying.reason, error: dying.error.clone(), died_at: now };
                state.dead.insert(dying.row.seq, dead);
                written += 1;
            }
            Settled { stale: stale.to_vec(), written, waited: Vec::new() }
        }))
    }

    async fn handle(
        &self,
        handler: &MemoryTransactional,
        delivery: &Delivery,
        context: &BatchContext,
        _limit: Duration,
    ) -> Result<Committed, StoreError> {
        let before = self.lock().values.clone();
        let mut transaction = MemoryTransaction { before, written: BTreeMap::new() };
        let handle = AssertUnwindSafe(|| (handler.0)(&mut transaction, &delivery.message, context));
        let verdict = match catch_unwind(handle) {
            Ok(Verdict::Done(())) => None,
            Ok(verdict) => Some(Called::Outcome(BatchOutcome::Each(vec![verdict]))),
            Err(panic) => Some(Called::Panicked(panic_text(panic.as_ref()))),
        };
        if let Some(called) = verdict {
            return Ok(Committed::Not(called));
        }
        Ok(self.inner.leases.fenced(&[delivery.lease], |stale| {
            let mut state = self.lock();
            if !stale.is_empty() {
                return Committed::Stale;
            }
            // Somebody else may have been done with it under the same lease: an earlier call whose answer was lost.
            if state.deliveries.remove(&delivery.row.seq).is_some() {
                state.values.append(&mut transaction.written);
            }
            Committed::Done
        }))
    }

    async fn route(&self, routes: &Routes, limit: u32) -> Result<u64, StoreError> {
        check_limit("route messages", limit)?;
        let mut state = self.lock();
        let unrouted = state.messages.iter().filter(|(_, row)| row.handlers.is_empty());
        let routable = unrouted.filter(|(_, row)| !routes.of(&row.kind).is_empty());
        let seqs: Vec<(Seq, String)> =
            routable.take(limit as usize).map(|(seq, row)| (*seq, row.kind.clone())).collect();
        let count = seqs.len() as u64;
        for (seq, kind) in seqs {
            for route in routes.of(&kind) {
                state.deliver(seq, route);
            }
        }
        Ok(count)
    }

    async fn catch_up(
        &self,
        kind: &str,
        route: &Route,
        after: Seq,
        limit: u32,
    ) -> Result<Option<(Seq, u64)>, StoreError> {
        check_limit("catch up", limit)?;
        let mut state = self.lock();
        let of_kind = state.messages.iter().filter(|(seq, row)| **seq > after && row.kind == kind);
        let seqs: Vec<Seq> = of_kind.take(limit as usize).map(|(seq, _)| *seq).collect();
        let Some(last) = seqs.last().copied() else { return Ok(None) };
        let count = seqs.into_iter().filter(|seq| state.deliver(*seq, route)).count();
        Ok(Some((last, count as u64)))
    }

    async fn depth(&self, handler: &HandlerKey) -> Result<Depth, StoreError> {
        let now = self.inner.clock.now();
        let state = self.lock();
        let own = || state.deliveries.values().filter(|share| share.handler == *handler);
        let oldest = own().filter_map(|share| state.messages.get(&share.message)).map(|row| row.received_at);
        Ok(Depth {
            pending: own().count() as u64,
            oldest: oldest.min().map(|at| now.since(at)),
            dead: state.dead.values().filter(|dead| dead.share.handler == *handler).count() as u64,
        })
    }

    async fn unrouted(&self, after: Seq, limit: u32) -> Result<Vec<Unrouted>, StoreError> {
        check_limit("list unrouted messages", limit)?;
        let now = self.inner.clock.now();
        let state = self.lock();
        let unrouted = state.messages.iter().filter(|(seq, row)| **seq > after && row.handlers.is_empty());
        Ok(unrouted
            .take(limit as usize)
            .map(|(seq, row)| {
                let age = now.since(row.received_at);
                Unrouted::new(*seq, row.scope.clone(), row.id, row.kind.clone(), age)
            })
            .collect())
    }

    async fn dead_letters(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        check_limit("list dead letters", limit)?;
        Ok(self.lock().meant(handler, filter, limit))
    }

    async fn replay(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> Result<Vec<MessageId>, StoreError> {
        check_limit("replay dead letters", limit)?;
        let now = self.inner.clock.now();
        let mut state = self.lock();
        let letters = state.meant(handler, filter, limit);
        for letter in &letters {
            if let Some(dead) = state.dead.remove(&letter.seq) {
                let share = Share {
                    retry_at: Some(now),
                    attempts: 0,
                    first_failed_at: None,
                    suspicion: Suspicion::Clear,
                    ..dead.share
                };
                state.deliveries.insert(letter.seq, share);
            }
        }
        Ok(letters.into_iter().map(|letter| letter.id).collect())
    }

    async fn purge(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> Result<u64, StoreError> {
        check_limit("purge dead letters", limit)?;
        let mut state = self.lock();
        let letters = state.meant(handler, filter, limit);
        for letter in &letters {
            state.dead.remove(&letter.seq);
        }
        Ok(letters.len() as u64)
    }

    async fn erase(&self, retention: &Retention, limit: u32) -> Result<Erased, StoreError> {
        check_limit("erase what is past its time", limit)?;
        let now = self.inner.clock.now();
        let past =
            |window: Option<Duration>, at: Timestamp| window.is_some_and(|window| now.since(at) > window);
        let mut state = self.lock();
        let mut erased = Erased::default();
        let dead = state.dead.iter().filter(|(_, dead)| past(retention.dead, dead.died_at));
        let dead: Vec<Seq> = dead.map(|(seq, _)| *seq).take(limit as usize).collect();
        erased.dead = dead.len() as u64;
        for seq in dead {
            state.dead.remove(&seq);
        }
        let finished = |state: &State, window, erased: bool| -> Vec<Seq> {
            let rows = state.messages.iter().filter(|(_, row)| row.message.is_none() == erased);
            let old =
                rows.filter(|(seq, row)| past(window, row.received_at) && state.is_finished(**seq, row));
            old.map(|(seq, _)| *seq).take(limit as usize).collect()
        };
        let ids = finished(&state, retention.ids, true);
        erased.ids = ids.len() as u64;
        for seq in ids {
            if let Some(row) = state.messages.remove(&seq) {
                state.known.remove(&(row.scope, row.id));
            }
        }
        let payloads = finished(&state, retention.payloads, false);
        erased.payloads = payloads.len() as u64;
        for seq in payloads {
            if let Some(row) = state.messages.get_mut(&seq) {
                row.message = None;
            }
        }
        Ok(erased)
    }
}
