use std::time::Duration;

use relaykit_pipeline_traits::{Message, MessageId, OrderingKey, Timestamp};
pub(crate) use relaykit_sql_store::check_limit;
pub use relaykit_sql_store::{DeadFilter, DeadReason, MAX_LISTED};

use crate::store::Seq;

/// A message that will not be sent by itself any more, kept with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its place among the messages, which it takes again when it is replayed.
    pub seq: Seq,
    /// The message. `None` if its row cannot be read; the row is kept as it is.
    pub message: Option<Message>,
    /// The message's id, also of one that cannot be read.
    pub id: MessageId,
    /// Why it is here.
    pub reason: DeadReason,
    /// What was said last, at most 4 KiB.
    pub error: String,
    /// Attempts spent.
    pub attempts: u32,
    /// When it was added.
    pub added_at: Timestamp,
    /// When it failed first, if it was ever sent.
    pub first_failed_at: Option<Timestamp>,
    /// When it was set aside.
    pub died_at: Timestamp,
}

impl DeadLetter {
    /// Makes a dead letter of its parts; for stores.
    #[expect(clippy::too_many_arguments, reason = "a row has as many columns")]
    #[must_use]
    pub const fn new(
        seq: Seq,
        id: MessageId,
        message: Option<Message>,
        reason: DeadReason,
        error: String,
        attempts: u32,
        added_at: Timestamp,
        first_failed_at: Option<Timestamp>,
        died_at: Timestamp,
    ) -> Self {
        Self { seq, message, id, reason, error, attempts, added_at, first_failed_at, died_at }
    }
}

/// A key whose head waits, and holds all later messages of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockedKey {
    /// The key; `None` for a message without one, which holds nobody.
    pub key: Option<OrderingKey>,
    /// The id of the message at the head.
    pub head: MessageId,
    /// The head's place.
    pub seq: Seq,
    /// Attempts spent on it.
    pub attempts: u32,
    /// What was said last.
    pub error: Option<String>,
    /// How long ago it was added.
    pub age: Duration,
    /// How long until it is tried again; `None` if it is parked.
    pub due_in: Option<Duration>,
}

impl BlockedKey {
    /// Makes it of its parts; for stores.
    #[must_use]
    pub const fn new(
        key: Option<OrderingKey>,
        head: MessageId,
        seq: Seq,
        attempts: u32,
        error: Option<String>,
        age: Duration,
        due_in: Option<Duration>,
    ) -> Self {
        Self { key, head, seq, attempts, error, age, due_in }
    }
}
