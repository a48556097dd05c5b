//! The work that all sides of a comparison do, and how it is timed.
//!
//! Peers include this folder as it is (`#[path]`), so that items, producers, costs and clocks are the same on
//! every side.

mod cost;
mod item;
mod load;
mod measurement;
mod rate;
pub(crate) mod stopwatch;
mod window;

pub(crate) use cost::wait_for_cost;
pub(crate) use item::Item;
pub(crate) use load::{BATCH, CAPACITY, Load};
pub(crate) use measurement::Measurement;
pub(crate) use rate::rate;
pub(crate) use window::Window;
