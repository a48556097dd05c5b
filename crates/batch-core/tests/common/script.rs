use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Classify, ErrorClass, Verdict};
use tokio::sync::{Semaphore, watch};

/// What a scripted handler fails with: an error of each class.
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

pub(crate) type Said = Verdict<u32, Oops>;
pub(crate) type Outcome = BatchOutcome<u32, Oops>;

/// Says of each item what the function does.
pub(crate) fn each(batch: &[u32], said: impl Fn(u32) -> Said) -> Reaction {
    Reaction::Answer(BatchOutcome::Each(batch.iter().map(|item| said(*item)).collect()))
}

/// Says of each item that it is done, and gives it back as its output.
pub(crate) fn all_done(batch: &[u32]) -> Reaction {
    each(batch, Verdict::Done)
}

/// Holds calls until it is opened, one for each permit.
pub(crate) type Gate = Arc<Semaphore>;

/// Makes a gate that is closed.
pub(crate) fn gate() -> Gate {
    Arc::new(Semaphore::new(0))
}

/// What a scripted handler does with a call.
pub(crate) enum Reaction {
    Answer(Outcome),
    /// Passes the gate, then does the rest.
    Pass(Gate, Box<Reaction>),
    /// Gives way once, then does the rest.
    Yield(Box<Reaction>),
    Panic(&'static str),
    /// Never ends.
    Hang,
    /// Never ends, and panics when it is dropped.
    HangAndPanicWhenDropped,
    /// Blocks its thread until told to go on, then answers.
    Block(Arc<Mutex<mpsc::Receiver<()>>>, Outcome),
}

impl Reaction {
    pub(crate) fn behind(self, gate: &Gate) -> Self {
        Self::Pass(Arc::clone(gate), Box::new(self))
    }

    pub(crate) fn later(self) -> Self {
        Self::Yield(Box::new(self))
    }
}

/// A handler that does what a test wrote down, and remembers what it was lent. Copies share everything.
#[derive(Clone)]
pub(crate) struct Script {
    inner: Arc<Inner>,
}

type React = dyn Fn(&[u32], u32) -> Reaction + Send + Sync;

struct Inner {
    react: Box<React>,
    calls: Mutex<Vec<Call>>,
    begun: watch::Sender<usize>,
    batches: Running,
    singles: Running,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Call {
    items: Vec<u32>,
    attempt: u32,
}

#[derive(Default)]
struct Running {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Script {
    /// Makes a handler that asks the function, with the batch and the attempt.
    pub(crate) fn new(react: impl Fn(&[u32], u32) -> Reaction + Send + Sync + 'static) -> Self {
        Self {
            inner: Arc::new(Inner {
                react: Box::new(react),
                calls: Mutex::default(),
                begun: watch::Sender::new(0),
                batches: Running::default(),
                singles: Running::default(),
            }),
        }
    }

    /// Makes a handler that handles everything.
    pub(crate) fn done() -> Self {
        Self::new(|batch, _| all_done(batch))
    }

    /// Makes a handler that does these things, one for each call, and handles everything from then on.
    pub(crate) fn sequence(reactions: impl IntoIterator<Item = Reaction>) -> Self {
        let reactions = Mutex::new(reactions.into_iter().collect::<VecDeque<_>>());
        Self::new(move |batch, _| {
            let next = reactions.lock().unwrap().pop_front();
            next.unwrap_or_else(|| all_done(batch))
        })
    }

    /// Returns the items of each call so far.
    pub(crate) fn lent(&self) -> Vec<Vec<u32>> {
        self.inner.calls.lock().unwrap().iter().map(|call| call.items.clone()).collect()
    }

    /// Returns the attempt of each call so far.
    pub(crate) fn attempts(&self) -> Vec<u32> {
        self.inner.calls.lock().unwrap().iter().map(|call| call.attempt).collect()
    }

    /// Returns how many calls have begun.
    pub(crate) fn calls(&self) -> usize {
        *self.inner.begun.borrow()
    }

    /// Waits until so many calls have begun.
    pub(crate) async fn until_calls(&self, calls: usize) {
        let mut begun = self.inner.begun.subscribe();
        begun.wait_for(|begun| *begun >= calls).await.expect("the script outlives its watchers");
    }

    /// Returns how many calls run now.
    pub(crate) fn running(&self) -> usize {
        self.inner.batches.now.load(Ordering::SeqCst)
    }

    /// Returns how many calls ran at once at most.
    pub(crate) fn most_running(&self) -> usize {
        self.inner.batches.most.load(Ordering::SeqCst)
    }

    /// Returns how many calls with a single item ran at once at most.
    pub(crate) fn most_singles_running(&self) -> usize {
        self.inner.singles.most.load(Ordering::SeqCst)
    }
}

impl BatchHandler<u32> for Script {
    type Output = u32;
    type Error = Oops;

    async fn handle(&self, batch: &[u32], cx: &BatchContext) -> Outcome {
        let inner = &*self.inner;
        let _running = Entered::new(&inner.batches);
        let _alone = (batch.len() == 1).then(|| Entered::new(&inner.singles));
        inner.calls.lock().unwrap().push(Call { items: batch.to_vec(), attempt: cx.attempt() });
        inner.begun.send_modify(|begun| *begun += 1);
        let mut reaction = (inner.react)(batch, cx.attempt());
        loop {
            match reaction {
                Reaction::Answer(outcome) => return outcome,
                Reaction::Pass(gate, rest) => {
                    gate.acquire().await.expect("gates are not closed").forget();
                    reaction = *rest;
                }
                Reaction::Yield(rest) => {
                    tokio::task::yield_now().await;
                    reaction = *rest;
                }
                Reaction::Panic(text) => panic!("{text}"),
                Reaction::Hang => return std::future::pending().await,
                Reaction::HangAndPanicWhenDropped => {
                    let _bomb = Bomb;
                    return std::future::pending().await;
                }
                Reaction::Block(go_on, outcome) => {
                    let _ = go_on.lock().unwrap().recv();
                    return outcome;
                }
            }
        }
    }
}

struct Entered<'a>(&'a Running);

impl<'a> Entered<'a> {
    fn new(running: &'a Running) -> Self {
        let now = running.now.fetch_add(1, Ordering::SeqCst) + 1;
        running.most.fetch_max(now, Ordering::SeqCst);
        Self(running)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped in the middle of it");
    }
}
