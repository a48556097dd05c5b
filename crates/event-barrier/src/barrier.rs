use std::hash::{BuildHasher, Hash, RandomState};

use relaykit_pipeline_traits::{InvalidSetting, Monotonic};

use crate::admission::{Admission, Turn};
use crate::blocked::BlockedKey;
use crate::bounds::{Bounds, NEVER, micros};
use crate::builder::Builder;
use crate::limits::Limits;
use crate::notice::{DebugInfo, Event, Notice};
use crate::permit::Permit;
use crate::reader::Reader;
use crate::record::Entry;
use crate::shard::{Shard, Told};
use crate::state::{Change, State};
use crate::sync::{Arc, AtomicU64, Mutex, MutexGuard, Ordering};

/// Keeps the jobs of one key in order across retries. Cheap to clone; all clones are one barrier.
///
/// The crate's front page has the protocol. No method blocks longer than another one works, none does I/O, and none
/// panics unless `K` or `J` do.
pub struct Barrier<K, J = u64, S = RandomState> {
    inner: Arc<Inner<K, J, S>>,
}

pub(crate) struct Inner<K, J, S> {
    hasher: S,
    /// One bit for each shard that a call must look at. While it is zero, a call costs one load.
    busy: AtomicU64,
    /// One bit for each shard with something to do at the next sync.
    dirty: AtomicU64,
    /// When time alone changes some record, or earlier.
    due: AtomicU64,
    shards: Box<[Slot<K, J, S>]>,
    pub(crate) metadata: Vec<(String, String)>,
    order_off: Option<Box<OrderOff<K>>>,
    observer: Option<Box<Observer<K, J>>>,
    debug_info: Option<Box<DebugInfo<K>>>,
}

pub(crate) type OrderOff<K> = dyn Fn(&K) -> bool + Send + Sync;
pub(crate) type Observer<K, J> = dyn Fn(&Notice<'_, K, J>) + Send + Sync;

type Slot<K, J, S> = Padded<Mutex<Shard<K, J, S>>>;

/// Keeps two shards off one cache line, and off the pair of lines that processors fetch at once.
#[repr(align(128))]
struct Padded<T>(T);

/// What a builder hands over.
pub(crate) struct Parts<K, J, S> {
    pub(crate) hasher: S,
    pub(crate) limits: Limits,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) order_off: Option<Box<OrderOff<K>>>,
    pub(crate) observer: Option<Box<Observer<K, J>>>,
    pub(crate) debug_info: Option<Box<DebugInfo<K>>>,
}

/// At most 64: each has a bit in `busy` and `dirty`.
const SHARDS: usize = if cfg!(relaykit_loom) { 1 } else { 64 };

impl<K, J, S> Clone for Barrier<K, J, S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K: Hash + Eq + Clone, J: Ord + Copy> Barrier<K, J> {
    /// Returns a builder with default limits: none.
    pub fn builder() -> Builder<K, J> {
        Builder::new(RandomState::new())
    }

    /// Makes a barrier that lets `abort_concurrency_limit` jobs of a key be in flight after a failed job of it was
    /// aborted, until one of those ends; 0 means any number.
    ///
    /// The same as `Barrier::builder().limits(Limits::default().drain(abort_concurrency_limit))`, without an error to
    /// handle.
    pub fn new(abort_concurrency_limit: u32) -> (Self, Reader<K, J>) {
        Builder::new(RandomState::new())
            .limits(Limits::default().drain(abort_concurrency_limit))
            .build_checked()
    }
}

impl<K: Hash + Eq + Clone, J: Ord + Copy, S: BuildHasher + Clone> Barrier<K, J, S> {
    pub(crate) fn from_parts(parts: Parts<K, J, S>) -> Self {
        let bounds = Bounds::from(parts.limits);
        let shards =
            (0..SHARDS).map(|_| Padded(Mutex::new(Shard::new(parts.hasher.clone(), bounds)))).collect();
        Self {
            inner: Arc::new(Inner {
                hasher: parts.hasher,
                busy: AtomicU64::new(if bounds.tracks() { u64::MAX } else { 0 }),
                dirty: AtomicU64::new(0),
                due: AtomicU64::new(NEVER),
                shards,
                metadata: parts.metadata,
                order_off: parts.order_off,
                observer: parts.observer,
                debug_info: parts.debug_info,
            }),
        }
    }
}

impl<K: Hash + Eq + Clone, J: Ord + Copy, S: BuildHasher> Barrier<K, J, S> {
    /// Asks at the first gate, when `job` is picked from its store: may it go on its way?
    ///
    /// Pick the jobs of a key in ascending order. Once one of them is refused, refuse the key's later ones in the same pass,
    /// too; asking again for a job that is in flight is answered as before and counts it once.
    #[inline]
    pub fn enter(&self, key: &K, job: J, now: Monotonic) -> Admission<'_, K, J, S> {
        let permit = |bypassed, retry| Permit::new(self, key.clone(), job, now, bypassed, retry);
        if self.is_order_off(key) {
            self.forget(key);
            return Admission::Bypassed(permit(true, false));
        }
        let Some(place) = self.place(key) else {
            return Admission::Accepted(permit(false, false));
        };
        match self.ask(key, &place, |shard| shard.enter(place.hash, key, job, micros(now))) {
            Entry::Accepted { retry } => Admission::Accepted(permit(false, retry)),
            Entry::Bypassed => Admission::Bypassed(permit(true, false)),
            Entry::Blocked { by } => Admission::Blocked { by },
            Entry::Draining => Admission::Draining,
            Entry::Full => Admission::Full,
        }
    }

    /// Asks at the second gate, just before `job` is sent: has an older job of its key failed since it entered?
    ///
    /// [`Permit::wait`] is the same, and knows whether the job's order was waived when it entered.
    #[inline]
    pub fn wait(&self, key: &K, job: J, now: Monotonic) -> Turn<J> {
        if self.is_order_off(key) {
            return Turn::Go;
        }
        let Some(place) = self.place(key) else { return Turn::Go };
        match self.ask(key, &place, |shard| shard.wait(place.hash, key, job, micros(now))) {
            Some(by) => Turn::Wait { by },
            None => Turn::Go,
        }
    }

    /// Undoes an [`enter`](Self::enter): the job was not handed on after all. Works at once, any number of times.
    pub fn leave(&self, key: &K, job: J) {
        let Some(place) = self.place(key) else { return };
        self.ask(key, &place, |shard| {
            shard.leave(place.hash, key, job);
            Told { answer: (), events: [None, None] }
        });
    }

    /// Tells what became of `job`. [`State`] says when to call it, and when it works.
    ///
    /// [`Permit::settle`] is the same, and knows whether the job's order was waived when it entered. The key of a permit need
    /// not be in one place with its outcome: call [`Permit::detach`], then this.
    #[inline]
    pub fn state_changed(&self, key: &K, job: J, state: State, now: Monotonic) -> Change {
        if state == State::Failed {
            if self.is_order_off(key) {
                return Change::Ignored;
            }
            let place = self.locate(key);
            return self.ask(key, &place, |shard| shard.fail(place.hash, key, job, micros(now)));
        }
        let Some(place) = self.place(key) else { return Change::Ignored };
        self.ask(key, &place, |shard| shard.end(place.hash, key, job, state, micros(now)))
    }

    /// Returns the failed job that later jobs of `key` wait for.
    pub fn peek(&self, key: &K) -> Option<J> {
        let place = self.place(key)?;
        self.shard(&place).head(place.hash, key)
    }

    /// Whether the order of `key` is not kept: the caller's check switched it off, or it is waived over the threshold.
    pub fn disabled(&self, key: &K, now: Monotonic) -> bool {
        if self.is_order_off(key) {
            return true;
        }
        let Some(place) = self.place(key) else { return false };
        self.ask(key, &place, |shard| shard.is_disabled(place.hash, key, micros(now)))
    }

    /// Returns the number of keys that something is known about. Keys in good order cost nothing and do not count, unless
    /// a threshold counts their jobs in flight.
    pub fn size(&self) -> usize {
        (0..self.inner.shards.len()).map(|shard| self.lock(shard).len()).sum()
    }

    /// Counts the keys by what they are in. Looks at every known key.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for shard in 0..self.inner.shards.len() {
            let shard = self.lock(shard);
            stats.keys += shard.len();
            for (_, record) in shard.records() {
                stats.blocked += usize::from(record.head().is_some());
                stats.draining += usize::from(record.is_draining());
                stats.disabled += usize::from(record.is_disabled());
                stats.in_flight += record.in_flight().count();
            }
        }
        stats
    }

    /// Lists blocked keys, the longest blocked first, up to `limit` of them. Looks at every known key.
    pub fn blocked(&self, now: Monotonic, limit: usize) -> Vec<BlockedKey<K, J>> {
        let now = micros(now);
        let mut oldest: Vec<BlockedKey<K, J>> = Vec::new();
        let cut = |keys: &mut Vec<BlockedKey<K, J>>| {
            keys.sort_by_key(|key| std::cmp::Reverse(key.age));
            keys.truncate(limit);
        };
        for shard in 0..self.inner.shards.len() {
            for key in self.lock(shard).blocked(now) {
                oldest.push(key);
                if oldest.len() >= limit.saturating_mul(2).max(64) {
                    cut(&mut oldest);
                }
            }
        }
        cut(&mut oldest);
        oldest
    }

    /// Gives up waiting for all failed jobs of `key`, from the next [`sync`](Reader::sync) on. Returns false if it is not
    /// blocked.
    ///
    /// For an operator who has taken those jobs away. If they are still in the store, order is lost.
    pub fn release(&self, key: &K) -> bool {
        self.note(key, crate::record::Record::release)
    }

    /// Gives up waiting for one failed job of `key`, from the next [`sync`](Reader::sync) on. Returns false if it had not
    /// failed. Later failed jobs are still waited for.
    ///
    /// For an operator who has taken that job away. If it is still in the store, order is lost.
    pub fn skip(&self, key: &K, job: J) -> bool {
        self.note(key, |record| record.skip(job))
    }

    /// Replaces the limits while running. They hold for every job that enters from now on; a limit that became 0 holds
    /// nobody back any more.
    ///
    /// # Errors
    ///
    /// If a duration is zero. The old limits stay.
    pub fn set_limits(&self, limits: Limits) -> Result<(), InvalidSetting> {
        limits.check()?;
        let bounds = Bounds::from(limits);
        for shard in 0..self.inner.shards.len() {
            let mut guard = self.lock(shard);
            guard.set_bounds(bounds);
            self.publish(shard, &guard);
        }
        Ok(())
    }

    fn note(&self, key: &K, change: impl FnOnce(&mut crate::record::Record<J>) -> bool) -> bool {
        let Some(place) = self.place(key) else { return false };
        let change = self.ask(key, &place, |shard| Told {
            answer: shard.note(place.hash, key, change),
            events: [None, None],
        });
        change == Change::Queued
    }

    #[inline]
    fn is_order_off(&self, key: &K) -> bool {
        self.inner.order_off.as_ref().is_some_and(|order_off| order_off(key))
    }

    fn forget(&self, key: &K) {
        let Some(place) = self.place(key) else { return };
        self.ask(key, &place, |shard| {
            let event = shard.forget(place.hash, key);
            Told { answer: (), events: [event, None] }
        });
    }

    /// Where a key's record is, or would be.
    #[inline]
    fn locate(&self, key: &K) -> Place {
        let hash = self.inner.hasher.hash_one(key);
        // The table uses the low bits for its place and the top seven as a tag.
        let shard = (hash >> 40) as usize % self.inner.shards.len();
        Place { hash, shard }
    }

    /// Where a key's record is, if its shard has any business.
    ///
    /// A shard is marked busy under its lock before the call that made it so returns. So whoever learned of a failure,
    /// by whatever way, finds the mark.
    #[inline]
    fn place(&self, key: &K) -> Option<Place> {
        let busy = self.inner.busy.load(Ordering::Acquire);
        if busy == 0 {
            return None;
        }
        let place = self.locate(key);
        (busy & place.bit() != 0).then_some(place)
    }

    fn shard(&self, place: &Place) -> MutexGuard<'_, Shard<K, J, S>> {
        self.lock(place.shard)
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard<K, J, S>> {
        // What can panic under the lock is the caller's Hash, Eq, Ord or Clone; records are changed after those.
        self.inner.shards[shard].0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Runs `call` under the shard's lock, then tells the observer what happened, outside it.
    fn ask<T>(&self, key: &K, place: &Place, call: impl FnOnce(&mut Shard<K, J, S>) -> Told<T, J>) -> T {
        let told = {
            let mut shard = self.shard(place);
            let told = call(&mut shard);
            self.publish(place.shard, &shard);
            told
        };
        for event in told.events.into_iter().flatten() {
            self.tell(key, event);
        }
        told.answer
    }

    /// Makes what a shard holds known to those who do not lock it. Called under its lock.
    ///
    /// That a shard has no business any more is left for the next sync to say: a key that comes and goes would have
    /// all threads write to one word.
    fn publish(&self, shard: usize, guard: &Shard<K, J, S>) {
        let bit = 1 << shard;
        let busy = guard.is_busy();
        if busy {
            set_bit(&self.inner.busy, bit);
        }
        if guard.has_work() || (!busy && self.inner.busy.load(Ordering::Acquire) & bit != 0) {
            set_bit(&self.inner.dirty, bit);
        }
        let due = guard.due();
        if due < self.inner.due.load(Ordering::Acquire) {
            self.inner.due.fetch_min(due, Ordering::AcqRel);
        }
    }

    pub(crate) fn tell(&self, key: &K, event: Event<J>) {
        let Some(observer) = &self.inner.observer else { return };
        observer(&Notice {
            key,
            event,
            metadata: &self.inner.metadata,
            debug_info: self.inner.debug_info.as_deref(),
        });
    }

    /// The work of [`Reader::sync`], whose `&mut` keeps it to one at a time.
    pub(crate) fn sync(&self, now: Monotonic) -> (usize, Vec<K>) {
        let now = micros(now);
        let mut opened = Vec::new();
        let due = self.inner.due.load(Ordering::Acquire) <= now;
        if !due && self.inner.dirty.load(Ordering::Acquire) == 0 {
            return (0, opened);
        }
        let mut bits = self.inner.dirty.load(Ordering::Acquire);
        if due {
            // Each shard that is visited says again when it is due.
            self.inner.due.store(NEVER, Ordering::Release);
            bits = u64::MAX;
        }
        let mut applied = 0;
        let mut events = Vec::new();
        for shard in (0..self.inner.shards.len()).filter(|shard| bits & (1 << shard) != 0) {
            let mut guard = self.lock(shard);
            applied += guard.sync(now, &mut opened, &mut events);
            // Under the lock, as it is set; and after the work, so that a panic there does not lose it.
            self.inner.dirty.fetch_and(!(1 << shard), Ordering::AcqRel);
            if !guard.is_busy() {
                self.inner.busy.fetch_and(!(1 << shard), Ordering::AcqRel);
            }
            self.publish(shard, &guard);
        }
        for (key, event) in events {
            self.tell(&key, event);
        }
        (applied, opened)
    }

    pub(crate) fn each_shard(&self, mut visit: impl FnMut(&Shard<K, J, S>)) {
        (0..self.inner.shards.len()).for_each(|shard| visit(&self.lock(shard)));
    }

    pub(crate) fn metadata(&self) -> &[(String, String)] {
        &self.inner.metadata
    }
}

/// A key's hash, and its shard.
struct Place {
    hash: u64,
    shard: usize,
}

impl Place {
    const fn bit(&self) -> u64 {
        1 << self.shard
    }
}

fn set_bit(bits: &AtomicU64, bit: u64) {
    if bits.load(Ordering::Acquire) & bit == 0 {
        bits.fetch_or(bit, Ordering::AcqRel);
    }
}

/// How many keys are in which state; see [`Barrier::stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Keys that something is known about.
    pub keys: usize,
    /// Keys whose later jobs wait for a failed one.
    pub blocked: usize,
    /// Keys under the drain limit.
    pub draining: usize,
    /// Keys whose order is waived.
    pub disabled: usize,
    /// Jobs in flight, as far as they are counted.
    pub in_flight: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_a_bit() {
        assert!((1..=64).contains(&SHARDS));
    }

    #[test]
    fn a_moment_beyond_the_range_is_the_last_one() {
        assert_eq!(micros(Monotonic::NEVER), NEVER);
    }
}
