#![doc = include_str!("../README.md")]

mod error;
mod error_text;
#[cfg(feature = "leases")]
mod fence;
mod ident;
/// What becomes of items after a call of their handler: plain functions, shared by the engines.
pub mod judge;
#[cfg(feature = "leases")]
mod lease;
#[cfg(feature = "leases")]
mod limits;
/// How messages are written in rows.
#[cfg(feature = "leases")]
pub mod message;
mod migration;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "leases")]
mod race;
#[cfg(feature = "leases")]
mod shard;
mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "leases")]
pub mod stream;
#[doc(hidden)]
pub mod torture;
#[cfg(feature = "leases")]
mod wake;

pub use error::{DriverError, SchemaError, StoreError, error_chain};
pub use error_text::error_text;
#[cfg(feature = "leases")]
pub use fence::{FENCE, SHARD_OF, SHARD_OF_HEAD};
pub use ident::{Ident, InvalidIdent, MAX_IDENT_BYTES, MAX_PREFIX_BYTES, Names};
#[cfg(feature = "leases")]
pub use lease::{
    Instance, KeeperBuilder, Lease, LeaseKeeper, LeaseStore, Leases, Membership, MemoryLeaseStore, Permit,
    Plan, View, plan,
};
#[cfg(feature = "leases")]
pub use limits::{DEFAULT_MAX_PAYLOAD_BYTES, Limits, MAX_ADDED, MAX_PAYLOAD_BYTES, TooLarge};
pub use migration::{Difference, FoundTable, Migrated, Migration, Schema, TableForm, compare};
#[cfg(feature = "leases")]
pub use shard::{Shard, Shards};
pub use sql::Sql;
#[cfg(feature = "leases")]
pub use stream::{
    DeadFilter, DeadReason, Depth, Dying, MAX_LISTED, OpenTransactions, Page, ReadFrom, RowId, Seq, Settled,
    Settlement, Snapshot, Stored, Suspicion, Unreadable, Waiting, check_limit,
};
#[cfg(feature = "leases")]
pub use wake::{Poller, PollerBuilder, Wake, Woken};
