use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, InvalidSetting, Monotonic};

/// Billionths of a token, so that sums are exact.
const TOKEN: u64 = 1_000_000_000;

/// Limits the retries of all who share it to a share of their first calls.
///
/// When a service fails for everybody, each caller's own policy still lets it try again, and the service meets
/// several times its usual load. A budget is a bucket of tokens: each first call puts a part of a token in,
/// each retry takes a whole one out, and where there is none the error is returned instead. In steady failure
/// the traffic is at most 1.1 times the usual, by default, plus one retry a second. Share one budget per
/// service called, across tasks and across nested loops.
///
/// ```
/// use std::sync::Arc;
/// use relaykit_pipeline_traits::SystemClock;
/// use relaykit_retry::RetryBudget;
///
/// let budget = Arc::new(RetryBudget::builder(SystemClock::new()).ratio(0.2).build()?);
/// budget.deposit();
/// assert!(budget.try_withdraw());
/// # Ok::<(), relaykit_pipeline_traits::InvalidSetting>(())
/// ```
#[derive(Debug)]
pub struct RetryBudget {
    limits: Limits,
    clock: Arc<dyn Clock>,
    bucket: Mutex<Bucket>,
}

/// Builds a [`RetryBudget`].
#[derive(Debug)]
#[must_use = "a description does nothing until `build`"]
pub struct RetryBudgetBuilder {
    clock: Arc<dyn Clock>,
    ratio: f64,
    min_per_second: u32,
    cap: u32,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    deposit: u64,
    min_per_second: u32,
    cap: u64,
}

/// The state: how full the bucket was, and when.
#[derive(Debug)]
struct Bucket {
    filled: u64,
    at: Monotonic,
}

impl RetryBudget {
    /// Describes a budget that tells time by `clock`.
    pub fn builder(clock: impl Clock) -> RetryBudgetBuilder {
        RetryBudgetBuilder { clock: Arc::new(clock), ratio: 0.1, min_per_second: 1, cap: 100 }
    }

    /// Puts in what a first call is worth. [`Retry`](crate::Retry) does it by itself.
    pub fn deposit(&self) {
        self.with_bucket(|bucket, limits| bucket.add(limits.deposit, limits));
    }

    /// Takes a token for a retry, or returns `false` if there is none. [`Retry`](crate::Retry) does it by
    /// itself.
    #[must_use = "`false` means: do not retry"]
    pub fn try_withdraw(&self) -> bool {
        self.with_bucket(|bucket, _| bucket.take())
    }

    /// Returns how many retries the tokens present allow.
    pub fn available(&self) -> u64 {
        self.with_bucket(|bucket, _| bucket.filled / TOKEN)
    }

    fn with_bucket<T>(&self, act: impl FnOnce(&mut Bucket, &Limits) -> T) -> T {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.refill(self.clock.monotonic(), &self.limits);
        act(&mut bucket, &self.limits)
    }
}

impl RetryBudgetBuilder {
    /// Sets how many retries each first call pays for. Default: 0.1, one retry for ten calls; from 0 to 10, to
    /// the billionth.
    pub const fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = ratio;
        self
    }

    /// Sets how many tokens come by themselves each second, so that few calls can be retried too. Default: 1.
    /// The budget begins with as many.
    pub const fn min_per_second(mut self, tokens: u32) -> Self {
        self.min_per_second = tokens;
        self
    }

    /// Sets how many tokens are kept at most: the longest burst of retries. Default: 100; at least 1, and at
    /// least [`min_per_second`](Self::min_per_second).
    pub const fn cap(mut self, tokens: u32) -> Self {
        self.cap = tokens;
        self
    }

    /// Makes the budget.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] names the setting that is out of bounds or does not go with the others.
    pub fn build(self) -> Result<RetryBudget, InvalidSetting> {
        if !(0.0..=10.0).contains(&self.ratio) {
            return Err(InvalidSetting::new("ratio", self.ratio, "from 0 to 10"));
        }
        // A share of ten seconds at most, and as many nanoseconds as billionths: no rounding of our own.
        let deposit = u64::try_from(Duration::from_secs_f64(self.ratio).as_nanos()).unwrap_or(u64::MAX);
        if deposit == 0 && self.min_per_second == 0 {
            let bound =
                "at least 0.000000001 where min_per_second is 0, since no retry would ever be allowed";
            return Err(InvalidSetting::new("ratio", self.ratio, bound));
        }
        if self.cap < self.min_per_second.max(1) {
            let bound = format!("at least 1 and at least min_per_second, {}", self.min_per_second);
            return Err(InvalidSetting::new("cap", self.cap, bound));
        }
        let bucket = Bucket { filled: u64::from(self.min_per_second) * TOKEN, at: self.clock.monotonic() };
        Ok(RetryBudget {
            limits: Limits { deposit, min_per_second: self.min_per_second, cap: u64::from(self.cap) * TOKEN },
            clock: self.clock,
            bucket: Mutex::new(bucket),
        })
    }
}

impl Bucket {
    /// Adds what has come by itself. A token a second is a billionth a nanosecond.
    fn refill(&mut self, now: Monotonic, limits: &Limits) {
        let nanos = u64::try_from(now.since(self.at).as_nanos()).unwrap_or(u64::MAX);
        self.add(nanos.saturating_mul(u64::from(limits.min_per_second)), limits);
        // Two threads may have read the clock in another order than they came here.
        self.at = self.at.max(now);
    }

    fn add(&mut self, amount: u64, limits: &Limits) {
        self.filled = self.filled.saturating_add(amount).min(limits.cap);
    }

    fn take(&mut self) -> bool {
        let left = self.filled.checked_sub(TOKEN);
        self.filled = left.unwrap_or(self.filled);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::ManualClock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn withdraw_all(budget: &RetryBudget) -> u64 {
        let available = budget.available();
        let taken = (0..=available).take_while(|_| budget.try_withdraw()).count() as u64;
        assert_eq!(taken, available);
        taken
    }

    #[test]
    fn ten_calls_pay_for_exactly_one_retry() {
        let budget = RetryBudget::builder(ManualClock::new()).min_per_second(0).build().unwrap();
        for call in 1..=1000 {
            budget.deposit();
            assert_eq!(budget.try_withdraw(), call % 10 == 0, "call {call}");
        }
    }

    #[test]
    fn the_reserve_comes_with_time_alone() {
        let clock = ManualClock::new();
        let budget = RetryBudget::builder(clock.clone()).min_per_second(4).build().unwrap();
        assert_eq!(withdraw_all(&budget), 4, "one second's worth at the start");
        clock.advance(SECOND / 2);
        assert_eq!(withdraw_all(&budget), 2);
        clock.advance(10 * SECOND);
        assert_eq!(withdraw_all(&budget), 40);
    }

    #[test]
    fn time_is_not_lost_to_rounding_however_often_one_asks() {
        let clock = ManualClock::new();
        let budget = RetryBudget::builder(clock.clone()).build().unwrap();
        assert!(budget.try_withdraw());
        for _ in 0..1000 {
            assert!(!budget.try_withdraw());
            clock.advance(SECOND / 1000);
        }
        assert!(budget.try_withdraw());
    }

    #[test]
    fn tokens_beyond_the_cap_are_not_kept() {
        let clock = ManualClock::new();
        let budget = RetryBudget::builder(clock.clone()).cap(7).build().unwrap();
        clock.advance(Duration::MAX);
        for _ in 0..1000 {
            budget.deposit();
        }
        assert_eq!(withdraw_all(&budget), 7);
    }

    #[test]
    fn steady_failure_adds_a_tenth_to_the_traffic_and_the_reserve() {
        let clock = ManualClock::new();
        let budget = RetryBudget::builder(clock.clone()).build().unwrap();
        let (seconds, calls_a_second) = (600, 200);
        let mut retries = 0_u64;
        for _ in 0..seconds * calls_a_second {
            budget.deposit();
            // Each call would like to be retried four times.
            retries += (0..4).take_while(|_| budget.try_withdraw()).count() as u64;
            clock.advance(SECOND / calls_a_second);
        }
        let calls = u64::from(seconds * calls_a_second);
        let reserve = u64::from(seconds) + 1;
        assert!(retries <= calls / 10 + reserve, "{retries} retries for {calls} calls");
        assert!(retries >= calls / 10, "{retries} retries for {calls} calls");
    }

    #[test]
    fn threads_share_one_budget_without_losing_a_token() {
        let budget = RetryBudget::builder(ManualClock::new())
            .ratio(1.0)
            .min_per_second(0)
            .cap(u32::MAX)
            .build()
            .unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| budget.deposit()));
            }
        });
        let taken = std::thread::scope(|scope| {
            let workers =
                [(); 4].map(|()| scope.spawn(|| (0..2000).filter(|_| budget.try_withdraw()).count()));
            workers.map(|worker| worker.join().unwrap()).iter().sum::<usize>()
        });
        assert_eq!(taken, 4000);
    }

    #[test]
    fn settings_out_of_bounds_are_refused() {
        let new = || RetryBudget::builder(ManualClock::new());
        let message = |builder: RetryBudgetBuilder| builder.build().unwrap_err().to_string();
        assert_eq!(message(new().ratio(f64::NAN)), "ratio is NaN, but must be from 0 to 10");
        assert_eq!(message(new().ratio(-0.1)), "ratio is -0.1, but must be from 0 to 10");
        assert_eq!(message(new().ratio(10.1)), "ratio is 10.1, but must be from 0 to 10");
        assert!(message(new().ratio(0.0).min_per_second(0)).starts_with("ratio is 0, but must be at least"));
        assert_eq!(
            message(new().cap(0).min_per_second(0)),
            "cap is 0, but must be at least 1 and at least min_per_second, 0"
        );
        assert_eq!(
            message(new().cap(5).min_per_second(6)),
            "cap is 5, but must be at least 1 and at least min_per_second, 6"
        );
    }
}
