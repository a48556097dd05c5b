//! SQLite: a file of one process alone with one connection on a thread of its own, or one that others write too.

mod classify;
#[cfg(feature = "leases")]
mod database;
mod error;
mod file;
#[cfg(feature = "leases")]
mod filter;
#[cfg(feature = "leases")]
mod lease;
mod location;
#[cfg(feature = "leases")]
mod migrate;
mod open;
#[cfg(feature = "leases")]
mod page;
#[cfg(feature = "leases")]
mod reader;
#[cfg(feature = "leases")]
mod row;
mod savepoint;
#[cfg(feature = "leases")]
mod settle;
#[cfg(feature = "leases")]
mod tables;
#[cfg(feature = "leases")]
mod verify;
mod version;
mod writer;

pub use classify::store_error;
#[cfg(feature = "leases")]
pub use database::{Database, DatabaseBuilder};
pub use error::SqliteError;
#[cfg(feature = "leases")]
pub use filter::id_list;
#[cfg(feature = "leases")]
pub use lease::{LEASE_MIGRATION, LEASE_TABLES, SqliteLeaseStore};
pub use location::Location;
#[cfg(feature = "leases")]
pub use migrate::{migrate, migration_sql, version};
pub use open::{Durability, Options, Sharing, open};
#[cfg(feature = "leases")]
pub use page::PageQueries;
#[cfg(feature = "leases")]
pub use row::{PARKED, RawMessage, due_at, until};
pub use savepoint::in_savepoint;
#[cfg(feature = "leases")]
pub use settle::SettleQueries;
#[cfg(feature = "leases")]
pub use tables::{CountedShards, Tables};
#[cfg(feature = "leases")]
pub use verify::verify;
pub use version::{FLOOR, check_version};
pub use writer::{Request, Writer, WriterOptions};

// A graph holds one rusqlite only, since one copy of SQLite may be linked; so its types may stand in signatures.
pub use rusqlite;
