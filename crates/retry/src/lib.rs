#![doc = include_str!("../README.md")]

mod backoff;
mod breaker;
mod budget;
mod curve;
mod error;
#[cfg(feature = "backoff")]
mod interop;
mod jitter;
mod metrics;
mod notice;
mod policy;
mod progress;
mod retry;
mod within;

pub use self::backoff::Backoff;
pub use self::breaker::{BreakerState, CircuitBreaker, CircuitBreakerBuilder, Open, Permit};
pub use self::budget::{RetryBudget, RetryBudgetBuilder};
pub use self::error::{RetryError, StopReason};
#[cfg(feature = "backoff")]
pub use self::interop::{AsBackoff, BackoffError, FromBackoff};
pub use self::jitter::Jitter;
pub use self::metrics::METRICS;
pub use self::notice::{Notice, Notify, Silent};
pub use self::policy::Policy;
pub use self::retry::{Retry, retry};
pub use self::within::within;

// What the public signatures name, so that users need not match versions.
pub use relaykit_pipeline_traits;
