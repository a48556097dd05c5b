use std::collections::HashMap;
use std::collections::hash_map::Entry;

use relaykit_event_barrier::State;

use super::setting::BareLimits;

/// The bare bookkeeping: what one would write without a barrier, for jobs that come in order. It reports nothing, lists
/// nothing, wakes nobody, knows no time, and remembers one failed job a key.
#[derive(Debug)]
pub(super) struct Books {
    keys: HashMap<u64, Record>,
    /// What the next sync applies.
    pending: Vec<(u64, u64, State)>,
    limits: BareLimits,
}

#[derive(Debug, Default)]
struct Record {
    failed: Option<u64>,
    draining: bool,
    /// The jobs in flight, ascending: they come in order, so the newest goes to the end.
    inside: Vec<u64>,
}

impl Books {
    pub(super) fn new(limits: BareLimits) -> Self {
        Self { keys: HashMap::new(), pending: Vec::new(), limits }
    }

    /// Returns the number of known keys.
    pub(super) fn size(&self) -> usize {
        self.keys.len()
    }

    /// Returns how many keys are blocked, and jobs in flight, as far as they are counted.
    pub(super) fn unfinished(&self) -> usize {
        self.keys.values().map(|record| usize::from(record.failed.is_some()) + record.inside.len()).sum()
    }

    /// Returns the keys whose jobs pass one at a time, while none of them is in flight.
    pub(super) fn draining(&self) -> Vec<u64> {
        let draining = |record: &Record| record.draining && record.inside.is_empty();
        self.keys.iter().filter(|(_, record)| draining(record)).map(|(key, _)| *key).collect()
    }

    pub(super) fn enter(&mut self, key: u64, job: u64) -> bool {
        if self.limits.threshold == 0 {
            let failed = self.keys.get(&key).and_then(|record| record.failed);
            return failed.is_none_or(|failed| job <= failed);
        }
        let record = self.keys.entry(key).or_default();
        if record.failed.is_some_and(|failed| job > failed) {
            return false;
        }
        let at = match record.inside.last() {
            Some(last) if *last >= job => match record.inside.binary_search(&job) {
                Ok(_) => return true,
                Err(at) => at,
            },
            _ => record.inside.len(),
        };
        let most = if record.draining { self.limits.drain } else { self.limits.threshold };
        if record.inside.len() >= most as usize {
            return false;
        }
        record.inside.insert(at, job);
        true
    }

    /// Notes what became of a job; answers whether there is something to do at the next sync.
    pub(super) fn tell(&mut self, key: u64, job: u64, state: State) -> bool {
        if state == State::Failed {
            let record = self.keys.entry(key).or_default();
            record.failed = Some(record.failed.map_or(job, |failed| failed.min(job)));
            record.draining = false;
            record.forget(job);
            return false;
        }
        let known = self.keys.contains_key(&key);
        if known {
            self.pending.push((key, job, state));
        }
        known
    }

    /// Applies what was noted; returns how much that was.
    pub(super) fn sync(&mut self) -> usize {
        let applied = self.pending.len();
        for (key, job, state) in self.pending.drain(..) {
            let Entry::Occupied(mut entry) = self.keys.entry(key) else { continue };
            let record = entry.get_mut();
            record.forget(job);
            if record.failed == Some(job) {
                record.failed = None;
                record.draining = state == State::Aborted && self.limits.drain > 0;
            } else if record.failed.is_none() {
                record.draining = false;
            }
            if record.failed.is_none() && !record.draining && record.inside.is_empty() {
                entry.remove();
            }
        }
        applied
    }
}

impl Record {
    fn forget(&mut self, job: u64) {
        if let Ok(at) = self.inside.binary_search(&job) {
            self.inside.remove(at);
        }
    }
}
