use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Classify, ErrorClass, Verdict};

/// What becomes of an item in the hands of a [`ScriptedHandler`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fate {
    /// Done.
    Success,
    /// Fails now, as with a 503, and may be tried again.
    Retry,
    /// As [`Retry`](Self::Retry), with a 429 that asks for a wait.
    Throttle(Duration),
    /// Cannot be judged in company; done when alone.
    IndividualSuccess,
    /// Fails for good, as with a 400.
    Fail,
    /// Spoils the whole batch: it is answered with [`BatchOutcome::Split`], also when it is alone.
    Split,
}

impl Fate {
    /// Reads a fate from its name: `success`, `retry`, `individual_success`, `split`; every other text, `fail`
    /// among them, fails.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match name {
            "success" => Self::Success,
            "retry" => Self::Retry,
            "individual_success" => Self::IndividualSuccess,
            "split" => Self::Split,
            _ => Self::Fail,
        }
    }
}

/// Why a [`ScriptedHandler`] failed an item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptedError {
    /// The item's fate is [`Fate::Retry`].
    #[error("not now")]
    Unavailable,
    /// The item's fate is [`Fate::Throttle`].
    #[error("not before {after:?} have passed")]
    Throttled {
        /// The wait that is asked for.
        after: Duration,
    },
    /// The item's fate is [`Fate::IndividualSuccess`], and it was in company.
    #[error("not in company")]
    InCompany,
    /// The item's fate is [`Fate::Fail`].
    #[error("never")]
    Refused,
    /// An item's fate is [`Fate::Split`].
    #[error("one of {count} items spoils the batch")]
    Spoilt {
        /// How many items the batch had.
        count: usize,
    },
}

impl Classify for ScriptedError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Unavailable => ErrorClass::Transient,
            Self::Throttled { .. } => ErrorClass::Throttled,
            Self::InCompany | Self::Refused | Self::Spoilt { .. } => ErrorClass::Permanent,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { after } => Some(*after),
            _ => None,
        }
    }
}

/// A batch handler whose items decide their own fate, for tests of what drives handlers.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use relaykit_iterable_handlers::testing::ScriptedHandler;
/// use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Verdict};
///
/// let handler = ScriptedHandler::by_name();
/// let BatchOutcome::Each(verdicts) = handler.handle(&["success", "fail"], &BatchContext::new(1)).await else {
///     panic!("no verdicts");
/// };
/// assert!(verdicts[0].is_done());
/// assert!(matches!(verdicts[1], Verdict::Dead(_)));
/// # }
/// ```
pub struct ScriptedHandler<T> {
    fate: Judge<T>,
    batches: AtomicU64,
    items: AtomicU64,
}

/// Decides the fate of an item.
type Judge<T> = Box<dyn Fn(&T, &BatchContext) -> Fate + Send + Sync>;

impl<T> ScriptedHandler<T> {
    /// Makes a handler that asks `fate` about each item, each time it is lent.
    pub fn new(fate: impl Fn(&T, &BatchContext) -> Fate + Send + Sync + 'static) -> Self {
        Self { fate: Box::new(fate), batches: AtomicU64::new(0), items: AtomicU64::new(0) }
    }

    /// Returns how many batches were handled.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::SeqCst)
    }

    /// Returns how many items were handled, each as often as it was lent.
    pub fn items(&self) -> u64 {
        self.items.load(Ordering::SeqCst)
    }
}

impl<T: AsRef<str>> ScriptedHandler<T> {
    /// Makes a handler of items that are the names of their fates, as [`Fate::named`] reads them.
    #[must_use]
    pub fn by_name() -> Self {
        Self::new(|item: &T, _cx| Fate::named(item.as_ref()))
    }
}

impl<T> fmt::Debug for ScriptedHandler<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedHandler")
            .field("batches", &self.batches())
            .field("items", &self.items())
            .finish_non_exhaustive()
    }
}

impl<T: Sync> BatchHandler<T> for ScriptedHandler<T> {
    type Output = ();
    type Error = ScriptedError;

    async fn handle(&self, batch: &[T], cx: &BatchContext) -> BatchOutcome<(), ScriptedError> {
        let count = batch.len();
        self.batches.fetch_add(1, Ordering::SeqCst);
        self.items.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::SeqCst);
        let fates: Vec<Fate> = batch.iter().map(|item| (self.fate)(item, cx)).collect();
        if fates.contains(&Fate::Split) {
            return BatchOutcome::Split(ScriptedError::Spoilt { count });
        }
        BatchOutcome::Each(fates.into_iter().map(|fate| judge(fate, count == 1)).collect())
    }
}

/// Decides an item's verdict, alone or in company.
fn judge(fate: Fate, alone: bool) -> Verdict<(), ScriptedError> {
    match fate {
        Fate::Success => Verdict::Done(()),
        Fate::IndividualSuccess if alone => Verdict::Done(()),
        Fate::IndividualSuccess => Verdict::Isolate(ScriptedError::InCompany),
        Fate::Retry => Verdict::Retry { after: None, error: ScriptedError::Unavailable },
        Fate::Throttle(after) => {
            Verdict::Retry { after: Some(after), error: ScriptedError::Throttled { after } }
        }
        // A spoilt batch has no verdicts; this one is for completeness.
        Fate::Fail | Fate::Split => Verdict::Dead(ScriptedError::Refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn handle(batch: &[&str]) -> BatchOutcome<(), ScriptedError> {
        ScriptedHandler::by_name().handle(batch, &BatchContext::new(1)).await
    }

    #[tokio::test]
    async fn each_item_meets_its_fate() {
        let outcome = handle(&["success", "retry", "individual_success", "anything"]).await;
        assert_eq!(
            outcome,
            BatchOutcome::Each(vec![
                Verdict::Done(()),
                Verdict::Retry { after: None, error: ScriptedError::Unavailable },
                Verdict::Isolate(ScriptedError::InCompany),
                Verdict::Dead(ScriptedError::Refused),
            ])
        );
    }

    #[tokio::test]
    async fn an_item_that_is_shy_of_company_succeeds_alone() {
        let outcome = handle(&["individual_success"]).await;
        assert_eq!(outcome, BatchOutcome::Each(vec![Verdict::Done(())]));
    }

    #[tokio::test]
    async fn one_item_can_spoil_the_batch() {
        let outcome = handle(&["success", "split"]).await;
        assert_eq!(outcome, BatchOutcome::Split(ScriptedError::Spoilt { count: 2 }));
    }

    #[tokio::test]
    async fn the_handler_counts_what_it_was_lent() {
        let handler = ScriptedHandler::new(|item: &u32, cx| {
            if cx.attempt() > *item { Fate::Success } else { Fate::Throttle(Duration::from_secs(3)) }
        });
        for attempt in 1..=2 {
            handler.handle(&[1, 0], &BatchContext::new(attempt)).await;
        }
        assert_eq!((handler.batches(), handler.items()), (2, 4));
    }
}
