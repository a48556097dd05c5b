#![doc = include_str!("../README.md")]

mod answer;
mod builder;
mod call;
mod entry;
mod intake;
mod metrics;
mod processor;
mod rejected;
mod responses;
mod round;
mod shared;
mod stats;
mod stop;
mod worker;

pub use answer::{Cause, Failed, Ticket};
pub use builder::{Builder, Recovery};
pub use metrics::METRICS;
pub use processor::{Permit, Processor};
pub use rejected::{NotRunning, RejectReason, Rejected, StartError};
pub use responses::{Overflow, Response, Responses};
pub use stats::Stats;
pub use stop::{ABORT_GRACE, StopReport};
