use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{
    BatchContext, Classify, ErrorClass, Handler, InvalidSetting, Message, RetryPolicy, Verdict,
};
use relaykit_retry::{Backoff, Policy};

use crate::name::HandlerKey;
use crate::routes::{Route, Routes};
use crate::store::InboxStore;

/// What a handler said when it failed, whatever its error type is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerError {
    text: String,
    class: ErrorClass,
    retry_after: Option<Duration>,
}

impl HandlerError {
    /// Takes over an error.
    #[must_use]
    pub fn of<E: Classify + fmt::Display>(error: &E) -> Self {
        Self { text: error.to_string(), class: error.class(), retry_after: error.retry_after() }
    }

    /// Makes an error of a text.
    #[must_use]
    pub fn new(text: impl Into<String>, class: ErrorClass) -> Self {
        Self { text: text.into(), class, retry_after: None }
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for HandlerError {}

impl Classify for HandlerError {
    fn class(&self) -> ErrorClass {
        self.class
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// Leaves out what a handled message yields, and whose error it is.
pub fn erase<O, E: Classify + fmt::Display>(verdict: Verdict<O, E>) -> Verdict<(), HandlerError> {
    match verdict {
        Verdict::Done(_) => Verdict::Done(()),
        Verdict::Retry { after, error } => Verdict::Retry { after, error: HandlerError::of(&error) },
        Verdict::Dead(error) => Verdict::Dead(HandlerError::of(&error)),
        Verdict::Isolate(error) => Verdict::Isolate(HandlerError::of(&error)),
        _ => Verdict::Untried,
    }
}

/// A handler's answer, boxed.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Verdict<(), HandlerError>> + Send + 'a>>;

/// A plain handler of any type.
pub(crate) trait Plain: Send + Sync {
    fn handle<'a>(&'a self, message: &'a Message, context: &'a BatchContext) -> Answer<'a>;
}

struct Erased<H>(H);

impl<H> Plain for Erased<H>
where
    H: Handler<Message>,
    H::Error: fmt::Display,
{
    fn handle<'a>(&'a self, message: &'a Message, context: &'a BatchContext) -> Answer<'a> {
        Box::pin(async move { erase(self.0.handle(message, context).await) })
    }
}

/// How a handler is called.
pub(crate) enum How<S: InboxStore> {
    Plain(Arc<dyn Plain>),
    Transactional(S::Transactional),
}

impl<S: InboxStore> Clone for How<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Plain(handler) => Self::Plain(Arc::clone(handler)),
            Self::Transactional(handler) => Self::Transactional(handler.clone()),
        }
    }
}

/// A handler, the kinds of messages that it gets, and how it is to be called.
#[must_use = "a handler gets messages once it is registered"]
pub struct Registration<S: InboxStore> {
    pub(crate) key: HandlerKey,
    pub(crate) how: How<S>,
    kinds: Vec<String>,
    ordered: bool,
    pub(crate) concurrency: usize,
    pub(crate) timeout: Duration,
    pub(crate) retry: Arc<dyn RetryPolicy>,
}

impl<S: InboxStore> Registration<S> {
    /// Begins with a plain handler: it gets each message at least once. A message's id is its idempotency key, within its scope.
    pub fn new<H>(key: HandlerKey, handler: H) -> Self
    where
        H: Handler<Message> + 'static,
        H::Error: fmt::Display,
    {
        Self::with(key, How::Plain(Arc::new(Erased(handler))))
    }

    /// Begins with a transactional handler: it gets the open transaction, in which what it writes and the end of the message are
    /// committed together. So its writes there take effect exactly once, however often it is called.
    pub fn transactional(key: HandlerKey, handler: impl Into<S::Transactional>) -> Self {
        let registration = Self::with(key, How::Transactional(handler.into()));
        // Each takes a connection.
        registration.concurrency(4)
    }

    fn with(key: HandlerKey, how: How<S>) -> Self {
        Self {
            key,
            how,
            kinds: Vec::new(),
            ordered: false,
            concurrency: 16,
            timeout: Duration::from_secs(10),
            retry: Arc::new(default_retry()),
        }
    }

    /// Gives it the messages of a kind; call it for each kind.
    pub fn on(mut self, kind: impl Into<String>) -> Self {
        self.kinds.push(kind.into());
        self
    }

    /// Makes it handle messages of one ordering key one after another, in the order in which they were stored: while one waits for a
    /// retry, the later ones of its key wait. Default: no order.
    pub const fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// Sets how many messages it handles at a time. Default: 16; of a transactional handler 4, since each takes a connection. From 1
    /// to 1000.
    ///
    /// They are lent in up to four parts, and a part is settled when the last of it has ended.
    pub const fn concurrency(mut self, messages: usize) -> Self {
        self.concurrency = messages;
        self
    }

    /// Sets how long it may take for a message. Default: 10 s. At least 1 ms, and with the time to settle less than the lease.
    pub const fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Sets when a failed message is tried again, and when it becomes a dead letter. Default: exponential backoff with full
    /// jitter from 1 s to 60 s, and a dead letter after 5 attempts.
    pub fn retry(mut self, policy: impl RetryPolicy + 'static) -> Self {
        self.retry = Arc::new(policy);
        self
    }

    pub(crate) fn route(&self) -> Route {
        Route { handler: self.key.clone(), ordered: self.ordered }
    }
}

impl<S: InboxStore> fmt::Debug for Registration<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("key", &self.key)
            .field("transactional", &matches!(self.how, How::Transactional(_)))
            .field("kinds", &self.kinds)
            .field("ordered", &self.ordered)
            .field("concurrency", &self.concurrency)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

fn default_retry() -> Policy {
    Backoff::exponential(Duration::from_secs(1))
        .max_attempts(5)
        .build()
        .expect("these settings are within bounds")
}

/// The handlers of an inbox.
#[derive(Debug)]
pub struct Handlers<S: InboxStore> {
    routes: Routes,
    list: Vec<Registration<S>>,
}

impl<S: InboxStore> Default for Handlers<S> {
    fn default() -> Self {
        Self { routes: Routes::new(), list: Vec::new() }
    }
}

impl<S: InboxStore> Handlers<S> {
    /// Begins without any.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler.
    ///
    /// # Errors
    ///
    /// Its key is another's, it has no kind or one twice, or a setting is out of bounds. Nothing was changed.
    pub fn register(&mut self, registration: Registration<S>) -> Result<(), InvalidSetting> {
        let Registration { key, kinds, concurrency, timeout, .. } = &registration;
        if self.list.iter().any(|known| known.key == *key) {
            return Err(InvalidSetting::new("handler", key, "a key that no other handler has"));
        }
        if kinds.is_empty() {
            return Err(InvalidSetting::new("kinds", format!("none for {key}"), "one kind or more"));
        }
        if *concurrency == 0 || *concurrency > 1_000 {
            return Err(InvalidSetting::new("concurrency", concurrency, "from 1 to 1000"));
        }
        if *timeout < Duration::from_millis(1) {
            return Err(InvalidSetting::new("timeout", format!("{timeout:?}"), "at least 1 ms"));
        }
        let mut routes = self.routes.clone();
        for kind in kinds {
            routes.add(kind.clone(), registration.route())?;
        }
        self.routes = routes;
        self.list.push(registration);
        Ok(())
    }

    /// Returns which messages go to them; for [`Inbox`](crate::Inbox) and for the stores' own ways to receive.
    #[must_use]
    pub const fn routes(&self) -> &Routes {
        &self.routes
    }

    pub(crate) fn into_parts(self) -> (Routes, Vec<Registration<S>>) {
        (self.routes, self.list)
    }
}
