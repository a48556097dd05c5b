//! What the tests share: a scripted handler, a tiny retry policy, and ways to wait for events.
#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

mod drive;
mod policy;
mod script;

use std::time::Duration;

use relaykit_batch_core::{Builder, Failed, Processor, Ticket};
use relaykit_pipeline_traits::{ManualClock, Rng};

pub(crate) use drive::{dropped_after_polls, idle, poll_once, run_out, until};
pub(crate) use policy::{Recorded, Times};
pub(crate) use script::{Gate, Oops, Outcome, Reaction, Said, Script, all_done, each, gate};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) type Batcher = Processor<u32, Script>;
pub(crate) type Answer = Result<u32, Failed<u32, Oops>>;

/// Begins a processor on the clock, with a seed that stays the same.
pub(crate) fn batcher(script: &Script, clock: &ManualClock) -> Builder<u32, Script> {
    Processor::builder(script.clone()).clock(clock.clone()).rng(Rng::seeded(7))
}

/// Builds the processor and starts it.
pub(crate) fn started(builder: Builder<u32, Script>) -> Batcher {
    let processor = builder.build().unwrap();
    processor.start().unwrap();
    processor
}

/// Adds all the items.
pub(crate) async fn add_all(
    processor: &Batcher,
    items: impl IntoIterator<Item = u32>,
) -> Vec<Ticket<u32, u32, Oops>> {
    let mut tickets = Vec::new();
    for item in items {
        tickets.push(processor.add(item).await.unwrap());
    }
    tickets
}

/// Waits for all the answers.
pub(crate) async fn answers(tickets: Vec<Ticket<u32, u32, Oops>>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for ticket in tickets {
        answers.push(ticket.await);
    }
    answers
}

/// Returns the outputs of answers that are all done.
pub(crate) fn outputs(answers: Vec<Answer>) -> Vec<u32> {
    answers.into_iter().map(|answer| answer.expect("this item is done")).collect()
}

/// Asserts that all room is back: `capacity` items fit at once, and not one more. Leaves them in the processor.
pub(crate) fn assert_room(processor: &Batcher, capacity: usize) {
    for n in 0..capacity {
        assert!(processor.try_send(1).is_ok(), "room for {n} of {capacity} items");
    }
    assert!(processor.try_send(1).is_err(), "room for more than {capacity} items");
}

/// Asserts that every accepted item was answered or handed back.
pub(crate) fn assert_books_balance(processor: &Batcher) {
    let stats = processor.stats();
    assert_eq!(stats.accepted, stats.done + stats.failed + stats.handed_back, "{stats:?}");
    assert_eq!((stats.buffered, stats.parked, stats.in_flight), (0, 0, 0), "{stats:?}");
}
