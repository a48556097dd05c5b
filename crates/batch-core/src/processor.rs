use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Attempts, BatchHandler, FlushReason, Monotonic};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::answer::Ticket;
use crate::builder::Builder;
use crate::entry::{Reply, Seat};
use crate::intake::{Phase, Wake};
use crate::rejected::{NotRunning, RejectReason, Rejected, StartError};
use crate::shared::Shared;
use crate::stats::Stats;
use crate::stop::{ABORT_GRACE, StopReport};
use crate::worker::{Place, keep_time, tell_stopped, work};

/// Gathers items into batches, hands them to a [`BatchHandler`], and answers each one.
///
/// A processor is built stopped; [`start`](Self::start) and [`stop`](Self::stop) may follow each other any number of
/// times. Clones are handles of the same processor. When the last is dropped while it runs, it takes no more, brings
/// what it has accepted to its end, and ends. If its runtime goes away while it runs, everything unanswered is answered
/// with [`Cause::Abandoned`](crate::Cause::Abandoned), and it is stopped.
///
/// Everything is bounded: the buffer by [`capacity`](Builder::capacity), what is on its way by
/// [`concurrency`](Builder::concurrency) × [`max_items`](Builder::max_items).
pub struct Processor<T, H: BatchHandler<T>> {
    inner: Arc<Inner<T, H>>,
}

/// What the last handle's drop ends.
struct Inner<T, H: BatchHandler<T>> {
    shared: Arc<Shared<T, H>>,
}

impl<T, H: BatchHandler<T>> Clone for Processor<T, H> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<T, H: BatchHandler<T>> fmt::Debug for Processor<T, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let intake = self.inner.shared.intake();
        f.debug_struct("Processor").field("phase", &intake.phase).field("stats", &intake.stats()).finish()
    }
}

impl<T, H> Processor<T, H>
where
    T: Send + Sync + 'static,
    H: BatchHandler<T> + 'static,
    H::Output: 'static,
    H::Error: Sync + 'static,
{
    /// Starts a processor around the handler, with defaults for everything else.
    pub fn builder(handler: H) -> Builder<T, H> {
        Builder::new(handler)
    }

    pub(crate) fn new(shared: Shared<T, H>) -> Self {
        Self { inner: Arc::new(Inner { shared: Arc::new(shared) }) }
    }

    /// Starts the workers on the current tokio runtime. Does nothing if they run already.
    ///
    /// # Errors
    ///
    /// Refuses outside a runtime, and while a stop is under way.
    pub fn start(&self) -> Result<(), StartError> {
        let runtime = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let shared = &self.inner.shared;
        let run = {
            let mut intake = shared.intake();
            match intake.phase {
                Phase::Running => return Ok(()),
                Phase::Stopping => return Err(StartError::Stopping),
                Phase::Stopped => {}
            }
            shared.abort.send_replace(false);
            intake.phase = Phase::Running;
            intake.workers = shared.config.concurrency;
            intake.run
        };
        for _ in 0..shared.config.concurrency {
            runtime.spawn(work(Place::new(Arc::clone(shared), run)));
        }
        let linger = shared.config.flush.linger;
        if !linger.is_zero() && linger != Duration::MAX {
            runtime.spawn(keep_time(Arc::clone(shared), run));
        }
        Ok(())
    }

    /// Adds an item, waiting for room, and returns the ticket that yields its answer.
    ///
    /// # Errors
    ///
    /// Hands the item back if the processor is not running, is stopped while this waits, or if the item is too large.
    ///
    /// # Cancel safety
    ///
    /// A call that is dropped before it returns has not accepted the item, which is dropped with it. To keep it,
    /// wait with [`reserve`](Self::reserve) and add it then, or use [`add_timeout`](Self::add_timeout). Room that
    /// was waited for goes to the next in line.
    pub async fn add(&self, item: T) -> Result<Ticket<T, H::Output, H::Error>, Rejected<T>> {
        let (sender, receiver) = oneshot::channel();
        self.accept(item, Reply::Ticket(sender)).await?;
        Ok(Ticket::new(receiver))
    }

    /// Adds an item if there is room now, and returns the ticket that yields its answer.
    ///
    /// # Errors
    ///
    /// Hands the item back if the buffer is full, if the processor is not running, or if the item is too large.
    pub fn try_add(&self, item: T) -> Result<Ticket<T, H::Output, H::Error>, Rejected<T>> {
        let (sender, receiver) = oneshot::channel();
        self.try_accept(item, Reply::Ticket(sender))?;
        Ok(Ticket::new(receiver))
    }

    /// Adds an item, waiting for room no longer than `timeout`, and returns the ticket that yields its answer.
    ///
    /// # Errors
    ///
    /// Hands the item back if there was no room in time, and for the reasons of [`add`](Self::add).
    ///
    /// # Cancel safety
    ///
    /// As [`add`](Self::add).
    pub async fn add_timeout(
        &self,
        item: T,
        timeout: Duration,
    ) -> Result<Ticket<T, H::Output, H::Error>, Rejected<T>> {
        let size = match self.measure(&item) {
            Ok(size) => size,
            Err(reason) => return Err(Rejected { item, reason }),
        };
        if !self.try_room(size.charge) {
            let shared = &self.inner.shared;
            let room = tokio::select! {
                biased;
                room = self.wait_for_room(size.charge) => room.map_err(|NotRunning| RejectReason::NotRunning),
                () = shared.clock.sleep(timeout) => Err(RejectReason::TimedOut { waited: timeout }),
            };
            if let Err(reason) = room {
                return Err(Rejected { item, reason });
            }
        }
        let (sender, receiver) = oneshot::channel();
        self.put(item, Reply::Ticket(sender), size)?;
        Ok(Ticket::new(receiver))
    }

    /// Adds an item, waiting for room, without a ticket: its answer goes to the response stream if there is one, and
    /// is discarded otherwise.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    ///
    /// # Cancel safety
    ///
    /// As [`add`](Self::add).
    pub async fn send(&self, item: T) -> Result<(), Rejected<T>> {
        self.accept(item, Reply::Stream).await
    }

    /// Adds an item if there is room now, without a ticket, as [`send`](Self::send) does.
    ///
    /// # Errors
    ///
    /// As [`try_add`](Self::try_add).
    pub fn try_send(&self, item: T) -> Result<(), Rejected<T>> {
        self.try_accept(item, Reply::Stream)
    }

    /// Waits for room for one item and keeps it until the permit is used or dropped.
    ///
    /// Under a bound in bytes this waits for any room at all, since the item is not known yet: each permit may exceed
    /// the bound by the item added through it.
    ///
    /// # Errors
    ///
    /// Says so if the processor is not running, or is stopped while this waits.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves nothing behind.
    pub async fn reserve(&self) -> Result<Permit<'_, T, H>, NotRunning> {
        if self.inner.shared.intake().phase != Phase::Running {
            return Err(NotRunning);
        }
        let charge = u32::from(self.inner.shared.room_bytes.is_some());
        if !self.try_room(charge) {
            self.wait_for_room(charge).await?;
        }
        Ok(Permit { processor: self, charge, used: false })
    }

    /// Closes the open batch and waits until everything accepted before the call is answered.
    ///
    /// Items that wait to be tried again are waited for as well. A stream that nobody reads can hold it up.
    ///
    /// # Errors
    ///
    /// Says so if the processor is not running, or if a stop hands items back before they are answered.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call leaves the items on their way.
    pub async fn flush(&self) -> Result<(), NotRunning> {
        let shared = &self.inner.shared;
        let mut wake = Wake::default();
        let answered = {
            let mut intake = shared.intake();
            if intake.phase == Phase::Stopped {
                return Err(NotRunning);
            }
            intake.flush(&shared.config.flush, &mut wake)
        };
        shared.wake(wake);
        match answered {
            Some(answered) => answered.await.map_err(|_| NotRunning),
            None => Ok(()),
        }
    }

    /// Takes no more, brings what was accepted to its end within `within`, and returns what was not.
    ///
    /// Buffered items are lent at once, in batches; waits of the retry policy are kept. At the deadline calls of the
    /// handler are dropped and their items returned, each in exactly one of the report's lists; tickets of returned
    /// items yield [`Cause::Stopped`](crate::Cause::Stopped). The processor can be started again afterwards. Stopping
    /// a stopped processor returns an empty report; of two stops at once, one gets what is left.
    ///
    /// # Cancel safety
    ///
    /// A dropped call leaves the processor stopping: it takes no more and goes on with what it has, without a
    /// deadline. Call again to finish and get the report.
    pub async fn stop(&self, within: Duration) -> StopReport<T, H::Output, H::Error> {
        let shared = &self.inner.shared;
        let deadline = shared.clock.monotonic() + within;
        let Some(run) = begin_stop(shared) else {
            return StopReport::empty();
        };
        if !self.workers_ended(run, deadline).await {
            shared.abort.send_replace(true);
            shared.batches.add_permits(shared.config.concurrency);
            self.workers_ended(run, shared.clock.monotonic() + ABORT_GRACE).await;
        }
        // In one step, so that each item is either in this report or still answered by its worker.
        let (mut report, rest, levels) = {
            let mut intake = shared.intake();
            if intake.run != run {
                return StopReport::empty();
            }
            let unanswered = intake.unanswered();
            let rest = intake.take_all();
            let mut report = std::mem::replace(&mut *shared.leftovers(), StopReport::empty());
            let handed_back = rest.len() + report.unsent.len() + report.in_doubt.len();
            report.unreturned = unanswered.saturating_sub(handed_back);
            intake.end_run(handed_back);
            shared.meter.handed_back(handed_back);
            (report, rest, intake.levels())
        };
        shared.show(levels);
        shared.give_back_room(rest.len(), rest.charged());
        for (item, seat) in rest.into_entries() {
            tell_stopped(seat);
            report.unsent.push(item);
        }
        report
    }

    /// Returns what the processor has done since it was built, and what it holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.shared.intake().stats()
    }

    async fn accept(&self, item: T, reply: Reply<T, H::Output, H::Error>) -> Result<(), Rejected<T>> {
        let size = match self.measure(&item) {
            Ok(size) => size,
            Err(reason) => return Err(Rejected { item, reason }),
        };
        if !self.try_room(size.charge) && self.wait_for_room(size.charge).await.is_err() {
            return Err(Rejected { item, reason: RejectReason::NotRunning });
        }
        self.put(item, reply, size)
    }

    fn try_accept(&self, item: T, reply: Reply<T, H::Output, H::Error>) -> Result<(), Rejected<T>> {
        match self.measure(&item) {
            Err(reason) => Err(Rejected { item, reason }),
            Ok(size) if !self.try_room(size.charge) => {
                let running = self.inner.shared.intake().phase == Phase::Running;
                let reason = if running { RejectReason::Full } else { RejectReason::NotRunning };
                Err(Rejected { item, reason })
            }
            Ok(size) => self.put(item, reply, size),
        }
    }

    /// Asks the user's functions about the item, before any room is taken for it.
    fn measure(&self, item: &T) -> Result<Size, RejectReason> {
        let config = &self.inner.shared.config;
        let weight = config.weigh.as_ref().map_or(0, |weigh| weigh(item));
        match config.flush.max_bytes {
            Some(max) if weight > max => return Err(RejectReason::TooLarge { bytes: weight, max }),
            _ => {}
        }
        // `build` checked that max_bytes ≤ capacity_bytes ≤ u32::MAX.
        let charge =
            if config.capacity_bytes.is_some() { u32::try_from(weight).unwrap_or(u32::MAX) } else { 0 };
        Ok(Size { weight, charge, key: config.key.as_ref().and_then(|key| key(item)) })
    }

    fn try_room(&self, charge: u32) -> bool {
        let shared = &self.inner.shared;
        let Ok(room) = shared.room.try_acquire() else {
            return false;
        };
        if let Some(bytes) = &shared.room_bytes
            && charge > 0
        {
            match bytes.try_acquire_many(charge) {
                Ok(bytes) => bytes.forget(),
                Err(_) => return false,
            }
        }
        room.forget();
        true
    }

    async fn wait_for_room(&self, charge: u32) -> Result<(), NotRunning> {
        let shared = &self.inner.shared;
        let mut stopping = std::pin::pin!(shared.stopping.notified());
        stopping.as_mut().enable();
        if shared.intake().phase != Phase::Running {
            return Err(NotRunning);
        }
        let room = async {
            let room = shared.room.acquire().await;
            let bytes = match &shared.room_bytes {
                Some(bytes) if charge > 0 => Some(bytes.acquire_many(charge).await),
                _ => None,
            };
            (room, bytes)
        };
        tokio::select! {
            biased;
            () = stopping => Err(NotRunning),
            (room, bytes) = room => {
                // The semaphores are never closed.
                room.map_err(|_| NotRunning)?.forget();
                if let Some(bytes) = bytes {
                    bytes.map_err(|_| NotRunning)?.forget();
                }
                Ok(())
            }
        }
    }

    /// Puts an item for which there is room into the buffer.
    fn put(
        &self,
        item: T,
        reply: Reply<T, H::Output, H::Error>,
        Size { weight, charge: charged, key }: Size,
    ) -> Result<(), Rejected<T>> {
        let shared = &self.inner.shared;
        let (wake, levels) = {
            let mut intake = shared.intake();
            if intake.phase != Phase::Running {
                drop(intake);
                shared.give_back_room(1, charged as usize);
                return Err(Rejected { item, reason: RejectReason::NotRunning });
            }
            let epoch = intake.epoch();
            let seat = Seat { reply, weight, charged, key, epoch, attempts: Attempts::default() };
            let wake = intake.accept(item, seat, &shared.config.flush, || shared.clock.monotonic());
            // With the batch, not with each item of it.
            let levels = if wake.batches > 0 { intake.levels() } else { None };
            (wake, levels)
        };
        shared.wake(wake);
        shared.show(levels);
        Ok(())
    }

    /// Waits until all workers of the run have ended, or another stop has finished it; false at the deadline.
    async fn workers_ended(&self, run: u64, deadline: Monotonic) -> bool {
        let shared = &self.inner.shared;
        let mut timer = shared.clock.sleep_until(deadline);
        loop {
            let mut ended = std::pin::pin!(shared.worker_ended.notified());
            ended.as_mut().enable();
            {
                let intake = shared.intake();
                if intake.run != run || intake.workers == 0 {
                    return true;
                }
            }
            tokio::select! {
                biased;
                () = ended => {}
                () = &mut timer => return false,
            }
        }
    }
}

/// What the user's functions say of an item.
#[derive(Debug, Clone, Copy)]
struct Size {
    weight: usize,
    /// How much of it counts towards the buffer's bound in bytes.
    charge: u32,
    key: Option<NonZeroU64>,
}

/// Takes no more and lends what is buffered. Returns the run that ends, or `None` if none does.
fn begin_stop<T, H: BatchHandler<T>>(shared: &Shared<T, H>) -> Option<u64> {
    let mut wake = Wake::default();
    let run = {
        let mut intake = shared.intake();
        if intake.phase == Phase::Stopped {
            return None;
        }
        intake.phase = Phase::Stopping;
        intake.seal(&shared.config.flush, FlushReason::Stop, &mut wake);
        if intake.unanswered() == 0 {
            // Nothing is left to do: let every worker see it and end.
            wake.batches += intake.workers;
        }
        intake.run
    };
    shared.wake(wake);
    shared.stopping.notify_waiters();
    // The timer ends when it next looks.
    shared.first_item.notify_one();
    Some(run)
}

impl<T, H: BatchHandler<T>> Drop for Inner<T, H> {
    fn drop(&mut self) {
        begin_stop(&self.shared);
    }
}

/// Room for one item; made by [`Processor::reserve`]. Dropping it gives the room back.
#[must_use = "dropping it gives the room back"]
pub struct Permit<'a, T, H>
where
    T: Send + Sync + 'static,
    H: BatchHandler<T> + 'static,
    H::Output: 'static,
    H::Error: Sync + 'static,
{
    processor: &'a Processor<T, H>,
    /// What it took of the bound in bytes.
    charge: u32,
    used: bool,
}

impl<T, H> Permit<'_, T, H>
where
    T: Send + Sync + 'static,
    H: BatchHandler<T> + 'static,
    H::Output: 'static,
    H::Error: Sync + 'static,
{
    /// Adds an item and returns the ticket that yields its answer.
    ///
    /// # Errors
    ///
    /// Hands the item back if the processor is no longer running, or if the item is too large.
    #[expect(clippy::should_implement_trait, reason = "it is the processor's word, and no sum")]
    pub fn add(mut self, item: T) -> Result<Ticket<T, H::Output, H::Error>, Rejected<T>> {
        let (sender, receiver) = oneshot::channel();
        self.put(item, Reply::Ticket(sender))?;
        Ok(Ticket::new(receiver))
    }

    /// Adds an item without a ticket, as [`Processor::send`] does.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn send(mut self, item: T) -> Result<(), Rejected<T>> {
        self.put(item, Reply::Stream)
    }

    fn put(&mut self, item: T, reply: Reply<T, H::Output, H::Error>) -> Result<(), Rejected<T>> {
        match self.processor.measure(&item) {
            Err(reason) => Err(Rejected { item, reason }),
            Ok(size) => {
                self.used = true;
                let mut charge = self.charge;
                if let Some(room) = &self.processor.inner.shared.room_bytes {
                    // As much of the rest as there is: what exceeds the bound is not counted.
                    let rest = room.forget_permits(size.charge.saturating_sub(charge) as usize);
                    charge = charge.saturating_add(u32::try_from(rest).unwrap_or(u32::MAX));
                }
                self.processor.put(item, reply, Size { charge, ..size })
            }
        }
    }
}

impl<T, H> Drop for Permit<'_, T, H>
where
    T: Send + Sync + 'static,
    H: BatchHandler<T> + 'static,
    H::Output: 'static,
    H::Error: Sync + 'static,
{
    fn drop(&mut self) {
        if !self.used {
            self.processor.inner.shared.give_back_room(1, self.charge as usize);
        }
    }
}

impl<T, H> fmt::Debug for Permit<'_, T, H>
where
    T: Send + Sync + 'static,
    H: BatchHandler<T> + 'static,
    H::Output: 'static,
    H::Error: Sync + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}
