#![doc = include_str!("../README.md")]

mod error;
mod fence;
mod ident;
mod lease;
mod migration;
#[cfg(feature = "postgres")]
pub mod postgres;
mod race;
mod shard;
mod sql;
mod wake;

pub use error::{DriverError, SchemaError, StoreError};
pub use fence::{FENCE, SHARD_OF};
pub use ident::{Ident, InvalidIdent, MAX_IDENT_BYTES, MAX_PREFIX_BYTES, Names};
pub use lease::{
    Instance, KeeperBuilder, Lease, LeaseKeeper, LeaseStore, Leases, Membership, MemoryLeaseStore, Permit,
    Plan, View, plan,
};
pub use migration::{Difference, FoundTable, Migration, Schema, TableForm, compare};
pub use shard::{Shard, Shards};
pub use sql::Sql;
pub use wake::{Poller, PollerBuilder, Wake, Woken};
