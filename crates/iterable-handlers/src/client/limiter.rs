use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, Monotonic};

use super::{Endpoint, Rate};

/// Lets the requests of each endpoint through at its rate, first come, first served.
#[derive(Debug)]
pub(super) struct Limiter {
    gates: Vec<Gate>,
}

impl Limiter {
    /// Makes a limiter; `rate` answers `None` for an endpoint without limit.
    pub(super) fn new(rate: impl Fn(Endpoint) -> Option<Rate>) -> Self {
        Self { gates: Endpoint::ALL.into_iter().map(|endpoint| Gate::new(rate(endpoint))).collect() }
    }

    /// Waits for a place among the endpoint's requests, `max_wait` at most. `Err` is the wait that would have
    /// been too long, as far as it is known.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: who stops waiting takes no place.
    pub(super) async fn acquire(
        &self,
        endpoint: Endpoint,
        clock: &dyn Clock,
        max_wait: Duration,
    ) -> Result<(), Duration> {
        self.gates[endpoint.index()].acquire(clock, max_wait).await
    }

    /// Lets no request of the endpoint through before `until`, for whichever caller.
    pub(super) fn pause(&self, endpoint: Endpoint, until: Monotonic) {
        self.gates[endpoint.index()].window().pause(until);
    }
}

#[derive(Debug)]
struct Gate {
    window: Mutex<Window>,
    // Held by the caller whose turn it is. Its queue is what makes the gate fair.
    turn: tokio::sync::Mutex<()>,
}

impl Gate {
    fn new(rate: Option<Rate>) -> Self {
        Self { window: Mutex::new(Window::new(rate)), turn: tokio::sync::Mutex::new(()) }
    }

    async fn acquire(&self, clock: &dyn Clock, max_wait: Duration) -> Result<(), Duration> {
        let deadline = clock.monotonic() + max_wait;
        let _turn = self.turn(clock, deadline).await.ok_or(max_wait)?;
        loop {
            let now = clock.monotonic();
            let Err(wait) = self.window().take(now) else {
                return Ok(());
            };
            if wait > deadline.since(now) {
                return Err(wait);
            }
            clock.sleep_until(now + wait).await;
        }
    }

    /// Waits for the caller's turn; `None` if it does not come before `deadline`.
    async fn turn(&self, clock: &dyn Clock, deadline: Monotonic) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if let Ok(turn) = self.turn.try_lock() {
            return Some(turn);
        }
        tokio::select! {
            biased;
            turn = self.turn.lock() => Some(turn),
            () = clock.sleep_until(deadline) => None,
        }
    }

    fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens of which each comes back one span after it was taken.
///
/// So no span of the rate's length, wherever it begins, sees more requests than the rate allows, which a bucket
/// that refills steadily after a full burst does not promise.
#[derive(Debug)]
struct Window {
    rate: Option<Rate>,
    taken: VecDeque<Monotonic>,
    paused_until: Monotonic,
}

impl Window {
    fn new(rate: Option<Rate>) -> Self {
        Self { rate, taken: VecDeque::new(), paused_until: Monotonic::default() }
    }

    /// Takes a token, or says how long to wait for one.
    fn take(&mut self, now: Monotonic) -> Result<(), Duration> {
        if now < self.paused_until {
            return Err(self.paused_until.since(now));
        }
        let Some(rate) = self.rate else {
            return Ok(());
        };
        while self.taken.front().is_some_and(|first| *first + rate.per() <= now) {
            self.taken.pop_front();
        }
        match self.taken.front() {
            Some(first) if self.taken.len() >= rate.requests() as usize => {
                Err((*first + rate.per()).since(now))
            }
            _ => {
                self.taken.push_back(now);
                Ok(())
            }
        }
    }

    /// Holds all tokens back until then. The later of two pauses counts.
    fn pause(&mut self, until: Monotonic) {
        self.paused_until = self.paused_until.max(until);
    }
}

#[cfg(test)]
mod tests;
