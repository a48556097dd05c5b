use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use relaykit_pipeline_traits::Clock;

/// Runs `work` for at most `limit` by the clock; `None`, and `work` is dropped, if that is not enough.
pub(crate) async fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    first(work, clock.sleep(limit)).await
}

/// Runs `work` until `stop` ends; `None`, and `work` is dropped, if that is first.
pub(crate) async fn first<T>(work: impl Future<Output = T>, stop: impl Future<Output = ()>) -> Option<T> {
    let (mut work, mut stop) = (pin!(work), pin!(stop));
    std::future::poll_fn(|cx| {
        // The work first: a result that is there counts, however late it is looked at.
        if let Poll::Ready(result) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        stop.as_mut().poll(cx).map(|()| None)
    })
    .await
}
