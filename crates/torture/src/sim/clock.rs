use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, ManualClock, Monotonic, Sleep, Timestamp};

/// The clock of a node: it runs a little fast or slow, shows a wall time of its own, and stands still with its node.
#[derive(Debug, Clone)]
pub(super) struct NodeClock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The time that all share.
    time: ManualClock,
    /// How much faster it runs, in millionths.
    fast: i32,
    /// How far its wall time is off, in microseconds.
    off: AtomicI64,
    /// Until when nothing on the node goes on, in the time that all share.
    frozen_until: Mutex<Monotonic>,
    /// How often it was looked at.
    looks: AtomicU64,
}

/// How often a clock is looked at in a round, at most: more says that the time does not go on.
const LOOKS: u64 = 50_000_000;

impl NodeClock {
    pub(super) fn new(time: ManualClock, fast: i32) -> Self {
        let (off, frozen_until) = (AtomicI64::new(0), Mutex::new(Monotonic::default()));
        Self(Arc::new(Inner { time, fast, off, frozen_until, looks: AtomicU64::new(0) }))
    }

    /// Moves the wall time, as a clock step does.
    pub(super) fn step(&self, micros: i64) {
        self.0.off.fetch_add(micros, Ordering::Relaxed);
    }

    /// Lets nothing that waits for this clock go on for so long.
    pub(super) fn freeze(&self, wait: Duration) {
        *self.0.frozen_until.lock().unwrap_or_else(PoisonError::into_inner) = self.0.time.monotonic() + wait;
    }

    /// Waits until the node goes on.
    pub(super) async fn thaw(&self) {
        loop {
            let until = *self.0.frozen_until.lock().unwrap_or_else(PoisonError::into_inner);
            if self.0.time.monotonic() >= until {
                return;
            }
            self.0.time.sleep_until(until).await;
        }
    }

    fn part(&self, of: Duration) -> Duration {
        of / 1_000_000 * self.0.fast.unsigned_abs()
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Timestamp {
        let off = self.0.off.load(Ordering::Relaxed);
        Timestamp::from_micros(self.0.time.now().as_micros().saturating_add(off))
    }

    fn monotonic(&self) -> Monotonic {
        assert!(self.0.looks.fetch_add(1, Ordering::Relaxed) < LOOKS, "the time does not go on");
        let now = self.0.time.monotonic();
        let part = self.part(now.since_origin());
        if self.0.fast < 0 { now - part } else { now + part }
    }

    fn sleep_until(&self, at: Monotonic) -> Sleep {
        let clock = self.clone();
        Box::pin(async move {
            loop {
                let left = at.since(clock.monotonic());
                if left.is_zero() {
                    break;
                }
                let part = clock.part(left);
                // The rest of a division may leave a nanosecond for another turn.
                let wait =
                    if clock.0.fast < 0 { left.saturating_add(part) } else { left.saturating_sub(part) };
                clock.0.time.sleep(wait.max(Duration::from_nanos(1))).await;
            }
            clock.thaw().await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn waited(clock: &NodeClock, time: &ManualClock, wait: Duration) -> Duration {
        let began = time.monotonic();
        let sleep = tokio::spawn(clock.sleep(wait));
        while !sleep.is_finished() {
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            time.advance_to_next_sleeper();
        }
        time.monotonic().since(began)
    }

    #[tokio::test]
    async fn a_fast_clock_sleeps_less_and_a_slow_one_longer() {
        let (time, hour) = (ManualClock::new(), Duration::from_secs(3_600));
        let fast = waited(&NodeClock::new(time.clone(), 10_000), &time, hour).await;
        let slow = waited(&NodeClock::new(time.clone(), -10_000), &time, hour).await;
        assert!(fast < hour.mul_f64(0.991) && fast > hour.mul_f64(0.989), "{fast:?}");
        assert!(slow > hour.mul_f64(1.009) && slow < hour.mul_f64(1.011), "{slow:?}");
    }

    #[tokio::test]
    async fn a_frozen_clock_ends_no_sleep() {
        let time = ManualClock::new();
        let clock = NodeClock::new(time.clone(), 0);
        clock.freeze(Duration::from_secs(60));
        assert_eq!(waited(&clock, &time, Duration::from_secs(1)).await, Duration::from_secs(60));
    }
}
