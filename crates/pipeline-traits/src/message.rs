use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Headers, InvalidHeader, MessageId, Timestamp};

/// The most bytes that a message's kind may have.
pub const MAX_KIND_BYTES: usize = 255;
/// The most bytes that an ordering key may have.
pub const MAX_KEY_BYTES: usize = 512;

/// What is stored, sent and handled: an event with its id, kind, order and payload.
///
/// Its parts are the attributes of [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md):
/// `id`, `type` (the kind), `time` (occurred at), `partitionkey` (the ordering key). Brokers and webhooks
/// carry them as `ce-` headers.
///
/// ```
/// use relaykit_pipeline_traits::{Message, MessageId, Rng, Timestamp};
///
/// let now = Timestamp::from_millis(1_763_683_200_000);
/// let id = MessageId::new(now, &mut Rng::seeded(1));
/// let message = Message::builder(id, "order.paid", now)
///     .ordering_key("customer-42")
///     .payload(r#"{"order":7}"#)
///     .header("content-type", "application/json")
///     .build()?;
/// assert_eq!(message.ordering_key().map(|key| key.as_str()), Some("customer-42"));
/// # Ok::<(), relaykit_pipeline_traits::InvalidMessage>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    id: MessageId,
    kind: Arc<str>,
    ordering_key: Option<OrderingKey>,
    payload: Bytes,
    headers: Headers,
    occurred_at: Timestamp,
}

impl Message {
    /// Starts a message of this id, kind and time.
    pub fn builder(id: MessageId, kind: impl Into<Arc<str>>, occurred_at: Timestamp) -> MessageBuilder {
        MessageBuilder {
            id,
            kind: kind.into(),
            ordering_key: None,
            payload: Bytes::new(),
            headers: Ok(Headers::new()),
            occurred_at,
        }
    }

    /// Returns the id, which is also the idempotency key.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.id
    }

    /// Returns the kind: the event's type or topic.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns the key within which order matters. Messages without one are unordered.
    #[must_use]
    pub const fn ordering_key(&self) -> Option<&OrderingKey> {
        self.ordering_key.as_ref()
    }

    /// Returns the payload.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Returns the headers.
    #[must_use]
    pub const fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Returns the headers, to add to them.
    pub const fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// Returns when the event occurred, by its producer's clock. It is informational and orders nothing.
    #[must_use]
    pub const fn occurred_at(&self) -> Timestamp {
        self.occurred_at
    }
}

impl fmt::Debug for Message {
    /// Leaves out payload and header values, which may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("ordering_key", &self.ordering_key)
            .field("payload_bytes", &self.payload.len())
            .field("headers", &self.headers.len())
            .field("occurred_at", &self.occurred_at)
            .finish()
    }
}

/// Builds a [`Message`]; made by [`Message::builder`].
#[derive(Clone)]
#[must_use = "a message is made by `build`"]
pub struct MessageBuilder {
    id: MessageId,
    kind: Arc<str>,
    ordering_key: Option<Arc<str>>,
    payload: Bytes,
    headers: Result<Headers, InvalidHeader>,
    occurred_at: Timestamp,
}

impl MessageBuilder {
    /// Sets the key within which order matters. Default: none, and the message is unordered.
    pub fn ordering_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.ordering_key = Some(key.into());
        self
    }

    /// Sets the payload. Default: empty.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Adds a header. [`build`](Self::build) reports the first that is refused.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        if let Ok(headers) = &mut self.headers
            && let Err(error) = headers.insert(name, value)
        {
            self.headers = Err(error);
        }
        self
    }

    /// Checks everything and makes the message.
    ///
    /// # Errors
    ///
    /// Refuses a kind or ordering key that is empty, too long or holds a NUL or other control character, and
    /// headers that [`Headers::insert`] refuses.
    pub fn build(self) -> Result<Message, InvalidMessage> {
        check_text("kind", &self.kind, MAX_KIND_BYTES)?;
        let ordering_key = self.ordering_key.map(OrderingKey::new).transpose()?;
        Ok(Message {
            id: self.id,
            kind: self.kind,
            ordering_key,
            payload: self.payload,
            headers: self.headers?,
            occurred_at: self.occurred_at,
        })
    }
}

/// The key within which the order of messages matters: one customer, one account. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderingKey(Arc<str>);

impl OrderingKey {
    /// Makes a key of 1 to [`MAX_KEY_BYTES`] bytes without control characters.
    ///
    /// # Errors
    ///
    /// Refuses any other text.
    pub fn new(key: impl Into<Arc<str>>) -> Result<Self, InvalidMessage> {
        let key = key.into();
        check_text("ordering_key", &key, MAX_KEY_BYTES)?;
        Ok(Self(key))
    }

    /// Returns the key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrderingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_text(field: &'static str, text: &str, max: usize) -> Result<(), InvalidMessage> {
    if text.is_empty() {
        Err(InvalidMessage::Empty { field })
    } else if text.len() > max {
        Err(InvalidMessage::TooLong { field, bytes: text.len(), max })
    } else if text.chars().any(char::is_control) {
        Err(InvalidMessage::ControlCharacter { field })
    } else {
        Ok(())
    }
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidMessage {
    /// A field that needs a text has none.
    #[error("{field} must not be empty")]
    Empty {
        /// The field.
        field: &'static str,
    },
    /// A field's text is too long.
    #[error("{field} has {bytes} bytes, but must have at most {max}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The most it may have.
        max: usize,
    },
    /// A field's text holds a control character, which databases and brokers do not carry.
    #[error("{field} must not hold control characters")]
    ControlCharacter {
        /// The field.
        field: &'static str,
    },
    /// A header was refused.
    #[error("message has an invalid header")]
    Header(#[from] InvalidHeader),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    fn builder(kind: &str) -> MessageBuilder {
        let at = Timestamp::from_millis(1);
        Message::builder(MessageId::new(at, &mut Rng::seeded(1)), kind, at)
    }

    #[test]
    fn bad_input_meets_an_error_that_names_the_field() {
        assert_eq!(builder("").build().unwrap_err(), InvalidMessage::Empty { field: "kind" });
        assert_eq!(
            builder(&"k".repeat(256)).build().unwrap_err(),
            InvalidMessage::TooLong { field: "kind", bytes: 256, max: MAX_KIND_BYTES }
        );
        assert_eq!(
            builder("a").ordering_key("k\0").build().unwrap_err(),
            InvalidMessage::ControlCharacter { field: "ordering_key" }
        );
        assert!(matches!(
            builder("a").header("x", "\n").header("y", "fine").build().unwrap_err(),
            InvalidMessage::Header(InvalidHeader::Value { .. })
        ));
        assert!(builder(&"k".repeat(255)).ordering_key("x".repeat(MAX_KEY_BYTES)).build().is_ok());
    }

    #[test]
    fn debug_shows_neither_payload_nor_header_values() {
        let message = builder("a").payload("secret-payload").header("x", "secret-value").build().unwrap();
        assert!(!format!("{message:?}").contains("secret"));
    }
}
