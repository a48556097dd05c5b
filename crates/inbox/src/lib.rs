#![doc = include_str!("../README.md")]

mod cleaner;
#[cfg(feature = "conformance")]
pub mod conformance;
mod content;
mod dead;
mod deliver;
mod handler;
#[cfg(feature = "hmac")]
mod hmac;
mod inbox;
mod memory;
mod metrics;
mod name;
#[cfg(feature = "postgres")]
pub mod postgres;
mod received;
mod retention;
mod routes;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod store;
mod verify;
mod worker;

pub use cleaner::Cleaner;
pub use dead::DeadLetter;
pub use handler::{Answer, HandlerError, Handlers, Registration, erase};
#[cfg(feature = "hmac")]
pub use hmac::HmacSha256;
pub use inbox::Inbox;
pub use memory::{MemoryInbox, MemoryTransaction, MemoryTransactional};
pub use metrics::METRICS;
pub use name::{HandlerKey, MAX_NAME_BYTES, Scope};
pub use received::{IdConflict, ReceiveError, Received};
pub use relaykit_sql_store::{
    DEFAULT_MAX_PAYLOAD_BYTES, DeadFilter, DeadReason, Depth, Limits, MAX_ADDED, MAX_LISTED,
    MAX_PAYLOAD_BYTES, OpenTransactions, Page, ReadFrom, RowId, Seq, Settled, Settlement, Snapshot, Stored,
    TooLarge, Unreadable, Waiting,
};
pub use retention::{Erased, MIN_IDS, Retention};
pub use routes::{Route, Routes};
pub use store::{Committed, Delivery, InboxStore, Unrouted};
pub use verify::Verify;
pub use worker::{Worker, WorkerBuilder, WorkerEvent, WorkerSummary};
