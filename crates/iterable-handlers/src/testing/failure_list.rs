/// The array of a bulk reply that names an element that failed.
///
/// Iterable's description knows ten for users and lists, six of them for events, and four for subscriptions. The
/// stand-in names a rejected element in whichever it is told to, also where the description has no such array.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureList {
    /// `invalidEmails`: malformed.
    InvalidEmails,
    /// `invalidUserIds`: malformed.
    InvalidUserIds,
    /// `invalidDataEmails`: bad `dataFields`.
    InvalidDataEmails,
    /// `invalidDataUserIds`: bad `dataFields`.
    InvalidDataUserIds,
    /// `notFoundEmails`: no such user.
    NotFoundEmails,
    /// `notFoundUserIds`: no such user.
    NotFoundUserIds,
    /// `conflictEmails`: another user has it.
    ConflictEmails,
    /// `conflictUserIds`: another user has it.
    ConflictUserIds,
    /// `forgottenEmails`: forgotten by a privacy request.
    ForgottenEmails,
    /// `forgottenUserIds`: forgotten by a privacy request.
    ForgottenUserIds,
    /// `validEmailFailures` of subscriptions: well formed, failed inside Iterable.
    ValidEmailFailures,
    /// `validUserIdFailures` of subscriptions: well formed, failed inside Iterable.
    ValidUserIdFailures,
    /// An array that no description knows.
    Other(String),
}

impl FailureList {
    /// Returns the array's name in JSON.
    pub fn name(&self) -> &str {
        match self {
            Self::InvalidEmails => "invalidEmails",
            Self::InvalidUserIds => "invalidUserIds",
            Self::InvalidDataEmails => "invalidDataEmails",
            Self::InvalidDataUserIds => "invalidDataUserIds",
            Self::NotFoundEmails => "notFoundEmails",
            Self::NotFoundUserIds => "notFoundUserIds",
            Self::ConflictEmails => "conflictEmails",
            Self::ConflictUserIds => "conflictUserIds",
            Self::ForgottenEmails => "forgottenEmails",
            Self::ForgottenUserIds => "forgottenUserIds",
            Self::ValidEmailFailures => "validEmailFailures",
            Self::ValidUserIdFailures => "validUserIdFailures",
            Self::Other(name) => name,
        }
    }

    /// Returns whether the array names elements by user id.
    pub(crate) const fn names_user_ids(&self) -> bool {
        matches!(
            self,
            Self::InvalidUserIds
                | Self::InvalidDataUserIds
                | Self::NotFoundUserIds
                | Self::ConflictUserIds
                | Self::ForgottenUserIds
                | Self::ValidUserIdFailures
        )
    }

    /// Returns the status and the code of a call about one user that fails for this reason.
    pub(crate) const fn alone(&self) -> (u16, &'static str) {
        match self {
            Self::InvalidEmails => (400, "InvalidEmailAddressError"),
            Self::InvalidUserIds => (400, "InvalidUserIdError"),
            Self::NotFoundEmails => (400, "UnknownEmailError"),
            Self::NotFoundUserIds => (400, "UnknownUserIdError"),
            Self::ConflictEmails => (400, "EmailAlreadyExists"),
            Self::ConflictUserIds => (400, "UserIdAlreadyExists"),
            Self::ForgottenEmails | Self::ForgottenUserIds => (409, "ForgottenUserError"),
            Self::ValidEmailFailures | Self::ValidUserIdFailures => (500, "GenericError"),
            Self::InvalidDataEmails | Self::InvalidDataUserIds | Self::Other(_) => (400, "BadParams"),
        }
    }
}
