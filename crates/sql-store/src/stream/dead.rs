use std::fmt;

use relaykit_pipeline_traits::InvalidSetting;

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
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
        }
    }

    /// Reads a reason's name; an unknown one is [`Unknown`](Self::Unknown).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        [Self::Rejected, Self::Exhausted, Self::Unreadable, Self::Skipped]
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
