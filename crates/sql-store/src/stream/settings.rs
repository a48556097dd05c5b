/// How much of a stream is worked off at a time.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How many messages are lent at a time.
    pub batch_size: usize,
    /// How many batches are on their way at a time.
    pub concurrency: usize,
    /// Whether messages are counted now and then.
    pub counts: bool,
    /// Whether messages of one key come one after another.
    pub ordered: bool,
}

impl Settings {
    /// Returns how many rows are in memory at most, beside those on their way.
    pub(super) fn room(&self) -> usize {
        (self.batch_size * (self.concurrency + 1) * 2).max(1_000)
    }

    /// Returns how many rows of each of so many shards are read at a time.
    pub(super) fn limit(&self, shards: usize) -> u32 {
        u32::try_from((self.room() / 2 / shards.max(1)).max(16)).unwrap_or(u32::MAX)
    }
}
