use std::time::Duration;

/// What a queue holds, and what it has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Items accepted that are not on disk yet.
    pub buffered_items: u64,
    /// Items on disk that are not done.
    pub stored_items: u64,
    /// The batches they are in.
    pub stored_batches: u64,
    /// The bytes of those batches.
    pub stored_bytes: u64,
    /// Items that a worker has now.
    pub in_flight_items: u64,
    /// Items set aside as dead letters, on disk.
    pub dead_items: u64,
    /// How long ago the oldest batch was stored that may not be done; zero if there is none.
    pub oldest_age: Duration,
    /// Items accepted since the queue was opened.
    pub pushed: u64,
    /// Items stored since then, after merging.
    pub flushed: u64,
    /// Items done since then.
    pub processed: u64,
    /// Items that died since then.
    pub died: u64,
    /// Items dropped since then to make room, under [`WhenFull::DropOldest`](crate::WhenFull::DropOldest).
    pub dropped: u64,
    /// Calls of the handler since then.
    pub calls: u64,
}

/// What a close left behind.
#[derive(Debug)]
#[must_use = "items that could not be stored are in here"]
#[non_exhaustive]
pub struct CloseReport<T> {
    /// Items on disk, for the next time.
    pub stored_items: u64,
    /// Items whose handler was interrupted. They are among the stored ones, and no attempt was spent.
    pub interrupted_items: u64,
    /// Accepted items that could not be stored, since the disk was full or failed. They are nowhere else.
    pub unsaved: Vec<T>,
    /// Whether the file was closed in time. If not, its lock may be held a little longer.
    pub file_closed: bool,
}
