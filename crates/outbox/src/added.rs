use relaykit_pipeline_traits::{Classify, ErrorClass, MessageId};
use relaykit_sql_store::StoreError;

use relaykit_sql_store::TooLarge;

/// What became of a message that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Added {
    /// It is written, and will be sent if the transaction commits.
    Added,
    /// A message of the same id and content is there already and not yet sent. Nothing was written.
    AlreadyAdded,
}

/// Why a message was not added. Nothing was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// It is too large.
    #[error("message is too large")]
    TooLarge(#[from] TooLarge),
    /// A message of the same id but other content is there already.
    #[error("another message has the id {id} already, with other content")]
    IdConflict {
        /// The id.
        id: MessageId,
    },
    /// The store failed. If it was in the caller's transaction, that must be rolled back.
    #[error("could not add the message")]
    Store(#[from] StoreError),
}

impl Classify for AddError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::TooLarge(_) | Self::IdConflict { .. } => ErrorClass::Permanent,
            Self::Store(error) => error.class(),
        }
    }
}
