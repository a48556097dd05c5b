use std::hash::{BuildHasher, Hash, RandomState};

use crate::permit::Permit;

/// The first gate's answer: may this job go on its way, and if not, why.
#[derive(Debug)]
#[must_use = "an unused permit leaves at once"]
pub enum Admission<'b, K: Hash + Eq + Clone, J: Ord + Copy, S: BuildHasher = RandomState> {
    /// It may. Dropping the permit without an outcome is a leave.
    Accepted(Permit<'b, K, J, S>),
    /// It may, and the key's order is not kept: switched off, or waived over the threshold. The permit remembers that, so
    /// neither gate nor its outcome affects the key.
    Bypassed(Permit<'b, K, J, S>),
    /// It may not: an older job of the key failed and waits for its retry.
    Blocked {
        /// That job.
        by: J,
    },
    /// It may not: a failed job of the key was aborted, and as many jobs as [`Limits::drain`](crate::Limits::drain) allows
    /// are in flight since.
    Draining,
    /// It may not: as many jobs of the key as [`Limits::key_threshold`](crate::Limits::key_threshold) allows are in flight.
    Full,
}

impl<'b, K: Hash + Eq + Clone, J: Ord + Copy, S: BuildHasher> Admission<'b, K, J, S> {
    /// Returns the permit of a job that may go.
    pub fn permit(self) -> Option<Permit<'b, K, J, S>> {
        match self {
            Self::Accepted(permit) | Self::Bypassed(permit) => Some(permit),
            Self::Blocked { .. } | Self::Draining | Self::Full => None,
        }
    }

    /// Whether the job may go.
    pub const fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted(_) | Self::Bypassed(_))
    }
}

/// The second gate's answer, just before a job is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "a job that should wait must not be sent"]
pub enum Turn<J> {
    /// Send it.
    Go,
    /// Do not: report it as [`State::Waiting`](crate::State::Waiting) instead. An older job of its key has failed since it was
    /// admitted.
    Wait {
        /// That job.
        by: J,
    },
}
