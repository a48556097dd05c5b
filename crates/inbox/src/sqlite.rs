//! The inbox in a SQLite file that the application writes too, through connections of its own.
//!
//! A process that only receives needs [`SqliteInbox`] alone, in its own transactions. What handles works on a [`SqliteInboxStore`]:
//!
//! ```
//! use relaykit_inbox::sqlite::rusqlite::{Connection, params};
//! use relaykit_inbox::sqlite::{Database, SqliteError, SqliteInboxStore};
//! use relaykit_inbox::{HandlerKey, Handlers, InboxStore, Received, Registration, Scope};
//! use relaykit_pipeline_traits::{BatchContext, Clock, Message, MessageId, Rng, SystemClock, Verdict};
//! use relaykit_sql_store::{Names, Shards};
//!
//! fn count(tx: &Connection, message: &Message, _: &BatchContext) -> Verdict<(), SqliteError> {
//!     match tx.execute("insert into pushes values (?1)", params![message.id().as_bytes()]) {
//!         Ok(_) => Verdict::Done(()),
//!         Err(error) => Verdict::Retry { after: None, error: SqliteError::of(error) },
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("app.db");
//! let clock = SystemClock::new();
//! let store = SqliteInboxStore::new(Database::builder(&path, clock).open()?, &Names::new("inbox")?, Shards::default());
//! store.migrate().await?;
//!
//! let mut handlers: Handlers<SqliteInboxStore> = Handlers::new();
//! handlers.register(Registration::transactional(HandlerKey::new("count")?, count).on("push").ordered())?;
//!
//! let id = MessageId::new(clock.now(), &mut Rng::from_entropy());
//! let push = Message::builder(id, "push", clock.now()).ordering_key("repository-7").payload("{}").build()?;
//! let received = store.receive(&Scope::new("github")?, &[push], handlers.routes()).await?;
//! assert_eq!(received, [Ok(Received::Stored)]);
//! # Ok(())
//! # }
//! ```

mod dead;
mod handle;
mod page;
mod receive;
mod retain;
mod route;
mod row;
mod schema;
mod settle;
mod store;

pub use handle::{SqliteTransactional, TransactionalHandler};
#[doc(hidden)]
pub use page::page_queries;
pub use receive::SqliteInbox;
pub use schema::{migration_sql, schema};
pub use store::SqliteInboxStore;

// What a file is opened with, and what a handler may say.
pub use relaykit_sql_store::sqlite::{
    Database, DatabaseBuilder, Durability, SqliteError, SqliteLeaseStore, rusqlite,
};
