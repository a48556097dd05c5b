use std::sync::{Arc, Mutex, PoisonError};

use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Classify, Codec, Monotonic};

use crate::error::{RejectReason, Rejected};
use crate::format::Records;

/// Handles batches of a queue, and may push back to it.
///
/// Any [`BatchHandler`] is one, by [`Queue::builder`](crate::Queue::builder). This one also learns which batches it was lent, and
/// what it [pushes back](QueueContext::push_back) is stored in the same transaction that removes what it handled.
pub trait QueueHandler<T>: Send + Sync {
    /// Why an item was not handled.
    type Error: Classify + std::fmt::Display + Send + Sync;

    /// Handles the batch, which is never empty. As [`BatchHandler::handle`].
    fn handle(
        &self,
        batch: &[T],
        cx: &QueueContext<T>,
    ) -> impl Future<Output = BatchOutcome<(), Self::Error>> + Send;
}

impl<T: Sync, H: QueueHandler<T>> QueueHandler<T> for Arc<H> {
    type Error = H::Error;

    fn handle(
        &self,
        batch: &[T],
        cx: &QueueContext<T>,
    ) -> impl Future<Output = BatchOutcome<(), Self::Error>> + Send {
        (**self).handle(batch, cx)
    }
}

/// What a handler of a queue may want to know and do.
pub struct QueueContext<T> {
    attempt: u32,
    deadline: Monotonic,
    batches: Arc<[i64]>,
    codec: Arc<dyn Codec<T>>,
    max_bytes: usize,
    pushed: Mutex<Records>,
}

impl<T> QueueContext<T> {
    pub(crate) fn new(
        attempt: u32,
        deadline: Monotonic,
        batches: Arc<[i64]>,
        codec: Arc<dyn Codec<T>>,
        max_bytes: usize,
    ) -> Self {
        Self { attempt, deadline, batches, codec, max_bytes, pushed: Mutex::new(Records::default()) }
    }

    /// Returns the attempt: 1 for the first, and at least 2 if any item of the batch was tried before.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the moment on the queue's clock at which the call is dropped.
    #[must_use]
    pub const fn deadline(&self) -> Monotonic {
        self.deadline
    }

    /// Returns the ids of the stored batches that the items come from, ascending. A batch keeps its id through retries
    /// and restarts.
    #[must_use]
    pub fn batches(&self) -> &[i64] {
        &self.batches
    }

    /// Pushes an item to the end of the queue, if and when this call removes anything. The queue's bounds do not apply.
    ///
    /// It is stored in the same transaction that removes what the call handled. So a call that fails as a whole, and is
    /// repeated, pushes nothing twice. It works while the queue closes, too.
    ///
    /// # Errors
    ///
    /// The item comes back if it cannot be encoded, or if what the call pushes is larger than a batch may be.
    pub fn push_back(&self, item: T) -> Result<(), Rejected<T>> {
        let mut pushed = self.pushed.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match pushed.push(&item, &*self.codec) {
            Ok(bytes) => bytes,
            Err(error) => {
                return Err(Rejected {
                    item,
                    reason: RejectReason::Unencodable { reason: error.to_string() },
                });
            }
        };
        if pushed.len() > self.max_bytes {
            pushed.pop(bytes);
            return Err(Rejected { item, reason: RejectReason::TooLarge { bytes, max: self.max_bytes } });
        }
        Ok(())
    }

    pub(crate) fn take_pushed(&self) -> Records {
        std::mem::take(&mut *self.pushed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> std::fmt::Debug for QueueContext<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueContext")
            .field("attempt", &self.attempt)
            .field("deadline", &self.deadline)
            .field("batches", &self.batches)
            .finish_non_exhaustive()
    }
}

/// A [`BatchHandler`] as a handler of a queue. Outputs are dropped.
#[derive(Debug, Clone, Copy)]
pub struct Plain<H>(pub(crate) H);

impl<T, H> QueueHandler<T> for Plain<H>
where
    T: Send + Sync,
    H: BatchHandler<T>,
    H::Error: std::fmt::Display + Sync,
{
    type Error = H::Error;

    async fn handle(&self, batch: &[T], cx: &QueueContext<T>) -> BatchOutcome<(), H::Error> {
        let context = BatchContext::new(cx.attempt).with_deadline(cx.deadline);
        without_outputs(self.0.handle(batch, &context).await)
    }
}

fn without_outputs<O, E>(outcome: BatchOutcome<O, E>) -> BatchOutcome<(), E> {
    use relaykit_pipeline_traits::Verdict;

    match outcome {
        BatchOutcome::Each(verdicts) => {
            let plain = verdicts.into_iter().map(|verdict| match verdict {
                Verdict::Done(_) => Verdict::Done(()),
                Verdict::Retry { after, error } => Verdict::Retry { after, error },
                Verdict::Dead(error) => Verdict::Dead(error),
                Verdict::Isolate(error) => Verdict::Isolate(error),
                _ => Verdict::Untried,
            });
            BatchOutcome::Each(plain.collect())
        }
        BatchOutcome::RetryBatch { after, error } => BatchOutcome::RetryBatch { after, error },
        BatchOutcome::Split(error) => BatchOutcome::Split(error),
        BatchOutcome::Refused(error) => BatchOutcome::Refused(error),
        // A kind of outcome that this version does not know decides nothing.
        _ => BatchOutcome::Each(Vec::new()),
    }
}
