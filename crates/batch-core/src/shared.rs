use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{BatchHandler, Clock, FlushPolicy, RetryPolicy, Rng};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::answer::{Cause, Failed};
use crate::builder::{KeyOf, Recovery, WeightOf};
use crate::entry::{Batch, Reply};
use crate::intake::{Bounds, Intake, Wake};
use crate::metrics::{Levels, Meter};
use crate::responses::{Overflow, Response};
use crate::stop::StopReport;

pub(crate) struct Config<T> {
    pub(crate) flush: FlushPolicy,
    pub(crate) capacity: usize,
    pub(crate) capacity_bytes: Option<usize>,
    pub(crate) concurrency: usize,
    pub(crate) timeout: Duration,
    pub(crate) retry: Arc<dyn RetryPolicy>,
    pub(crate) recovery: Recovery,
    pub(crate) weigh: Option<WeightOf<T>>,
    pub(crate) key: Option<KeyOf<T>>,
}

/// The engine's end of the response stream.
pub(crate) struct StreamEnd<T, O, E> {
    pub(crate) sender: mpsc::Sender<Response<T, O, E>>,
    pub(crate) overflow: Overflow,
}

/// What the handles, the workers and the timer share.
pub(crate) struct Shared<T, H: BatchHandler<T>> {
    pub(crate) handler: H,
    pub(crate) config: Config<T>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) meter: Meter,
    pub(crate) stream: Option<StreamEnd<T, H::Output, H::Error>>,
    intake: Mutex<Intake<T, H::Output, H::Error>>,
    /// What workers give back when a stop makes them: items and responses.
    leftovers: Mutex<StopReport<T, H::Output, H::Error>>,
    rng: Mutex<Rng>,
    /// Room in the buffer, in items. Fair: who waits longest is served first.
    pub(crate) room: Semaphore,
    /// Room in the buffer, in bytes.
    pub(crate) room_bytes: Option<Semaphore>,
    /// One permit for each batch that a worker may take.
    pub(crate) batches: Semaphore,
    /// Calls with a single item that may run at once.
    pub(crate) individual: Semaphore,
    /// Tells the timer of a batch's first item.
    pub(crate) first_item: Notify,
    /// Tells those who wait for room that a stop has begun.
    pub(crate) stopping: Notify,
    /// Tells a stop that a worker has ended.
    pub(crate) worker_ended: Notify,
    /// Tells workers to drop what they do.
    pub(crate) abort: watch::Sender<bool>,
    /// Whether the batch that was taken last, without linger, had more than one item: many add at the same time.
    pub(crate) crowded: AtomicBool,
}

impl<T, H: BatchHandler<T>> Shared<T, H> {
    pub(crate) fn new(
        handler: H,
        config: Config<T>,
        stream: Option<StreamEnd<T, H::Output, H::Error>>,
        clock: Arc<dyn Clock>,
        rng: Rng,
        meter: Meter,
    ) -> Self {
        let individual = match config.recovery {
            Recovery::Individual { concurrency } => concurrency,
            Recovery::Bisect | Recovery::Off => 0,
        };
        let bounds = Bounds { items: config.capacity, bytes: config.capacity_bytes };
        Self {
            handler,
            room: Semaphore::new(config.capacity),
            room_bytes: config.capacity_bytes.map(Semaphore::new),
            config,
            clock,
            stream,
            intake: Mutex::new(Intake::new(bounds, meter.is_on())),
            meter,
            leftovers: Mutex::new(StopReport::empty()),
            rng: Mutex::new(rng),
            batches: Semaphore::new(0),
            individual: Semaphore::new(individual),
            first_item: Notify::new(),
            stopping: Notify::new(),
            worker_ended: Notify::new(),
            abort: watch::Sender::new(false),
            crowded: AtomicBool::new(false),
        }
    }

    /// Locks the intake. No user code runs under this lock, so it is never poisoned by one.
    pub(crate) fn intake(&self) -> MutexGuard<'_, Intake<T, H::Output, H::Error>> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn leftovers(&self) -> MutexGuard<'_, StopReport<T, H::Output, H::Error>> {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fork_rng(&self) -> Rng {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fork()
    }

    pub(crate) fn wake(&self, wake: Wake) {
        if wake.batches > 0 {
            self.batches.add_permits(wake.batches);
        }
        if wake.timer {
            self.first_item.notify_one();
        }
    }

    /// Sets the gauges. `levels` was read under the intake's lock, which is free again.
    pub(crate) fn show(&self, levels: Option<Levels>) {
        if let Some(levels) = levels {
            self.meter.levels(levels, self.clock.monotonic());
        }
    }

    /// Gives back the room that buffered items took.
    pub(crate) fn give_back_room(&self, items: usize, bytes: usize) {
        self.room.add_permits(items);
        if let Some(room) = &self.room_bytes {
            room.add_permits(bytes);
        }
    }
}

impl<T, H: BatchHandler<T>> Drop for Shared<T, H> {
    /// Answers what was accepted and never taken: the runtime went away first.
    fn drop(&mut self) {
        let intake = self.intake.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Every flight is over too: each holds what is dropped here.
        let held = intake.unanswered() > 0;
        let rest = intake.abandon();
        if let Some(levels) = intake.levels().filter(|_| held) {
            self.meter.levels(levels, self.clock.monotonic());
        }
        self.meter.failed(&Cause::<H::Error>::Abandoned, rest.len());
        let lost = answer_all(rest, &Cause::Abandoned, self.stream.as_ref());
        if lost > 0 {
            tracing::warn!(items = lost, "items were buffered when the processor's runtime went away");
        }
    }
}

/// Answers every item of the batch with the cause, without waiting. Returns how many items nobody gets back, because
/// they have no ticket and there is no stream or no room in it.
pub(crate) fn answer_all<T, O, E>(
    batch: Batch<T, O, E>,
    cause: &Cause<E>,
    stream: Option<&StreamEnd<T, O, E>>,
) -> usize {
    let mut lost = 0;
    for (item, seat) in batch.into_entries() {
        let (cause, attempts) = (cause.clone(), seat.attempts.spent());
        match (seat.reply, stream) {
            (Reply::Ticket(sender), _) => {
                // Whoever dropped the ticket gave up the answer.
                let _ = sender.send(Err(Box::new(Failed { item: Some(item), cause, attempts })));
            }
            (Reply::Stream, Some(stream)) => {
                let response = Response { item, result: Err(cause), attempts };
                lost += usize::from(stream.sender.try_send(response).is_err());
            }
            (Reply::Stream, None) => lost += 1,
        }
    }
    lost
}
