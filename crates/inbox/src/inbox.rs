use std::fmt;
use std::sync::Arc;

use relaykit_pipeline_traits::{Message, NoRecorder, Recorder};
use relaykit_sql_store::Wake;

use crate::metrics;
use crate::name::Scope;
use crate::received::{IdConflict, ReceiveError, Received};
use crate::routes::Routes;
use crate::store::InboxStore;
use crate::verify::Verify;

/// Receives messages: stores each once, with a delivery for each handler of its kind. Cheap to clone.
///
/// It works on the store's own connections. To receive in a transaction of your own, take what the store has for that.
#[derive(Clone)]
pub struct Inbox<S> {
    store: S,
    routes: Arc<Routes>,
    verify: Option<Arc<dyn Verify>>,
    recorder: Arc<dyn Recorder>,
    name: Arc<str>,
    wake: Wake,
}

impl<S: InboxStore> Inbox<S> {
    /// Makes an inbox of a store and the routes of its messages.
    #[must_use]
    pub fn new(store: S, routes: Routes) -> Self {
        Self {
            store,
            routes: Arc::new(routes),
            verify: None,
            recorder: Arc::new(NoRecorder),
            name: "inbox".into(),
            wake: Wake::new(),
        }
    }

    /// Sets the name, a label of every metric. Default: `inbox`.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets what looks at each message before it is stored. Default: nobody.
    #[must_use]
    pub fn verify(mut self, verify: impl Verify + 'static) -> Self {
        self.verify = Some(Arc::new(verify));
        self
    }

    /// Sets where its numbers go. Default: nowhere.
    #[must_use]
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = recorder;
        self
    }

    /// Sets whom to wake once something is stored: give it the [`Worker`](crate::Worker)'s. Default: nobody.
    #[must_use]
    pub fn wake(mut self, wake: Wake) -> Self {
        self.wake = wake;
        self
    }

    /// Stores a message, unless its scope and id are known. When this returns, it is committed: tell whoever sent it so.
    ///
    /// # Errors
    ///
    /// It is refused, too large, or another message has its id; nothing was written then. Or the store failed: let it be sent again.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the message is stored or not. Received again, it is stored once.
    pub async fn receive(&self, scope: &Scope, message: &Message) -> Result<Received, ReceiveError> {
        let answers = self.receive_all(scope, std::slice::from_ref(message)).await?;
        match answers.into_iter().next() {
            Some(Ok(received)) => Ok(received),
            Some(Err(conflict)) => Err(conflict.into()),
            // There is an answer for each.
            None => Ok(Received::AlreadyKnown),
        }
    }

    /// Stores messages in their order, each unless it is known, in one transaction, and answers each. One that conflicts is left out and
    /// keeps no other from being stored.
    ///
    /// # Errors
    ///
    /// One is refused or too large, or there are more than [`MAX_ADDED`](crate::MAX_ADDED): nothing was written. Or the store failed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, all are stored or none. Received again, each is stored once.
    pub async fn receive_all(
        &self,
        scope: &Scope,
        messages: &[Message],
    ) -> Result<Vec<Result<Received, IdConflict>>, ReceiveError> {
        if let Some(verify) = &self.verify {
            for message in messages {
                verify.verify(message).map_err(|reason| {
                    self.count("refused", 1);
                    ReceiveError::Refused { reason }
                })?;
            }
        }
        let answers = self.store.receive(scope, messages, &self.routes).await?;
        let (mut stored, mut known, mut conflicts) = (0, 0, 0);
        for answer in &answers {
            match answer {
                Ok(Received::Stored) => stored += 1,
                Ok(Received::AlreadyKnown) => known += 1,
                Err(conflict) => {
                    conflicts += 1;
                    tracing::warn!(inbox = &*self.name, %conflict, "a message is not what was received before");
                }
            }
        }
        self.count("stored", stored);
        self.count("already_known", known);
        self.count("conflict", conflicts);
        if stored > 0 {
            self.wake.nudge();
        }
        Ok(answers)
    }

    /// Returns the store.
    #[must_use]
    pub const fn store(&self) -> &S {
        &self.store
    }

    fn count(&self, outcome: &'static str, messages: u64) {
        if messages > 0 {
            self.recorder.add(&metrics::RECEIVED, &[&self.name, outcome], messages);
        }
    }
}

impl<S> fmt::Debug for Inbox<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("name", &self.name)
            .field("routes", &self.routes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use relaykit_pipeline_traits::{ManualClock, MemoryRecorder, MessageId, Rng, Timestamp};
    use relaykit_sql_store::{Shards, Woken};

    use super::*;
    use crate::memory::MemoryInbox;

    #[tokio::test]
    async fn what_is_stored_wakes_the_worker_and_a_repetition_does_not() {
        const MINUTE: Duration = Duration::from_secs(60);
        let (clock, wake) = (ManualClock::new(), Wake::new());
        let store = MemoryInbox::new(Shards::new(1).unwrap(), clock.clone());
        let inbox = Inbox::new(store, Routes::new()).wake(wake.clone());
        let mut poller = wake.poller(clock.clone()).min(MINUTE).max(MINUTE).build().unwrap();
        let id = MessageId::new(Timestamp::from_millis(1), &mut Rng::seeded(1));
        let message = Message::builder(id, "push", Timestamp::from_millis(1)).build().unwrap();
        let scope = Scope::new("github").unwrap();
        for (received, woken) in [(Received::Stored, Woken::Nudge), (Received::AlreadyKnown, Woken::Poll)] {
            assert_eq!(inbox.receive(&scope, &message).await.unwrap(), received);
            clock.advance(MINUTE * 2);
            assert_eq!(poller.wait_at_most(Duration::ZERO).await, woken);
        }
    }
    #[tokio::test]
    async fn each_outcome_is_counted() {
        let recorder = Arc::new(MemoryRecorder::new());
        let store = MemoryInbox::new(Shards::new(1).unwrap(), ManualClock::new());
        let inbox = Inbox::new(store, Routes::new()).recorder(recorder.clone());
        let (id, at) =
            (MessageId::new(Timestamp::from_millis(1), &mut Rng::seeded(1)), Timestamp::from_millis(1));
        let message =
            |payload: &'static str| Message::builder(id, "push", at).payload(payload).build().unwrap();
        let scope = Scope::new("github").unwrap();
        let messages = ["one", "one", "one", "other"].map(message);
        inbox.receive_all(&scope, &messages).await.unwrap();
        for (outcome, wanted) in [("stored", 1.0), ("already_known", 2.0), ("conflict", 1.0)] {
            assert_eq!(
                recorder.value(metrics::RECEIVED.name, &["inbox", outcome]),
                Some(wanted),
                "{outcome}"
            );
        }
    }
}
