use std::time::Duration;

/// A key whose later jobs wait for the retry of a failed one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockedKey<K, J> {
    /// The key.
    pub key: K,
    /// The oldest failed job: the only one that may pass.
    pub head: J,
    /// How many later jobs of the key failed, too, and wait behind it for their retry.
    pub failed_behind: usize,
    /// How long the key has been blocked.
    pub age: Duration,
    /// How often a job was refused at a gate since: at least that many passes found the key blocked. How many jobs
    /// wait, only their store knows.
    pub refused: u32,
}
