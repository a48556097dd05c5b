use relaykit_pipeline_traits::{Classify, ErrorClass, MessageId};
use relaykit_sql_store::{StoreError, TooLarge};

use crate::name::Scope;

/// What became of a message that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Received {
    /// It is stored, and will be handled if the transaction commits.
    Stored,
    /// It was stored before, with the same content: a repetition. Nothing was written.
    AlreadyKnown,
}

/// A message of the same scope and id was stored before, with another kind or payload. Nothing of this one was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("another message has the id {id} in the scope {scope} already, with other content")]
pub struct IdConflict {
    /// The scope.
    pub scope: Scope,
    /// The id.
    pub id: MessageId,
}

/// Why messages were not received. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// One is too large, or there are too many.
    #[error("message is too large")]
    TooLarge(#[from] TooLarge),
    /// It is not from whom it says, as the check of its signature found.
    #[error("message was refused: {reason}")]
    Refused {
        /// Why, without anything secret.
        reason: String,
    },
    /// Another message has its id.
    #[error("message is not what was received before")]
    IdConflict(#[from] IdConflict),
    /// The store failed. If it was in the caller's transaction, that must be rolled back.
    #[error("could not store the message")]
    Store(#[from] StoreError),
}

impl Classify for ReceiveError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::TooLarge(_) | Self::Refused { .. } | Self::IdConflict(_) => ErrorClass::Permanent,
            Self::Store(error) => error.class(),
        }
    }
}
