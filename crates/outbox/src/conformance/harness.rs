use std::time::Duration;

use relaykit_pipeline_traits::{ManualClock, Message, MessageId, OrderingKey, Rng, Timestamp};
use relaykit_retry::{Backoff, Jitter};
use relaykit_sql_store::Lease;

use super::sender::TestSender;
use crate::relay::{Relay, RelayBuilder};
use crate::store::OutboxStore;
use crate::{AddError, Added};

/// A new, empty store under test, and what a store does not show: how messages are written, and the passing of time.
pub trait Harness: Sync {
    /// The store.
    type Store: OutboxStore;

    /// Returns a handle on the store; all are one.
    fn store(&self) -> Self::Store;

    /// Returns the clock of the relays.
    fn clock(&self) -> &ManualClock;

    /// Adds messages in one transaction and commits it.
    fn add(
        &self,
        messages: &[Message],
        delay: Option<Duration>,
    ) -> impl Future<Output = Result<Vec<Added>, AddError>> + Send;

    /// Adds messages in a transaction and rolls it back.
    fn add_and_abort(&self, messages: &[Message]) -> impl Future<Output = ()> + Send;

    /// Lets time pass for the store: as if everything in it had happened this much earlier, leases included.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Removes the store after a case that passed. Default: drops the harness.
    fn clean(self) -> impl Future<Output = ()>
    where
        Self: Sized,
    {
        drop(self);
        std::future::ready(())
    }
}

/// A harness at work: makes messages and relays.
pub struct Bench<'a, H> {
    harness: &'a H,
    rng: Rng,
}

/// How long the relays of cases lease their shards.
pub(super) const LEASE: Duration = Duration::from_secs(30);

impl<'a, H: Harness> Bench<'a, H> {
    /// Begins.
    pub fn new(harness: &'a H) -> Self {
        Self::seeded(harness, 7)
    }

    /// Begins with a seed of its own.
    pub fn seeded(harness: &'a H, seed: u64) -> Self {
        Self { harness, rng: Rng::seeded(seed) }
    }

    /// Makes a message.
    ///
    /// # Panics
    ///
    /// The key is none.
    pub fn message(&mut self, key: Option<&str>, payload: &str) -> Message {
        let at = Timestamp::from_millis(1_763_683_200_000);
        let builder = Message::builder(MessageId::new(at, &mut self.rng), "case", at)
            .payload(payload.to_owned())
            .header("content-type", "text/plain");
        let builder = match key {
            Some(key) => builder.ordering_key(key),
            None => builder,
        };
        builder.build().expect("the parts of a case are valid")
    }

    /// Makes messages of one key, with the payloads `key1`, `key2`, and adds them.
    ///
    /// # Panics
    ///
    /// They are refused.
    pub async fn add(&mut self, key: &str, count: usize) -> Vec<Message> {
        let messages: Vec<_> =
            (1..=count).map(|number| self.message(Some(key), &format!("{key}{number}"))).collect();
        self.add_all(&messages).await;
        messages
    }

    /// Adds messages.
    ///
    /// # Panics
    ///
    /// They are refused.
    pub async fn add_all(&self, messages: &[Message]) {
        self.harness.add(messages, None).await.expect("the messages are added");
    }

    /// Begins a relay with waits of a second, and three attempts.
    pub fn relay(&mut self, sender: &TestSender) -> RelayBuilder<H::Store, TestSender> {
        let retry = Backoff::fixed(Duration::from_secs(1)).jitter(Jitter::None).max_attempts(3);
        Relay::builder(self.harness.store(), sender.clone())
            .clock(self.harness.clock().clone())
            .rng(self.rng.fork())
            .lease(LEASE)
            .batch_size(10)
            .retry(retry.build().expect("the settings are valid"))
    }

    /// Lets time pass for the store and the relays.
    pub async fn pass(&self, time: Duration) {
        self.harness.pass(time).await;
        self.harness.clock().advance(time);
    }

    /// Reads what a new owner of all shards would, and returns the leases under which it could be settled.
    pub(super) async fn lease_all(&mut self) -> Vec<Lease> {
        use relaykit_sql_store::{Instance, LeaseStore};
        let leases = self.harness.store().leases();
        let instance = Instance::new(Timestamp::from_millis(1), &mut self.rng);
        let view = leases.heartbeat(instance, LEASE).await.expect("the store answers");
        leases.take(instance, LEASE, &view.free).await.expect("the store answers")
    }
}

/// Makes a key.
pub(super) fn key(key: &str) -> OrderingKey {
    OrderingKey::new(key).expect("the keys of cases are valid")
}

/// Works once, and expects the store to do its part.
pub(super) async fn once<S: OutboxStore>(relay: &Relay<S, TestSender>) -> crate::RelaySummary {
    let summary = relay.run_once().await.expect("the leases are renewed");
    assert_eq!(summary.store_failures, 0);
    summary
}
