use std::future::Pending;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use relaykit_pipeline_traits::{Classify, Clock, ErrorClass, Recorder, RetryPolicy, Rng, Sleep};
use tracing::debug;

use crate::metrics::Meter;
use crate::progress::{Progress, Step};
use crate::{CircuitBreaker, Notice, Notify, Permit, RetryBudget, RetryError, Silent, StopReason};

/// Calls an operation until it succeeds or the policy gives up: the short form of [`Retry`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use relaykit_pipeline_traits::{Classify, ErrorClass, SystemClock};
/// use relaykit_retry::{Backoff, retry};
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("busy")]
/// struct Busy;
///
/// impl Classify for Busy {
///     fn class(&self) -> ErrorClass {
///         ErrorClass::Transient
///     }
/// }
///
/// let policy = Backoff::exponential(Duration::from_millis(1)).build()?;
/// let answer = retry(policy, SystemClock::new(), |attempt| async move {
///     if attempt < 3 { Err(Busy) } else { Ok("done") }
/// })
/// .await?;
/// assert_eq!(answer, "done");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`RetryError`] holds the error of the last call and says why no other follows.
///
/// # Cancel safety
///
/// As [`Retry::run`].
pub async fn retry<P, C, F, A, T, E>(policy: P, clock: C, operation: F) -> Result<T, RetryError<E>>
where
    P: RetryPolicy,
    C: Clock,
    F: FnMut(u32) -> A,
    A: Future<Output = Result<T, E>>,
    E: Classify,
{
    Retry::new(policy, clock).run(operation).await
}

/// Calls an operation until it succeeds, the policy gives up, or something says stop.
///
/// An error's class decides: permanent ends at once, transient is tried again as the policy says, throttled as
/// well but without spending an attempt (the first [`MAX_FREE_ROUNDS`](relaykit_pipeline_traits::MAX_FREE_ROUNDS) in a row). Time
/// is monotonic, no wait follows the last failure, and calls never overlap.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use std::time::Duration;
/// use relaykit_pipeline_traits::{Classify, ErrorClass, SystemClock};
/// use relaykit_retry::{Backoff, CircuitBreaker, Notice, Retry, RetryBudget};
///
/// # #[derive(Debug, thiserror::Error)]
/// # #[error("busy")]
/// # struct Busy;
/// # impl Classify for Busy {
/// #     fn class(&self) -> ErrorClass { ErrorClass::Transient }
/// # }
/// # async fn call() -> Result<u32, Busy> { Ok(42) }
/// # async fn shutdown_signal() { std::future::pending().await }
/// let clock = SystemClock::new();
/// // Once for each service that is called, shared by all who call it:
/// let budget = Arc::new(RetryBudget::builder(clock).build()?);
/// let breaker = Arc::new(CircuitBreaker::builder(clock).build()?);
///
/// let policy = Backoff::exponential(Duration::from_millis(100)).build()?;
/// let answer = Retry::new(policy, clock)
///     .budget(budget)
///     .breaker(breaker)
///     .until(shutdown_signal())
///     .notify(|error: &Busy, notice: &Notice| eprintln!("{error}, again in {:?}", notice.wait))
///     .run(|_attempt| call())
///     .await?;
/// # assert_eq!(answer, 42);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is called until `run`"]
pub struct Retry<P, C, N = Silent, S = Pending<()>> {
    policy: P,
    clock: C,
    rng: Rng,
    notify: N,
    stop: S,
    budget: Option<Arc<RetryBudget>>,
    breaker: Option<Arc<CircuitBreaker>>,
    meter: Meter,
}

impl<P: RetryPolicy, C: Clock> Retry<P, C> {
    /// Prepares calls that follow `policy` and wait on `clock`.
    pub fn new(policy: P, clock: C) -> Self {
        Self {
            policy,
            clock,
            rng: Rng::from_entropy(),
            notify: Silent,
            stop: std::future::pending(),
            budget: None,
            breaker: None,
            meter: Meter::default(),
        }
    }
}

impl<P: RetryPolicy, C: Clock, N, S: Future> Retry<P, C, N, S> {
    /// Sets where the jitter comes from. Default: a source with a seed of its own.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = rng;
        self
    }

    /// Sets who hears of each failure before its wait. Default: nobody.
    pub fn notify<E, F: FnMut(&E, &Notice)>(self, notify: F) -> Retry<P, C, F, S> {
        Retry {
            policy: self.policy,
            clock: self.clock,
            rng: self.rng,
            notify,
            stop: self.stop,
            budget: self.budget,
            breaker: self.breaker,
            meter: self.meter,
        }
    }

    /// Sets the future that ends the run. Default: one that never comes.
    ///
    /// It ends a wait at once and prevents the next call; a call under way is finished first. It is dropped
    /// when the run ends.
    pub fn until<U: Future>(self, stop: U) -> Retry<P, C, N, U> {
        Retry {
            policy: self.policy,
            clock: self.clock,
            rng: self.rng,
            notify: self.notify,
            stop,
            budget: self.budget,
            breaker: self.breaker,
            meter: self.meter,
        }
    }

    /// Sets the budget that every call after the first takes a token from. Default: none.
    pub fn budget(mut self, budget: Arc<RetryBudget>) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Sets the circuit breaker that each call passes. Default: none.
    ///
    /// A success and a permanent error tell it that the other side works, a transient error that it fails, a
    /// throttled one neither. Where the circuit stays open longer than the wait, the run ends without waiting.
    pub fn breaker(mut self, breaker: Arc<CircuitBreaker>) -> Self {
        self.breaker = Some(breaker);
        self
    }

    /// Sets where the run's numbers go, [`METRICS`](crate::METRICS), and the value of their label `operation`.
    /// Default: nowhere.
    pub fn recorder(mut self, operation: impl Into<String>, recorder: impl Recorder + 'static) -> Self {
        self.meter = Meter::new(operation.into(), Arc::new(recorder));
        self
    }

    /// Calls `operation` until it succeeds or the run ends. It is told the number of its attempt, 1 for the
    /// first; calls that spend no attempt repeat it.
    ///
    /// # Errors
    ///
    /// [`RetryError`] holds the error of the last call and says why no other follows.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the call or the wait under way and leaves nothing behind: no timer, no place
    /// in the circuit breaker. The count of attempts is lost with it; a token taken from the budget stays
    /// taken.
    pub async fn run<F, A, T, E>(self, operation: F) -> Result<T, RetryError<E>>
    where
        F: FnMut(u32) -> A,
        A: Future<Output = Result<T, E>>,
        E: Classify,
        N: Notify<E>,
    {
        let meter = self.meter.clone();
        let result = self.run_to_the_end(operation).await;
        meter.ended(&result);
        result
    }

    async fn run_to_the_end<F, A, T, E>(mut self, mut operation: F) -> Result<T, RetryError<E>>
    where
        F: FnMut(u32) -> A,
        A: Future<Output = Result<T, E>>,
        E: Classify,
        N: Notify<E>,
    {
        let mut stop = pin!(self.stop);
        if has_ended(stop.as_mut()).await {
            let reason = StopReason::Stopped;
            return Err(RetryError::NotTried { reason });
        }
        let (breaker, budget) = (self.breaker.as_deref(), self.budget.as_deref());
        let mut permit = acquire(breaker).map_err(|reason| RetryError::NotTried { reason })?;
        if let Some(budget) = budget {
            budget.deposit();
        }
        let mut progress = Progress::default();
        let started = self.clock.monotonic();
        loop {
            let attempt = progress.next_attempt();
            let outcome = operation(attempt).await;
            report(permit, outcome.as_ref().err());
            self.meter.called(&outcome);
            let error = match outcome {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };

            let elapsed = self.clock.monotonic().since(started);
            let decided = progress.failed(&error, elapsed, &self.policy, &mut self.rng);
            let next = match afford(decided, breaker, budget) {
                Ok(wait) => {
                    let class = error.class();
                    debug!(attempt, ?class, ?elapsed, ?wait, "attempt failed, trying again");
                    let notice = Notice { attempt, class, elapsed, wait };
                    self.notify.notice(&error, &notice);
                    self.meter.waits(wait);
                    if wait_out(self.clock.sleep(wait), stop.as_mut()).await {
                        acquire(breaker)
                    } else {
                        Err(StopReason::Stopped)
                    }
                }
                Err(reason) => Err(reason),
            };
            permit = next.map_err(|reason| {
                let (attempts, calls) = (progress.spent(), progress.calls());
                debug!(attempts, calls, ?elapsed, %reason, "gave up");
                RetryError::Failed { error, attempts, calls, elapsed, reason }
            })?;
        }
    }
}

fn acquire(breaker: Option<&CircuitBreaker>) -> Result<Option<Permit<'_>>, StopReason> {
    breaker
        .map(CircuitBreaker::try_acquire)
        .transpose()
        .map_err(|open| StopReason::CircuitOpen { retry_in: open.retry_in })
}

/// Tells the breaker what a call says about the other side.
fn report<E: Classify>(permit: Option<Permit<'_>>, error: Option<&E>) {
    let Some(permit) = permit else { return };
    match error.map(Classify::class) {
        // A side that refuses an item for good does work.
        None | Some(ErrorClass::Permanent) => permit.success(),
        // A side that asks for less says nothing about whether it works.
        Some(ErrorClass::Throttled) => drop(permit),
        Some(_) => permit.failure(),
    }
}

/// Lets a wait pass if the call after it will be possible.
fn afford(
    step: Step,
    breaker: Option<&CircuitBreaker>,
    budget: Option<&RetryBudget>,
) -> Result<Duration, StopReason> {
    let wait = match step {
        Step::Wait(wait) => wait,
        Step::Stop(reason) => return Err(reason),
    };
    if let Some(retry_in) = breaker.and_then(CircuitBreaker::open_for_another)
        && retry_in > wait
    {
        return Err(StopReason::CircuitOpen { retry_in });
    }
    if budget.is_some_and(|budget| !budget.try_withdraw()) {
        return Err(StopReason::Budget);
    }
    Ok(wait)
}

async fn has_ended<S: Future>(mut stop: Pin<&mut S>) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(stop.as_mut().poll(cx).is_ready())).await
}

/// Waits. Returns `false` as soon as `stop` ends.
async fn wait_out<S: Future>(mut sleep: Sleep, mut stop: Pin<&mut S>) -> bool {
    std::future::poll_fn(|cx| {
        if stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        sleep.as_mut().poll(cx).map(|()| true)
    })
    .await
}

#[cfg(test)]
mod tests;
