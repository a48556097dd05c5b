use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use relaykit_pipeline_traits::ManualClock;

/// So many turns let every task of a current-thread runtime come to its next wait.
const TURNS: usize = 64;

/// Lets all other tasks run until they wait. For showing that nothing happens, where no event can be awaited.
pub(crate) async fn idle() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

/// Gives way until the condition holds.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// Polls the future once, as if nobody would be woken.
pub(crate) fn poll_once<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Brings the future to its end; whenever nothing moves any more, the clock goes to the next sleeper.
pub(crate) async fn run_out<F: Future>(clock: &ManualClock, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    loop {
        for _ in 0..TURNS {
            if let Poll::Ready(output) = poll_once(future.as_mut()) {
                return output;
            }
            tokio::task::yield_now().await;
        }
        assert!(clock.advance_to_next_sleeper().is_some(), "nobody sleeps and nothing moves");
    }
}

/// Polls the future up to `polls` times, as often as something moves in between, and drops it. Returns its output if
/// it came to its end before.
pub(crate) async fn dropped_after_polls<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if let Poll::Ready(output) = poll_once(future.as_mut()) {
            return Some(output);
        }
        tokio::task::yield_now().await;
    }
    None
}
