use std::ops::Range;

use relaykit_inbox::{HandlerKey, Route, Routes, Scope};
use relaykit_pipeline_traits::{Clock, Message, MessageId, Rng, SystemClock};

/// How many keys messages have.
pub(super) const KEYS: u64 = 1_000;

/// The kind of all messages.
pub(super) const KIND: &str = "bench";

/// Each so manieth message came before.
const REPEATED: u64 = 5;

/// Messages that come in, some of them again.
#[derive(Debug)]
pub(super) struct Incoming {
    numbers: Range<u64>,
    bytes: usize,
    before: Vec<Message>,
    clock: SystemClock,
    rng: Rng,
}

impl Incoming {
    pub(super) fn new(numbers: Range<u64>, bytes: usize) -> Self {
        let before = Vec::new();
        Self { numbers, bytes, before, clock: SystemClock::new(), rng: Rng::from_entropy() }
    }

    /// Makes the next ones; nothing at the end. Each fifth came before: in an earlier batch, but for the first.
    ///
    /// # Errors
    ///
    /// Never: they are within bounds.
    pub(super) fn batch(&mut self, count: u32) -> anyhow::Result<Vec<Message>> {
        let mut batch = Vec::new();
        let known = self.before.len();
        for number in self.numbers.by_ref().take(count as usize) {
            let again = number % REPEATED == REPEATED - 1 && !self.before.is_empty();
            if again {
                let among = if known == 0 { self.before.len() } else { known };
                let place = self.rng.below(among as u64);
                batch.push(self.before[usize::try_from(place)?].clone());
            } else {
                let message = message(number, self.bytes, &self.clock, &mut self.rng)?;
                self.before.push(message.clone());
                batch.push(message);
            }
        }
        Ok(batch)
    }

    /// Returns how many of so many by so many connections came for the first time.
    pub(super) const fn new_ones(messages: u32) -> u32 {
        messages - messages / 5
    }
}

/// Makes a message of so many bytes.
///
/// # Errors
///
/// Never: it is within bounds.
pub(super) fn message(
    number: u64,
    bytes: usize,
    clock: &SystemClock,
    rng: &mut Rng,
) -> anyhow::Result<Message> {
    let (at, payload) =
        (clock.now(), format!("{number:0>16}{:x<width$}", "", width = bytes.saturating_sub(16)));
    let builder = Message::builder(MessageId::new(at, rng), KIND, at).payload(payload);
    Ok(builder.ordering_key(format!("k{}", number % KEYS)).build()?)
}

/// Returns the keys of so many handlers.
///
/// # Errors
///
/// Never: they are keys.
pub(super) fn keys(handlers: u32) -> anyhow::Result<Vec<HandlerKey>> {
    (0..handlers).map(|number| Ok(HandlerKey::new(format!("h{number}"))?)).collect()
}

/// Leads all messages to so many handlers.
///
/// # Errors
///
/// Never: each is led there once.
pub(super) fn routes(handlers: u32) -> anyhow::Result<Routes> {
    let mut routes = Routes::new();
    for handler in keys(handlers)? {
        routes.add(KIND, Route { handler, ordered: false })?;
    }
    Ok(routes)
}

/// Returns whose messages they are.
///
/// # Errors
///
/// Never: it is a scope.
pub(super) fn scope() -> anyhow::Result<Scope> {
    Ok(Scope::new("bench")?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_fifth_message_came_before() {
        for (size, count) in [(1, 1_000), (100, 1_000)] {
            let mut incoming = Incoming::new(0..count, 1_024);
            let mut all = Vec::new();
            loop {
                let batch = incoming.batch(size).unwrap();
                if batch.is_empty() {
                    break;
                }
                all.extend(batch);
            }
            assert!(all.iter().all(|message| message.payload().len() == 1_024));
            let distinct: HashSet<_> = all.iter().map(Message::id).collect();
            let expected = Incoming::new_ones(u32::try_from(count).unwrap());
            assert_eq!((all.len() as u64, distinct.len()), (count, expected as usize));
        }
    }
}
