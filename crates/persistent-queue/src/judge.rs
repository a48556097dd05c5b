//! What becomes of items after a call: plain functions, as far as possible.

use std::time::Duration;

use relaykit_pipeline_traits::{
    Attempts, BatchOutcome, Classify, ErrorClass, Failure, RetryDecision, RetryPolicy, Rng, Verdict,
};

use crate::dead::DeadReason;

/// How a call ended.
pub(crate) enum Called<E> {
    Outcome(BatchOutcome<(), E>),
    Panicked(String),
    TimedOut(Duration),
}

impl<E> Called<E> {
    /// Its name for metrics, and whether it counts as an error.
    pub(crate) fn failure(&self, items: usize) -> Option<&'static str> {
        match self {
            Self::Outcome(BatchOutcome::Each(verdicts)) if verdicts.len() == items => {
                let failed =
                    verdicts.iter().any(|verdict| !verdict.is_done() && !matches!(verdict, Verdict::Untried));
                failed.then_some("some_failed")
            }
            Self::Outcome(BatchOutcome::Each(_)) => Some("wrong_verdicts"),
            Self::Outcome(BatchOutcome::RetryBatch { .. }) => Some("retry_batch"),
            Self::Outcome(BatchOutcome::Split(_)) => Some("split"),
            Self::Outcome(BatchOutcome::Refused(_)) => Some("refused"),
            Self::Outcome(_) => Some("unknown"),
            Self::Panicked(_) => Some("panicked"),
            Self::TimedOut(_) => Some("timed_out"),
        }
    }
}

/// What a call says of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    Done,
    Dead(String),
    /// Tried and failed.
    Failed {
        after: Option<Duration>,
        error: String,
    },
    /// To be tried again for free.
    Spared {
        after: Option<Duration>,
        error: String,
    },
    /// Not tried: the handler stopped before it.
    Untried,
    /// The other side takes nothing from us, which is no item's fault.
    Refused {
        after: Option<Duration>,
        error: String,
    },
    /// To be lent again in smaller company.
    Isolate {
        error: String,
        transient: bool,
    },
}

/// Spells the call's result out into one word for each of `items` items.
pub(crate) fn words<E: Classify + std::fmt::Display>(called: Called<E>, items: usize) -> Vec<Word> {
    match called {
        Called::Outcome(BatchOutcome::Each(verdicts)) if verdicts.len() == items => {
            verdicts.into_iter().map(word).collect()
        }
        Called::Outcome(BatchOutcome::Each(verdicts)) => {
            let error = format!("the handler gave {} verdicts for {items} items", verdicts.len());
            vec![Word::Isolate { error, transient: true }; items]
        }
        Called::Outcome(BatchOutcome::RetryBatch { after, error }) => vec![retry(after, &error); items],
        Called::Outcome(BatchOutcome::Split(error)) => {
            vec![Word::Isolate { error: error.to_string(), transient: error.is_transient() }; items]
        }
        Called::Outcome(BatchOutcome::Refused(error)) => {
            vec![Word::Refused { after: error.retry_after(), error: error.to_string() }; items]
        }
        Called::Outcome(_) => vec![Word::Untried; items],
        // One item of many may have caused it.
        Called::Panicked(text) => {
            vec![Word::Isolate { error: format!("the handler panicked: {text}"), transient: true }; items]
        }
        Called::TimedOut(after) => {
            vec![
                Word::Failed { after: None, error: format!("the handler took longer than {after:?}") };
                items
            ]
        }
    }
}

fn word<E: Classify + std::fmt::Display>(verdict: Verdict<(), E>) -> Word {
    match verdict {
        Verdict::Done(()) => Word::Done,
        Verdict::Retry { after, error } => retry(after, &error),
        Verdict::Dead(error) => Word::Dead(error.to_string()),
        Verdict::Isolate(error) => {
            Word::Isolate { error: error.to_string(), transient: error.is_transient() }
        }
        _ => Word::Untried,
    }
}

fn retry<E: Classify + std::fmt::Display>(after: Option<Duration>, error: &E) -> Word {
    let after = after.or_else(|| error.retry_after());
    let error_text = error.to_string();
    match error.class() {
        ErrorClass::Throttled => Word::Spared { after, error: error_text },
        _ => Word::Failed { after, error: error_text },
    }
}

/// What becomes of an item for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    Dead {
        reason: DeadReason,
        error: String,
    },
    /// It stays, and is lent again after this wait; `fresh` if attempts begin anew.
    Again {
        wait: Duration,
        fresh: bool,
        error: String,
    },
    /// It stays, and was not lent: an older item of its key is not done.
    Held,
}

/// Decides about an item that was lent alone or need not be isolated, and counts what the call cost it. The context says
/// what is known of the failure beside the item.
pub(crate) fn fate(
    word: Word,
    attempts: &mut Attempts,
    context: Failure,
    policy: &dyn RetryPolicy,
    rng: &mut Rng,
) -> Fate {
    let (after, error, free) = match word {
        Word::Done => return Fate::Done,
        Word::Refused { after, error } => return refused(after, error, attempts, context, policy, rng),
        Word::Untried => (None, "the handler left it untried".to_owned(), true),
        Word::Dead(error) | Word::Isolate { error, transient: false } => {
            attempts.settled();
            return Fate::Dead { reason: DeadReason::Rejected, error };
        }
        Word::Failed { after, error } => (after, error, false),
        Word::Isolate { error, transient: true } => (None, error, false),
        Word::Spared { after, error } => (after, error, true),
    };
    let failure = Failure { hint: after, ..context };
    let decision =
        if free { attempts.spared(failure, policy, rng) } else { attempts.failed(failure, policy, rng) };
    match decision {
        RetryDecision::RetryAfter(wait) => Fate::Again { wait, fresh: false, error },
        RetryDecision::GiveUp(give_up) => match give_up.cooldown {
            Some(wait) => Fate::Again { wait, fresh: true, error },
            None => Fate::Dead { reason: DeadReason::Exhausted, error },
        },
    }
}

/// How long a refused item waits if the policy has no wait for it.
const REFUSED_WAIT: Duration = Duration::from_secs(30);

/// Waits as after a failed attempt, but spends none, however often it comes to this.
fn refused(
    after: Option<Duration>,
    error: String,
    attempts: &mut Attempts,
    context: Failure,
    policy: &dyn RetryPolicy,
    rng: &mut Rng,
) -> Fate {
    let mut slower = *attempts;
    let failure = Failure { hint: after, ..context };
    let wait = match slower.spared(failure, policy, rng) {
        RetryDecision::RetryAfter(wait) => wait,
        RetryDecision::GiveUp(_) => failure.at_least(REFUSED_WAIT),
    };
    if slower.spent() == attempts.spent() {
        *attempts = slower;
    }
    Fate::Again { wait, fresh: false, error }
}

impl Word {
    /// Whether it decides about its item, so that an untried one beside it need not wait.
    pub(crate) const fn is_final(&self) -> bool {
        matches!(self, Self::Done | Self::Dead(_))
    }

    pub(crate) fn error(&self) -> Option<&str> {
        match self {
            Self::Done | Self::Untried => None,
            Self::Dead(error)
            | Self::Refused { error, .. }
            | Self::Failed { error, .. }
            | Self::Spared { error, .. }
            | Self::Isolate { error, .. } => Some(error),
        }
    }
}
