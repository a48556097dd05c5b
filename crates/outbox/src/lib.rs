#![doc = include_str!("../README.md")]

mod added;
mod archive;
#[cfg(feature = "conformance")]
pub mod conformance;
mod content;
mod dead;
mod memory;
mod metrics;
#[cfg(feature = "postgres")]
pub mod postgres;
mod relay;
mod retention;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod store;

pub use added::{AddError, Added};
pub use archive::{Archive, ArchiveFilter, Archived};
pub use dead::{BlockedKey, DeadFilter, DeadLetter, DeadReason, MAX_LISTED};
pub use memory::MemoryOutbox;
pub use metrics::METRICS;
pub use relay::{Relay, RelayBuilder, RelayEvent, RelaySummary};
pub use relaykit_sql_store::{DEFAULT_MAX_PAYLOAD_BYTES, Limits, MAX_ADDED, MAX_PAYLOAD_BYTES, TooLarge};
pub use retention::{Maintained, Retention, RetentionBuilder, Upkeep};
pub use store::{
    Depth, Dying, OpenTransactions, OutboxStore, Page, ReadFrom, RowId, Seq, Settled, Settlement, Snapshot,
    Stored, Suspicion, Unreadable, Waiting,
};
