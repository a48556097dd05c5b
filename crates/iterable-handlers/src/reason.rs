use std::fmt;

/// Why the API did not take one message, or one subscriber of it.
///
/// The texts are those of the client library this crate succeeds, so that searches and alerts keep working.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The project refuses events of this name.
    DisallowedEventName,
    /// An existing address stands in the way of a change of identity.
    ConflictEmails,
    /// An existing user id stands in the way of a change of identity.
    ConflictUserIds,
    /// The user, named by address, was forgotten and must not be written again.
    ForgottenEmails,
    /// The user, named by id, was forgotten and must not be written again.
    ForgottenUserIds,
    /// Data fields of the user, named by address, are wrong.
    InvalidDataEmails,
    /// Data fields of the user, named by id, are wrong.
    InvalidDataUserIds,
    /// The address is malformed, at the top level or in the data fields.
    InvalidEmails,
    /// The user id is malformed, at the top level or in the data fields.
    InvalidUserIds,
    /// No user has this address.
    NotFoundEmails,
    /// No user has this id.
    NotFoundUserIds,
    /// The address is fine; the API failed inside. Trying again can help.
    ValidEmailFailures,
    /// The user id is fine; the API failed inside. Trying again can help.
    ValidUserIdFailures,
    /// The project has no such list. One that was made a moment ago may still be unknown.
    InvalidListId,
    /// The message is more than the API takes at once, even alone.
    TooLarge,
    /// The API cannot read the message.
    BadJson,
    /// The message would give the project more distinct fields than it may have.
    TooManyFields,
    /// The message conflicts with what the project knows of the user.
    Conflict,
    /// The user was forgotten and must not be written again.
    Forgotten,
    /// The API refuses a request that holds only this message, with a status that no retry changes.
    Refused {
        /// The HTTP status; 0 if the client did not send it.
        status: u16,
    },
    /// The API counts the message as failed and does not say why.
    Unexplained,
    /// The message was alone, and the API reports a failure in a list that this crate does not know, or for a key
    /// that the message does not have.
    Unrecognised {
        /// The member of the reply.
        list: String,
        /// What stands in it.
        key: FailedKey,
    },
}

impl Reason {
    /// Returns whether the API failed inside, so that trying again can help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::ValidEmailFailures | Self::ValidUserIdFailures)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::DisallowedEventName => "Disallowed Event Name",
            Self::ConflictEmails => "Email conflicts",
            Self::ConflictUserIds => "UserId conflicts",
            Self::ForgottenEmails => "Email Forgotten",
            Self::ForgottenUserIds => "UserId Forgotten",
            Self::InvalidDataEmails | Self::InvalidDataUserIds => "Invalid Data",
            Self::InvalidEmails => "Malformed Email",
            Self::InvalidUserIds => "Malformed UserId",
            Self::NotFoundEmails => "Email not found",
            Self::NotFoundUserIds => "UserId not found",
            Self::ValidEmailFailures => "Internal Error with Email",
            Self::ValidUserIdFailures => "Internal Error with UserId",
            Self::InvalidListId => "List ID not valid for Iterable project",
            Self::TooLarge => "Too Large",
            Self::BadJson => "Bad JSON",
            Self::TooManyFields => "Too Many Fields",
            Self::Conflict => "Conflict",
            Self::Forgotten => "User Forgotten",
            Self::Refused { status } => return write!(f, "Refused with status {status}"),
            Self::Unexplained => "Failed without reason",
            Self::Unrecognised { list, .. } => return write!(f, "Unrecognised failure in {list}"),
        };
        f.write_str(text)
    }
}

/// What the API wrote into a list of failures. It may name a person, so `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct FailedKey(String);

impl FailedKey {
    pub(crate) fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for FailedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FailedKey(***)")
    }
}
