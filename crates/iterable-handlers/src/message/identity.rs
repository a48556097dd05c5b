use std::fmt;

use serde_json::{Map, Value};

use super::InvalidRequest;

/// Whom a request is about: an e-mail address, a user id, or both.
///
/// Projects of Iterable know their users by address, by id, or by either. The API asks for one of the two, as the
/// project is set up; both are for projects that know their users by either.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    pub(super) email: Option<String>,
    pub(super) user_id: Option<String>,
}

impl Identity {
    /// Names a user by e-mail address.
    pub fn email(email: impl Into<String>) -> Self {
        Self { email: Some(email.into()), user_id: None }
    }

    /// Names a user by user id.
    pub fn user_id(user_id: impl Into<String>) -> Self {
        Self { email: None, user_id: Some(user_id.into()) }
    }

    /// Names a user by both.
    pub fn both(email: impl Into<String>, user_id: impl Into<String>) -> Self {
        Self { email: Some(email.into()), user_id: Some(user_id.into()) }
    }
}

/// Tells which of the two are given, not what they are.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (&self.email, &self.user_id) {
            (Some(_), Some(_)) => "Identity(email, user id)",
            (Some(_), None) => "Identity(email)",
            _ => "Identity(user id)",
        })
    }
}

/// Which kind of identity a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum IdentitySpace {
    /// An e-mail address.
    Email,
    /// A user id.
    UserId,
}

/// An identity in the form in which two mentions of one user compare equal.
///
/// The API may answer with another spelling than it was sent. Addresses compare trimmed and in lower case, user
/// ids trimmed. Unicode is not normalised: the API takes ASCII ids only, and an address that comes back in another
/// normal form is no match, which costs a second look at the batch and nothing else.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdentityKey {
    space: IdentitySpace,
    text: Box<str>,
}

impl IdentityKey {
    /// Makes the key of an identity as it was written.
    #[must_use]
    pub fn new(space: IdentitySpace, written: &str) -> Self {
        let text = match space {
            IdentitySpace::Email => written.trim().to_lowercase().into(),
            IdentitySpace::UserId => written.trim().into(),
        };
        Self { space, text }
    }

    /// Returns which kind of identity it is.
    #[must_use]
    pub const fn space(&self) -> IdentitySpace {
        self.space
    }

    /// Returns the normalised text. It names a person.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Tells the kind, not the text.
impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey({:?}, ***)", self.space)
    }
}

/// Collects the keys of an element: those it names its user by, and those its data fields give the user.
pub(super) fn keys_of(
    email: Option<&str>,
    user_id: Option<&str>,
    fields: Option<&Map<String, Value>>,
) -> Vec<IdentityKey> {
    let field = |name| fields.and_then(|fields| fields.get(name)?.as_str());
    let mut keys: Vec<IdentityKey> = [
        (IdentitySpace::UserId, user_id),
        (IdentitySpace::Email, email),
        (IdentitySpace::UserId, field("userId")),
        (IdentitySpace::Email, field("email")),
    ]
    .into_iter()
    .filter_map(|(space, written)| Some(IdentityKey::new(space, written?)))
    .collect();
    let mut seen = Vec::new();
    keys.retain(|key| {
        let new = !seen.contains(key);
        seen.push(key.clone());
        new
    });
    keys
}

/// Checks that a user is named, in a way that can be one.
pub(super) fn check_identity(
    (email_field, email): (&'static str, Option<&str>),
    (user_id_field, user_id): (&'static str, Option<&str>),
) -> Result<(), InvalidRequest> {
    if email.is_none() && user_id.is_none() {
        return Err(InvalidRequest::MissingIdentity { email_field, user_id_field });
    }
    email.map_or(Ok(()), |email| check_email(email_field, email))?;
    user_id.map_or(Ok(()), |id| check_not_blank(user_id_field, id))
}

pub(super) fn check_email(field: &'static str, email: &str) -> Result<(), InvalidRequest> {
    check_not_blank(field, email)?;
    if email.contains('@') { Ok(()) } else { Err(InvalidRequest::NotAnEmail { field, bytes: email.len() }) }
}

pub(super) fn check_not_blank(field: &'static str, text: &str) -> Result<(), InvalidRequest> {
    if text.trim().is_empty() { Err(InvalidRequest::Blank { field }) } else { Ok(()) }
}
