use relaykit_pipeline_traits::{Message, MessageId, Timestamp};
use relaykit_sql_store::{DeadReason, Seq};

use crate::name::{HandlerKey, Scope};

/// A message that a handler will not get by itself any more, kept with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Its place among the handlers' messages, which it takes again when it is replayed.
    pub seq: Seq,
    /// The handler.
    pub handler: HandlerKey,
    /// Whose message it is.
    pub scope: Scope,
    /// The message's id, also of one that cannot be read.
    pub id: MessageId,
    /// The message. `None` if its row cannot be read; the row is kept as it is.
    pub message: Option<Message>,
    /// Why it is here.
    pub reason: DeadReason,
    /// What was said last, at most 4 KiB.
    pub error: String,
    /// Attempts spent.
    pub attempts: u32,
    /// When the message was received.
    pub received_at: Timestamp,
    /// When it failed first, if the handler ever had it.
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
        handler: HandlerKey,
        scope: Scope,
        id: MessageId,
        message: Option<Message>,
        reason: DeadReason,
        error: String,
        attempts: u32,
        received_at: Timestamp,
        first_failed_at: Option<Timestamp>,
        died_at: Timestamp,
    ) -> Self {
        Self {
            seq,
            handler,
            scope,
            id,
            message,
            reason,
            error,
            attempts,
            received_at,
            first_failed_at,
            died_at,
        }
    }
}
