//! What a queue is given, where its files are, and what a run answers.
//!
//! Peers include this folder through `peer.rs`, so that events, places and clocks are the same on every side.

mod event;
mod peak;
mod rate;
mod scratch;

pub(crate) use event::{Event, Tally};
pub(crate) use peak::peak_bytes;
pub(crate) use rate::rate;
pub(crate) use scratch::Scratch;
