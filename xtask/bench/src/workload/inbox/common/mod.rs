//! How much comes in, what of it came before, and how much was handled.
//!
//! Peers include this folder through `peer.rs`, so that these are the same on every side.

mod count;
mod payload;
mod repeats;

pub(crate) use count::Count;
pub(crate) use payload::payload;
pub(crate) use repeats::{Repeats, new_ones};

/// How many bytes a payload has.
pub(crate) const BYTES: usize = 1_024;

/// How many messages of a backlog are handled, each by a handler to which a few are lent at a time.
pub(crate) const HANDLED: u32 = 20_000;

/// Returns how many messages are received on Postgres: so many by a transaction, on so many connections. Slow settings have fewer, so
/// that they take a few seconds.
pub(crate) const fn received(many: u32, connections: u32) -> u32 {
    match (many, connections) {
        (1, 1) => 5_000,
        (1, _) => 20_000,
        _ => 100_000,
    }
}
