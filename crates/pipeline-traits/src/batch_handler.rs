use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;

use crate::{BatchOutcome, Classify, Monotonic, Verdict};

/// Handles a batch of items.
///
/// The engine lends the batch and keeps it: a panic or a dropped future loses nothing. It may lend an
/// item again after a crash, so a handler passes an item's id on as the idempotency key. Items of one
/// ordering key come oldest first. One verdict answers each item, in the batch's order.
///
/// Whatever implements this plugs in behind a batcher, a durable queue, an outbox relay or an inbox worker.
///
/// ```
/// use std::convert::Infallible;
/// use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome};
///
/// struct Print;
///
/// impl BatchHandler<String> for Print {
///     type Output = ();
///     type Error = Infallible;
///
///     async fn handle(&self, batch: &[String], cx: &BatchContext) -> BatchOutcome<(), Infallible> {
///         println!("attempt {}: {}", cx.attempt(), batch.join(", "));
///         BatchOutcome::all_done(batch.len())
///     }
/// }
/// ```
pub trait BatchHandler<T>: Send + Sync {
    /// What a handled item yields.
    type Output: Send;
    /// Why an item was not handled.
    type Error: Classify + Send;

    /// Handles the batch, which is never empty.
    ///
    /// The engine drops the future when the handler's time is up or the program must stop; what the items'
    /// state is then, only the other side knows.
    fn handle(
        &self,
        batch: &[T],
        cx: &BatchContext,
    ) -> impl Future<Output = BatchOutcome<Self::Output, Self::Error>> + Send;
}

impl<T: Sync, H: BatchHandler<T>> BatchHandler<T> for std::sync::Arc<H> {
    type Output = H::Output;
    type Error = H::Error;

    fn handle(
        &self,
        batch: &[T],
        cx: &BatchContext,
    ) -> impl Future<Output = BatchOutcome<Self::Output, Self::Error>> + Send {
        (**self).handle(batch, cx)
    }
}

/// What a handler may want to know about the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchContext {
    attempt: u32,
    deadline: Option<Monotonic>,
}

impl BatchContext {
    /// Makes the context of an attempt, 1 for the first.
    #[must_use]
    pub const fn new(attempt: u32) -> Self {
        Self { attempt, deadline: None }
    }

    /// Sets the moment at which the engine drops the call.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Monotonic) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Returns the attempt of the batch's most tried item: 1 for the first, and at least 2 when any item of it
    /// was tried before. Calls that spend no attempt do not count.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Returns the moment on the engine's clock at which it drops the call, if there is one.
    #[must_use]
    pub const fn deadline(&self) -> Option<Monotonic> {
        self.deadline
    }
}

/// Handles one item: the sibling of [`BatchHandler`] for work that does not batch.
///
/// [`OneByOne`] makes a batch handler of it.
pub trait Handler<T>: Send + Sync {
    /// What a handled item yields.
    type Output: Send;
    /// Why an item was not handled.
    type Error: Classify + Send;

    /// Handles the item.
    fn handle(
        &self,
        item: &T,
        cx: &BatchContext,
    ) -> impl Future<Output = Verdict<Self::Output, Self::Error>> + Send;
}

/// Hands a batch to a [`Handler`] item by item, in order, one after the other.
#[derive(Debug, Clone, Copy, Default)]
pub struct OneByOne<H>(pub H);

impl<T: Sync, H: Handler<T>> BatchHandler<T> for OneByOne<H> {
    type Output = H::Output;
    type Error = H::Error;

    async fn handle(&self, batch: &[T], cx: &BatchContext) -> BatchOutcome<H::Output, H::Error> {
        let mut verdicts = Vec::with_capacity(batch.len());
        for item in batch {
            verdicts.push(self.0.handle(item, cx).await);
        }
        BatchOutcome::Each(verdicts)
    }
}

/// The future that a closure given to [`handler_fn`] returns.
pub type HandleFuture<'a, O, E> = Pin<Box<dyn Future<Output = BatchOutcome<O, E>> + Send + 'a>>;

/// Makes a batch handler of a closure.
///
/// ```
/// use std::convert::Infallible;
/// use relaykit_pipeline_traits::{BatchOutcome, handler_fn};
///
/// let sum = handler_fn(|batch: &[u64], _cx| {
///     let total: u64 = batch.iter().sum();
///     Box::pin(async move {
///         println!("{total}");
///         BatchOutcome::<(), Infallible>::all_done(1)
///     })
/// });
/// # let _ = sum;
/// ```
pub fn handler_fn<T, O, E, F>(f: F) -> HandlerFn<T, O, E, F>
where
    F: for<'a> Fn(&'a [T], &'a BatchContext) -> HandleFuture<'a, O, E> + Send + Sync,
{
    HandlerFn { f, types: PhantomData }
}

/// A closure as a batch handler; made by [`handler_fn`].
pub struct HandlerFn<T, O, E, F> {
    f: F,
    types: PhantomData<fn(T) -> (O, E)>,
}

impl<T, O, E, F> fmt::Debug for HandlerFn<T, O, E, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerFn")
    }
}

impl<T, O, E, F> BatchHandler<T> for HandlerFn<T, O, E, F>
where
    T: Sync,
    O: Send,
    E: Classify + Send,
    F: for<'a> Fn(&'a [T], &'a BatchContext) -> HandleFuture<'a, O, E> + Send + Sync,
{
    type Output = O;
    type Error = E;

    async fn handle(&self, batch: &[T], cx: &BatchContext) -> BatchOutcome<O, E> {
        (self.f)(batch, cx).await
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    struct Double;

    impl Handler<u32> for Double {
        type Output = u32;
        type Error = Infallible;

        async fn handle(&self, item: &u32, _cx: &BatchContext) -> Verdict<u32, Infallible> {
            Verdict::Done(item * 2)
        }
    }

    #[tokio::test]
    async fn one_by_one_answers_each_item_in_order() {
        let outcome = OneByOne(Double).handle(&[1, 2, 3], &BatchContext::new(1)).await;
        assert_eq!(outcome, BatchOutcome::Each(vec![Verdict::Done(2), Verdict::Done(4), Verdict::Done(6)]));
    }

    #[tokio::test]
    async fn a_closure_is_a_handler() {
        let handler = handler_fn(|batch: &[u32], cx| {
            Box::pin(async move {
                assert_eq!(cx.attempt(), 3);
                BatchOutcome::<u32, Infallible>::Each(batch.iter().map(|n| Verdict::Done(*n)).collect())
            })
        });
        let outcome = handler.handle(&[5], &BatchContext::new(3)).await;
        assert_eq!(outcome, BatchOutcome::Each(vec![Verdict::Done(5)]));
    }
}
