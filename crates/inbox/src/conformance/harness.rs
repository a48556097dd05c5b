use std::time::Duration;

use relaykit_pipeline_traits::{ManualClock, Message, MessageId, OrderingKey, Rng, Timestamp};
use relaykit_retry::{Backoff, Jitter, Policy};
use relaykit_sql_store::{Instance, Lease, LeaseStore, OpenTransactions, ReadFrom, Seq, Stored};

use super::test_handler::{Script, TestHandler};
use crate::handler::{Handlers, Registration};
use crate::inbox::Inbox;
use crate::name::{HandlerKey, Scope};
use crate::received::Received;
use crate::routes::Routes;
use crate::store::InboxStore;
use crate::worker::{Worker, WorkerBuilder, WorkerSummary};

/// A new, empty store under test, and what a store does not show: transactions of one's own, and the passing of time.
pub trait Harness: Sync {
    /// The store.
    type Store: InboxStore;

    /// Returns a handle on the store; all are one.
    fn store(&self) -> Self::Store;

    /// Returns the clock of the workers.
    fn clock(&self) -> &ManualClock;

    /// Receives messages in a transaction and rolls it back.
    fn receive_and_abort(
        &self,
        scope: &Scope,
        messages: &[Message],
        routes: &Routes,
    ) -> impl Future<Output = ()> + Send;

    /// Lets time pass for the store: as if everything in it had happened this much earlier, leases included.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Makes a transactional handler that first writes the message's payload as an effect, in its transaction, and then does as it is
    /// told.
    fn writer(&self, script: Script) -> <Self::Store as InboxStore>::Transactional;

    /// Returns the effects that were committed, sorted, each as often as it was.
    fn effects(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// A harness at work: makes messages, handlers and workers.
pub struct Bench<'a, H> {
    pub(super) harness: &'a H,
    pub(super) rng: Rng,
}

/// How long the workers of cases lease their shards.
pub(super) const LEASE: Duration = Duration::from_secs(30);

/// The kind of most messages of cases.
pub(super) const KIND: &str = "case";

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
        self.message_of(KIND, key, payload)
    }

    /// Makes a message of a kind.
    ///
    /// # Panics
    ///
    /// The kind or the key is none.
    pub fn message_of(&mut self, kind: &str, key: Option<&str>, payload: &str) -> Message {
        let at = Timestamp::from_millis(1_763_683_200_000);
        let builder = Message::builder(MessageId::new(at, &mut self.rng), kind, at)
            .payload(payload.to_owned())
            .header("content-type", "text/plain");
        let builder = match key {
            Some(key) => builder.ordering_key(key),
            None => builder,
        };
        builder.build().expect("the parts of a case are valid")
    }

    /// Makes messages of one key, with the payloads `key1`, `key2`, and stores them for these handlers.
    ///
    /// # Panics
    ///
    /// They are not stored.
    pub async fn receive(&mut self, routes: &Routes, key: &str, count: usize) -> Vec<Message> {
        let messages: Vec<_> =
            (1..=count).map(|number| self.message(Some(key), &format!("{key}{number}"))).collect();
        self.receive_all(routes, &messages).await;
        messages
    }

    /// Stores messages for these handlers.
    ///
    /// # Panics
    ///
    /// They are not stored.
    pub async fn receive_all(&self, routes: &Routes, messages: &[Message]) {
        let inbox = Inbox::new(self.harness.store(), routes.clone());
        let answers = inbox.receive_all(&scope(), messages).await.expect("the messages are received");
        assert!(answers.iter().all(|answer| *answer == Ok(Received::Stored)), "{answers:?}");
    }

    /// Begins a worker.
    pub fn worker(&mut self, handlers: Handlers<H::Store>) -> WorkerBuilder<H::Store> {
        Worker::builder(self.harness.store(), handlers)
            .clock(self.harness.clock().clone())
            .rng(self.rng.fork())
            .lease(LEASE)
    }

    /// Lets time pass for the store and the workers.
    pub async fn pass(&self, time: Duration) {
        self.harness.pass(time).await;
        self.harness.clock().advance(time);
    }

    /// Leases all shards that are free, for somebody who does nothing with them.
    pub(super) async fn lease_all(&mut self) -> Vec<Lease> {
        let leases = self.harness.store().leases();
        let instance = Instance::new(Timestamp::from_millis(1), &mut self.rng);
        let view = leases.heartbeat(instance, LEASE).await.expect("the store answers");
        leases.take(instance, LEASE, &view.free).await.expect("the store answers")
    }

    /// Reads what a handler gets next from these shards.
    pub(super) async fn page(&self, handler: &HandlerKey, leases: &[Lease]) -> Vec<Stored> {
        let from: Vec<_> =
            leases.iter().map(|lease| ReadFrom { shard: lease.shard, after: Seq(0) }).collect();
        self.harness
            .store()
            .page(handler, &from, &OpenTransactions::default(), 100)
            .await
            .expect("the store answers")
            .rows
    }
}

/// Returns the scope of the messages of cases.
pub(super) fn scope() -> Scope {
    Scope::new("cases").expect("it is a scope")
}

/// Makes a handler's key.
pub(super) fn handler(key: &str) -> HandlerKey {
    HandlerKey::new(key).expect("the keys of cases are valid")
}

/// Makes an ordering key.
pub(super) fn key(key: &str) -> OrderingKey {
    OrderingKey::new(key).expect("the keys of cases are valid")
}

/// Waits of a second, and three attempts.
pub(super) fn retry() -> Policy {
    let retry = Backoff::fixed(Duration::from_secs(1)).jitter(Jitter::None).max_attempts(3);
    retry.build().expect("the settings are valid")
}

/// Registers a plain handler for the kind of cases.
pub(super) fn plain<S: InboxStore>(key: &str, test: &TestHandler) -> Registration<S> {
    Registration::new(handler(key), test.clone()).on(KIND).retry(retry())
}

/// Registers a transactional handler for the kind of cases.
pub(super) fn writer<H: Harness>(harness: &H, key: &str, script: &Script) -> Registration<H::Store> {
    Registration::transactional(handler(key), harness.writer(script.clone())).on(KIND).retry(retry())
}

/// Collects registrations.
pub(super) fn handlers<S: InboxStore>(list: impl IntoIterator<Item = Registration<S>>) -> Handlers<S> {
    let mut handlers = Handlers::new();
    for registration in list {
        handlers.register(registration).expect("the handlers of cases are valid");
    }
    handlers
}

/// Works once, and expects the store to do its part.
pub(super) async fn once<S: InboxStore>(worker: &Worker<S>) -> WorkerSummary {
    let summary = worker.run_once().await.expect("the leases are renewed");
    assert!(summary.handlers.iter().all(|(_, summary)| summary.store_failures == 0), "{summary:?}");
    summary
}
