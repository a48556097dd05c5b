//! The outbox in a SQLite file that the application writes too, through connections of its own.
//!
//! ```
//! use relaykit_outbox::Limits;
//! use relaykit_outbox::sqlite::rusqlite::{Connection, TransactionBehavior};
//! use relaykit_outbox::sqlite::{Database, SqliteOutboxStore};
//! use relaykit_pipeline_traits::{Clock, Message, MessageId, Rng, SystemClock};
//! use relaykit_sql_store::{Names, Shards};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("app.db");
//! let clock = SystemClock::new();
//! let store = SqliteOutboxStore::new(Database::builder(&path, clock).open()?, &Names::new("outbox")?, Shards::default());
//! store.migrate().await?;
//! let outbox = store.outbox(Limits::default());
//!
//! let mut connection = Connection::open(&path)?;
//! connection.busy_timeout(std::time::Duration::from_secs(5))?;
//! connection.execute_batch("create table orders (number integer)")?;
//! let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
//! transaction.execute("insert into orders values (7)", [])?;
//! let id = MessageId::new(clock.now(), &mut Rng::from_entropy());
//! let paid = Message::builder(id, "order.paid", clock.now()).ordering_key("customer-42").payload("7").build()?;
//! outbox.add(&transaction, &paid)?;
//! transaction.commit()?;
//! # Ok(())
//! # }
//! ```

mod add;
mod archive;
mod dead;
mod page;
mod schema;
mod settle;
mod statement;
mod store;

pub use add::SqliteOutbox;
pub use archive::SqliteArchive;
#[doc(hidden)]
pub use page::page_queries;
pub use schema::{archive_migration_sql, archive_schema, migration_sql, schema};
pub use statement::AddStatement;
pub use store::SqliteOutboxStore;

// What a file is opened with.
pub use relaykit_sql_store::sqlite::{Database, DatabaseBuilder, Durability, SqliteLeaseStore, rusqlite};
