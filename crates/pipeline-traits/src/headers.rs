use std::collections::BTreeMap;

/// The most headers that a message carries.
pub const MAX_HEADERS: usize = 64;
/// The most bytes that the names and values of a message's headers may take together: 16 KiB.
pub const MAX_HEADERS_BYTES: usize = 16 * 1024;

/// A message's headers: lower-case names and text values, sorted by name.
///
/// They travel as HTTP or broker headers, so a name is an HTTP token and a value holds no control
/// characters ([RFC 9110 §5](https://www.rfc-editor.org/rfc/rfc9110#section-5)). The trace context stands
/// here under its W3C names, `traceparent` and `tracestate`.
///
/// ```
/// use relaykit_pipeline_traits::Headers;
///
/// let mut headers = Headers::new();
/// headers.insert("Content-Type", "application/json")?;
/// assert_eq!(headers.get("content-type"), Some("application/json"));
/// assert!(headers.insert("x", "a\r\nb").is_err());
/// # Ok::<(), relaykit_pipeline_traits::InvalidHeader>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Headers {
    entries: BTreeMap<String, String>,
    bytes: usize,
}

impl Headers {
    /// Makes an empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: BTreeMap::new(), bytes: 0 }
    }

    /// Sets a header, replacing the value it had. The name is lower-cased.
    ///
    /// # Errors
    ///
    /// Refuses an empty name, a name or value with characters that HTTP does not allow there, and whatever
    /// would exceed [`MAX_HEADERS`] or [`MAX_HEADERS_BYTES`]. The set is then as it was.
    pub fn insert(&mut self, name: &str, value: impl Into<String>) -> Result<(), InvalidHeader> {
        let value = value.into();
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return Err(InvalidHeader::Name { name: name.to_owned() });
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(InvalidHeader::Value { name: name.to_owned() });
        }
        let name = name.to_ascii_lowercase();
        let replaced = self.entries.get(&name).map(|old| name.len() + old.len());
        let bytes = self.bytes - replaced.unwrap_or(0) + name.len() + value.len();
        if bytes > MAX_HEADERS_BYTES {
            return Err(InvalidHeader::TooLarge { name, bytes });
        }
        if replaced.is_none() && self.entries.len() == MAX_HEADERS {
            return Err(InvalidHeader::TooMany { name });
        }
        self.bytes = bytes;
        self.entries.insert(name, value);
        Ok(())
    }

    /// Returns a header's value. The name's case does not matter.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        match self.entries.get(name) {
            Some(value) => Some(value),
            None => self.entries.get(&name.to_ascii_lowercase()).map(String::as_str),
        }
    }

    /// Removes a header and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let (name, value) = self.entries.remove_entry(&name.to_ascii_lowercase())?;
        self.bytes -= name.len() + value.len();
        Some(value)
    }

    /// Iterates over names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns how many headers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns how many bytes the names and values take together.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The characters of a token, RFC 9110 §5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Why a header was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidHeader {
    /// The name is empty or holds a character that is none of a token's.
    #[error("header name {name:?} must be one or more token characters (RFC 9110)")]
    Name {
        /// The refused name.
        name: String,
    },
    /// The value holds a control character.
    #[error("value of header {name:?} must not hold control characters")]
    Value {
        /// The header's name.
        name: String,
    },
    /// The set is full.
    #[error("header {name:?} would be one more than the {MAX_HEADERS} that a message may carry")]
    TooMany {
        /// The header's name.
        name: String,
    },
    /// Names and values would take too many bytes.
    #[error("with header {name:?} the headers take {bytes} bytes, but must be at most {MAX_HEADERS_BYTES}")]
    TooLarge {
        /// The header's name.
        name: String,
        /// What the headers would take together.
        bytes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_header_changes_nothing() {
        let mut headers = Headers::new();
        headers.insert("a", "1").unwrap();
        let before = headers.clone();
        assert!(matches!(headers.insert("", "x"), Err(InvalidHeader::Name { .. })));
        assert!(matches!(headers.insert("a b", "x"), Err(InvalidHeader::Name { .. })));
        assert!(matches!(headers.insert("a", "x\r\ny: z"), Err(InvalidHeader::Value { .. })));
        assert!(matches!(headers.insert("a", "x\0"), Err(InvalidHeader::Value { .. })));
        let long = "v".repeat(MAX_HEADERS_BYTES);
        assert!(matches!(headers.insert("b", long), Err(InvalidHeader::TooLarge { .. })));
        assert_eq!(headers, before);
    }

    #[test]
    fn the_bounds_are_exact() {
        let mut headers = Headers::new();
        for n in 0..MAX_HEADERS {
            headers.insert(&format!("h{n}"), "v").unwrap();
        }
        assert!(matches!(headers.insert("one-more", "v"), Err(InvalidHeader::TooMany { .. })));
        headers.insert("h0", "replaced").unwrap();

        let mut full = Headers::new();
        full.insert("k", "v".repeat(MAX_HEADERS_BYTES - 1)).unwrap();
        assert_eq!(full.bytes(), MAX_HEADERS_BYTES);
        assert_eq!(full.remove("K").map(|v| v.len()), Some(MAX_HEADERS_BYTES - 1));
        assert_eq!((full.bytes(), full.len()), (0, 0));
    }
}
