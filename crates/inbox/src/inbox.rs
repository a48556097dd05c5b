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
