use std::fmt;
use std::time::Duration;

use relaykit_pipeline_traits::{Message, OrderingKey};

use super::dead::DeadReason;
use super::open::Snapshot;
use crate::{Lease, Shard};

/// A message's place in its store: messages are numbered as they are added, and those of one key are sent in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub i64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A row's name: its shard and its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    /// The shard.
    pub shard: Shard,
    /// The place.
    pub seq: Seq,
}

/// A message as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Where it is.
    pub row: RowId,
    /// The message.
    pub message: Message,
    /// Attempts spent on it.
    pub attempts: u32,
    /// How long ago it was added, by the store's clock.
    pub age: Duration,
    /// How long ago it failed first, if it did.
    pub failing_for: Option<Duration>,
    /// Whether it has waited: for a retry, for its time, or to be replayed.
    pub waited: bool,
    /// What was noted before it was sent last.
    pub suspicion: Suspicion,
}

/// What is noted of a row before it is sent, after a crash: if it is still there later, whoever sent the row did not live to write
/// what became of it, or could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Suspicion {
    /// Nothing.
    #[default]
    Clear,
    /// It was on its way among others, or is a suspect since it was on its way alone before.
    Company,
    /// It was on its way alone.
    Alone,
}

impl Suspicion {
    /// Returns the number by which it is stored: 0, 1 or 2.
    #[must_use]
    pub const fn as_number(self) -> i16 {
        match self {
            Self::Clear => 0,
            Self::Company => 1,
            Self::Alone => 2,
        }
    }

    /// Reads its number; an unknown one is that of a suspect.
    #[must_use]
    pub const fn from_number(number: i16) -> Self {
        match number {
            0 => Self::Clear,
            2 => Self::Alone,
            _ => Self::Company,
        }
    }
}

/// A row that cannot be read as a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it is.
    pub row: RowId,
    /// Its key, as far as it can be read.
    pub key: Option<OrderingKey>,
    /// Why.
    pub error: String,
}

/// Which rows of a shard to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadFrom {
    /// The shard.
    pub shard: Shard,
    /// Rows behind this place.
    pub after: Seq,
}

/// Rows that can be sent, as of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The rows, by shard and place. Of a shard that has as many as were asked for, there may be more.
    pub rows: Vec<Stored>,
    /// Rows among them that cannot be read.
    pub unreadable: Vec<Unreadable>,
    /// Of each shard that has one, the first row whose wait is over and whose key has no earlier one that still waits.
    pub due: Vec<RowId>,
    /// How long until the next row's wait is over, if any waits.
    pub next_due: Option<Duration>,
    /// Which transactions it does not show.
    pub snapshot: Snapshot,
}

/// What became of rows, to be written under leases.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settlement {
    /// The leases under which it was sent: one of each shard among the rows.
    pub leases: Vec<Lease>,
    /// Rows that were sent.
    pub done: Vec<RowId>,
    /// Rows that stay and wait.
    pub retry: Vec<Waiting>,
    /// Rows that become dead letters.
    pub dead: Vec<Dying>,
}

/// A row that is to wait for its next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The row.
    pub row: RowId,
    /// Attempts spent on it by now.
    pub attempts: u32,
    /// How long it waits from now.
    pub wait: Duration,
    /// Whether its attempts begin anew, with a new first failure.
    pub fresh: bool,
    /// Whether it stays a suspect ([`Suspicion::Company`]); else it is [`Suspicion::Clear`].
    pub suspect: bool,
    /// What was said last.
    pub error: String,
}

/// A row that is to become a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dying {
    /// The row.
    pub row: RowId,
    /// Attempts spent on it by now.
    pub attempts: u32,
    /// Why.
    pub reason: DeadReason,
    /// What was said last.
    pub error: String,
}

/// What a settlement found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settled {
    /// The shards whose lease is another's now. Nothing of them was written.
    pub stale: Vec<Shard>,
    /// How many rows of the others were written. If fewer than there were, some may have ended before: what comes behind those that
    /// were to wait is read again.
    pub written: u64,
    /// Those that have left, done or dead, though they waited in the store, as when an operator makes a row wait that was read before.
    /// Empty where nobody but a settlement makes a row wait.
    ///
    /// While such a row waited, pages hid what lies behind it; so that is read again.
    pub waited: Vec<RowId>,
}

/// How much waits in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Messages not yet sent, those that wait among them.
    pub pending: u64,
    /// How long ago the oldest of them was added.
    pub oldest: Option<Duration>,
    /// Dead letters.
    pub dead: u64,
}
