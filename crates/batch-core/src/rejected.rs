use std::error::Error;
use std::fmt;
use std::time::Duration;

/// An item that was not accepted, handed back with the reason.
pub struct Rejected<T> {
    /// The item.
    pub item: T,
    /// Why it was not accepted.
    pub reason: RejectReason,
}

impl<T> fmt::Debug for Rejected<T> {
    /// Leaves out the item, which may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "item was not accepted: {}", self.reason)
    }
}

impl<T> Error for Rejected<T> {}

/// Why an item was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// The processor was not started, or is stopped or stopping.
    #[error("the processor is not running")]
    NotRunning,
    /// The buffer is full. Trying again later can help.
    #[error("the buffer is full")]
    Full,
    /// The buffer was full for all of the time that the caller allowed.
    #[error("the buffer stayed full for {waited:?}")]
    TimedOut {
        /// How long the caller waited.
        waited: Duration,
    },
    /// The item alone exceeds what a batch or the buffer may hold. Trying again cannot help.
    #[error("the item has {bytes} bytes, but must have at most {max}")]
    TooLarge {
        /// What the item weighs.
        bytes: usize,
        /// The most it may weigh.
        max: usize,
    },
}

/// The processor is not running: not started, stopped, or stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the processor is not running")]
pub struct NotRunning;

/// Why a processor could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The caller is not inside a tokio runtime.
    #[error("the processor must be started inside a tokio runtime")]
    NoRuntime,
    /// A stop is under way. Wait for it, then start.
    #[error("the processor is stopping")]
    Stopping,
}
