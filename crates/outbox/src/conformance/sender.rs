use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{
    BatchContext, BatchHandler, BatchOutcome, Classify, ErrorClass, Message, MessageId, Verdict,
};

/// What a [`TestSender`] does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// It takes it.
    Take,
    /// It fails, and may be tried again.
    Fail,
    /// It takes it, but says that it failed: as when an answer is lost.
    TakeAndFail,
    /// It rejects it for good.
    Reject,
    /// It leaves it untried.
    Leave,
    /// It refuses the whole batch.
    Refuse,
    /// It panics.
    Panic,
    /// It gives one verdict too few.
    Miscount,
    /// It never answers.
    Hang,
}

/// A sender that does as it is told, and keeps a ledger.
#[derive(Clone, Default)]
pub struct TestSender {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    ledger: Mutex<Ledger>,
    script: Mutex<Option<Box<Script>>>,
}

type Script = dyn FnMut(&Message) -> Call + Send;

#[derive(Default)]
struct Ledger {
    taken: Vec<Message>,
    batches: Vec<Vec<MessageId>>,
    attempts: Vec<u32>,
}

impl TestSender {
    /// Makes a sender that takes everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what it does from now on.
    pub fn script(&self, script: impl FnMut(&Message) -> Call + Send + 'static) {
        *self.inner.script.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(script));
    }

    /// Takes everything from now on.
    pub fn take_all(&self) {
        *self.inner.script.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes messages as taken, in order, that others took.
    pub fn note(&self, taken: impl IntoIterator<Item = Message>) {
        self.ledger().taken.extend(taken);
    }

    /// Returns the messages that it took, in order, repeated ones again.
    #[must_use]
    pub fn taken(&self) -> Vec<Message> {
        self.ledger().taken.clone()
    }

    /// Returns the payloads that it took, in order, as text.
    #[must_use]
    pub fn payloads(&self) -> Vec<String> {
        self.ledger().taken.iter().map(|m| String::from_utf8_lossy(m.payload()).into_owned()).collect()
    }

    /// Returns the batches that it was lent.
    #[must_use]
    pub fn batches(&self) -> Vec<Vec<MessageId>> {
        self.ledger().batches.clone()
    }

    /// Returns the attempts that it was told, one of each batch.
    #[must_use]
    pub fn attempts(&self) -> Vec<u32> {
        self.ledger().attempts.clone()
    }

    /// Checks that each key's messages were taken in the order of `added`, apart from repetitions, and none was left out.
    ///
    /// # Panics
    ///
    /// They were not.
    pub fn assert_complete_and_in_order(&self, added: &[Message]) {
        let mut by_key: HashMap<Option<String>, HashMap<MessageId, usize>> = HashMap::new();
        let mut seen: HashMap<Option<String>, usize> = HashMap::new();
        let key = |message: &Message| message.ordering_key().map(|key| key.as_str().to_owned());
        for message in added {
            let own = by_key.entry(key(message)).or_default();
            own.insert(message.id(), own.len());
        }
        let taken = self.taken();
        for message in &taken {
            let own = &by_key[&key(message)];
            let place = own[&message.id()];
            if message.ordering_key().is_none() {
                continue;
            }
            let high = seen.entry(key(message)).or_default();
            let order = || {
                let own = self.ledger();
                let own = own.taken.iter().filter(|taken| key(taken) == key(message));
                own.map(|taken| String::from_utf8_lossy(taken.payload()).into_owned()).collect::<Vec<_>>()
            };
            assert!(
                place <= *high,
                "{:?} came before {} of its key: {:?}",
                String::from_utf8_lossy(message.payload()),
                place - *high,
                order()
            );
            *high = (*high).max(place + 1);
        }
        let taken: std::collections::HashSet<MessageId> =
            self.ledger().taken.iter().map(Message::id).collect();
        let lost = added.iter().filter(|message| !taken.contains(&message.id())).count();
        assert_eq!(lost, 0, "messages that were never taken");
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.inner.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, message: &Message) -> Call {
        let mut script = self.inner.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.as_mut().map_or(Call::Take, |script| script(message))
    }
}

impl fmt::Debug for TestSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestSender").field("taken", &self.ledger().taken.len()).finish_non_exhaustive()
    }
}

impl BatchHandler<Message> for TestSender {
    type Output = ();
    type Error = TestError;

    async fn handle(&self, batch: &[Message], cx: &BatchContext) -> BatchOutcome<(), TestError> {
        let calls: Vec<Call> = batch.iter().map(|message| self.call(message)).collect();
        {
            let mut ledger = self.ledger();
            ledger.batches.push(batch.iter().map(Message::id).collect());
            ledger.attempts.push(cx.attempt());
            if calls.iter().all(|call| !matches!(call, Call::Refuse | Call::Panic | Call::Hang)) {
                let taken = batch.iter().zip(&calls);
                let taken =
                    taken.filter(|(_, call)| matches!(call, Call::Take | Call::TakeAndFail | Call::Miscount));
                ledger.taken.extend(taken.map(|(message, _)| message.clone()));
            }
        }
        if calls.contains(&Call::Hang) {
            std::future::pending::<()>().await;
        }
        assert!(!calls.contains(&Call::Panic), "the script says so");
        if calls.contains(&Call::Refuse) {
            return BatchOutcome::Refused(TestError("refused"));
        }
        let mut verdicts: Vec<_> = calls
            .iter()
            .map(|call| match call {
                Call::Fail | Call::TakeAndFail => {
                    Verdict::Retry { after: Some(Duration::from_secs(1)), error: TestError("failed") }
                }
                Call::Reject => Verdict::Dead(TestError("rejected")),
                Call::Leave => Verdict::Untried,
                _ => Verdict::Done(()),
            })
            .collect();
        if calls.contains(&Call::Miscount) {
            verdicts.pop();
        }
        BatchOutcome::Each(verdicts)
    }
}

/// The error of a [`TestSender`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TestError(pub &'static str);

impl Classify for TestError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Transient
    }
}
