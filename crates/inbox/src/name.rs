use std::fmt;
use std::sync::Arc;

use relaykit_pipeline_traits::uuid::Builder;
use relaykit_pipeline_traits::{InvalidSetting, MessageId};
use sha2::{Digest as _, Sha256};

/// The longest scope or handler's key, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// Whose ids a message's id is one of, such as `github`: ids are unique within a scope, so that no sender can mask the messages
/// of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Arc<str>);

impl Scope {
    /// Makes a scope.
    ///
    /// # Errors
    ///
    /// It has not 1 to 255 bytes, or it has control characters.
    pub fn new(scope: impl Into<Arc<str>>) -> Result<Self, InvalidSetting> {
        checked("scope", scope.into()).map(Self)
    }

    /// Returns its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes the id of a message from what its sender calls it: a UUID stays as it is, any other text becomes one of its own (version 8,
    /// from the text's SHA-256), always the same for the same text.
    ///
    /// ```
    /// # use relaykit_inbox::Scope;
    /// let scope = Scope::new("shop")?;
    /// assert_eq!(scope.message_id("order 7"), scope.message_id("order 7"));
    /// assert_ne!(scope.message_id("order 7"), scope.message_id("order 8"));
    /// # Ok::<(), relaykit_pipeline_traits::InvalidSetting>(())
    /// ```
    #[must_use]
    pub fn message_id(&self, text: &str) -> MessageId {
        text.parse().unwrap_or_else(|_| {
            let hash = Sha256::digest(text);
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&hash[..16]);
            MessageId::from_uuid(Builder::from_custom_bytes(bytes).into_uuid())
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a handler is called in the tables. It must stay the same from one version of a program to the next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandlerKey(Arc<str>);

impl HandlerKey {
    /// Makes a key.
    ///
    /// # Errors
    ///
    /// It has not 1 to 255 bytes, or it has control characters.
    pub fn new(key: impl Into<Arc<str>>) -> Result<Self, InvalidSetting> {
        checked("handler", key.into()).map(Self)
    }

    /// Returns its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HandlerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn checked(field: &'static str, text: Arc<str>) -> Result<Arc<str>, InvalidSetting> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
        let shown: String = text.chars().take(32).filter(|character| !character.is_control()).collect();
        return Err(InvalidSetting::new(field, shown, "1 to 255 bytes without control characters"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_bounds() {
        assert!(Scope::new("github").is_ok() && HandlerKey::new("x".repeat(255)).is_ok());
        for bad in [String::new(), "x".repeat(256), "a\nb".to_owned(), "a\0".to_owned()] {
            assert!(Scope::new(bad.clone()).is_err(), "{bad:?}");
            assert!(HandlerKey::new(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
