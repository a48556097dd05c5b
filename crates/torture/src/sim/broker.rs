use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relaykit_pipeline_traits::Message;

/// A broker: keeps what is sent in partitions, in order, and who has read how far.
#[derive(Debug)]
pub(super) struct Broker {
    partitions: Mutex<Vec<Partition>>,
}

#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) messages: Vec<Message>,
    /// Up to where was acknowledged that it was received.
    pub(super) read: usize,
    /// The node that reads it.
    pub(super) reader: usize,
}

/// How many partitions there are.
pub(super) const PARTITIONS: usize = 2;

impl Broker {
    pub(super) fn new() -> Arc<Self> {
        let partitions = (0..PARTITIONS).map(|_| Partition::default()).collect();
        Arc::new(Self { partitions: Mutex::new(partitions) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Partition>> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message; those of one key are in one partition.
    pub(super) fn publish(&self, message: &Message, key: u64) {
        let at = usize::try_from(key).unwrap_or(0) % PARTITIONS;
        self.lock()[at].messages.push(message.clone());
    }

    /// Returns how much was sent and not read.
    pub(super) fn unread(&self) -> usize {
        self.lock().iter().map(|partition| partition.messages.len() - partition.read).sum()
    }
}
