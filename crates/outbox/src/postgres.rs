//! An outbox in PostgreSQL 15 or later, through sqlx; producers may use any driver, or plain SQL.
//!
//! # Tables
//!
//! `<prefix>_messages` holds what is not sent yet, `<prefix>_dead` the dead letters, `<prefix>_shards` and
//! `<prefix>_members` the relays' leases, `<prefix>_schema` the version. [`PgSchema`] makes them.
//!
//! If [an archive](PgSchema::archive) is asked for, `<prefix>_archive` holds what was sent, with a partition for each day and
//! `<prefix>_archive_default` for days that have none; `<prefix>_archive_version` is its version.
//!
//! # Functions
//!
//! `<prefix>_add(message_id uuid, kind text, ordering_key text, payload bytea, headers jsonb default '{}', occurred_at
//! timestamptz default clock_timestamp(), delay interval default null) returns boolean` adds a message in the current
//! transaction, for producers in any language. It returns false if the same message is there already, and raises
//! `unique_violation` (23505) if another one has its id, and `invalid_parameter_value` (22023) if it is none.
//!
//! ```sql
//! begin;
//! insert into orders …;
//! select outbox_add(gen_random_uuid(), 'order.paid', 'customer-42', convert_to('{"order":7}', 'UTF8'));
//! commit;
//! ```
//!
//! `<prefix>_shard_of(key bytea) returns int` computes a shard, of the UTF-8 of the ordering key, or of the id's text
//! where there is none. The number of shards is written in this function, and nowhere else.
//!
//! `<prefix>_add_new`, `<prefix>_known`, `<prefix>_page`, `<prefix>_suspect` and `<prefix>_settle` are for this crate; their
//! parameters may change.
//!
//! # Privileges
//!
//! All need `usage` on the schema. The functions run with the rights of who calls them; whoever revoked `execute` from
//! `public` grants it on `<prefix>_shard_of` to all, on `<prefix>_add`, `<prefix>_add_new` and `<prefix>_known` to writers, and on
//! `<prefix>_page`, `<prefix>_suspect` and `<prefix>_settle` to relays.
//!
//! | role | needs |
//! |---|---|
//! | writer | `insert, select` on `<prefix>_messages`, `usage` on the sequence `<prefix>_messages_seq` |
//! | relay | `select, insert, update, delete` on `<prefix>_messages`, `<prefix>_dead` and `<prefix>_members`, `select, update` on `<prefix>_shards`, `select` on the sequence `<prefix>_messages_seq` |
//! | relay beside an archive | also `insert` on `<prefix>_archive`; the migration that makes it grants this to whoever may insert into `<prefix>_dead` |
//! | whoever reads the archive | `select` on `<prefix>_archive` |
//! | [`Retention`](crate::Retention) | to own `<prefix>_archive`, or be a member of the role that does; `create` on the schema |
//! | whoever verifies, or starts with [`PgSchema::migrate`] on tables that are there | `select` on `<prefix>_schema`, `<prefix>_shards` and, if there is one, `<prefix>_archive_version` |
//! | migrator | `create` on the schema (and on the database, if the schema is missing); it owns the tables |
//!
//! A row that a writer puts there with a plain `insert` is read as any other. `<prefix>_add` checks it first.

mod archive;
mod outbox;
mod queries;
mod schema;
mod statement;
mod store;

pub use archive::PgArchive;
pub use outbox::PgOutbox;
pub use relaykit_sql_store::postgres::WrongShards;
pub use schema::PgSchema;
pub use statement::AddStatement;
pub use store::PgOutboxStore;
