use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;

use crate::blocked::BlockedKey;
use crate::bounds::{Bounds, Micros, NEVER};
use crate::notice::Event;
use crate::record::{Entry, Record};
use crate::state::{Change, State};

/// The capacity that a table or list may keep when it is empty.
const KEEP: usize = 64;

/// A part of the keys, behind one lock.
pub(crate) struct Shard<K, J, S> {
    hasher: S,
    keys: HashTable<(K, Record<J>)>,
    /// Keys with something to do at the next sync, each once.
    dirty: Vec<(u64, K)>,
    /// State changes of known keys since the last sync.
    changes: usize,
    /// When time alone changes a record, or earlier.
    due: Micros,
    /// Whether there were many keys since there were none.
    had_many: bool,
    bounds: Bounds,
}

/// An answer, and what happened on the way.
pub(crate) struct Told<T, J> {
    pub(crate) answer: T,
    /// Up to two: order restored by time, and what the call itself did.
    pub(crate) events: [Option<Event<J>>; 2],
}

impl<K: Hash + Eq + Clone, J: Ord + Copy, S: BuildHasher> Shard<K, J, S> {
    pub(crate) fn new(hasher: S, bounds: Bounds) -> Self {
        Self {
            hasher,
            keys: HashTable::new(),
            dirty: Vec::new(),
            changes: 0,
            due: NEVER,
            had_many: false,
            bounds,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn has_work(&self) -> bool {
        !self.dirty.is_empty() || self.changes > 0
    }

    pub(crate) const fn due(&self) -> Micros {
        self.due
    }

    /// Whether a call must look: some key is known, or all are counted.
    pub(crate) fn is_busy(&self) -> bool {
        !self.keys.is_empty() || self.bounds.tracks()
    }

    pub(crate) fn set_bounds(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        // All moments may have changed; the next sync looks at each key once.
        if !self.keys.is_empty() {
            self.due = 0;
        }
        // Whoever the old limits refused may pass now.
        let Self { keys, hasher, dirty, .. } = self;
        for (key, record) in keys.iter_mut() {
            if record.refused() > 0 && record.in_flight().next().is_some() {
                record.reopen();
                list(dirty, hasher.hash_one(&*key), key, record);
            }
        }
    }

    pub(crate) fn enter(&mut self, hash: u64, key: &K, job: J, now: Micros) -> Told<Entry<J>, J> {
        let restored = self.advance(hash, key, now);
        let Self { keys, hasher, bounds, dirty, .. } = self;
        let record = if bounds.tracks() {
            keys.entry(hash, |(known, _)| known == key, |(key, _)| hasher.hash_one(key))
                .or_insert_with(|| (key.clone(), Record::new()))
                .into_mut()
        } else {
            match keys.find_mut(hash, |(known, _)| known == key) {
                Some(known) => known,
                None => {
                    return Told { answer: Entry::Accepted { retry: false }, events: [restored, None] };
                }
            }
        };
        let mut event = None;
        let answer = record.1.enter(job, bounds, now, &mut event);
        if record.1.is_freed() {
            list(dirty, hash, key, &mut record.1);
        }
        self.due = self.due.min(record.1.due(bounds));
        Told { answer, events: [restored, event] }
    }

    pub(crate) fn wait(&mut self, hash: u64, key: &K, job: J, now: Micros) -> Told<Option<J>, J> {
        let restored = self.advance(hash, key, now);
        let mut event = None;
        let answer = self.find(hash, key).and_then(|record| record.wait(job, &mut event));
        Told { answer, events: [restored, event] }
    }

    pub(crate) fn leave(&mut self, hash: u64, key: &K, job: J) {
        let bounds = self.bounds;
        let Self { keys, dirty, .. } = self;
        let Some(record) = find(keys, hash, key) else { return };
        record.leave(job);
        if record.is_freed() {
            list(dirty, hash, key, record);
        }
        let due = record.due(&bounds);
        let idle = record.is_idle();
        self.due = self.due.min(due);
        if idle {
            self.remove(hash, key);
        }
    }

    pub(crate) fn fail(&mut self, hash: u64, key: &K, job: J, now: Micros) -> Told<Change, J> {
        let restored = self.advance(hash, key, now);
        let Self { keys, hasher, bounds, .. } = self;
        let (_, record) = keys
            .entry(hash, |(known, _)| known == key, |(key, _)| hasher.hash_one(key))
            .or_insert_with(|| (key.clone(), Record::new()))
            .into_mut();
        let mut event = None;
        let changed = record.fail(job, bounds, now, &mut event);
        let answer = if changed { Change::Applied } else { Change::Ignored };
        Told { answer, events: [restored, event] }
    }

    pub(crate) fn end(&mut self, hash: u64, key: &K, job: J, state: State, now: Micros) -> Told<Change, J> {
        let restored = self.advance(hash, key, now);
        let mut known = false;
        let answer = self.note(hash, key, |record| {
            known = true;
            record.end(job, state)
        });
        self.changes += usize::from(known);
        Told { answer, events: [restored, None] }
    }

    /// Changes a record for the next sync.
    pub(crate) fn note(&mut self, hash: u64, key: &K, change: impl FnOnce(&mut Record<J>) -> bool) -> Change {
        let Self { keys, dirty, .. } = self;
        let Some(record) = find(keys, hash, key) else { return Change::Ignored };
        if !change(record) {
            return Change::Ignored;
        }
        list(dirty, hash, key, record);
        Change::Queued
    }

    /// Forgets a key whose order the caller switched off; says so if a job had failed.
    pub(crate) fn forget(&mut self, hash: u64, key: &K) -> Option<Event<J>> {
        let (_, mut record) = self.remove(hash, key)?;
        if record.is_dirty() {
            self.dirty.retain(|(other, listed)| *other != hash || listed != key);
        }
        let blocked = record.head().is_some();
        let event = record.waive();
        blocked.then_some(event)
    }

    /// Applies what was noted. Returns the number of state changes since the last sync; pushes the keys that opened.
    pub(crate) fn sync(
        &mut self,
        now: Micros,
        opened: &mut Vec<K>,
        events: &mut Vec<(K, Event<J>)>,
    ) -> usize {
        let bounds = self.bounds;
        let Self { keys, dirty, due, .. } = self;
        // A key stays in the list until all are done, in case that its `Eq` panics: the next sync tries again.
        let mut opened_here = 0;
        for at in 0..dirty.len() {
            let (hash, key) = &dirty[at];
            let Ok(mut entry) = keys.find_entry(*hash, |(known, _)| known == key) else { continue };
            let (_, record) = entry.get_mut();
            if !record.is_dirty() {
                continue;
            }
            let applied = record.sync(&bounds, now);
            *due = (*due).min(record.due(&bounds));
            if record.is_idle() {
                entry.remove();
            }
            if applied.opened {
                dirty.swap(opened_here, at);
                opened_here += 1;
            }
        }
        opened.extend(dirty.drain(..opened_here).map(|(_, key)| key));
        dirty.clear();
        dirty.shrink_to(KEEP);
        self.shrink();
        self.empty();
        if self.due <= now {
            self.expire(now, opened, events);
        }
        std::mem::take(&mut self.changes)
    }

    /// Does what time alone does, to every key.
    fn expire(&mut self, now: Micros, opened: &mut Vec<K>, events: &mut Vec<(K, Event<J>)>) {
        let bounds = self.bounds;
        let mut due = NEVER;
        self.keys.retain(|(key, record)| {
            let (applied, event) = record.advance(&bounds, now);
            if let Some(event) = event {
                events.push((key.clone(), event));
            }
            if applied.opened {
                opened.push(key.clone());
                record.wake();
            }
            due = due.min(record.due(&bounds));
            !record.is_idle()
        });
        self.due = due;
        self.shrink();
    }

    pub(crate) fn head(&mut self, hash: u64, key: &K) -> Option<J> {
        self.find(hash, key)?.head()
    }

    pub(crate) fn is_disabled(&mut self, hash: u64, key: &K, now: Micros) -> Told<bool, J> {
        let restored = self.advance(hash, key, now);
        let answer = self.find(hash, key).is_some_and(|record| record.is_disabled());
        Told { answer, events: [restored, None] }
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &(K, Record<J>)> {
        self.keys.iter()
    }

    pub(crate) fn blocked(&self, now: Micros) -> impl Iterator<Item = BlockedKey<K, J>> {
        self.keys.iter().filter_map(move |(key, record)| {
            Some(BlockedKey {
                key: key.clone(),
                head: record.head()?,
                failed_behind: record.failed_behind(),
                age: std::time::Duration::from_micros(now.saturating_sub(record.since())),
                refused: record.refused(),
            })
        })
    }

    /// Does what time alone does to a key, before anybody looks at it.
    fn advance(&mut self, hash: u64, key: &K, now: Micros) -> Option<Event<J>> {
        if now < self.due {
            return None;
        }
        let bounds = self.bounds;
        let Self { keys, dirty, .. } = self;
        let record = find(keys, hash, key)?;
        let (applied, restored) = record.advance(&bounds, now);
        if applied.opened {
            record.reopen();
            list(dirty, hash, key, record);
        } else if record.is_idle() {
            self.remove(hash, key);
        }
        restored
    }

    fn find(&mut self, hash: u64, key: &K) -> Option<&mut Record<J>> {
        find(&mut self.keys, hash, key)
    }

    /// Removes a key, and gives memory back once most of it is unused.
    fn remove(&mut self, hash: u64, key: &K) -> Option<(K, Record<J>)> {
        let entry = self.keys.find_entry(hash, |(known, _)| known == key).ok()?;
        let (removed, _) = entry.remove();
        self.shrink();
        Some(removed)
    }

    /// Gives all memory back when the last key has gone, if there were ever many. A few keys that come and go keep theirs.
    fn empty(&mut self) {
        if self.had_many && self.keys.is_empty() && self.dirty.is_empty() {
            self.keys = HashTable::new();
            self.dirty = Vec::new();
            self.had_many = false;
        }
    }

    fn shrink(&mut self) {
        let Self { keys, hasher, .. } = self;
        self.had_many |= keys.capacity() > KEEP;
        if keys.capacity() > KEEP && keys.len() < keys.capacity() / 8 {
            let len = keys.len();
            keys.shrink_to(len * 2, |(key, _)| hasher.hash_one(key));
        }
    }
}

fn find<'t, K: Eq, J>(
    keys: &'t mut HashTable<(K, Record<J>)>,
    hash: u64,
    key: &K,
) -> Option<&'t mut Record<J>> {
    keys.find_mut(hash, |(known, _)| known == key).map(|(_, record)| record)
}

/// Puts a key on the list for the next sync, once.
fn list<K: Clone, J: Ord + Copy>(dirty: &mut Vec<(u64, K)>, hash: u64, key: &K, record: &mut Record<J>) {
    if !record.is_dirty() {
        // The copy comes first: if it panics, the key must not be marked without being listed.
        dirty.push((hash, key.clone()));
        record.mark();
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    use super::*;
    use crate::limits::Limits;

    #[test]
    fn memory_is_given_back_with_the_keys() {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let mut shard = Shard::new(hasher.clone(), Bounds::from(Limits::default()));
        for key in 0..10_000_u32 {
            shard.fail(hasher.hash_one(key), &key, 1, 0);
            shard.end(hasher.hash_one(key), &key, 1, State::Succeeded, 0);
        }
        assert!(shard.keys.capacity() >= 10_000 && shard.dirty.capacity() >= 10_000);
        let (mut opened, mut events) = (Vec::new(), Vec::new());
        assert_eq!(shard.sync(0, &mut opened, &mut events), 10_000);
        assert_eq!((opened.len(), shard.len()), (10_000, 0));
        assert_eq!((shard.keys.capacity(), shard.dirty.capacity()), (0, 0));
    }

    #[test]
    fn a_state_that_ends_by_time_is_due() {
        // Half-enabled and under the drain limit: whichever ends first.
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let ms = std::time::Duration::from_millis;
        let limits = Limits::default()
            .key_threshold(1)
            .over_threshold(crate::limits::OverThreshold::Waive)
            .disabled_for(ms(1))
            .half_enabled_for(ms(100))
            .drain(1)
            .drain_for(ms(10));
        let mut shard = Shard::new(hasher.clone(), Bounds::from(limits));
        let hash = hasher.hash_one(7);
        for job in [1, 2] {
            shard.enter(hash, &7, job, 0);
        }
        shard.fail(hash, &7, 3, 1000);
        shard.end(hash, &7, 3, State::Aborted, 1000);
        let (mut opened, mut events) = (Vec::new(), Vec::new());
        shard.sync(1000, &mut opened, &mut events);
        assert_eq!(shard.due(), 11_000, "the drain limit, long before the half-enabled time is over");
    }
}
