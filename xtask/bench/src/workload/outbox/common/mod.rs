//! What messages say, and what is noted of those that arrive.
//!
//! Peers include this folder through `peer.rs`, so that messages, counts and clocks are the same on every side.

mod arrivals;
mod payload;

pub(crate) use arrivals::Arrivals;
#[allow(unused_imports, reason = "peers count what arrives, and read no numbers")]
pub(crate) use payload::number;
pub(crate) use payload::{KEYS, payload};
