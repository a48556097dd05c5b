use std::fmt;
use std::time::Duration;

use crate::responses::Response;

/// How long a stop waits, after its deadline, for handlers to let go of their batches: 1 s. A handler that blocks
/// its thread cannot be interrupted; what it holds is counted in [`StopReport::unreturned`].
pub const ABORT_GRACE: Duration = Duration::from_secs(1);

/// What a stop left behind. After a graceful one everything is empty.
#[must_use = "it holds the items that were not sent"]
pub struct StopReport<T, O, E> {
    /// Items that took no effect: not lent yet, or waiting to be tried again.
    pub unsent: Vec<T>,
    /// Items that a handler had when the deadline passed. Whether they took effect, only the other side knows.
    pub in_doubt: Vec<T>,
    /// Responses to sent items that nobody read.
    pub unread: Vec<Response<T, O, E>>,
    /// Items held by a handler that blocks its thread and could not be interrupted. They are answered when it
    /// returns.
    pub unreturned: usize,
}

impl<T, O, E> StopReport<T, O, E> {
    pub(crate) const fn empty() -> Self {
        Self { unsent: Vec::new(), in_doubt: Vec::new(), unread: Vec::new(), unreturned: 0 }
    }

    /// Returns whether everything accepted was answered.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.unsent.is_empty() && self.in_doubt.is_empty() && self.unread.is_empty() && self.unreturned == 0
    }
}

impl<T, O, E> fmt::Debug for StopReport<T, O, E> {
    /// Shows counts, not items, which may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StopReport")
            .field("unsent", &self.unsent.len())
            .field("in_doubt", &self.in_doubt.len())
            .field("unread", &self.unread.len())
            .field("unreturned", &self.unreturned)
            .finish()
    }
}
