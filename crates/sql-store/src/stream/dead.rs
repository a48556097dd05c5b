use std::fmt;

use relaykit_pipeline_traits::{InvalidSetting, Message, MessageId, OrderingKey};

use super::row::Seq;
use crate::StoreError;

/// Why a message is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadReason {
    /// The sender said so.
    Rejected,
    /// The retry policy allows no further attempt.
    Exhausted,
    /// Its row cannot be read.
    Unreadable,
    /// It was on its way alone when the process died, again and again, until the retry policy allowed no further attempt.
    Crashed,
    /// An operator skipped it.
    Skipped,
    /// It was stored by a version that knows reasons that this one does not.
    Unknown,
}

impl DeadReason {
    /// Returns the reason's name for metrics, logs and tables, such as `exhausted`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Unreadable => "unreadable",
            Self::Crashed => "crashed",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
        }
    }

    /// Reads a reason's name; an unknown one is [`Unknown`](Self::Unknown).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        [Self::Rejected, Self::Exhausted, Self::Unreadable, Self::Crashed, Self::Skipped]
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .unwrap_or(Self::Unknown)
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The most dead letters or blocked keys that one call lists, replays or purges; the least is 1.
pub const MAX_LISTED: u32 = 1_000;

/// Refuses a limit out of bounds.
///
/// # Errors
///
/// [`StoreError::Rejected`]: it is none of 1 to [`MAX_LISTED`].
pub fn check_limit(op: &'static str, limit: u32) -> Result<(), StoreError> {
    if limit == 0 || limit > MAX_LISTED {
        let source = Box::new(InvalidSetting::new("limit", limit, "from 1 to 1000"));
        return Err(StoreError::Rejected { op, source });
    }
    Ok(())
}

/// Which dead letters are meant: those that match everything that is set, in the order of their places.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
#[non_exhaustive]
pub struct DeadFilter {
    /// These messages alone.
    pub ids: Option<Vec<MessageId>>,
    /// This kind alone.
    pub kind: Option<String>,
    /// This key alone.
    pub key: Option<OrderingKey>,
    /// This reason alone.
    pub reason: Option<DeadReason>,
    /// Those behind this place alone.
    pub after: Option<Seq>,
}

impl DeadFilter {
    /// Means all dead letters.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only these messages.
    pub fn ids(mut self, ids: impl IntoIterator<Item = MessageId>) -> Self {
        self.ids = Some(ids.into_iter().collect());
        self
    }

    /// Only messages of this kind.
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Only messages of this key.
    pub fn key(mut self, key: OrderingKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Only those that died for this reason.
    pub const fn reason(mut self, reason: DeadReason) -> Self {
        self.reason = Some(reason);
        self
    }

    /// Only those behind this place: the last of the page before.
    pub const fn after(mut self, seq: Seq) -> Self {
        self.after = Some(seq);
        self
    }

    /// Returns whether a dead letter of these parts is meant; for stores in memory.
    #[must_use]
    pub fn matches(&self, id: MessageId, message: Option<&Message>, reason: DeadReason, seq: Seq) -> bool {
        self.ids.as_ref().is_none_or(|ids| ids.contains(&id))
            && self.kind.as_ref().is_none_or(|kind| message.is_some_and(|message| message.kind() == kind))
            && self.key.as_ref().is_none_or(|key| message.and_then(Message::ordering_key) == Some(key))
            && self.reason.is_none_or(|meant| reason == meant)
            && self.after.is_none_or(|after| seq > after)
    }
}
