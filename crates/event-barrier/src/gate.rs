//! The barrier for code that awaits its turn; feature `tokio`.

mod line;
mod permit;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relaykit_pipeline_traits::{Clock, Monotonic};
use tokio::sync::oneshot;

use self::line::{Line, Place};
pub use self::permit::GatePermit;
use crate::admission::Admission;
use crate::barrier::Barrier;
use crate::blocked::BlockedKey;
use crate::reader::Reader;

/// How many jobs may wait at a gate by default: 10,000.
const MAX_WAITING: usize = 10_000;

/// Lets the jobs of each key through one at a time, in order; each awaits its turn. Cheap to clone; all clones are one
/// gate.
///
/// Of the jobs of a key that wait, the lowest goes first. If it [fails](crate::State::Failed), the later ones wait
/// until it has entered again and ended. Keys have nothing to do with each other. A gate has no store to read again, so
/// it opens as soon as it is told, and only jobs that wait here are put in order: one that comes before an older one has
/// come goes before it.
///
/// It owns the [`Reader`], and everything has to go through it: a job that enters by the [`Barrier`], or a key that
/// is released there, wakes nobody here. Limits hold as at the barrier, and a job whose order is switched off or
/// waived does not wait. The barrier's observer runs inside the gate's lock, so it must not call the gate, and must not
/// panic: those that wait would not learn of the change it was told about.
///
/// It runs on any tokio runtime, or on none.
///
/// ```
/// use std::sync::Arc;
/// use relaykit_event_barrier::{Barrier, Gate, State};
/// use relaykit_pipeline_traits::ManualClock;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), relaykit_event_barrier::NotEntered> {
/// let (_, reader) = Barrier::new(0);
/// let gate = Gate::new(reader, Arc::new(ManualClock::new())); // in a program, a `SystemClock`
///
/// gate.enter("ada", 5).await?.settle(State::Failed);
/// let waiting = tokio::spawn({
///     let gate = gate.clone();
///     async move { gate.enter("ada", 6).await }
/// });
/// gate.enter("ada", 5).await?.settle(State::Succeeded);
/// assert_eq!(waiting.await.unwrap()?.job(), 6);
/// # Ok(())
/// # }
/// ```
pub struct Gate<
    K: Hash + Eq + Clone + 'static,
    J: Ord + Copy + 'static = u64,
    S: BuildHasher + 'static = RandomState,
> {
    inner: Arc<Inner<K, J, S>>,
}

/// Why a job did not enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotEntered {
    /// It would have had to wait, and as many jobs as may do so wait already. Trying again later can help.
    #[error("the gate is full: {max} jobs wait already")]
    GateFull {
        /// How many jobs may wait.
        max: usize,
    },
    /// The gate was closed before it was this job's turn.
    #[error("the gate is closed")]
    GateClosed,
}

struct Inner<K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static> {
    clock: Arc<dyn Clock>,
    state: Mutex<State<K, J, S>>,
}

struct State<K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static> {
    reader: Reader<K, J, S>,
    /// Keys with a job inside or waiting.
    lines: HashMap<K, Line<K, J, S>>,
    waiting: usize,
    max_waiting: usize,
    tickets: u64,
    closed: bool,
}

/// A job whose turn it is, and where it waits for that.
type Grant<K, J, S> = (oneshot::Sender<GatePermit<K, J, S>>, GatePermit<K, J, S>);

impl<K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static> Gate<K, J, S> {
    /// Makes a gate of a barrier's reader.
    pub fn new(reader: Reader<K, J, S>, clock: Arc<dyn Clock>) -> Self {
        let state = State {
            reader,
            lines: HashMap::new(),
            waiting: 0,
            max_waiting: MAX_WAITING,
            tickets: 0,
            closed: false,
        };
        Self { inner: Arc::new(Inner { clock, state: Mutex::new(state) }) }
    }

    /// Sets how many jobs may wait, over all keys. Default: 10,000. With 0, a job enters at once or not at all.
    #[must_use]
    pub fn max_waiting(self, jobs: usize) -> Self {
        self.inner.lock().max_waiting = jobs;
        self
    }

    /// Waits until it is this job's turn.
    ///
    /// # Errors
    ///
    /// If too many jobs wait already, and if the gate is closed, now or while this waits.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves nothing behind. If its turn had just come, the next job's does.
    pub async fn enter(&self, key: K, job: J) -> Result<GatePermit<K, J, S>, NotEntered> {
        let (sender, receiver) = oneshot::channel();
        let joined = self
            .inner
            .update(&key, |state, _| if state.closed { None } else { Some(state.join(&key, job, sender)) });
        let Some(ticket) = joined else { return Err(NotEntered::GateClosed) };
        let mut place = Place { inner: &self.inner, key, job, ticket, receiver };
        {
            let mut state = self.inner.lock();
            let max = state.max_waiting;
            // Out of line under the same lock: of two that come at once, only the one too many is refused.
            if state.waiting > max && state.quit(&place.key, job, ticket) {
                drop(state);
                return Err(NotEntered::GateFull { max });
            }
        }
        (&mut place.receiver).await.map_err(|_| NotEntered::GateClosed)
    }

    /// Returns how many jobs wait.
    pub fn waiting(&self) -> usize {
        self.inner.lock().waiting
    }

    /// Returns how many jobs of `key` wait.
    pub fn waiting_of(&self, key: &K) -> usize {
        self.inner.lock().lines.get(key).map_or(0, |line| line.waiting.len())
    }

    /// Lists blocked keys, the longest blocked first, up to `limit` of them, each with how many of its jobs wait here.
    pub fn blocked(&self, limit: usize) -> Vec<(BlockedKey<K, J>, usize)> {
        let now = self.inner.clock.monotonic();
        let state = self.inner.lock();
        let waiting = |key: &K| state.lines.get(key).map_or(0, |line| line.waiting.len());
        let blocked = state.reader.barrier().blocked(now, limit);
        blocked
            .into_iter()
            .map(|key| {
                let waiting = waiting(&key.key);
                (key, waiting)
            })
            .collect()
    }

    /// Gives up waiting for all failed jobs of `key`. Returns false if it is not blocked.
    ///
    /// For an operator who has taken those jobs away. If they enter again, order is lost.
    pub fn release(&self, key: &K) -> bool {
        self.inner.update(key, |state, _| state.reader.barrier().release(key))
    }

    /// Gives up waiting for one failed job of `key`. Returns false if it had not failed. Later failed jobs are still
    /// waited for.
    ///
    /// For an operator who has taken that job away. If it enters again, order is lost.
    pub fn skip(&self, key: &K, job: J) -> bool {
        self.inner.update(key, |state, _| state.reader.barrier().skip(key, job))
    }

    /// Lets nobody enter any more; those that wait are told so. Permits stay as they are.
    pub fn close(&self) {
        // Dropped outside the lock: it wakes those that wait.
        let _waiting: Vec<_> = {
            let mut state = self.inner.lock();
            state.closed = true;
            state.waiting = 0;
            let waiting = state.lines.values_mut().map(|line| std::mem::take(&mut line.waiting)).collect();
            state.lines.retain(|_, line| line.busy);
            waiting
        };
    }

    /// Returns the barrier, to look at. What is changed there wakes nobody here.
    pub fn barrier(&self) -> Barrier<K, J, S> {
        self.inner.lock().reader.barrier().clone()
    }
}

impl<K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static> Inner<K, J, S> {
    fn lock(&self) -> MutexGuard<'_, State<K, J, S>> {
        // What can panic under the lock is the caller's Hash, Eq, Ord or Clone, or its observer.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something about `key`, opens what that opens, and lets those enter whose turn it is then.
    fn update<T>(self: &Arc<Self>, key: &K, change: impl FnOnce(&mut State<K, J, S>, Monotonic) -> T) -> T {
        let now = self.clock.monotonic();
        // Outlives the guard: waking runs foreign code, and a permit that nobody takes any more comes back here.
        let mut grants = Vec::new();
        let mut state = self.lock();
        let answer = change(&mut state, now);
        let opened = state.reader.sync(now).opened;
        for key in opened.iter().chain([key]) {
            state.advance(self, key, now, &mut grants);
        }
        drop(state);
        for (sender, permit) in grants {
            // Whoever stopped waiting a moment ago leaves by the permit's drop, and so the next one enters.
            drop(sender.send(permit));
        }
        answer
    }
}

impl<K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static> State<K, J, S> {
    /// Puts a job into its key's line.
    fn join(&mut self, key: &K, job: J, sender: oneshot::Sender<GatePermit<K, J, S>>) -> u64 {
        self.tickets += 1;
        self.lines.entry(key.clone()).or_default().waiting.insert((job, self.tickets), sender);
        self.waiting += 1;
        self.tickets
    }

    /// Takes a job out of its key's line. Returns false if it does not wait there any more.
    fn quit(&mut self, key: &K, job: J, ticket: u64) -> bool {
        let waiter = self.lines.get_mut(key).and_then(|line| line.waiting.remove(&(job, ticket)));
        self.waiting -= usize::from(waiter.is_some());
        waiter.is_some()
    }

    /// Lets the jobs of `key` enter whose turn it is: the first in line, unless one is inside or the barrier refuses it,
    /// and all whose order is not kept.
    fn advance(
        &mut self,
        inner: &Arc<Inner<K, J, S>>,
        key: &K,
        now: Monotonic,
        grants: &mut Vec<Grant<K, J, S>>,
    ) {
        let Some(line) = self.lines.get_mut(key) else { return };
        while !line.busy
            && let Some((&(job, _), _)) = line.waiting.first_key_value()
        {
            let permit = match self.reader.barrier().enter(key, job, now) {
                Admission::Accepted(permit) => {
                    line.busy = true;
                    permit
                }
                Admission::Bypassed(permit) => permit,
                // It stays first in line; whatever ends this comes by here again.
                Admission::Blocked { .. } | Admission::Draining | Admission::Full => break,
            };
            let permit = GatePermit::new(permit.into_owned(), Arc::clone(inner));
            if let Some((_, sender)) = line.waiting.pop_first() {
                self.waiting -= 1;
                grants.push((sender, permit));
            }
        }
        if !line.busy && line.waiting.is_empty() {
            self.lines.remove(key);
        }
    }
}

impl<K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static> Clone
    for Gate<K, J, S>
{
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K: Hash + Eq + Clone + 'static, J: Ord + Copy + 'static, S: BuildHasher + 'static> fmt::Debug
    for Gate<K, J, S>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.inner.lock();
        f.debug_struct("Gate")
            .field("waiting", &state.waiting)
            .field("closed", &state.closed)
            .finish_non_exhaustive()
    }
}
