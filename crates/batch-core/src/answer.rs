use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;

/// What is sent to a [`Ticket`]. A failure is boxed: with the item inside, it would make the place of each answer too
/// large for the allocator's quick lists, where the worker's thread frees what the producer's allocated.
pub(crate) type Answer<T, O, E> = Result<O, Box<Failed<T, E>>>;

/// The answer to one added item, when it comes: the handler's output, or why there is none.
///
/// Each accepted item gets exactly one answer. Dropping the ticket gives up the answer, not the item.
///
/// # Cancel safety
///
/// Cancel safe: awaiting `&mut ticket` and dropping that future loses nothing.
pub struct Ticket<T, O, E> {
    receiver: oneshot::Receiver<Answer<T, O, E>>,
}

impl<T, O, E> Ticket<T, O, E> {
    pub(crate) const fn new(receiver: oneshot::Receiver<Answer<T, O, E>>) -> Self {
        Self { receiver }
    }
}

impl<T, O, E> Future for Ticket<T, O, E> {
    type Output = Result<O, Failed<T, E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver)
            .poll(cx)
            // Whoever holds an item answers it, even while it is dropped. This is for the memory that was
            // freed without that, by a leak of the engine's task.
            .map(|received| {
                let lost = || Failed { item: None, cause: Cause::Abandoned, attempts: 0 };
                received.map_or_else(|_| Err(lost()), |answer| answer.map_err(|failed| *failed))
            })
    }
}

impl<T, O, E> fmt::Debug for Ticket<T, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket")
    }
}

/// An item that was not delivered, handed back with the reason.
pub struct Failed<T, E> {
    /// The item. `None` only if the cause is [`Stopped`](Cause::Stopped) and the stop report holds it, or if the
    /// engine's memory was freed under it.
    pub item: Option<T>,
    /// Why it was not delivered.
    pub cause: Cause<E>,
    /// How many attempts were spent on it.
    pub attempts: u32,
}

impl<T, E: fmt::Debug> fmt::Debug for Failed<T, E> {
    /// Leaves out the item, which may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failed")
            .field("cause", &self.cause)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

impl<T, E> fmt::Display for Failed<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "item was not delivered after {} attempts: {}", self.attempts, self.cause)
    }
}

impl<T, E: Error + 'static> Error for Failed<T, E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.error().map(|error| error as &(dyn Error + 'static))
    }
}

/// Why an item was not delivered. Errors of the handler are shared by the items they concern.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause<E> {
    /// The handler said that it never will be.
    Dead(Arc<E>),
    /// The handler failed, and the retry policy allows no further attempt.
    Exhausted(Arc<E>),
    /// The other side refuses whatever we send. The item is not at fault.
    Refused(Arc<E>),
    /// The item could not be judged in company, and [`Recovery::Off`](crate::Recovery::Off) forbids to try it in a
    /// smaller batch.
    NotIsolated(Arc<E>),
    /// The handler left the item untried until the retry policy allowed no further call.
    Untried,
    /// The handler panicked, and the retry policy allows no further attempt. Holds the panic's text.
    Panicked(Arc<str>),
    /// The handler took longer than its timeout, and the retry policy allows no further attempt. Whether the
    /// item took effect, only the other side knows.
    TimedOut(Duration),
    /// The handler gave a list of verdicts of the wrong length, and the retry policy allows no further attempt.
    WrongVerdicts {
        /// How many items the batch had.
        items: usize,
        /// How many verdicts the handler gave.
        verdicts: usize,
    },
    /// The processor was stopped and its deadline passed. Its report holds the item, unless a handler that blocked
    /// its thread held it then: such an item comes back with this answer.
    Stopped,
    /// The runtime on which the processor worked went away, or a retry policy panicked.
    Abandoned,
}

impl<E> Cause<E> {
    /// Returns the handler's error, if it is the cause.
    #[must_use]
    pub fn error(&self) -> Option<&E> {
        match self {
            Self::Dead(error) | Self::Exhausted(error) | Self::Refused(error) | Self::NotIsolated(error) => {
                Some(error)
            }
            _ => None,
        }
    }

    /// Returns the cause's name for metrics and logs, such as `timed_out`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Dead(_) => "dead",
            Self::Exhausted(_) => "exhausted",
            Self::Refused(_) => "refused",
            Self::NotIsolated(_) => "not_isolated",
            Self::Untried => "untried",
            Self::Panicked(_) => "panicked",
            Self::TimedOut(_) => "timed_out",
            Self::WrongVerdicts { .. } => "wrong_verdicts",
            Self::Stopped => "stopped",
            Self::Abandoned => "abandoned",
        }
    }

    /// Returns whether the item itself is at fault, so that adding it again cannot help.
    #[must_use]
    pub const fn is_dead(&self) -> bool {
        matches!(self, Self::Dead(_))
    }
}

impl<E> Clone for Cause<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Dead(error) => Self::Dead(Arc::clone(error)),
            Self::Exhausted(error) => Self::Exhausted(Arc::clone(error)),
            Self::Refused(error) => Self::Refused(Arc::clone(error)),
            Self::NotIsolated(error) => Self::NotIsolated(Arc::clone(error)),
            Self::Untried => Self::Untried,
            Self::Panicked(text) => Self::Panicked(Arc::clone(text)),
            Self::TimedOut(after) => Self::TimedOut(*after),
            Self::WrongVerdicts { items, verdicts } => {
                Self::WrongVerdicts { items: *items, verdicts: *verdicts }
            }
            Self::Stopped => Self::Stopped,
            Self::Abandoned => Self::Abandoned,
        }
    }
}

impl<E> fmt::Display for Cause<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dead(_) => f.write_str("the handler gave it up"),
            Self::Exhausted(_) => f.write_str("the handler failed and no attempt is left"),
            Self::Refused(_) => f.write_str("the other side refuses everything"),
            Self::NotIsolated(_) => f.write_str("it could not be judged in company"),
            Self::Untried => f.write_str("the handler never tried it"),
            Self::Panicked(text) => write!(f, "the handler panicked: {text}"),
            Self::TimedOut(after) => write!(f, "the handler took longer than {after:?}"),
            Self::WrongVerdicts { items, verdicts } => {
                write!(f, "the handler gave {verdicts} verdicts for {items} items")
            }
            Self::Stopped => f.write_str("the processor was stopped first"),
            Self::Abandoned => f.write_str("the processor's runtime went away"),
        }
    }
}
