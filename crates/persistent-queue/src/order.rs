use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::torture::planted;

/// Computes an item's key, as a hash; `None` for an item without order.
pub(crate) type KeyOf<T> = Arc<dyn Fn(&T) -> Option<u64> + Send + Sync>;

/// The most batches that are passed over: those that wait, or whose every key does.
pub(crate) const MAX_AWAY: usize = 10_000;

/// The keys of a batch's items.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    hashes: BTreeSet<u64>,
    /// There are items without a key.
    free: bool,
}

impl Keys {
    pub(crate) fn of<T>(items: &[T], key: &KeyOf<T>) -> Self {
        let mut keys = Self::default();
        for item in items {
            match key(item) {
                Some(hash) => drop(keys.hashes.insert(hash)),
                None => keys.free = true,
            }
        }
        keys
    }

    /// Of a batch that cannot be decoded: it holds nobody up, and nobody it.
    pub(crate) const fn unknown() -> Self {
        Self { hashes: BTreeSet::new(), free: true }
    }
}

/// What of a batch may not be lent yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held {
    hashes: Vec<u64>,
    free: bool,
}

impl Held {
    pub(crate) fn is_nothing(&self) -> bool {
        self.hashes.is_empty() && !self.free
    }

    pub(crate) fn holds(&self, key: Option<u64>) -> bool {
        key.map_or(self.free, |hash| self.hashes.contains(&hash))
    }
}

/// An item that stays: its key, and whether it waits for its retry. One that does not was held, and waits as it did before.
pub(crate) type Staying = (Option<u64>, bool);

/// Which stored batches hold which keys: an item may be lent if no older batch holds its key. Knows every batch up to the
/// queue's cursor that is not done; those after it are not lent.
#[derive(Debug)]
pub(crate) struct Line {
    most_keys: usize,
    /// A key's batches stand together, oldest first.
    holders: BTreeSet<(u64, i64)>,
    batches: HashMap<i64, Known>,
    away: usize,
    /// Batches that are away, and have something to lend.
    wanted: BTreeSet<i64>,
}

#[derive(Debug)]
struct Known {
    /// Whether the items of the key wait for their retry.
    keys: HashMap<u64, bool>,
    free: Option<bool>,
    /// When what waits may be lent.
    due: Option<Timestamp>,
    /// It is in the file alone.
    away: bool,
}

impl Known {
    fn waits(&self, marked: bool, now: Timestamp) -> bool {
        marked && self.due.is_some_and(|due| due > now)
    }
}

impl Line {
    pub(crate) fn new(most_keys: usize) -> Self {
        Self {
            most_keys,
            holders: BTreeSet::new(),
            batches: HashMap::new(),
            away: 0,
            wanted: BTreeSet::new(),
        }
    }

    /// Whether one more batch may be known.
    pub(crate) fn has_room(&self) -> bool {
        self.holders.len() < self.most_keys && self.away < MAX_AWAY
    }

    /// Adds a batch, newer than all that are known. With `due`, it waits, and is away.
    pub(crate) fn add(&mut self, id: i64, keys: Keys, due: Option<Timestamp>) {
        let marked = due.is_some();
        self.holders.extend(keys.hashes.iter().map(|hash| (*hash, id)));
        let keys_marked = keys.hashes.into_iter().map(|hash| (hash, marked)).collect();
        let free = keys.free.then_some(marked);
        self.away += usize::from(marked);
        self.batches.insert(id, Known { keys: keys_marked, free, due, away: marked });
    }

    /// Says what of a batch may not be lent, beside these others, of which that is held, in the same call; `None` if that is all
    /// of it.
    pub(crate) fn held(&self, id: i64, beside: &[(i64, Held)], now: Timestamp) -> Option<Held> {
        let Some(known) = self.batches.get(&id) else { return Some(Held::default()) };
        let mut held =
            Held { hashes: Vec::new(), free: known.free.is_some_and(|free| known.waits(free, now)) };
        let lent = |holder, hash| beside.iter().any(|(id, held)| *id == holder && !held.holds(Some(hash)));
        let mut some = known.free.is_some() && !held.free;
        for (hash, marked) in &known.keys {
            let mut older = self.holders.range((*hash, i64::MIN)..(*hash, id));
            let behind = !older.all(|(_, holder)| lent(*holder, *hash)) && !planted("overtakes_what_waits");
            if known.waits(*marked, now) || behind {
                held.hashes.push(*hash);
            } else {
                some = true;
            }
        }
        some.then_some(held)
    }

    pub(crate) fn is_away(&self, id: i64) -> bool {
        self.batches.get(&id).is_some_and(|known| known.away)
    }

    /// A batch was read from the file.
    pub(crate) fn bring(&mut self, id: i64) {
        if let Some(known) = self.batches.get_mut(&id) {
            self.away -= usize::from(std::mem::replace(&mut known.away, false));
            self.wanted.remove(&id);
        }
    }

    /// A batch is in the file alone from now on.
    pub(crate) fn put_away(&mut self, id: i64, now: Timestamp) {
        let Some(known) = self.batches.get_mut(&id) else { return };
        self.away += usize::from(!std::mem::replace(&mut known.away, true));
        if self.held(id, &[], now).is_some() {
            self.wanted.insert(id);
        }
    }

    /// Nothing of a batch is left to be done.
    pub(crate) fn forget(&mut self, id: i64, now: Timestamp) {
        let Some(known) = self.batches.remove(&id) else { return };
        self.away -= usize::from(known.away);
        self.wanted.remove(&id);
        for hash in known.keys.into_keys() {
            self.release(hash, id, now);
        }
    }

    /// Only these items of a batch are left. Those of them that wait do so until `due`.
    pub(crate) fn keep(
        &mut self,
        id: i64,
        staying: Option<&[Staying]>,
        due: Option<Timestamp>,
        now: Timestamp,
    ) {
        let Some(known) = self.batches.get_mut(&id) else { return };
        let waited = known.due.is_some_and(|due| due > now);
        known.due = due;
        let Some(staying) = staying else {
            known.free = known.free.map(|_| true);
            known.keys.values_mut().for_each(|waits| *waits = true);
            return;
        };
        let mut before = std::mem::take(&mut known.keys);
        let mut free = None;
        for (key, waits) in staying {
            match key {
                Some(hash) => {
                    let was = before.remove(hash).is_some_and(|was| was && waited);
                    *known.keys.entry(*hash).or_insert(was) |= waits;
                    // Merging may have moved it here from another batch.
                    self.holders.insert((*hash, id));
                }
                None => free = Some(free.unwrap_or(waited && known.free == Some(true)) || *waits),
            }
        }
        known.free = free;
        for hash in before.into_keys() {
            self.release(hash, id, now);
        }
    }

    fn release(&mut self, hash: u64, id: i64, now: Timestamp) {
        self.holders.remove(&(hash, id));
        let next = self.holders.range((hash, i64::MIN)..=(hash, i64::MAX)).next().map(|(_, next)| *next);
        if let Some(next) = next
            && let Some(known) = self.batches.get(&next)
            && known.away
            && !known.waits(known.keys.get(&hash).copied().unwrap_or(false), now)
        {
            self.wanted.insert(next);
        }
    }

    pub(crate) fn wants(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Takes the oldest batches that are to be read, up to so many.
    pub(crate) fn take_wanted(&mut self, most: usize) -> Vec<i64> {
        std::iter::from_fn(|| self.wanted.pop_first()).take(most).collect()
    }

    /// Puts back what could not be read.
    pub(crate) fn want(&mut self, ids: impl IntoIterator<Item = i64>) {
        for id in ids {
            if self.is_away(id) {
                self.wanted.insert(id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
