//! What the tests share: a scripted handler that remembers what it was lent, and a throwaway file.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_persistent_queue::{Builder, Plain, Queue};
use relaykit_pipeline_traits::{
    BatchContext, BatchHandler, BatchOutcome, Classify, ErrorClass, ManualClock, Rng, Verdict,
};
use tokio::sync::watch;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Oops {
    #[error("broken for now")]
    Broken,
    #[error("too fast")]
    Throttled,
    #[error("bad item")]
    Bad,
}

impl Classify for Oops {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Broken => ErrorClass::Transient,
            Self::Throttled => ErrorClass::Throttled,
            Self::Bad => ErrorClass::Permanent,
        }
    }
}

pub(crate) type Outcome = BatchOutcome<(), Oops>;

/// What a scripted handler does with a call.
pub(crate) enum Reaction {
    Answer(Outcome),
    Panic,
    Hang,
}

type React = dyn Fn(&[u32], u32) -> Reaction + Send + Sync;

/// The items of a call, and its attempt.
type Call = (Vec<u32>, u32);

/// A handler that does what a test wrote down. Copies share everything.
#[derive(Clone)]
pub(crate) struct Script {
    react: Arc<React>,
    calls: Arc<Mutex<Vec<Call>>>,
    count: Arc<watch::Sender<usize>>,
}

impl Script {
    pub(crate) fn new(react: impl Fn(&[u32], u32) -> Reaction + Send + Sync + 'static) -> Self {
        Self { react: Arc::new(react), calls: Arc::default(), count: Arc::new(watch::Sender::new(0)) }
    }

    pub(crate) fn done() -> Self {
        Self::new(|batch, _| done(batch))
    }

    /// Does these things, one for each call, and handles everything from then on.
    pub(crate) fn sequence(reactions: impl IntoIterator<Item = Reaction>) -> Self {
        let reactions = Mutex::new(reactions.into_iter().collect::<VecDeque<_>>());
        Self::new(move |batch, _| {
            let next = reactions.lock().expect("no test panics with the lock").pop_front();
            next.unwrap_or_else(|| done(batch))
        })
    }

    /// Returns the items of each call so far.
    pub(crate) fn lent(&self) -> Vec<Vec<u32>> {
        self.calls.lock().expect("no test panics with the lock").iter().map(|call| call.0.clone()).collect()
    }

    pub(crate) fn items(&self) -> Vec<u32> {
        self.lent().concat()
    }

    pub(crate) fn attempts(&self) -> Vec<u32> {
        self.calls.lock().expect("no test panics with the lock").iter().map(|call| call.1).collect()
    }

    /// Waits until so many calls have begun.
    pub(crate) async fn calls(&self, count: usize) {
        let mut seen = self.count.subscribe();
        seen.wait_for(|calls| *calls >= count).await.expect("the script is alive");
    }
}

impl BatchHandler<u32> for Script {
    type Output = ();
    type Error = Oops;

    async fn handle(&self, batch: &[u32], cx: &BatchContext) -> Outcome {
        self.calls.lock().expect("no test panics with the lock").push((batch.to_vec(), cx.attempt()));
        self.count.send_modify(|count| *count += 1);
        match (self.react)(batch, cx.attempt()) {
            Reaction::Answer(outcome) => outcome,
            Reaction::Panic => panic!("as the script says"),
            Reaction::Hang => std::future::pending().await,
        }
    }
}

pub(crate) fn done(batch: &[u32]) -> Reaction {
    each(batch, |_| Verdict::Done(()))
}

pub(crate) fn each(batch: &[u32], said: impl Fn(u32) -> Verdict<(), Oops>) -> Reaction {
    Reaction::Answer(BatchOutcome::Each(batch.iter().map(|item| said(*item)).collect()))
}

pub(crate) fn broken() -> Reaction {
    Reaction::Answer(BatchOutcome::RetryBatch { after: None, error: Oops::Broken })
}

/// A directory that goes with the test, a clock that is moved by hand, and a queue's file.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: ManualClock,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory"), clock: ManualClock::new() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("queue.db")
    }

    /// A builder for a queue in the file, on the clock, with a seed that stays the same.
    pub(crate) fn builder(&self, script: &Script) -> Builder<u32, Plain<Script>> {
        Queue::builder(self.path(), script.clone())
            .clock(self.clock.clone())
            .rng(Rng::seeded(7))
            .ballast_bytes(0)
            .linger(Duration::from_secs(3600))
    }
}

/// Waits until the condition holds, while other tasks and the writer's thread go on.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}
