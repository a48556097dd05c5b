use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Clock, Monotonic};
use tokio::sync::watch;

/// How a call of the handler ended.
pub(crate) enum Called<O, E> {
    Outcome(BatchOutcome<O, E>),
    Panicked(Arc<str>),
    TimedOut(Duration),
}

/// The engine was told to drop what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aborted;

/// Lends the batch to the handler, for `timeout` at the longest. A panic comes back as a value.
pub(crate) async fn call<T: Sync, H: BatchHandler<T>>(
    handler: &H,
    batch: &[T],
    attempt: u32,
    timeout: Duration,
    clock: &dyn Clock,
    now: Monotonic,
    abort: &mut watch::Receiver<bool>,
) -> Result<Called<H::Output, H::Error>, Aborted> {
    let deadline = now + timeout;
    let context = BatchContext::new(attempt).with_deadline(deadline);
    let mut ended = None;
    // The handler's future lives inside, so that a panic on the way to it or while it is dropped is caught as well.
    let caught = AssertUnwindSafe(async {
        let mut running = pin!(handler.handle(batch, &context));
        let mut aborted = pin!(abort.wait_for(|aborted| *aborted));
        let mut timer = None;
        let end = std::future::poll_fn(|cx| {
            if let Poll::Ready(outcome) = running.as_mut().poll(cx) {
                return Poll::Ready(Ok(Called::Outcome(outcome)));
            }
            // Most calls of a quick handler end before this, without a timer.
            let timer = timer.get_or_insert_with(|| clock.sleep_until(deadline));
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Called::TimedOut(timeout)));
            }
            aborted.as_mut().poll(cx).map(|_| Err(Aborted))
        });
        ended = Some(end.await);
    })
    .catch_unwind()
    .await;
    match (ended, caught) {
        // However its future took being dropped, this is how the call ended.
        (Some(ended), _) => ended,
        (None, Err(panic)) => Ok(Called::Panicked(panic_text(panic.as_ref()))),
        (None, Ok(())) => Err(Aborted),
    }
}

/// Returns a panic's text, at most 256 characters of it.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> Arc<str> {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text");
    text.chars().take(256).collect::<String>().into()
}
