use std::time::Duration;

/// What became of one item of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict<O, E> {
    /// Handled. The output goes to whoever waits for it.
    Done(O),
    /// Failed, but may be tried again: after the given wait at the earliest, and as the retry policy decides.
    /// Spends an attempt, unless the error's class is [`Throttled`](crate::ErrorClass::Throttled).
    Retry {
        /// What the other side asks to wait, such as a `Retry-After`.
        after: Option<Duration>,
        /// What went wrong.
        error: E,
    },
    /// Failed for good: a dead letter.
    Dead(E),
    /// Cannot be judged in company: the item is lent again in a smaller batch, in the end alone. Spends no
    /// attempt. About an item that was alone already, the error's class decides between retry and dead.
    Isolate(E),
    /// Not tried at all, for instance because the handler stopped before it. Spends no attempt.
    Untried,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BatchOutcome<O, E> {
    /// One verdict for each item, in the batch's order. A list of another length is the handler's error: the
    /// engine keeps all items and counts a failed attempt.
    Each(Vec<Verdict<O, E>>),
    /// No item was handled, and all may be tried again: after the given wait at the earliest, and as the
    /// retry policy decides. Spends an attempt of each, unless the error's class is
    /// [`Throttled`](crate::ErrorClass::Throttled).
    RetryBatch {
        /// What the other side asks to wait, such as a `Retry-After`.
        after: Option<Duration>,
        /// What went wrong.
        error: E,
    },
    /// No item was handled, because of one of them or because they are too many: all are lent again in
    /// smaller batches, as if each had the verdict [`Isolate`](Verdict::Isolate).
    Split(E),
    /// The other side refuses whatever we send, for instance because a key was revoked. No item is at fault:
    /// none spends an attempt, none becomes a dead letter, all are kept or handed back.
    Refused(E),
}

impl<O: Default, E> BatchOutcome<O, E> {
    /// Says of `count` items that all were handled, with the default output.
    #[must_use]
    pub fn all_done(count: usize) -> Self {
        Self::Each(std::iter::repeat_with(|| Verdict::Done(O::default())).take(count).collect())
    }
}

impl<O, E> Verdict<O, E> {
    /// Returns whether the item was handled.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}
