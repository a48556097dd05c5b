use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Clock};
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
    abort: &mut watch::Receiver<bool>,
) -> Result<Called<H::Output, H::Error>, Aborted> {
    let context = BatchContext::new(attempt).with_deadline(clock.monotonic() + timeout);
    // The handler's future is made inside, so that a panic on the way to it is caught as well.
    let running = AssertUnwindSafe(async { handler.handle(batch, &context).await }).catch_unwind();
    let mut running = pin!(running);
    // Most calls of a quick handler end here, without a timer.
    let first = std::future::poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx))).await;
    let ended = match first {
        Poll::Ready(ended) => ended,
        Poll::Pending => {
            let deadline = clock.monotonic() + timeout;
            tokio::select! {
                biased;
                ended = &mut running => ended,
                () = clock.sleep_until(deadline) => return Ok(Called::TimedOut(timeout)),
                _ = abort.wait_for(|aborted| *aborted) => return Err(Aborted),
            }
        }
    };
    Ok(match ended {
        Ok(outcome) => Called::Outcome(outcome),
        Err(panic) => Called::Panicked(panic_text(panic.as_ref())),
    })
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
