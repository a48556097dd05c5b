use std::collections::hash_map::Entry::{Occupied, Vacant};
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;

use relaykit_pipeline_traits::{Fill, FlushPolicy, FlushReason, Monotonic};
use tokio::sync::oneshot;

use crate::entry::{Batch, Entry, Seat};
use crate::metrics::Levels;
use crate::stats::Stats;

/// Where the processor is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Stopped,
    Running,
    Stopping,
}

/// Everything that is accepted and not yet with a worker, and the count of all that is not yet answered.
///
/// It is plain data under a lock: nothing here waits, and no user code runs here.
pub(crate) struct Intake<T, O, E> {
    pub(crate) phase: Phase,
    /// Counts the runs; a worker of an earlier one no longer takes part.
    pub(crate) run: u64,
    pub(crate) workers: usize,
    open: Batch<T, O, E>,
    fill: Fill,
    /// When the open batch's first item came, if anybody wants to know.
    opened_at: Monotonic,
    /// Whether somebody records. Batches note when their first item came then, although they do not linger.
    watched: bool,
    ready: VecDeque<(Batch<T, O, E>, Closed)>,
    /// Empty lists of batches that are through, at most [`MAX_SPARES`].
    spares: Vec<Batch<T, O, E>>,
    bounds: Bounds,
    /// Items that no worker has, and the bytes charged for them.
    buffered: usize,
    buffered_bytes: usize,
    /// For each key with an item that is not yet answered: the later items that wait for it.
    parked: HashMap<NonZeroU64, VecDeque<Entry<T, O, E>>>,
    /// Unanswered items by epoch; the last is the present epoch.
    outstanding: VecDeque<(u64, usize)>,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    /// Whether the timer has been told of the open batch.
    pub(crate) timer_armed: bool,
    /// How often the gauges' values were read.
    looks: u64,
    stats: Stats,
}

/// Why a batch was closed, and when its first item came. Beside the batch, which moves often and should stay small.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Closed {
    pub(crate) reason: FlushReason,
    pub(crate) opened_at: Monotonic,
}

/// Whom to wake once the lock is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Wake {
    /// Batches that a worker may now take.
    pub(crate) batches: usize,
    /// Whether the timer must learn of a first item.
    pub(crate) timer: bool,
}

/// How much the buffer may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) items: usize,
    pub(crate) bytes: Option<usize>,
}

/// What answered items leave behind: counts by epoch, keys that are free again, and the numbers of a call.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// The epoch of the last answered item, and how many of it were answered in a row. Most calls have one.
    last_epoch: Option<(u64, usize)>,
    earlier_epochs: Vec<(u64, usize)>,
    keys: Vec<NonZeroU64>,
    done: u64,
    failed: u64,
    pub(crate) calls: u64,
    pub(crate) lent: u64,
    pub(crate) responses_dropped: u64,
}

impl Settled {
    /// Returns how many items were answered with an output.
    pub(crate) const fn done(&self) -> u64 {
        self.done
    }

    /// Returns whether no answered item waits to be booked.
    pub(crate) fn is_empty(&self) -> bool {
        self.last_epoch.is_none()
    }

    pub(crate) fn add(&mut self, epoch: u64, key: Option<NonZeroU64>, done: bool) {
        *(if done { &mut self.done } else { &mut self.failed }) += 1;
        match &mut self.last_epoch {
            Some((last, count)) if *last == epoch => *count += 1,
            last => self.earlier_epochs.extend(last.replace((epoch, 1))),
        }
        self.keys.extend(key);
    }
}

impl<T, O, E> Intake<T, O, E> {
    pub(crate) fn new(bounds: Bounds, watched: bool) -> Self {
        Self {
            phase: Phase::Stopped,
            run: 0,
            workers: 0,
            open: Batch::new(),
            fill: Fill::default(),
            opened_at: Monotonic::default(),
            watched,
            ready: VecDeque::new(),
            spares: Vec::new(),
            bounds,
            buffered: 0,
            buffered_bytes: 0,
            parked: HashMap::new(),
            outstanding: VecDeque::from([(0, 0)]),
            flushes: Vec::new(),
            timer_armed: false,
            looks: 0,
            stats: Stats::default(),
        }
    }

    /// Returns the present epoch, with which an item added now is marked.
    pub(crate) fn epoch(&self) -> u64 {
        self.outstanding.back().map_or(0, |(epoch, _)| *epoch)
    }

    /// Takes an item in: into the open batch, or behind an earlier item of its key.
    pub(crate) fn accept(
        &mut self,
        item: T,
        seat: Seat<T, O, E>,
        policy: &FlushPolicy,
        now: impl FnOnce() -> Monotonic,
    ) -> Wake {
        if let Some((_, count)) = self.outstanding.back_mut() {
            *count += 1;
        }
        self.stats.accepted += 1;
        self.buffered += 1;
        self.buffered_bytes += seat.charged as usize;
        let mut wake = Wake::default();
        match seat.key.map(|key| self.parked.entry(key)) {
            Some(Occupied(mut waiting)) => waiting.get_mut().push_back((item, seat)),
            Some(Vacant(free)) => {
                free.insert(VecDeque::new());
                self.place(item, seat, policy, now, &mut wake);
            }
            None => self.place(item, seat, policy, now, &mut wake),
        }
        self.relieve(policy, &mut wake);
        wake
    }

    /// Closes the open batch if the buffer is full and no other batch is there to make room: items that wait for
    /// their key fill a buffer without ever filling a batch.
    fn relieve(&mut self, policy: &FlushPolicy, wake: &mut Wake) {
        if self.ready.is_empty() && self.is_full(policy) {
            self.seal(policy, FlushReason::Room, wake);
        }
    }

    fn is_full(&self, policy: &FlushPolicy) -> bool {
        let full_of_bytes = match (self.bounds.bytes, policy.max_bytes) {
            // Room for one more item of the largest size must be left. A buffer that is not large enough for that
            // beside an open batch waits for the linger instead.
            (Some(bound), Some(max)) if bound / 2 >= max => self.buffered_bytes + max > bound,
            _ => false,
        };
        full_of_bytes || self.buffered >= self.bounds.items
    }

    fn place(
        &mut self,
        item: T,
        seat: Seat<T, O, E>,
        policy: &FlushPolicy,
        now: impl FnOnce() -> Monotonic,
        wake: &mut Wake,
    ) {
        if !self.open.is_empty() && !policy.has_room(self.fill, seat.weight) {
            self.seal(policy, FlushReason::Bytes, wake);
        }
        if self.open.is_empty() {
            match self.spares.pop() {
                Some(spare) => self.open = spare,
                None => self.open.reserve(policy.max_items.min(FIRST_CAPACITY)),
            }
            if self.watched || !policy.linger.is_zero() {
                self.opened_at = now();
            }
            if policy.linger.is_zero() {
                wake.batches += 1;
            } else {
                wake.timer |= !self.timer_armed;
                self.timer_armed = true;
            }
        }
        self.fill.add(seat.weight);
        self.open.push(item, seat);
        let stopping = (self.phase == Phase::Stopping).then_some(FlushReason::Stop);
        if let Some(reason) = policy.full(self.fill).or(stopping) {
            self.seal(policy, reason, wake);
        }
    }

    /// Keeps the lists of a batch that is through for the next, unless they are too large to keep.
    pub(crate) fn put_spare(&mut self, batch: Batch<T, O, E>) {
        debug_assert!(batch.is_empty(), "only a batch that is through is spare");
        if (1..=FIRST_CAPACITY).contains(&batch.items.capacity()) && self.spares.len() < MAX_SPARES {
            self.spares.push(batch);
        }
    }

    /// Closes the open batch, so that a worker takes it as it is.
    pub(crate) fn seal(&mut self, policy: &FlushPolicy, reason: FlushReason, wake: &mut Wake) {
        if self.open.is_empty() {
            return;
        }
        self.ready.push_back((self.open.take(), Closed { reason, opened_at: self.opened_at }));
        self.fill = Fill::default();
        // A batch that does not linger was announced with its first item.
        if !policy.linger.is_zero() {
            wake.batches += 1;
        }
    }

    /// Gives a worker the oldest batch, or the open one if no other is there and none lingers.
    pub(crate) fn take(&mut self, policy: &FlushPolicy, wake: &mut Wake) -> Option<(Batch<T, O, E>, Closed)> {
        let (batch, closed) = match self.ready.pop_front() {
            Some(ready) => ready,
            None if policy.linger.is_zero() && !self.open.is_empty() => {
                self.fill = Fill::default();
                (self.open.take(), Closed { reason: FlushReason::Linger, opened_at: self.opened_at })
            }
            None => return None,
        };
        self.buffered -= batch.len();
        self.buffered_bytes -= batch.charged();
        self.relieve(policy, wake);
        Some((batch, closed))
    }

    /// Returns when the open batch has lingered long enough, or `None` if there is none.
    pub(crate) fn linger_ends(&self, policy: &FlushPolicy) -> Option<Monotonic> {
        (!self.open.is_empty()).then(|| self.opened_at + policy.linger)
    }

    /// Books answered items: lets the next item of each key go, and ends the flushes that waited for them.
    pub(crate) fn settle(
        &mut self,
        settled: &mut Settled,
        policy: &FlushPolicy,
        now: impl Fn() -> Monotonic,
    ) -> Wake {
        let mut wake = Wake::default();
        self.stats.done += std::mem::take(&mut settled.done);
        self.stats.failed += std::mem::take(&mut settled.failed);
        self.stats.calls += std::mem::take(&mut settled.calls);
        self.stats.lent += std::mem::take(&mut settled.lent);
        self.stats.responses_dropped += std::mem::take(&mut settled.responses_dropped);
        for (epoch, answered) in settled.earlier_epochs.drain(..).chain(settled.last_epoch.take()) {
            let first = self.outstanding.front().map_or(0, |(first, _)| *first);
            let at = usize::try_from(epoch.saturating_sub(first)).unwrap_or(usize::MAX);
            if let Some((_, count)) = self.outstanding.get_mut(at) {
                *count = count.saturating_sub(answered);
            }
        }
        for key in settled.keys.drain(..) {
            match self.parked.get_mut(&key).and_then(VecDeque::pop_front) {
                Some((item, seat)) => {
                    let epoch = seat.epoch;
                    self.place(item, seat, policy, &now, &mut wake);
                    // A flush waits for it, so it must not linger.
                    if self.flushes.iter().any(|(flushed, _)| epoch <= *flushed) {
                        self.seal(policy, FlushReason::Asked, &mut wake);
                    }
                }
                None => {
                    self.parked.remove(&key);
                }
            }
        }
        self.relieve(policy, &mut wake);
        self.end_flushes();
        wake
    }

    /// Begins a flush: closes the open batch and returns what resolves when everything accepted so far is
    /// answered, or `None` if it is already.
    pub(crate) fn flush(&mut self, policy: &FlushPolicy, wake: &mut Wake) -> Option<oneshot::Receiver<()>> {
        self.seal(policy, FlushReason::Asked, wake);
        if self.unanswered() == 0 {
            return None;
        }
        let epoch = if let Some((present, 0)) = self.outstanding.back() {
            // Nothing was added since the last flush: this one waits for the same items.
            present - 1
        } else {
            let present = self.epoch();
            self.outstanding.push_back((present + 1, 0));
            present
        };
        let (done, wait) = oneshot::channel();
        self.flushes.retain(|(_, waiting)| !waiting.is_closed());
        self.flushes.push((epoch, done));
        Some(wait)
    }

    fn end_flushes(&mut self) {
        while self.outstanding.len() > 1 && self.outstanding.front().is_some_and(|(_, count)| *count == 0) {
            self.outstanding.pop_front();
        }
        if self.flushes.is_empty() {
            return;
        }
        let oldest = self.outstanding.front().map_or(0, |(epoch, _)| *epoch);
        let (ended, waiting) = self.flushes.drain(..).partition(|(epoch, _)| *epoch < oldest);
        self.flushes = waiting;
        let ended: Vec<(u64, oneshot::Sender<()>)> = ended;
        for (_, done) in ended {
            // The flush's future may be gone; then nobody needs to know.
            let _ = done.send(());
        }
    }

    /// Returns how many accepted items are not yet answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.outstanding.iter().map(|(_, count)| *count).sum()
    }

    /// Returns the numbers so far and what is held now.
    pub(crate) fn stats(&self) -> Stats {
        let parked = self.parked.values().map(VecDeque::len).sum();
        let in_flight = self.unanswered().saturating_sub(self.buffered);
        Stats { buffered: self.buffered, parked, in_flight, ..self.stats }
    }

    /// Returns what the gauges show, if anybody looks.
    pub(crate) fn levels(&mut self) -> Option<Levels> {
        if !self.watched {
            return None;
        }
        self.looks += 1;
        let ready = self.ready.front().map(|(_, closed)| closed.opened_at);
        Some(Levels {
            look: self.looks,
            waiting: self.buffered,
            in_flight: self.unanswered().saturating_sub(self.buffered),
            oldest: ready.or_else(|| (!self.open.is_empty()).then_some(self.opened_at)),
        })
    }

    /// Takes out everything that no worker has, oldest batch first, then what waits for its key.
    pub(crate) fn take_all(&mut self) -> Batch<T, O, E> {
        let mut all = Batch::new();
        let ready = self.ready.drain(..).map(|(batch, _)| batch);
        for batch in ready.chain(std::iter::once(self.open.take())) {
            for (item, seat) in batch.into_entries() {
                all.push(item, seat);
            }
        }
        for (_, waiting) in self.parked.drain() {
            for (item, seat) in waiting {
                all.push(item, seat);
            }
        }
        self.fill = Fill::default();
        (self.buffered, self.buffered_bytes) = (0, 0);
        all
    }

    /// Ends a run whose workers are gone without a stop, and returns what nobody will take any more.
    pub(crate) fn abandon(&mut self) -> Batch<T, O, E> {
        let rest = self.take_all();
        self.stats.failed += rest.len() as u64;
        self.end_run(0);
        rest
    }

    /// Ends the run: nothing is outstanding any more, and flushes that still wait are told that it is over.
    pub(crate) fn end_run(&mut self, handed_back: usize) {
        self.stats.handed_back += handed_back as u64;
        let epoch = self.epoch() + 1;
        self.outstanding = VecDeque::from([(epoch, 0)]);
        self.flushes.clear();
        self.parked.clear();
        self.phase = Phase::Stopped;
        self.workers = 0;
        self.run += 1;
        self.timer_armed = false;
    }
}

/// Room for this many items is made with a batch's first; larger batches grow.
const FIRST_CAPACITY: usize = 1024;

/// So many empty batches are kept.
const MAX_SPARES: usize = 4;

#[cfg(test)]
mod tests;
