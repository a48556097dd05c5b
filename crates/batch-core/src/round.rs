use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{
    Attempts, BatchOutcome, Classify, ErrorClass, Failure, RetryDecision, RetryPolicy, Rng, Verdict,
};

use crate::answer::Cause;
use crate::call::Called;

/// What one call says of one item, whatever form the handler said it in.
pub(crate) enum Sentence<O, E> {
    Done(O),
    Dead(Arc<E>),
    Refused(Arc<E>),
    Isolate(Arc<E>),
    Retry { after: Option<Duration>, fault: Fault<E> },
}

/// What makes a call worth repeating.
pub(crate) enum Fault<E> {
    Error(Arc<E>),
    Untried,
    Panicked(Arc<str>),
    TimedOut(Duration),
    WrongVerdicts { items: usize, verdicts: usize },
}

/// What becomes of an item after a call.
pub(crate) enum Fate<O, E> {
    Answer(Result<O, Cause<E>>),
    /// Lend it again after this wait.
    Again(Duration),
    /// Lend it again in a smaller batch.
    Isolate,
}

/// What a decision depends on beside the item and its sentence.
pub(crate) struct Round<'a> {
    pub(crate) policy: &'a dyn RetryPolicy,
    /// Time since the batch was first lent.
    pub(crate) elapsed: Duration,
    pub(crate) previous_delay: Option<Duration>,
    /// Whether the item was lent by itself.
    pub(crate) alone: bool,
    /// Whether the call decided about any other item, so that an untried one need not wait.
    pub(crate) progress: bool,
    /// Whether items may be lent again in smaller batches.
    pub(crate) may_split: bool,
}

/// Spells a call's result out into one sentence for each of `items` items.
pub(crate) fn sentences<O, E>(called: Called<O, E>, items: usize) -> Sentences<O, E> {
    let fault = match called {
        Called::Outcome(BatchOutcome::Each(verdicts)) if verdicts.len() == items => {
            return Sentences::Each(verdicts.into_iter());
        }
        Called::Outcome(BatchOutcome::RetryBatch { after, error }) => {
            return Sentences::Retry { after, fault: Fault::Error(Arc::new(error)) };
        }
        Called::Outcome(BatchOutcome::Split(error)) => return Sentences::Isolate(Arc::new(error)),
        Called::Outcome(BatchOutcome::Refused(error)) => return Sentences::Refused(Arc::new(error)),
        Called::Outcome(BatchOutcome::Each(verdicts)) => {
            Fault::WrongVerdicts { items, verdicts: verdicts.len() }
        }
        Called::Outcome(_) => Fault::Untried,
        Called::Panicked(text) => Fault::Panicked(text),
        Called::TimedOut(after) => Fault::TimedOut(after),
    };
    Sentences::Retry { after: None, fault }
}

/// One sentence for each item of a call: each its own, or all the same.
pub(crate) enum Sentences<O, E> {
    Each(std::vec::IntoIter<Verdict<O, E>>),
    Retry { after: Option<Duration>, fault: Fault<E> },
    Isolate(Arc<E>),
    Refused(Arc<E>),
}

impl<O, E> Sentences<O, E> {
    /// Returns whether the call decided about any item.
    pub(crate) fn progress(&self) -> bool {
        match self {
            Self::Each(verdicts) => verdicts
                .as_slice()
                .iter()
                .any(|verdict| matches!(verdict, Verdict::Done(_) | Verdict::Dead(_))),
            _ => false,
        }
    }

    /// Returns the next item's sentence. Asked more often than there are items, it says untried.
    pub(crate) fn next(&mut self) -> Sentence<O, E> {
        match self {
            Self::Each(verdicts) => match verdicts.next() {
                Some(Verdict::Done(output)) => Sentence::Done(output),
                Some(Verdict::Dead(error)) => Sentence::Dead(Arc::new(error)),
                Some(Verdict::Isolate(error)) => Sentence::Isolate(Arc::new(error)),
                Some(Verdict::Retry { after, error }) => {
                    Sentence::Retry { after, fault: Fault::Error(Arc::new(error)) }
                }
                _ => Sentence::Retry { after: None, fault: Fault::Untried },
            },
            Self::Retry { after, fault } => Sentence::Retry { after: *after, fault: fault.share() },
            Self::Isolate(error) => Sentence::Isolate(Arc::clone(error)),
            Self::Refused(error) => Sentence::Refused(Arc::clone(error)),
        }
    }
}

/// Decides what becomes of an item, and counts what the call cost it.
pub(crate) fn decide<O, E: Classify>(
    sentence: Sentence<O, E>,
    attempts: &mut Attempts,
    round: &Round<'_>,
    rng: &mut Rng,
) -> Fate<O, E> {
    match sentence {
        Sentence::Done(output) => {
            attempts.settled();
            Fate::Answer(Ok(output))
        }
        Sentence::Refused(error) => Fate::Answer(Err(Cause::Refused(error))),
        Sentence::Isolate(_) if !round.alone && round.may_split => Fate::Isolate,
        Sentence::Isolate(error) if !round.alone => Fate::Answer(Err(Cause::NotIsolated(error))),
        Sentence::Isolate(error) if error.is_transient() => {
            let after = error.retry_after();
            again(after, Fault::Error(error), attempts, round, rng)
        }
        Sentence::Dead(error) | Sentence::Isolate(error) => {
            attempts.settled();
            Fate::Answer(Err(Cause::Dead(error)))
        }
        Sentence::Retry { after, fault } => again(after, fault, attempts, round, rng),
    }
}

fn again<O, E: Classify>(
    after: Option<Duration>,
    fault: Fault<E>,
    attempts: &mut Attempts,
    round: &Round<'_>,
    rng: &mut Rng,
) -> Fate<O, E> {
    if matches!(fault, Fault::Untried) && round.progress {
        // The batch got smaller, so this cannot go on for ever.
        return Fate::Again(Duration::ZERO);
    }
    let failure = Failure {
        elapsed: round.elapsed,
        hint: after,
        previous_delay: round.previous_delay,
        ..Failure::of_attempt(attempts.spent())
    };
    let decision = if fault.is_free() {
        attempts.spared(failure, round.policy, rng)
    } else {
        attempts.failed(failure, round.policy, rng)
    };
    match decision {
        RetryDecision::RetryAfter(delay) => Fate::Again(delay),
        // One item that breaks the handler must not take its whole batch along.
        RetryDecision::GiveUp(_) if fault.is_breakdown() && !round.alone && round.may_split => Fate::Isolate,
        RetryDecision::GiveUp(_) => Fate::Answer(Err(fault.into_cause())),
    }
}

impl<E> Fault<E> {
    fn share(&self) -> Self {
        match self {
            Self::Error(error) => Self::Error(Arc::clone(error)),
            Self::Untried => Self::Untried,
            Self::Panicked(text) => Self::Panicked(Arc::clone(text)),
            Self::TimedOut(after) => Self::TimedOut(*after),
            Self::WrongVerdicts { items, verdicts } => {
                Self::WrongVerdicts { items: *items, verdicts: *verdicts }
            }
        }
    }

    /// Returns whether the handler broke down, which one item of many may have caused.
    const fn is_breakdown(&self) -> bool {
        matches!(self, Self::Panicked(_) | Self::WrongVerdicts { .. })
    }

    fn into_cause(self) -> Cause<E> {
        match self {
            Self::Error(error) => Cause::Exhausted(error),
            Self::Untried => Cause::Untried,
            Self::Panicked(text) => Cause::Panicked(text),
            Self::TimedOut(after) => Cause::TimedOut(after),
            Self::WrongVerdicts { items, verdicts } => Cause::WrongVerdicts { items, verdicts },
        }
    }
}

impl<E: Classify> Fault<E> {
    /// Returns whether the call spends no attempt.
    fn is_free(&self) -> bool {
        match self {
            Self::Untried => true,
            Self::Error(error) => error.class() == ErrorClass::Throttled,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
