use std::fmt;

use relaykit_pipeline_traits::Timestamp;

/// Items that will not be tried again, kept with the reason. Listed by [`Queue::dead_letters`](crate::Queue::dead_letters).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Names it for replay and purge. Ids ascend in the order in which items died.
    pub id: i64,
    /// Why it will not be tried again.
    pub reason: DeadReason,
    /// What the handler, or the codec, said last.
    pub error: String,
    /// Attempts spent.
    pub attempts: u32,
    /// How many items it holds.
    pub items: u32,
    /// When it was stored in the queue.
    pub added_at: Timestamp,
    /// When it failed first, if a handler ever had it.
    pub first_failed_at: Option<Timestamp>,
    /// When it was set aside.
    pub died_at: Timestamp,
    /// Its size on disk, in bytes.
    pub bytes: u64,
}

/// Why items will not be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeadReason {
    /// The handler said so.
    Rejected,
    /// The retry policy allows no further attempt.
    Exhausted,
    /// The process died too often while it handled them.
    Crashed,
    /// Their stored bytes are damaged, or of another codec, or of a later version.
    Undecodable,
    /// They were stored by a version that knows reasons that this one does not.
    Unknown,
}

impl DeadReason {
    /// Returns the reason's name for metrics and logs, such as `exhausted`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Crashed => "crashed",
            Self::Undecodable => "undecodable",
            Self::Unknown => "unknown",
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        [Self::Rejected, Self::Exhausted, Self::Crashed, Self::Undecodable]
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
