use std::time::Duration;

use relaykit_pipeline_traits::MessageId;

use super::dead::DeadReason;
use crate::Shard;

/// What a relay or a worker tells, after the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamEvent {
    /// A message failed and waits for its next attempt.
    Retried {
        /// The message.
        id: MessageId,
        /// Attempts spent on it.
        attempts: u32,
        /// How long it waits.
        wait: Duration,
        /// What was said.
        error: String,
    },
    /// A message is a dead letter.
    Dead {
        /// The message; `None` if its row cannot be read.
        id: Option<MessageId>,
        /// Why.
        reason: DeadReason,
        /// Attempts spent on it.
        attempts: u32,
        /// What was said.
        error: String,
    },
    /// Leases were lost while messages of their shards were on their way: these may be sent again.
    LeaseLost {
        /// The shards.
        shards: Vec<Shard>,
        /// How many messages.
        messages: usize,
    },
    /// The other side refused all that was sent, through no message's fault. Nothing is sent for a while.
    Paused {
        /// For how long.
        wait: Duration,
        /// What was said.
        error: String,
    },
    /// The store could not be used. It is tried again.
    StoreFailed {
        /// What was said, causes included.
        error: String,
    },
}
