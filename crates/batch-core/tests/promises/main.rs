//! What the processor promises, one named test for each promise. Time is moved by hand, and waits are for events.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod backpressure;
mod breakdown;
mod cancel_safety;
mod concurrency;
mod flush;
mod limits;
mod metrics;
mod order;
mod retries;
mod runtime;
mod splitting;
mod stop;
