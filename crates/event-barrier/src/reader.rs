use std::hash::{BuildHasher, Hash, RandomState};

use relaykit_pipeline_traits::Monotonic;

use crate::barrier::Barrier;

/// The one who picks jobs from the store. There is one for each barrier, and it alone opens gates.
///
/// It cannot be cloned, and [`sync`](Self::sync) needs `&mut`: no gate opens in the middle of another reader's pass.
#[derive(Debug)]
pub struct Reader<K, J = u64, S = RandomState> {
    barrier: Barrier<K, J, S>,
}

/// What a sync did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Synced<K> {
    /// How many state changes of known keys took effect.
    pub applied: usize,
    /// The keys that opened: a job that was refused may pass now, so their jobs are worth reading again. Each once, in no
    /// order.
    pub opened: Vec<K>,
}

impl<K: Hash + Eq + Clone, J: Ord + Copy, S: BuildHasher> Reader<K, J, S> {
    pub(crate) const fn new(barrier: Barrier<K, J, S>) -> Self {
        Self { barrier }
    }

    /// Returns the barrier.
    pub const fn barrier(&self) -> &Barrier<K, J, S> {
        &self.barrier
    }

    /// Opens the gates for all state changes told so far. Call it at the start of each pass, *before* the jobs are read.
    ///
    /// Between two syncs gates only close. So what a pass reads after its sync is in order, although jobs end
    /// meanwhile. Also does what time alone does: waived keys are restored, idle drain limits are forgotten.
    pub fn sync(&mut self, now: Monotonic) -> Synced<K> {
        let (applied, opened) = self.barrier.sync(now);
        Synced { applied, opened }
    }
}
