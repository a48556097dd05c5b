use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::Timestamp;

/// A moment on a clock that never goes back: the time since an origin that only the clock knows.
///
/// It measures waits and timeouts inside one process and is never stored. Two clocks' moments do not
/// compare. Arithmetic saturates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// A moment that never comes.
    pub const NEVER: Self = Self(Duration::MAX);

    /// Makes the moment that lies `offset` after the clock's origin.
    #[must_use]
    pub const fn from_origin(offset: Duration) -> Self {
        Self(offset)
    }

    /// Returns the time since the clock's origin.
    #[must_use]
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// Returns how long after `earlier` this moment lies; zero if it lies before.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Monotonic {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }
}

impl Sub<Duration> for Monotonic {
    type Output = Self;

    fn sub(self, wait: Duration) -> Self {
        Self(self.0.saturating_sub(wait))
    }
}

/// The future of [`Clock::sleep_until`].
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// Where time comes from: the real clock, or one that a test moves by hand.
///
/// Wall time ([`now`](Self::now)) is for what is stored and may jump; monotonic time is for waits and never
/// goes back. A sleep ends at or after its moment, never before. Dropping a sleep cancels it.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Returns the wall time.
    fn now(&self) -> Timestamp;

    /// Returns the monotonic time.
    fn monotonic(&self) -> Monotonic;

    /// Waits until the monotonic time reaches `at`; returns at once if it has.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped sleep leaves nothing behind.
    fn sleep_until(&self, at: Monotonic) -> Sleep;

    /// Waits for `wait`, by monotonic time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped sleep leaves nothing behind.
    fn sleep(&self, wait: Duration) -> Sleep {
        self.sleep_until(self.monotonic() + wait)
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        (**self).now()
    }

    fn monotonic(&self) -> Monotonic {
        (**self).monotonic()
    }

    fn sleep_until(&self, at: Monotonic) -> Sleep {
        (**self).sleep_until(at)
    }
}

/// The machine's clock; sleeps on tokio's timer. Feature `tokio`.
///
/// All copies share one origin, so their monotonic moments compare.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    origin: tokio::time::Instant,
}

#[cfg(feature = "tokio")]
impl SystemClock {
    /// Returns the clock. Its origin is the moment the process first asked for one.
    #[must_use]
    pub fn new() -> Self {
        static ORIGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
        let origin = *ORIGIN.get_or_init(std::time::Instant::now);
        Self { origin: tokio::time::Instant::from_std(origin) }
    }
}

#[cfg(feature = "tokio")]
impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "tokio")]
#[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from(std::time::SystemTime::now())
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(tokio::time::Instant::now().saturating_duration_since(self.origin))
    }

    fn sleep_until(&self, at: Monotonic) -> Sleep {
        match self.origin.checked_add(at.0) {
            Some(instant) => Box::pin(tokio::time::sleep_until(instant)),
            // Too far for the platform's clock: that moment never comes.
            None => Box::pin(std::future::pending()),
        }
    }
}

#[cfg(all(test, feature = "tokio"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_clock_sleeps_at_least_as_long_as_asked() {
        let clock = SystemClock::new();
        let before = clock.monotonic();
        clock.sleep(Duration::from_millis(2)).await;
        assert!(clock.monotonic().since(before) >= Duration::from_millis(2));
    }

    #[tokio::test]
    async fn a_moment_beyond_the_platforms_clock_never_comes() {
        let clock = SystemClock::new();
        let sleep = clock.sleep_until(Monotonic::NEVER);
        let first = futures_poll_once(sleep).await;
        assert!(first.is_none());
    }

    async fn futures_poll_once(mut sleep: Sleep) -> Option<()> {
        std::future::poll_fn(move |cx| match sleep.as_mut().poll(cx) {
            std::task::Poll::Ready(()) => std::task::Poll::Ready(Some(())),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
