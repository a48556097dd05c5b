use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use relaykit_iterable_handlers::{Delivered, DeliveryError, EventTrackHandler};
use relaykit_persistent_queue::{DeadReason, Queue, QueueFault};
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Verdict};

use crate::delivery::{Event, retry_policy};
use crate::server::Server;

/// What the API said of an event in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Delivered,
    /// It will never take it.
    Dead,
}

type Tell = Box<dyn Fn(&Event, Said) + Send + Sync>;

/// A queue on disk whose events go to the API.
pub(crate) struct ToApi {
    pub(crate) queue: Queue<Event>,
    tally: Arc<Mutex<Tally>>,
    dead: Arc<Mutex<Vec<DeadItems>>>,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) delivered: u64,
    pub(crate) retried: u64,
    pub(crate) calls: u64,
    /// Calls after which the API wanted nothing more from us.
    pub(crate) refused: u64,
}

/// Events that were set aside.
pub(crate) struct DeadItems {
    pub(crate) items: u64,
    pub(crate) reason: DeadReason,
    pub(crate) error: String,
}

/// Whether the events of a user keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    Unordered,
    PerUser,
}

impl ToApi {
    /// Opens the queue in `file`, and begins with what an earlier run left there. Whoever is told hears of each event's end before
    /// the queue removes it.
    pub(crate) fn open(
        server: &Server,
        file: &Path,
        kept: Kept,
        tell: impl Fn(&Event, Said) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let tally = Arc::default();
        let dead = Arc::new(Mutex::new(Vec::new()));
        let handler = Watched {
            handler: EventTrackHandler::new(server.client.clone()),
            tally: Arc::clone(&tally),
            tell: Box::new(tell),
        };
        let set_aside = Arc::clone(&dead);
        let builder = Queue::builder(file, handler)
            .max_items(100)
            .linger(Duration::from_millis(50))
            .retry(retry_policy()?)
            .on_fault(move |fault| {
                if let QueueFault::Dead { items, reason, error } = fault {
                    let mut dead = set_aside.lock().unwrap_or_else(PoisonError::into_inner);
                    dead.push(DeadItems { items: *items, reason: *reason, error: error.clone() });
                }
            });
        let builder = match kept {
            Kept::Unordered => builder.workers(4),
            // Events that are pushed durably make small batches, so that a call takes several.
            Kept::PerUser => builder.order_by(Event::ordering_key).workers(8).batches(50),
        };
        let builder = match server.recorder() {
            Some(recorder) => builder.name("durable").recorder(recorder),
            None => builder,
        };
        let queue =
            builder.open().with_context(|| format!("could not open the queue in {}", file.display()))?;
        Ok(Self { queue, tally, dead })
    }

    pub(crate) fn tally(&self) -> Tally {
        *lock(&self.tally)
    }

    /// Takes out what was set aside so far.
    pub(crate) fn take_dead(&self) -> Vec<DeadItems> {
        std::mem::take(&mut *self.dead.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The Iterable handler as it is, with somebody who notes what it says of each event.
struct Watched {
    handler: EventTrackHandler,
    tally: Arc<Mutex<Tally>>,
    tell: Tell,
}

impl BatchHandler<Event> for Watched {
    type Output = Delivered;
    type Error = DeliveryError;

    async fn handle(&self, batch: &[Event], cx: &BatchContext) -> BatchOutcome<Delivered, DeliveryError> {
        let outcome = self.handler.handle(batch, cx).await;
        let mut delivered = 0;
        if let BatchOutcome::Each(verdicts) = &outcome {
            for (event, verdict) in batch.iter().zip(verdicts) {
                match verdict {
                    Verdict::Done(_) => {
                        delivered += 1;
                        (self.tell)(event, Said::Delivered);
                    }
                    Verdict::Dead(_) => (self.tell)(event, Said::Dead),
                    _ => {}
                }
            }
        }
        let mut tally = lock(&self.tally);
        tally.calls += 1;
        tally.delivered += delivered;
        tally.refused += u64::from(matches!(outcome, BatchOutcome::Refused { .. }));
        if cx.attempt() == 2 {
            tally.retried += batch.len() as u64;
        }
        drop(tally);
        outcome
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
