use std::convert::Infallible;
use std::time::Duration;

/// What an error says about trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// Trying again can help. Each try spends an attempt.
    Transient,
    /// The other side asks for less. Trying again later helps; the try spends no attempt.
    Throttled,
    /// Trying again cannot help: the item itself is at fault.
    Permanent,
}

impl ErrorClass {
    /// Returns the class's name for metrics and logs, such as `transient`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Throttled => "throttled",
            Self::Permanent => "permanent",
        }
    }
}

/// An error that knows whether trying again can help.
///
/// ```
/// use std::time::Duration;
/// use relaykit_pipeline_traits::{Classify, ErrorClass};
///
/// struct Busy { retry_after: Option<Duration> }
///
/// impl Classify for Busy {
///     fn class(&self) -> ErrorClass {
///         ErrorClass::Throttled
///     }
///     fn retry_after(&self) -> Option<Duration> {
///         self.retry_after
///     }
/// }
/// assert!(Busy { retry_after: None }.is_transient());
/// ```
pub trait Classify {
    /// Returns the error's class.
    fn class(&self) -> ErrorClass;

    /// Returns how long the other side asks to wait, if it said so.
    fn retry_after(&self) -> Option<Duration> {
        None
    }

    /// Returns whether trying again can help.
    fn is_transient(&self) -> bool {
        self.class() != ErrorClass::Permanent
    }
}

impl Classify for Infallible {
    fn class(&self) -> ErrorClass {
        match *self {}
    }
}

impl<E: Classify + ?Sized> Classify for Box<E> {
    fn class(&self) -> ErrorClass {
        (**self).class()
    }

    fn retry_after(&self) -> Option<Duration> {
        (**self).retry_after()
    }
}
