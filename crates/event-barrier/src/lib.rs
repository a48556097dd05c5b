#![doc = include_str!("../README.md")]

mod admission;
mod barrier;
mod blocked;
mod bounds;
mod builder;
mod display;
#[cfg(feature = "tokio")]
mod gate;
mod limits;
mod notice;
mod permit;
mod reader;
mod record;
mod shard;
mod state;
mod sync;

pub use admission::{Admission, Turn};
pub use barrier::{Barrier, Stats};
pub use blocked::BlockedKey;
pub use builder::Builder;
#[cfg(feature = "tokio")]
pub use gate::{Gate, GatePermit, NotEntered};
pub use limits::{Limits, OverThreshold};
pub use notice::{At, Event, Notice};
pub use permit::Permit;
pub use reader::{Reader, Synced};
pub use state::{Change, State, UnsupportedState};
