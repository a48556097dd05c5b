use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, InvalidSetting, Rng};
use tokio::sync::watch;

use crate::race::first;

/// Wakes all who poll for work: a hint that there is some. Copies are one.
///
/// A nudge is never needed for work to be found, and never lost either: who is busy when it comes finds it at the
/// next wait.
#[derive(Debug, Clone)]
pub struct Wake {
    nudges: Arc<watch::Sender<u64>>,
}

impl Default for Wake {
    fn default() -> Self {
        Self::new()
    }
}

impl Wake {
    /// Makes a wake that nobody polls yet.
    #[must_use]
    pub fn new() -> Self {
        Self { nudges: Arc::new(watch::Sender::new(0)) }
    }

    /// Says that there may be work.
    pub fn nudge(&self) {
        self.nudges.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Begins a poller, which this wakes.
    pub fn poller(&self, clock: impl Clock) -> PollerBuilder {
        PollerBuilder {
            nudges: self.nudges.subscribe(),
            clock: Arc::new(clock),
            rng: Rng::from_entropy(),
            min: Duration::from_millis(50),
            max: Duration::from_secs(5),
        }
    }
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Somebody nudged.
    Nudge,
    /// It was time to look.
    Poll,
}

/// Waits between looks for work: shortly after there was some, longer and longer while there is none.
#[derive(Debug)]
pub struct Poller {
    nudges: watch::Receiver<u64>,
    clock: Arc<dyn Clock>,
    rng: Rng,
    min: Duration,
    max: Duration,
    next: Duration,
}

/// Builds a [`Poller`]; made by [`Wake::poller`].
#[derive(Debug)]
#[must_use = "a poller is made by `build`"]
pub struct PollerBuilder {
    nudges: watch::Receiver<u64>,
    clock: Arc<dyn Clock>,
    rng: Rng,
    min: Duration,
    max: Duration,
}

impl PollerBuilder {
    /// Sets the wait after the first look that found nothing. Default: 50 ms. At least 1 ms.
    pub const fn min(mut self, min: Duration) -> Self {
        self.min = min;
        self
    }

    /// Sets the longest wait, which is reached by doubling. Default: 5 s.
    ///
    /// So late is work found at worst whose nudge did not come.
    pub const fn max(mut self, max: Duration) -> Self {
        self.max = max;
        self
    }

    /// Sets where jitter comes from. Default: a seed of its own.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = rng;
        self
    }

    /// Makes the poller.
    ///
    /// # Errors
    ///
    /// `min` is below 1 ms, or `max` below `min`.
    pub fn build(self) -> Result<Poller, InvalidSetting> {
        let Self { nudges, clock, rng, min, max } = self;
        if min < Duration::from_millis(1) {
            return Err(InvalidSetting::new("min", format!("{min:?}"), "at least 1 ms"));
        }
        if max < min {
            return Err(InvalidSetting::new(
                "max",
                format!("{max:?}"),
                format!("at least min, which is {min:?}"),
            ));
        }
        Ok(Poller { nudges, clock, rng, min, max, next: min })
    }
}

impl Poller {
    /// Notes that there was work, so that the next wait is the shortest again.
    pub fn found(&mut self) {
        self.next = self.min;
    }

    /// Waits until it is time to look again, or for a nudge. A nudge since the last wait ends this one at once.
    ///
    /// The wait is the present one less up to a quarter of chance; then the present one doubles, up to its bound.
    /// After a nudge it is the shortest again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped wait counts as not waited, and keeps the nudge for the next.
    pub async fn wait(&mut self) -> Woken {
        self.wait_at_most(Duration::MAX).await
    }

    /// Waits like [`wait`](Self::wait), but at most so long, for instance until a message is due.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe, like [`wait`](Self::wait).
    pub async fn wait_at_most(&mut self, limit: Duration) -> Woken {
        let wait = self.next.mul_f64(1.0 - self.rng.unit() / 4.0).min(limit);
        let sleep = self.clock.sleep(wait);
        match first(self.nudges.changed(), sleep).await {
            Some(Ok(())) => {
                self.next = self.min;
                Woken::Nudge
            }
            Some(Err(_gone)) => {
                // Nobody can nudge any more; what is left is time.
                self.clock.sleep(wait).await;
                self.lengthen();
                Woken::Poll
            }
            None => {
                self.lengthen();
                Woken::Poll
            }
        }
    }

    fn lengthen(&mut self) {
        self.next = (self.next * 2).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use relaykit_pipeline_traits::ManualClock;

    use super::*;

    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(1);

    fn poller(wake: &Wake, clock: &ManualClock) -> Poller {
        wake.poller(clock.clone()).min(MIN).max(MAX).rng(Rng::seeded(5)).build().unwrap()
    }

    async fn waited(poller: &mut Poller, clock: &ManualClock) -> Duration {
        let mut wait = std::pin::pin!(poller.wait());
        assert!(wait.as_mut().now_or_never().is_none());
        let by = clock.advance_to_next_sleeper().unwrap();
        assert_eq!(wait.await, Woken::Poll);
        by
    }

    #[tokio::test]
    async fn waits_double_up_to_their_bound_with_jitter() {
        let (wake, clock) = (Wake::new(), ManualClock::new());
        let mut poller = poller(&wake, &clock);
        for base in [100, 200, 400, 800, 1000, 1000].map(Duration::from_millis) {
            let wait = waited(&mut poller, &clock).await;
            assert!(wait <= base && wait >= base.mul_f64(0.75), "{wait:?} of {base:?}");
        }
        poller.found();
        assert!(waited(&mut poller, &clock).await <= MIN);
    }

    #[tokio::test]
    async fn a_nudge_wakes_everyone_at_once_and_shortens_the_next_wait() {
        let (wake, clock) = (Wake::new(), ManualClock::new());
        let (mut one, mut two) = (poller(&wake, &clock), poller(&wake, &clock));
        waited(&mut one, &clock).await;
        waited(&mut one, &clock).await;
        wake.nudge();
        assert_eq!(one.wait().now_or_never(), Some(Woken::Nudge));
        assert_eq!(two.wait().now_or_never(), Some(Woken::Nudge));
        assert_eq!(one.wait().now_or_never(), None);
        assert!(waited(&mut one, &clock).await <= MIN);
    }

    #[tokio::test]
    async fn a_dropped_wait_keeps_the_nudge() {
        let (wake, clock) = (Wake::new(), ManualClock::new());
        let mut poller = poller(&wake, &clock);
        assert_eq!(poller.wait().now_or_never(), None);
        wake.nudge();
        drop(poller.wait());
        assert_eq!(poller.wait().now_or_never(), Some(Woken::Nudge));
    }

    #[tokio::test]
    async fn a_wait_for_a_due_message_is_no_longer_than_that() {
        let (wake, clock) = (Wake::new(), ManualClock::new());
        let mut poller = poller(&wake, &clock);
        let mut wait = std::pin::pin!(poller.wait_at_most(Duration::from_millis(7)));
        assert!(wait.as_mut().now_or_never().is_none());
        assert_eq!(clock.advance_to_next_sleeper(), Some(Duration::from_millis(7)));
        assert_eq!(wait.await, Woken::Poll);
    }

    #[test]
    fn bounds_that_cannot_be_are_refused_by_name() {
        let build = |min, max| {
            let millis = Duration::from_millis;
            Wake::new().poller(ManualClock::new()).min(millis(min)).max(millis(max)).build()
        };
        assert_eq!(build(0, 1).unwrap_err().field, "min");
        assert_eq!(
            build(2, 1).unwrap_err().to_string(),
            "max is 1ms, but must be at least min, which is 2ms"
        );
    }
}
