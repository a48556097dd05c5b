use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{GatePermit, Inner};

/// Where a job that waits gets its permit.
type Turn<K, J, S> = oneshot::Sender<GatePermit<K, J, S>>;

/// The jobs of one key.
pub(super) struct Line<K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static> {
    /// A job is inside.
    pub(super) busy: bool,
    /// Those that wait, the lowest first; of equal ones, the first to come.
    pub(super) waiting: BTreeMap<(J, u64), Turn<K, J, S>>,
}

impl<K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static> Default
    for Line<K, J, S>
{
    fn default() -> Self {
        Self { busy: false, waiting: BTreeMap::new() }
    }
}

/// A job's place in line, for as long as it waits.
pub(super) struct Place<'g, K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static>
{
    pub(super) inner: &'g Arc<Inner<K, J, S>>,
    pub(super) key: K,
    pub(super) job: J,
    pub(super) ticket: u64,
    /// Dropped after the place was given up: a permit that has come meanwhile goes to the next job.
    pub(super) receiver: oneshot::Receiver<GatePermit<K, J, S>>,
}

impl<K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static> Drop
    for Place<'_, K, J, S>
{
    fn drop(&mut self) {
        let Self { inner, key, job, ticket, .. } = self;
        inner.update(key, |state, _| state.quit(key, *job, *ticket));
    }
}
