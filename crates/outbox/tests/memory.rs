//! The promises, on the store in memory.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use relaykit_outbox::conformance::Harness;
use relaykit_outbox::{AddError, Added, MemoryOutbox, outbox_conformance};
use relaykit_pipeline_traits::{ManualClock, Message};
use relaykit_sql_store::Shards;

struct Memory {
    clock: ManualClock,
    outbox: MemoryOutbox,
}

impl Memory {
    fn new() -> Self {
        let clock = ManualClock::new();
        let shards = Shards::new(16).expect("the count is within bounds");
        Self { outbox: MemoryOutbox::new(shards, clock.clone()), clock }
    }
}

impl Harness for Memory {
    type Store = MemoryOutbox;

    fn store(&self) -> MemoryOutbox {
        self.outbox.clone()
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn add(&self, messages: &[Message], delay: Option<Duration>) -> Result<Vec<Added>, AddError> {
        self.outbox.add_all(messages, delay)
    }

    /// Nothing is in the store before the transaction commits.
    async fn add_and_abort(&self, _messages: &[Message]) {}

    /// The relays' clock is the store's.
    async fn pass(&self, _time: Duration) {}
}

outbox_conformance!(std::future::ready(Some(Memory::new())));
