use std::collections::HashSet;

use relaykit_inbox::{HandlerKey, Route, Routes, Scope};
use relaykit_pipeline_traits::uuid::Uuid;
use relaykit_pipeline_traits::{Message, MessageId, Rng, Timestamp};

use crate::history::{Event, Id};
use crate::item::Item;
use crate::stage::plan::IDS;

/// Keys of a slot.
const KEYS: u64 = 8;

/// Ids of a batch, of which some may be left out.
const BATCH: u64 = 8;

/// The kind of all messages.
pub(super) const KIND: &str = "item";

/// What a broker has for a slot: batches that are always the same, whoever asks for them, and however often.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    slot: u64,
    scope: Scope,
}

/// Some messages, which come together.
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    pub(super) messages: Vec<Message>,
}

impl Stream {
    pub(super) fn new(slot: u64) -> anyhow::Result<Self> {
        Ok(Self { slot, scope: Scope::new("broker")? })
    }

    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Returns a batch by its number.
    pub(super) fn batch(&self, number: u64) -> anyhow::Result<Batch> {
        let first = self.slot * IDS + number * BATCH;
        let mut rng = Rng::seeded(first);
        let items: Vec<_> = (first..=first + rng.below(5))
            .map(|id| Item::new(id, self.slot * KEYS + rng.below(KEYS)))
            .collect();
        let messages = items.iter().map(message).collect::<anyhow::Result<_>>()?;
        Ok(Batch { items, messages })
    }

    /// Returns the number of the first batch that somebody was not told of to be stored, by what all have told.
    pub(super) fn unanswered(&self, history: &[Event]) -> anyhow::Result<u64> {
        let told: HashSet<Id> = history
            .iter()
            .filter_map(|event| match event {
                Event::Acknowledged { id } => Some(*id),
                _ => None,
            })
            .collect();
        let mut number = 0;
        while self.batch(number)?.items.iter().all(|item| told.contains(&item.id)) {
            number += 1;
        }
        Ok(number)
    }
}

fn message(item: &Item) -> anyhow::Result<Message> {
    let message = Message::builder(message_id(item.id), KIND, Timestamp::from_millis(1_763_683_200_000))
        .ordering_key(format!("key-{}", item.key).as_str())
        .payload(serde_json::to_vec(item)?);
    Ok(message.build()?)
}

/// A message's id is its item's.
fn message_id(id: Id) -> MessageId {
    MessageId::from_uuid(Uuid::from_u64_pair(0, id))
}

pub(super) fn item_id(id: MessageId) -> Id {
    id.as_uuid().as_u64_pair().1
}

/// The plain handler.
pub(super) fn calls() -> HandlerKey {
    HandlerKey::new("calls").expect("a name")
}

/// The transactional one.
pub(super) fn effects() -> HandlerKey {
    HandlerKey::new("effects").expect("a name")
}

/// Where messages go.
pub(super) fn routes() -> Routes {
    let mut routes = Routes::new();
    for handler in [calls(), effects()] {
        routes.add(KIND, Route { handler, ordered: true }).expect("two handlers");
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_goes_on_with_the_first_batch_that_is_not_wholly_answered() {
        let stream = Stream::new(3).unwrap();
        let told = |number| {
            let batch: Batch = stream.batch(number).unwrap();
            batch.items.into_iter().map(|item| Event::Acknowledged { id: item.id }).collect::<Vec<_>>()
        };
        assert_eq!(stream.unanswered(&[]).unwrap(), 0);
        assert_eq!(stream.unanswered(&[told(0), told(2)].concat()).unwrap(), 1);
        let number = (1..1_000).find(|number| told(*number).len() > 1).unwrap();
        let mut all: Vec<_> = (0..=number).flat_map(told).collect();
        assert_eq!(stream.unanswered(&all).unwrap(), number + 1);
        all.pop();
        assert_eq!(stream.unanswered(&all).unwrap(), number);
    }
}
