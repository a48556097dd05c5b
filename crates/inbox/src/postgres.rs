//! An inbox in PostgreSQL 14 or later, through sqlx.
//!
//! # Tables
//!
//! `<prefix>_messages` holds each message once, and remembers its id when its payload is erased; `<prefix>_deliveries`
//! has a row for each handler that has yet to handle one, `<prefix>_dead` the dead letters, `<prefix>_shards` and
//! `<prefix>_members` the workers' leases, `<prefix>_schema` the version. [`PgSchema`] makes them.
//!
//! Receiving a message is one call, which writes it and its deliveries, or says what is known under its id; handling it deletes the delivery. In your own transaction
//! it is [`PgInbox`] that receives.
//!
//! # Functions
//!
//! `<prefix>_shard_of(key bytea) returns int` computes a shard, of the UTF-8 of the ordering key, or of the id's text where there
//! is none. `<prefix>_receive`, `<prefix>_receive_all`, `<prefix>_known`, `<prefix>_page`, `<prefix>_settle`, `<prefix>_suspect` and `<prefix>_finish` are for this crate; their parameters may
//! change.
//!
//! # Privileges
//!
//! All need `usage` on the schema. The functions run with the rights of who calls them.
//!
//! | role | needs |
//! |---|---|
//! | receiver | `insert, select` on `<prefix>_messages`, `insert` on `<prefix>_deliveries`, `usage` on the sequences `<prefix>_messages_seq` and `<prefix>_deliveries_seq` |
//! | worker | `select, insert, update, delete` on `<prefix>_messages`, `<prefix>_deliveries`, `<prefix>_dead` and `<prefix>_members`, `select, update` on `<prefix>_shards`, `usage, select` on `<prefix>_deliveries_seq` |
//! | whoever verifies, or starts with [`PgSchema::migrate`] on tables that are there | `select` on `<prefix>_schema` and `<prefix>_shards` |
//! | migrator | `create` on the schema (and on the database, if the schema is missing); it owns the tables |
//!
//! A worker that receives, too, needs both. A transactional handler writes with the worker's role, so that needs rights on the handler's tables, too.

mod inbox;
mod queries;
mod receive;
mod schema;
mod store;
mod transactional;

pub use inbox::PgInbox;
pub use relaykit_sql_store::postgres::WrongShards;
pub use schema::PgSchema;
pub use store::PgInboxStore;
pub use transactional::{PgTransactional, TransactionalHandler};
