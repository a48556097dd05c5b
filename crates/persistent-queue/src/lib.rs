#![doc = include_str!("../README.md")]

mod ballast;
mod blocking;
mod builder;
mod codecs;
mod dead;
mod error;
mod fate;
mod format;
mod handler;
mod keeper;
mod load;
mod metrics;
mod order;
mod queue;
mod run;
mod settle;
mod shared;
mod state;
mod stats;
mod store;
mod worker;

pub use blocking::Blocking;
pub use builder::{Builder, QueueFault, WhenFull};
#[cfg(feature = "msgpack")]
pub use codecs::MessagePack;
#[cfg(feature = "postcard")]
pub use codecs::Postcard;
pub use dead::{DeadLetter, DeadReason};
pub use error::{OpenError, QueueError, RejectReason, Rejected};
pub use format::FormatError;
pub use handler::{Plain, QueueContext, QueueHandler};
pub use metrics::METRICS;
pub use queue::{BatchInfo, Queue};
pub use relaykit_sql_store::sqlite::Durability;
pub use stats::{CloseReport, Stats};
