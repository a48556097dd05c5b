use std::fmt;
use std::str::FromStr;

/// What became of a job, as the caller tells the barrier.
///
/// [`Failed`](Self::Failed) closes the gate and works at once; tell it *before* the job's status is stored. The others
/// may open the gate, so they work at the next [`sync`](crate::Reader::sync); tell them *after* the status is stored.
/// The text names of a job's states turn into it with [`str::parse`].
///
/// ```
/// use relaykit_event_barrier::State;
///
/// assert_eq!("aborted".parse(), Ok(State::Aborted));
/// let error = "executing".parse::<State>().unwrap_err();
/// assert_eq!(error.to_string(), "unsupported state \"executing\"");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It took effect.
    Succeeded,
    /// It was not to be sent; the same as `Succeeded` here.
    Filtered,
    /// It failed and will be tried again: no later job of its key may go before it.
    Failed,
    /// It was given up. If it was the failed one, the drain limit begins.
    Aborted,
    /// It was held back at the second gate and will be picked again.
    Waiting,
}

impl State {
    /// Returns the state's text name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Filtered => "filtered",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
            Self::Waiting => "waiting",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = UnsupportedState;

    fn from_str(text: &str) -> Result<Self, UnsupportedState> {
        [Self::Succeeded, Self::Filtered, Self::Failed, Self::Aborted, Self::Waiting]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnsupportedState { state: text.to_owned() })
    }
}

/// A state that means nothing to a barrier, such as "executing".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unsupported state {state:?}")]
#[non_exhaustive]
pub struct UnsupportedState {
    /// The text that was given.
    pub state: String,
}

/// What a state change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// It works already.
    Applied,
    /// It works from the next [`sync`](crate::Reader::sync) on.
    Queued,
    /// It changes nothing: the key holds nothing that this job could change, or its order is waived.
    Ignored,
}
