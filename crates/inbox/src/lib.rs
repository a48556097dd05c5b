#![doc = include_str!("../README.md")]

mod content;
mod dead;
mod handler;
mod name;
mod received;
mod retention;
mod routes;
mod store;

pub use dead::DeadLetter;
pub use handler::{Answer, HandlerError, Handlers, Registration, erase};
pub use name::{HandlerKey, MAX_NAME_BYTES, Scope};
pub use received::{IdConflict, ReceiveError, Received};
pub use relaykit_sql_store::{
    DEFAULT_MAX_PAYLOAD_BYTES, DeadFilter, DeadReason, Depth, Limits, MAX_ADDED, MAX_LISTED,
    MAX_PAYLOAD_BYTES, Page, ReadFrom, RowId, Seq, Settled, Settlement, Stored, TooLarge, Unreadable,
    Waiting,
};
pub use retention::{Erased, MIN_IDS, Retention};
pub use routes::{Route, Routes};
pub use store::{Committed, Delivery, InboxStore, Unrouted};
