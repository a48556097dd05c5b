//! Messages that are worked off in the order of their places, by whoever holds the lease of their shard: what an outbox's relay and
//! an inbox's worker have in common.

mod careful;
mod dead;
mod engine;
mod event;
mod handler;
mod lanes;
mod metrics;
mod open;
mod page_size;
mod row;
mod run;
mod scan;
mod send;
mod settings;
mod store;
mod summary;
mod turn;

pub use careful::Careful;
pub use dead::{DeadFilter, DeadReason, MAX_LISTED, check_limit};
pub use engine::{Engine, Until};
pub use event::StreamEvent;
pub use handler::{Lent, Sender, StreamHandler};
pub use metrics::StreamMetrics;
pub use open::{OpenTransactions, Snapshot};
pub use row::{
    Depth, Dying, Page, ReadFrom, RowId, Seq, Settled, Settlement, Stored, Suspicion, Unreadable, Waiting,
};
pub use run::{leased, told};
pub use send::{Link, Observer, Shared};
pub use settings::Settings;
pub use store::StreamStore;
pub use summary::StreamSummary;
