use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::backoff::backoff::Backoff as TheirBackoff;
use ::backoff::exponential::ExponentialBackoff;
use relaykit_pipeline_traits::{
    Classify, Clock, ErrorClass, Failure, GiveUp, Monotonic, RetryDecision, RetryPolicy, Rng,
};

use crate::{Backoff, Jitter};

/// The longest hint that a recorded schedule honours, as is the default of [`Backoff::max_hint`].
const MAX_HINT: Duration = Duration::from_secs(3600);

/// Makes a policy a `Backoff` of the crate `backoff`, for code that asks for one. Feature `backoff`.
///
/// Each `next_backoff` stands for one failed attempt; after the last it returns `None` until `reset`. Two
/// things the other crate keeps to itself: an error's `retry_after`, which its loops wait out in place of the
/// policy's wait and without counting an attempt, and the policy's cooldown, of which it knows nothing.
///
/// ```
/// use std::time::Duration;
/// use backoff::backoff::Backoff as _;
/// use relaykit_pipeline_traits::SystemClock;
/// use relaykit_retry::{AsBackoff, Backoff, Jitter};
///
/// let policy = Backoff::exponential(Duration::from_secs(1))
///     .jitter(Jitter::None)
///     .max_attempts(3)
///     .build()?;
/// let mut theirs = AsBackoff::new(policy, SystemClock::new());
/// assert_eq!(theirs.next_backoff(), Some(Duration::from_secs(1)));
/// assert_eq!(theirs.next_backoff(), Some(Duration::from_secs(2)));
/// assert_eq!(theirs.next_backoff(), None);
/// # Ok::<(), relaykit_pipeline_traits::InvalidSetting>(())
/// ```
#[derive(Debug, Clone)]
pub struct AsBackoff<P, C> {
    policy: P,
    clock: C,
    rng: Rng,
    attempt: u32,
    started: Monotonic,
    previous_delay: Option<Duration>,
}

impl<P: RetryPolicy, C: Clock> AsBackoff<P, C> {
    /// Begins the attempts of `policy` now, by `clock`.
    pub fn new(policy: P, clock: C) -> Self {
        Self {
            started: clock.monotonic(),
            policy,
            clock,
            rng: Rng::from_entropy(),
            attempt: 0,
            previous_delay: None,
        }
    }

    /// Sets where the jitter comes from. Default: a source with a seed of its own.
    #[must_use]
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = rng;
        self
    }
}

impl<P: RetryPolicy, C: Clock> TheirBackoff for AsBackoff<P, C> {
    fn reset(&mut self) {
        self.attempt = 0;
        self.started = self.clock.monotonic();
        self.previous_delay = None;
    }

    fn next_backoff(&mut self) -> Option<Duration> {
        self.attempt = self.attempt.saturating_add(1);
        let failure = Failure {
            elapsed: self.clock.monotonic().since(self.started),
            previous_delay: self.previous_delay,
            ..Failure::of_attempt(self.attempt)
        };
        match self.policy.decide(&failure, &mut self.rng) {
            RetryDecision::RetryAfter(wait) => {
                self.previous_delay = Some(wait);
                Some(wait)
            }
            RetryDecision::GiveUp(_) => None,
        }
    }
}

/// Describes the policy that an `ExponentialBackoff` of the crate `backoff` follows. Feature `backoff`.
///
/// It takes the settings and none of the state: where the other stands in its run does not matter.
/// [`build`](Backoff::build) refuses what it would not do as written, such as a multiplier below 1. The
/// interval's bound holds with jitter here; see [`Backoff::like_backoff_crate`].
impl<C> From<&ExponentialBackoff<C>> for Backoff {
    fn from(theirs: &ExponentialBackoff<C>) -> Self {
        let ours = Self::exponential(theirs.initial_interval)
            .factor(theirs.multiplier)
            .jitter(Jitter::Proportional(theirs.randomization_factor))
            .max_delay(theirs.max_interval)
            .unlimited_attempts();
        match theirs.max_elapsed_time {
            Some(elapsed) => ours.max_elapsed(elapsed),
            None => ours,
        }
    }
}

/// A policy with the waits that a `Backoff` of the crate `backoff` gave when it was asked. Feature `backoff`.
///
/// A `Backoff` counts by itself, a policy is told the count; so the waits are taken once and kept. They
/// repeat those of constant backoffs faithfully. Of others they freeze what was drawn at random, and a limit on
/// the time passed is not known: convert an `ExponentialBackoff` with [`Backoff::from`] instead. A hint of the
/// other side lengthens a wait to at most 1 h.
///
/// ```
/// use std::time::Duration;
/// use backoff::backoff::Constant;
/// use relaykit_retry::FromBackoff;
///
/// let policy = FromBackoff::record(Constant::new(Duration::from_secs(5)), 3);
/// assert_eq!(policy.delays(), [Duration::from_secs(5); 3]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromBackoff {
    delays: Arc<[Duration]>,
}

impl FromBackoff {
    /// Resets `backoff` and takes its waits, at most `most` of them: one less than the attempts.
    pub fn record(mut backoff: impl TheirBackoff, most: usize) -> Self {
        backoff.reset();
        let delays = std::iter::from_fn(|| backoff.next_backoff()).take(most).collect();
        Self { delays }
    }

    /// Returns the waits, the one after the first attempt first.
    pub fn delays(&self) -> &[Duration] {
        &self.delays
    }
}

impl RetryPolicy for FromBackoff {
    fn decide(&self, failure: &Failure, _rng: &mut Rng) -> RetryDecision {
        let index = usize::try_from(failure.attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        match self.delays.get(index) {
            Some(delay) => {
                let hint = failure.hint.unwrap_or_default().min(MAX_HINT);
                RetryDecision::RetryAfter(hint.max(*delay))
            }
            None => RetryDecision::GiveUp(GiveUp::attempts()),
        }
    }
}

/// An error of the crate `backoff` that a [`Retry`](crate::Retry) understands. Feature `backoff`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use relaykit_pipeline_traits::SystemClock;
/// use relaykit_retry::{Backoff, BackoffError, retry};
///
/// async fn fetch() -> Result<u32, backoff::Error<std::io::Error>> {
///     Ok(42)
/// }
///
/// let policy = Backoff::like_backoff_crate().build()?;
/// let fetch = |_| async { fetch().await.map_err(BackoffError::from) };
/// assert_eq!(retry(policy, SystemClock::new(), fetch).await?, 42);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackoffError<E> {
    /// Trying again cannot help.
    Permanent(E),
    /// Trying again can help.
    Transient {
        /// What went wrong.
        error: E,
        /// What the other side asks to wait.
        retry_after: Option<Duration>,
    },
}

impl<E> BackoffError<E> {
    /// Returns what went wrong.
    pub const fn get_ref(&self) -> &E {
        match self {
            Self::Permanent(error) | Self::Transient { error, .. } => error,
        }
    }

    /// Returns what went wrong, by value.
    pub fn into_inner(self) -> E {
        match self {
            Self::Permanent(error) | Self::Transient { error, .. } => error,
        }
    }
}

impl<E> Classify for BackoffError<E> {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Permanent(_) => ErrorClass::Permanent,
            Self::Transient { .. } => ErrorClass::Transient,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Permanent(_) => None,
            Self::Transient { retry_after, .. } => *retry_after,
        }
    }
}

impl<E: fmt::Display> fmt::Display for BackoffError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get_ref().fmt(f)
    }
}

/// Stands for the error inside: its message is that error's, and so is its source.
impl<E: std::error::Error> std::error::Error for BackoffError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.get_ref().source()
    }
}

impl<E> From<::backoff::Error<E>> for BackoffError<E> {
    fn from(theirs: ::backoff::Error<E>) -> Self {
        match theirs {
            ::backoff::Error::Permanent(error) => Self::Permanent(error),
            ::backoff::Error::Transient { err: error, retry_after } => Self::Transient { error, retry_after },
        }
    }
}

impl<E> From<BackoffError<E>> for ::backoff::Error<E> {
    fn from(ours: BackoffError<E>) -> Self {
        match ours {
            BackoffError::Permanent(error) => Self::Permanent(error),
            BackoffError::Transient { error: err, retry_after } => Self::Transient { err, retry_after },
        }
    }
}

#[cfg(test)]
mod tests;
