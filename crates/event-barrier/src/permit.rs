use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};

use relaykit_pipeline_traits::Monotonic;

use crate::admission::Turn;
use crate::barrier::Barrier;
use crate::state::{Change, State};

/// A job's leave to go on its way, from [`Barrier::enter`].
///
/// It ends with [`settle`](Self::settle). Dropped without, it is a [`leave`](Barrier::leave): the job was not handed on and will be
/// picked again; or a failure, after [`fail_on_drop`](Self::fail_on_drop).
#[must_use = "a dropped permit leaves"]
pub struct Permit<'b, K: Hash + Eq + Clone, J: Ord + Copy, S: BuildHasher = RandomState> {
    barrier: Handle<'b, K, J, S>,
    key: K,
    job: J,
    entered: Monotonic,
    bypassed: bool,
    retry: bool,
    on_drop: OnDrop,
}

enum Handle<'b, K, J, S> {
    Lent(&'b Barrier<K, J, S>),
    Own(Barrier<K, J, S>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnDrop {
    Nothing,
    Leave,
    Fail,
}

impl<'b, K: Hash + Eq + Clone, J: Ord + Copy, S: BuildHasher> Permit<'b, K, J, S> {
    pub(crate) const fn new(
        barrier: &'b Barrier<K, J, S>,
        key: K,
        job: J,
        entered: Monotonic,
        bypassed: bool,
        retry: bool,
    ) -> Self {
        Self { barrier: Handle::Lent(barrier), key, job, entered, bypassed, retry, on_drop: OnDrop::Leave }
    }

    /// Makes the permit one that may live as long as it likes, for instance in a spawned task.
    pub fn into_owned(mut self) -> Permit<'static, K, J, S> {
        let on_drop = std::mem::replace(&mut self.on_drop, OnDrop::Nothing);
        Permit {
            barrier: Handle::Own(self.barrier().clone()),
            key: self.key.clone(),
            job: self.job,
            entered: self.entered,
            bypassed: self.bypassed,
            retry: self.retry,
            on_drop,
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

    /// Whether the key's order was not kept when the job entered. Then both gates let it pass, and its outcome changes
    /// nothing.
    pub const fn is_bypassed(&self) -> bool {
        self.bypassed
    }

    /// Asks at the second gate, just before the job is sent: has an older job of its key failed since it entered?
    pub fn wait(&self, now: Monotonic) -> Turn<J> {
        if self.bypassed {
            return Turn::Go;
        }
        self.barrier().wait(&self.key, self.job, now)
    }

    /// Makes a drop without an outcome count as a failure, from the time of entry on.
    ///
    /// For a job that the store calls handed out: if its task is cancelled or panics, nobody can read it again for a while, and
    /// it may have been sent. Until it is tried again no later job of its key may pass. A plain leave would let them.
    pub const fn fail_on_drop(mut self) -> Self {
        self.on_drop = OnDrop::Fail;
        self
    }

    /// Tells what became of the job. [`State`] says when to call it, and when it works.
    pub fn settle(mut self, state: State, now: Monotonic) -> Change {
        self.on_drop = OnDrop::Nothing;
        if self.bypassed {
            return Change::Ignored;
        }
        self.barrier().state_changed(&self.key, self.job, state, now)
    }

    /// Gives the permit up without a leave, since the job's outcome will be told by
    /// [`Barrier::state_changed`] or [`Barrier::leave`].
    ///
    /// Those do not know of a bypass. Without an outcome the job stays counted.
    pub fn detach(mut self) {
        self.on_drop = OnDrop::Nothing;
    }

    const fn barrier(&self) -> &Barrier<K, J, S> {
        match &self.barrier {
            Handle::Lent(barrier) => barrier,
            Handle::Own(barrier) => barrier,
        }
    }
}

impl<K: Hash + Eq + Clone, J: Ord + Copy, S: BuildHasher> Drop for Permit<'_, K, J, S> {
    fn drop(&mut self) {
        if self.bypassed {
            return;
        }
        match self.on_drop {
            OnDrop::Nothing => {}
            OnDrop::Leave => self.barrier().leave(&self.key, self.job),
            OnDrop::Fail => {
                self.barrier().state_changed(&self.key, self.job, State::Failed, self.entered);
            }
        }
    }
}

impl<K: Hash + Eq + Clone + fmt::Debug, J: Ord + Copy + fmt::Debug, S: BuildHasher> fmt::Debug
    for Permit<'_, K, J, S>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("key", &self.key)
            .field("job", &self.job)
            .field("bypassed", &self.bypassed)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}
