use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use relaykit_pipeline_traits::Clock;
use tokio::sync::watch;

use crate::handler::{QueueContext, QueueHandler};
use crate::judge::Called;

/// The queue closes and waits no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupted;

/// Lends the batch to the handler, for `timeout` at the longest. A panic comes back as a value.
pub(crate) async fn call<T: Sync, H: QueueHandler<T>>(
    handler: &H,
    batch: &[T],
    cx: &QueueContext<T>,
    timeout: Duration,
    clock: &dyn Clock,
    interrupt: &mut watch::Receiver<bool>,
) -> Result<Called<H::Error>, Interrupted> {
    let mut ended = None;
    // The handler's future lives inside, so that a panic on the way to it or while it is dropped is caught as well.
    let caught = AssertUnwindSafe(async {
        let mut running = pin!(handler.handle(batch, cx));
        let mut interrupted = pin!(interrupt.wait_for(|interrupted| *interrupted));
        let mut timer = None;
        let end = std::future::poll_fn(|task| {
            if let Poll::Ready(outcome) = running.as_mut().poll(task) {
                return Poll::Ready(Ok(Called::Outcome(outcome)));
            }
            // Most calls of a quick handler end before this, without a timer.
            let timer = timer.get_or_insert_with(|| clock.sleep_until(cx.deadline()));
            if timer.as_mut().poll(task).is_ready() {
                return Poll::Ready(Ok(Called::TimedOut(timeout)));
            }
            interrupted.as_mut().poll(task).map(|_| Err(Interrupted))
        });
        ended = Some(end.await);
    })
    .catch_unwind()
    .await;
    match (ended, caught) {
        (Some(ended), _) => ended,
        (None, Err(panic)) => Ok(Called::Panicked(panic_text(panic.as_ref()))),
        (None, Ok(())) => Err(Interrupted),
    }
}

/// Returns a panic's text, at most 256 characters of it.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text");
    text.chars().take(256).collect()
}
