use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};

/// Polls a future so often, with a moment for everything else between two polls, and drops it. Returns whether it ended before.
pub(crate) async fn poll(future: impl Future<Output = ()> + Send, polls: u64, rng: &mut Rng) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(()) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return true;
        }
        match rng.below(3) {
            0 => SystemClock::new().sleep(Duration::from_millis(1)).await,
            1 => tokio::task::yield_now().await,
            _ => {}
        }
    }
    false
}
