use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use super::Inner;
use crate::permit::Permit;
use crate::state::State;

/// A job's turn at a [`Gate`](super::Gate): until it ends, no other job of its key enters.
///
/// It ends with [`settle`](Self::settle). Dropped without, the job leaves, and the next one's turn comes; after
/// [`fail_on_drop`](Self::fail_on_drop) it counts as failed. It needs no runtime for that.
#[must_use = "a dropped permit leaves"]
pub struct GatePermit<
    K: Hash + Eq + Clone + 'static,
    J: Ord + Copy + 'static,
    S: BuildHasher + 'static = RandomState,
> {
    /// Present until it ends.
    permit: Option<Permit<'static, K, J, S>>,
    key: K,
    job: J,
    retry: bool,
    bypassed: bool,
    gate: Arc<Inner<K, J, S>>,
}

impl<K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static> GatePermit<K, J, S> {
    pub(super) fn new(permit: Permit<'static, K, J, S>, gate: Arc<Inner<K, J, S>>) -> Self {
        Self {
            key: permit.key().clone(),
            job: permit.job(),
            retry: permit.is_retry(),
            bypassed: permit.is_bypassed(),
            permit: Some(permit),
            gate,
        }
    }

    /// Returns the job's key.
    pub const fn key(&self) -> &K {
        &self.key
    }

    /// Returns the job.
    pub const fn job(&self) -> J {
        self.job
    }

    /// Whether the job is the failed one that the later jobs of its key wait for.
    pub const fn is_retry(&self) -> bool {
        self.retry
    }

    /// Whether the key's order was not kept when the job entered. Then it holds nobody up, and its outcome changes
    /// nothing.
    pub const fn is_bypassed(&self) -> bool {
        self.bypassed
    }

    /// Makes a drop without an outcome count as a failure.
    ///
    /// For a job that may have been sent when its task is cancelled or panics: the later jobs of its key wait until it
    /// has entered again.
    pub fn fail_on_drop(mut self) -> Self {
        self.permit = self.permit.take().map(Permit::fail_on_drop);
        self
    }

    /// Tells what became of the job. It works at once: store the job's state before, unless it
    /// [failed](State::Failed).
    pub fn settle(mut self, state: State) {
        self.end(Some(state));
    }

    fn end(&mut self, outcome: Option<State>) {
        let Some(permit) = self.permit.take() else { return };
        let Self { key, bypassed, gate, .. } = self;
        gate.update(key, |state, now| {
            if !*bypassed && let Some(line) = state.lines.get_mut(key) {
                line.busy = false;
            }
            match outcome {
                Some(outcome) => drop(permit.settle(outcome, now)),
                None => drop(permit),
            }
        });
    }
}

impl<K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static> Drop
    for GatePermit<K, J, S>
{
    fn drop(&mut self) {
        self.end(None);
    }
}

impl<
    K: Hash + Eq + Clone + fmt::Debug + 'static,
    J: Ord + Copy + fmt::Debug + 'static,
    S: BuildHasher + 'static,
> fmt::Debug for GatePermit<K, J, S>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatePermit")
            .field("key", &self.key)
            .field("job", &self.job)
            .field("bypassed", &self.bypassed)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}
