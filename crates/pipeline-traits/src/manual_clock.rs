use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::{Clock, Monotonic, Sleep, Timestamp};

/// A clock that stands still until a test moves it. Feature `test-util`.
///
/// Copies share one time. Sleeps end when [`advance`](Self::advance) reaches their moment, earliest first.
/// [`sleepers`](Self::sleepers) and [`until_sleepers`](Self::until_sleepers) tell when the code under test has
/// come to its wait, so that a test never has to guess.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use std::time::Duration;
/// use relaykit_pipeline_traits::{Clock, ManualClock};
///
/// let clock = ManualClock::new();
/// let waiting = tokio::spawn(clock.sleep(Duration::from_secs(3600)));
/// clock.until_sleepers(1).await;
/// clock.advance(Duration::from_secs(3600));
/// waiting.await.unwrap();
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct ManualClock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    wall: Timestamp,
    monotonic: Monotonic,
    next_sleeper: u64,
    sleepers: BTreeMap<(Monotonic, u64), Option<Waker>>,
    watchers: Vec<(usize, Waker)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            // An arbitrary Saturday, 2025-11-01T00:00:00Z, so that no test works by virtue of zero.
            wall: Timestamp::from_millis(1_761_955_200_000),
            monotonic: Monotonic::default(),
            next_sleeper: 0,
            sleepers: BTreeMap::new(),
            watchers: Vec::new(),
        }
    }
}

impl ManualClock {
    /// Makes a clock that shows 2025-11-01T00:00:00Z.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a clock that shows `wall`.
    #[must_use]
    pub fn at(wall: Timestamp) -> Self {
        let clock = Self::new();
        clock.set_wall(wall);
        clock
    }

    /// Moves wall and monotonic time forward and ends the sleeps that this reaches, earliest first.
    pub fn advance(&self, by: Duration) {
        let due: Vec<Waker> = {
            let mut state = self.lock();
            state.wall = state.wall + by;
            state.monotonic = state.monotonic + by;
            let now = state.monotonic;
            state.sleepers.range_mut(..=(now, u64::MAX)).filter_map(|(_, waker)| waker.take()).collect()
        };
        due.into_iter().for_each(Waker::wake);
    }

    /// Moves to the moment of the earliest sleep and ends it. Returns how far that was, or `None` if
    /// nobody sleeps.
    pub fn advance_to_next_sleeper(&self) -> Option<Duration> {
        let by = {
            let state = self.lock();
            let (&(at, _), _) = state.sleepers.iter().find(|(_, waker)| waker.is_some())?;
            at.since(state.monotonic)
        };
        self.advance(by);
        Some(by)
    }

    /// Sets the wall time alone, as a clock step does. Sleeps go on as before.
    pub fn set_wall(&self, wall: Timestamp) {
        self.lock().wall = wall;
    }

    /// Returns how many sleeps wait for their moment.
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.lock().pending()
    }

    /// Waits until at least `count` sleeps wait for their moment.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn until_sleepers(&self, count: usize) {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            if state.pending() >= count {
                return Poll::Ready(());
            }
            state.watchers.push((count, cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A sleeper without a waker has been reached and waits for its task to look.
    fn pending(&self) -> usize {
        self.sleepers.values().filter(|waker| waker.is_some()).count()
    }

    fn take_satisfied_watchers(&mut self) -> Vec<Waker> {
        // Most tests have none, and simulations sleep a million times.
        if self.watchers.is_empty() {
            return Vec::new();
        }
        let pending = self.pending();
        let (ready, waiting) = self.watchers.drain(..).partition(|(count, _)| *count <= pending);
        self.watchers = waiting;
        let ready: Vec<(usize, Waker)> = ready;
        ready.into_iter().map(|(_, waker)| waker).collect()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().wall
    }

    fn monotonic(&self) -> Monotonic {
        self.lock().monotonic
    }

    fn sleep_until(&self, at: Monotonic) -> Sleep {
        Box::pin(ManualSleep { clock: self.clone(), at, registered: None })
    }
}

struct ManualSleep {
    clock: ManualClock,
    at: Monotonic,
    registered: Option<u64>,
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let at = self.at;
        let clock = self.clock.clone();
        let mut state = clock.lock();
        if state.monotonic >= at {
            return Poll::Ready(());
        }
        let number = *self.registered.get_or_insert_with(|| {
            state.next_sleeper += 1;
            state.next_sleeper
        });
        state.sleepers.insert((at, number), Some(cx.waker().clone()));
        let watchers = state.take_satisfied_watchers();
        drop(state);
        watchers.into_iter().for_each(Waker::wake);
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        if let Some(number) = self.registered {
            self.clock.lock().sleepers.remove(&(self.at, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleep_ends_when_the_clock_reaches_it_and_not_before() {
        let clock = ManualClock::new();
        let sleep = tokio::spawn(clock.sleep(Duration::from_secs(10)));
        clock.until_sleepers(1).await;
        clock.advance(Duration::from_secs(9));
        tokio::task::yield_now().await;
        assert!(!sleep.is_finished());
        clock.advance(Duration::from_secs(1));
        sleep.await.unwrap();
        assert_eq!(clock.sleepers(), 0);
    }

    #[tokio::test]
    async fn a_wall_clock_step_ends_no_sleep() {
        let clock = ManualClock::new();
        let sleep = tokio::spawn(clock.sleep(Duration::from_secs(10)));
        clock.until_sleepers(1).await;
        clock.set_wall(Timestamp::from_micros(i64::MAX));
        tokio::task::yield_now().await;
        assert!(!sleep.is_finished());
        assert_eq!(clock.monotonic(), Monotonic::default());
        sleep.abort();
    }

    #[tokio::test]
    async fn a_dropped_sleep_is_forgotten() {
        let clock = ManualClock::new();
        let sleep = tokio::spawn(clock.sleep(Duration::from_secs(10)));
        clock.until_sleepers(1).await;
        sleep.abort();
        assert!(sleep.await.unwrap_err().is_cancelled());
        assert_eq!(clock.sleepers(), 0);
        assert_eq!(clock.advance_to_next_sleeper(), None);
    }

    #[tokio::test]
    async fn the_earliest_sleeper_is_reached_first() {
        let clock = ManualClock::new();
        let late = tokio::spawn(clock.sleep(Duration::from_secs(5)));
        let early = tokio::spawn(clock.sleep(Duration::from_secs(2)));
        clock.until_sleepers(2).await;
        assert_eq!(clock.advance_to_next_sleeper(), Some(Duration::from_secs(2)));
        early.await.unwrap();
        assert!(!late.is_finished());
        assert_eq!(clock.advance_to_next_sleeper(), Some(Duration::from_secs(3)));
        late.await.unwrap();
    }
}
