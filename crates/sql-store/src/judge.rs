use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use relaykit_pipeline_traits::{
    Attempts, BatchOutcome, Classify, Clock, ErrorClass, Failure, RetryDecision, RetryPolicy, Rng, Verdict,
};

use crate::torture::planted;

/// How a call ended.
#[derive(Debug)]
pub enum Called<E> {
    /// The handler answered.
    Outcome(BatchOutcome<(), E>),
    /// It panicked, with this text.
    Panicked(String),
    /// It took longer than this, and was dropped.
    TimedOut(Duration),
}

impl<E> Called<E> {
    /// Returns its name for metrics, if it counts as an error for `items` items.
    #[must_use]
    pub fn failure(&self, items: usize) -> Option<&'static str> {
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

/// Lends a batch to its handler, for `limit` at the longest. A panic comes back as a value; `None`, and the call is dropped, if
/// `interrupt` ends first.
///
/// # Cancel safety
///
/// Dropping it drops the handler's call.
pub async fn call<E, F>(
    handle: impl FnOnce() -> F,
    limit: Duration,
    clock: &dyn Clock,
    interrupt: impl Future<Output = ()>,
) -> Option<Called<E>>
where
    F: Future<Output = BatchOutcome<(), E>>,
{
    let mut ended = None;
    // The handler's future lives inside, so that a panic on the way to it or while it is dropped is caught as well.
    let caught = AssertUnwindSafe(async {
        let begun = clock.monotonic();
        let mut running = pin!(handle());
        let mut interrupted = pin!(interrupt);
        let mut timer = None;
        let end = std::future::poll_fn(|task| {
            if let Poll::Ready(outcome) = running.as_mut().poll(task) {
                return Poll::Ready(Some(Called::Outcome(outcome)));
            }
            // Most calls of a quick handler end before this, without a timer.
            let timer = timer.get_or_insert_with(|| clock.sleep_until(begun + limit));
            if timer.as_mut().poll(task).is_ready() {
                return Poll::Ready(Some(Called::TimedOut(limit)));
            }
            interrupted.as_mut().poll(task).map(|()| None)
        });
        ended = Some(end.await);
    })
    .catch_unwind()
    .await;
    match (ended, caught) {
        (Some(ended), _) => ended,
        (None, Err(panic)) => Some(Called::Panicked(panic_text(panic.as_ref()))),
        (None, Ok(())) => None,
    }
}

/// Leaves out what handled items yield.
pub fn discard<O, E>(outcome: BatchOutcome<O, E>) -> BatchOutcome<(), E> {
    match outcome {
        BatchOutcome::Each(verdicts) => BatchOutcome::Each(verdicts.into_iter().map(discard_one).collect()),
        BatchOutcome::RetryBatch { after, error } => BatchOutcome::RetryBatch { after, error },
        BatchOutcome::Split(error) => BatchOutcome::Split(error),
        BatchOutcome::Refused(error) => BatchOutcome::Refused(error),
        _ => BatchOutcome::Each(Vec::new()),
    }
}

fn discard_one<O, E>(verdict: Verdict<O, E>) -> Verdict<(), E> {
    match verdict {
        Verdict::Done(_) => Verdict::Done(()),
        Verdict::Retry { after, error } => Verdict::Retry { after, error },
        Verdict::Dead(error) => Verdict::Dead(error),
        Verdict::Isolate(error) => Verdict::Isolate(error),
        _ => Verdict::Untried,
    }
}

/// Returns a panic's text, at most 256 characters of it.
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text");
    text.chars().take(256).collect()
}

/// What a call says of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Handled.
    Done,
    /// Failed for good, for this reason.
    Dead(String),
    /// Tried and failed.
    Failed {
        /// What the other side asks to wait.
        after: Option<Duration>,
        /// What went wrong.
        error: String,
    },
    /// To be tried again for free.
    Spared {
        /// What the other side asks to wait.
        after: Option<Duration>,
        /// What went wrong.
        error: String,
    },
    /// Not tried: the handler stopped before it.
    Untried,
    /// The other side takes nothing from us, which is no item's fault.
    Refused {
        /// What the other side asks to wait.
        after: Option<Duration>,
        /// What went wrong.
        error: String,
    },
    /// To be lent again in smaller company.
    Isolate {
        /// What went wrong.
        error: String,
        /// Whether trying again can help, once it is alone.
        transient: bool,
    },
}

/// Spells the call's result out into one word for each of `items` items.
#[must_use]
pub fn words<E: Classify + std::fmt::Display>(called: Called<E>, items: usize) -> Vec<Word> {
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
        Called::Panicked(_) if planted("takes_a_panic_for_an_answer") => vec![Word::Done; items],
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

/// Why an item will not be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The handler said so.
    Rejected,
    /// The retry policy allows no further attempt.
    Exhausted,
}

/// What becomes of an item for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Handled.
    Done,
    /// A dead letter.
    Dead {
        /// Why.
        cause: Cause,
        /// What was said last.
        error: String,
    },
    /// It stays, and is lent again.
    Again {
        /// After this wait.
        wait: Duration,
        /// Whether attempts begin anew.
        fresh: bool,
        /// What went wrong.
        error: String,
    },
}

/// Decides about an item that was lent alone or need not be isolated, and counts what the call cost it. The context says
/// what is known of the failure beside the item.
pub fn fate(
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
            return Fate::Dead { cause: Cause::Rejected, error };
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
            None => Fate::Dead { cause: Cause::Exhausted, error },
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
    /// Returns whether it decides about its item, so that an untried one beside it need not wait.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Done | Self::Dead(_))
    }

    /// Returns what went wrong, if anything did.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
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
