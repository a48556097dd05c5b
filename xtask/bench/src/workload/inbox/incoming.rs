use std::ops::Range;

use relaykit_inbox::{HandlerKey, Route, Routes, Scope};
use relaykit_pipeline_traits::{Clock, Message, MessageId, Rng, SystemClock};

use super::common::{Repeats, payload};

/// How many keys messages have.
pub(super) const KEYS: u64 = 1_000;

/// The kind of all messages.
pub(super) const KIND: &str = "bench";

/// Messages that come in, some of them again.
#[derive(Debug)]
pub(super) struct Incoming {
    repeats: Repeats<Message>,
    bytes: usize,
    clock: SystemClock,
    rng: Rng,
}

impl Incoming {
    pub(super) fn new(numbers: Range<u64>, bytes: usize) -> Self {
        let repeats = Repeats::new(numbers);
        Self { repeats, bytes, clock: SystemClock::new(), rng: Rng::from_entropy() }
    }

    /// Makes the next ones; nothing at the end. Each fifth came before: in an earlier batch, but for the first.
    ///
    /// # Errors
    ///
    /// Never: they are within bounds.
    pub(super) fn batch(&mut self, count: u32) -> anyhow::Result<Vec<Message>> {
        let Self { repeats, bytes, clock, rng } = self;
        repeats.batch(count, |number| message(number, *bytes, clock, rng))
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
    let at = clock.now();
    let builder = Message::builder(MessageId::new(at, rng), KIND, at).payload(payload(number, bytes));
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
