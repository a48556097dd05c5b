//! PostgreSQL, through sqlx.

mod classify;
mod codec;
mod lease;
mod listen;
mod migrate;
mod pool;
/// What columns of streams hold, and how it is read and written.
pub mod row;
mod shards;
mod sql;
mod statement;
/// Pages and settlements of streams, as the functions in the database take and return them.
pub mod stream;
#[cfg(feature = "test-util")]
mod test_role;
#[cfg(feature = "test-util")]
mod testing;
mod verify;

pub use crate::Migrated;
pub use classify::driver_error;
pub use codec::{PgJson, PgTimestamp, PgUuid};
pub use lease::{LEASE_MIGRATION, LEASE_TABLES, PgLeaseStore};
pub use listen::{Listener, Notifier, channel};
pub use migrate::{migrate, migration_sql, version};
pub use pool::{Finish, Guarded, GuardedBuilder, Work};
pub use shards::{WrongShards, check_shards};
pub use sqlx;
pub use statement::Statement;
#[cfg(feature = "test-util")]
pub use test_role::TestRole;
#[cfg(feature = "test-util")]
pub use testing::{TEST_POSTGRES, TestPostgres};
pub use verify::verify;
