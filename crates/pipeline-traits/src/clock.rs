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
/// All copies share one origin, so their monotonic moments compare. On Unix so do those of all processes since the machine was started;
/// elsewhere those of other processes do as far as the wall clock was right when each of them began.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    /// A moment, and what its monotonic time is.
    began: tokio::time::Instant,
    at: Duration,
}

#[cfg(feature = "tokio")]
impl SystemClock {
    /// Returns the clock.
    #[must_use]
    pub fn new() -> Self {
        static BEGAN: std::sync::OnceLock<(std::time::Instant, Duration)> = std::sync::OnceLock::new();
        #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
        let (began, at) = *BEGAN.get_or_init(|| (std::time::Instant::now(), since_the_machine_began()));
        Self { began: tokio::time::Instant::from_std(began), at }
    }
}

/// Returns the time that all processes of the machine share.
#[cfg(all(feature = "tokio", unix))]
fn since_the_machine_began() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Returns the nearest to it that the standard library has.
#[cfg(all(feature = "tokio", not(unix)))]
fn since_the_machine_began() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
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
        Monotonic(self.at + tokio::time::Instant::now().saturating_duration_since(self.began))
    }

    fn sleep_until(&self, at: Monotonic) -> Sleep {
        match self.began.checked_add(at.0.saturating_sub(self.at)) {
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

    #[cfg(unix)]
    #[test]
    fn other_processes_of_the_machine_have_the_same_monotonic_time() {
        let before = since_the_machine_began();
        let time = SystemClock::new().monotonic().0;
        assert!(time >= before, "{time:?} at {before:?}");
        // Ahead by what passed between two looks at two clocks, when the process began; but not by the machine's whole time.
        assert!(time.saturating_sub(before) < Duration::from_secs(60), "{time:?} at {before:?}");
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
