//! How an application that uses another driver adds messages to an outbox: a recipe for each, to be copied.
//!
//! Each `book` writes an order and its messages in one transaction: both are there when it commits, and neither is
//! when it fails. It runs one statement with one parameter, from [`PgOutbox::statement`] or [`SqliteOutbox::statement`], and
//! returns the ids of the messages that were added. The id of one that was there already is not among them, whatever its
//! content is; an application that gives two messages the same id by mistake finds it out by comparing.
//!
//! | driver | PostgreSQL | SQLite |
//! |---|---|---|
//! | diesel | [`postgres::diesel`] | [`sqlite::diesel`] |
//! | diesel-async | [`postgres::diesel_async`] | – |
//! | SeaORM | [`postgres::sea_orm`] | [`sqlite::sea_orm`] |
//! | sqlx | `PgOutbox` takes its connections | [`sqlite::sqlx`] |
//! | tokio-postgres | [`postgres::tokio_postgres`] | – |
//! | rusqlite | – | `SqliteOutbox` takes its connections |
//!
//! [`PgOutbox::statement`]: relaykit_outbox::postgres::PgOutbox::statement
//! [`SqliteOutbox::statement`]: relaykit_outbox::sqlite::SqliteOutbox::statement

pub mod postgres;
pub mod sqlite;

/// Why an order was not written, and its messages neither.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
