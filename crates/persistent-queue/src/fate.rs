use std::time::Duration;

use relaykit_sql_store::judge::{self, Cause};

use crate::dead::DeadReason;

/// What becomes of an item for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    Dead {
        reason: DeadReason,
        error: String,
    },
    /// It stays, and is lent again after this wait; `fresh` if attempts begin anew.
    Again {
        wait: Duration,
        fresh: bool,
        error: String,
    },
    /// It stays, and was not lent: an older item of its key is not done.
    Held,
}

impl From<judge::Fate> for Fate {
    fn from(fate: judge::Fate) -> Self {
        match fate {
            judge::Fate::Done => Self::Done,
            judge::Fate::Dead { cause: Cause::Rejected, error } => {
                Self::Dead { reason: DeadReason::Rejected, error }
            }
            judge::Fate::Dead { cause: Cause::Exhausted, error } => {
                Self::Dead { reason: DeadReason::Exhausted, error }
            }
            judge::Fate::Again { wait, fresh, error } => Self::Again { wait, fresh, error },
        }
    }
}
