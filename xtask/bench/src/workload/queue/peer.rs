//! What a peer of the queue takes from this folder.

#[path = "common/mod.rs"]
mod common;
#[path = "../measurement.rs"]
mod measurement;
#[path = "../stopwatch.rs"]
pub(crate) mod stopwatch;

pub(crate) use common::{Event, Scratch, Tally, rate};
pub(crate) use measurement::Measurement;
