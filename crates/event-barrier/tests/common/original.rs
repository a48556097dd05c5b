//! The rules of the Go original's newer generation, as plain code from their description: what the defect tests show its
//! faults on. Not a port; it keeps no more than those tests need.

use std::collections::{BTreeMap, BTreeSet};

use relaykit_event_barrier::State;

pub(crate) struct Original {
    pub(crate) threshold: usize,
    pub(crate) drain: usize,
    pub(crate) disabled_for: u64,
    pub(crate) half_for: u64,
    /// The check that switches the order of all keys off.
    pub(crate) order_off: bool,
    /// What it was asked to explain, with a query to the store, under its lock.
    pub(crate) explained: u32,
    records: BTreeMap<&'static str, Record>,
    queue: Vec<(&'static str, u64, State)>,
}

#[derive(Default)]
struct Record {
    phase: Phase,
    since: u64,
    failed: Option<u64>,
    concurrent: Option<BTreeSet<u64>>,
    draining: Option<BTreeSet<u64>>,
}

#[derive(Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Enabled,
    Disabled,
    HalfEnabled,
}

/// The answer of its first gate: whether the job is accepted, and the failed job. Both refusals say "no".
pub(crate) type Entered = (bool, Option<u64>);

impl Original {
    pub(crate) const fn new(threshold: usize, drain: usize) -> Self {
        Self {
            threshold,
            drain,
            disabled_for: 100,
            half_for: 100,
            order_off: false,
            explained: 0,
            records: BTreeMap::new(),
            queue: Vec::new(),
        }
    }

    pub(crate) fn enter(&mut self, key: &'static str, job: u64, now: u64) -> Entered {
        if self.threshold == 0 && !self.records.contains_key(key) {
            return (true, None);
        }
        let record = self
            .records
            .entry(key)
            .or_insert_with(|| Record { concurrent: Some(BTreeSet::new()), ..Record::default() });
        if self.order_off {
            (record.phase, record.since) = (Phase::Disabled, now);
        }
        // Strictly greater, and one step for each look.
        if record.phase == Phase::Disabled && now - record.since > self.disabled_for {
            (record.phase, record.since) = (Phase::HalfEnabled, now);
        } else if record.phase == Phase::HalfEnabled && now - record.since > self.half_for {
            (record.phase, record.since) = (Phase::Enabled, now);
        }
        if record.phase == Phase::Disabled {
            return (true, None);
        }
        let full = |jobs: &Option<BTreeSet<u64>>, limit| {
            jobs.as_ref().is_some_and(|jobs| !jobs.contains(&job) && jobs.len() >= limit)
        };
        if full(&record.concurrent, self.threshold) {
            *record = Record { phase: Phase::Disabled, since: now, ..Record::default() };
            return (true, None);
        }
        if full(&record.draining, self.drain) {
            return (false, None);
        }
        let failed = record.failed;
        if failed.is_some_and(|failed| failed > job) && record.phase == Phase::Enabled {
            self.explained += 1;
        }
        let accepted = failed.is_none_or(|failed| failed == job);
        if accepted {
            for jobs in [&mut record.concurrent, &mut record.draining].into_iter().flatten() {
                jobs.insert(job);
            }
        }
        (accepted, failed)
    }

    /// Whether the job must wait.
    pub(crate) fn wait(&self, key: &str, job: u64) -> bool {
        let record = self.records.get(key).filter(|record| record.phase != Phase::Disabled);
        record.and_then(|record| record.failed).is_some_and(|failed| failed != job)
    }

    pub(crate) fn state_changed(&mut self, key: &'static str, job: u64, state: State) {
        if state == State::Failed {
            self.fail(key, job);
        } else if self.records.contains_key(key) {
            self.queue.push((key, job, state));
        }
    }

    pub(crate) fn sync(&mut self) -> usize {
        let queue = std::mem::take(&mut self.queue);
        let count = queue.len();
        for (key, job, state) in queue {
            self.end(key, job, state);
        }
        count
    }

    pub(crate) fn disabled(&self, key: &str) -> bool {
        self.records.get(key).is_some_and(|record| record.phase == Phase::Disabled)
    }

    pub(crate) fn peek(&self, key: &str) -> Option<u64> {
        self.records.get(key)?.failed
    }

    pub(crate) fn size(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    fn fail(&mut self, key: &'static str, job: u64) {
        let record = self.records.entry(key).or_default();
        if record.phase == Phase::Disabled {
            return;
        }
        record.forget(job);
        let failed = *record.failed.get_or_insert(job);
        if failed > job && record.phase == Phase::Enabled {
            self.explained += 1;
        }
        record.draining = None;
    }

    fn end(&mut self, key: &'static str, job: u64, state: State) {
        let Some(record) = self.records.get_mut(key) else { return };
        if state == State::Waiting {
            record.forget(job);
        } else {
            if record.phase == Phase::Disabled {
                return;
            }
            record.forget(job);
            if record.failed.is_some_and(|failed| failed != job) {
                return;
            }
            let had_failed = record.failed.take().is_some();
            let drains = state == State::Aborted && had_failed && self.drain > 0;
            record.draining = drains.then(BTreeSet::new);
        }
        if record.is_inactive() {
            self.records.remove(key);
        }
    }
}

impl Record {
    fn forget(&mut self, job: u64) {
        for jobs in [&mut self.concurrent, &mut self.draining].into_iter().flatten() {
            jobs.remove(&job);
        }
    }

    fn is_inactive(&self) -> bool {
        self.phase == Phase::Enabled
            && self.failed.is_none()
            && self.concurrent.as_ref().is_none_or(BTreeSet::is_empty)
            && self.draining.is_none()
    }
}
