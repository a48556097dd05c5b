/// What was done with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StreamSummary {
    /// Rows read, some more than once.
    pub read: u64,
    /// Messages handled.
    pub sent: u64,
    /// Messages that failed and wait for another attempt.
    pub retried: u64,
    /// Messages that became dead letters.
    pub dead: u64,
    /// Messages whose lease was found lost after they were handled, or may have been: they may be handled again.
    pub lost: u64,
    /// How often the other side refused everything, so that nothing was lent for a while.
    pub pauses: u64,
    /// How often the store could not be read.
    pub store_failures: u64,
    /// Batches that had not ended when the time for that was over. Their messages are handled again after the lease.
    pub unfinished: usize,
    /// Shards that could not be given back. Others take them after the lease.
    pub kept_shards: usize,
}
