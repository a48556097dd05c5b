//! The promises, on the store in memory.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_inbox::conformance::{Harness, Script};
use relaykit_inbox::{MemoryInbox, MemoryTransactional, Routes, Scope, inbox_conformance};
use relaykit_pipeline_traits::{ManualClock, Message};
use relaykit_sql_store::Shards;

struct Memory {
    clock: ManualClock,
    inbox: MemoryInbox,
    names: Arc<Mutex<Vec<String>>>,
}

impl Memory {
    fn new() -> Self {
        let clock = ManualClock::new();
        let shards = Shards::new(16).expect("the count is within bounds");
        Self { inbox: MemoryInbox::new(shards, clock.clone()), clock, names: Arc::default() }
    }
}

impl Harness for Memory {
    type Store = MemoryInbox;

    fn store(&self) -> MemoryInbox {
        self.inbox.clone()
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// Nothing is in the store before the transaction commits.
    async fn receive_and_abort(&self, _scope: &Scope, _messages: &[Message], _routes: &Routes) {}

    /// The workers' clock is the store's.
    async fn pass(&self, _time: Duration) {}

    fn writer(&self, script: Script) -> MemoryTransactional {
        let names = Arc::clone(&self.names);
        MemoryTransactional::new(move |transaction, message, _| {
            let name = String::from_utf8_lossy(message.payload()).into_owned();
            let count = transaction.get(&name).map_or(0, |count| count[0]);
            transaction.put(name.clone(), [count + 1]);
            let mut names = names.lock().unwrap();
            if !names.contains(&name) {
                names.push(name);
            }
            drop(names);
            script.ask(message).verdict()
        })
    }

    async fn effects(&self) -> Vec<String> {
        let names = self.names.lock().unwrap();
        let counted = names.iter().map(|name| (name, self.inbox.value(name).map_or(0, |count| count[0])));
        let mut effects: Vec<String> =
            counted.flat_map(|(name, count)| vec![name.clone(); usize::from(count)]).collect();
        effects.sort_unstable();
        effects
    }
}

inbox_conformance!(std::future::ready(Some(Memory::new())));
