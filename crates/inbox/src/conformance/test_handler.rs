use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{BatchContext, Classify, ErrorClass, Handler, Message, MessageId, Verdict};

/// What a handler of a case does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// It is done.
    Done,
    /// It fails, and may be tried again.
    Fail,
    /// It does its work, but says that it failed: as when an answer is lost.
    WorkAndFail,
    /// It rejects it for good.
    Reject,
    /// It leaves it untried.
    Leave,
    /// It panics.
    Panic,
    /// It never ends. A transactional handler that cannot wait fails instead.
    Hang,
}

impl Call {
    /// Returns whether its work has an effect outside of a transaction.
    #[must_use]
    pub const fn works(self) -> bool {
        matches!(self, Self::Done | Self::WorkAndFail)
    }

    /// Returns its verdict.
    ///
    /// # Panics
    ///
    /// If it is to panic.
    #[must_use]
    pub fn verdict(self) -> Verdict<(), TestError> {
        let after = Some(Duration::from_secs(1));
        match self {
            Self::Done => Verdict::Done(()),
            Self::Fail | Self::WorkAndFail | Self::Hang => {
                Verdict::Retry { after, error: TestError("failed") }
            }
            Self::Reject => Verdict::Dead(TestError("rejected")),
            Self::Leave => Verdict::Untried,
            Self::Panic => panic!("the script says so"),
        }
    }
}

/// Says what a handler does. Copies are one.
#[derive(Clone)]
pub struct Script(Arc<Mutex<Says>>);

type Says = Box<dyn FnMut(&Message) -> Call + Send>;

impl Script {
    /// Makes a script that is always done.
    #[must_use]
    pub fn done() -> Self {
        Self::new(|_| Call::Done)
    }

    /// Makes a script of a function.
    #[must_use]
    pub fn new(script: impl FnMut(&Message) -> Call + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(script))))
    }

    /// Sets what it says from now on.
    pub fn set(&self, script: impl FnMut(&Message) -> Call + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(script);
    }

    /// Asks what to do with a message.
    #[must_use]
    pub fn ask(&self, message: &Message) -> Call {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)(message)
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

/// A plain handler that does as it is told, and keeps a ledger. Copies are one.
#[derive(Debug, Clone)]
pub struct TestHandler {
    /// What it does.
    pub script: Script,
    ledger: Arc<Mutex<Ledger>>,
}

#[derive(Debug, Default)]
struct Ledger {
    done: Vec<Message>,
    calls: Vec<(MessageId, u32)>,
}

impl Default for TestHandler {
    fn default() -> Self {
        Self { script: Script::done(), ledger: Arc::default() }
    }
}

impl TestHandler {
    /// Makes a handler that is done with everything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the messages whose work it did, in order, repeated ones again.
    #[must_use]
    pub fn done(&self) -> Vec<Message> {
        self.ledger().done.clone()
    }

    /// Returns their payloads as text.
    #[must_use]
    pub fn payloads(&self) -> Vec<String> {
        self.ledger().done.iter().map(|m| String::from_utf8_lossy(m.payload()).into_owned()).collect()
    }

    /// Returns the calls, in order: the message, and the attempt that it was told.
    #[must_use]
    pub fn calls(&self) -> Vec<(MessageId, u32)> {
        self.ledger().calls.clone()
    }

    /// Checks that each key's messages were done in the order of `stored`, apart from repetitions, and none was left out.
    ///
    /// # Panics
    ///
    /// They were not.
    pub fn assert_complete_and_in_order(&self, stored: &[Message]) {
        let key = |message: &Message| message.ordering_key().map(|key| key.as_str().to_owned());
        let mut places: HashMap<MessageId, usize> = HashMap::new();
        let mut of_key: HashMap<Option<String>, usize> = HashMap::new();
        for message in stored {
            let next = of_key.entry(key(message)).or_default();
            places.insert(message.id(), *next);
            *next += 1;
        }
        let mut high: HashMap<Option<String>, usize> = HashMap::new();
        let mut seen = std::collections::HashSet::new();
        for message in self.done() {
            seen.insert(message.id());
            if message.ordering_key().is_some() {
                let place = places[&message.id()];
                let high = high.entry(key(&message)).or_default();
                assert!(place <= *high, "{:?} came {} too early", key(&message), place - *high);
                *high = (*high).max(place + 1);
            }
        }
        let lost = stored.iter().filter(|message| !seen.contains(&message.id())).count();
        assert_eq!(lost, 0, "messages that were never done");
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler<Message> for TestHandler {
    type Output = ();
    type Error = TestError;

    async fn handle(&self, message: &Message, context: &BatchContext) -> Verdict<(), TestError> {
        let call = self.script.ask(message);
        {
            let mut ledger = self.ledger();
            ledger.calls.push((message.id(), context.attempt()));
            if call.works() {
                ledger.done.push(message.clone());
            }
        }
        if call == Call::Hang {
            std::future::pending::<()>().await;
        }
        call.verdict()
    }
}

/// The error of a handler of a case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TestError(pub &'static str);

impl Classify for TestError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Transient
    }
}
