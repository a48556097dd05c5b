//! Messages that are worked off in the order of their places, by whoever holds the lease of their shard.

mod dead;
mod row;

pub use dead::{DeadFilter, DeadReason, MAX_LISTED, check_limit};
pub use row::{
    Depth, Dying, Page, ReadFrom, RowId, Seq, Settled, Settlement, Stored, Suspicion, Unreadable, Waiting,
};
