use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use relaykit_pipeline_traits::{Clock, InvalidSetting, NoRecorder, Recorder, Rng, SystemClock};
use relaykit_sql_store::stream::{Engine, Settings, Shared, StreamEvent, StreamSummary, Until, leased, told};
use relaykit_sql_store::{Instance, LeaseKeeper, MAX_LISTED, Poller, StoreError, Wake, error_chain};
use tokio::sync::watch;

use crate::deliver::{Deliver, Deliveries};
use crate::handler::{Handlers, Registration};
use crate::metrics::{self, STREAM};
use crate::name::HandlerKey;
use crate::routes::Routes;
use crate::store::InboxStore;

/// How often it is looked whether a message that had no handler has one.
const ROUTE_EVERY: Duration = Duration::from_secs(60);

/// How often it is looked whether those have ended who were writing messages when a handler began to catch up.
const WRITERS_EVERY: Duration = Duration::from_millis(100);

/// How long these are waited for at most.
const WRITERS_AT_MOST: Duration = Duration::from_secs(60);

/// The most batches of a handler at a time.
const BATCHES: usize = 4;

/// What a worker tells, after the store has it.
pub type WorkerEvent = StreamEvent;

type Observer = Arc<dyn Fn(&HandlerKey, &WorkerEvent) + Send + Sync>;

/// Handles what an inbox received: each message by each of its handlers, at least once.
///
/// Any number of workers share an inbox, in one process or many: each holds leases on its share of the shards, and handles the
/// messages of these alone. All should have the same handlers: what a worker has no handler for waits for one that has.
///
/// Each handler goes its own way: one that is slow, fails or hangs holds up no other.
pub struct Worker<S: InboxStore> {
    streams: Vec<Stream<S>>,
    routes: Routes,
    store: S,
    keeper: Arc<LeaseKeeper<S::Leases>>,
    clock: Arc<dyn Clock>,
    recorder: Arc<dyn Recorder>,
    name: String,
    wake: Wake,
    poll: (Duration, Duration),
    drain: Duration,
}

/// A handler and how it is worked for.
struct Stream<S: InboxStore> {
    key: HandlerKey,
    shared: Arc<Shared<Deliveries<S>, Deliver<S>>>,
    settings: Settings,
}

/// What a worker did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WorkerSummary {
    /// What each handler did.
    pub handlers: Vec<(HandlerKey, StreamSummary)>,
    /// Messages that had no handler when they came, and have one now.
    pub routed: u64,
    /// Shards that could not be given back. Others take them after the lease.
    pub kept_shards: usize,
}

impl WorkerSummary {
    /// Returns how many messages were handled, once for each handler.
    #[must_use]
    pub fn handled(&self) -> u64 {
        self.sum(|summary| summary.sent)
    }

    /// Returns how often a message failed and waits for another attempt.
    #[must_use]
    pub fn retried(&self) -> u64 {
        self.sum(|summary| summary.retried)
    }

    /// Returns how many dead letters were made.
    #[must_use]
    pub fn dead(&self) -> u64 {
        self.sum(|summary| summary.dead)
    }

    fn sum(&self, of: impl Fn(&StreamSummary) -> u64) -> u64 {
        self.handlers.iter().map(|(_, summary)| of(summary)).sum()
    }
}

/// Builds a [`Worker`]; made by [`Worker::builder`].
#[must_use = "a worker is made by `build`"]
pub struct WorkerBuilder<S: InboxStore> {
    name: String,
    store: S,
    handlers: Handlers<S>,
    clock: Arc<dyn Clock>,
    rng: Rng,
    recorder: Option<Arc<dyn Recorder>>,
    observer: Option<Observer>,
    instance: Option<Instance>,
    wake: Wake,
    settle_timeout: Duration,
    lease: Duration,
    poll: (Duration, Duration),
    drain: Duration,
}

impl<S: InboxStore> Worker<S> {
    /// Begins a worker with these handlers.
    pub fn builder(store: S, handlers: Handlers<S>) -> WorkerBuilder<S> {
        WorkerBuilder {
            name: "inbox".to_owned(),
            store,
            handlers,
            clock: Arc::new(SystemClock::new()),
            rng: Rng::from_entropy(),
            recorder: None,
            observer: None,
            instance: None,
            wake: Wake::new(),
            settle_timeout: Duration::from_secs(5),
            lease: Duration::from_secs(30),
            poll: (Duration::from_millis(50), Duration::from_secs(15)),
            drain: Duration::from_secs(20),
        }
    }

    /// Returns what wakes this worker: give it to the [`Inbox`](crate::Inbox), and what was received is handled at once.
    #[must_use]
    pub fn wake(&self) -> Wake {
        self.wake.clone()
    }

    /// Returns the store.
    #[must_use]
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// Handles until `shutdown` ends. Then nothing more is begun; what is on its way is waited for, up to the time to drain;
    /// the shards are given back. Nothing that was not begun spends an attempt.
    ///
    /// A store that fails is tried again, less and less often.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A dropped run drops the calls of the handlers, and gives nothing back: others take its shards after the lease and handle
    /// again what was on its way.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) -> WorkerSummary {
        let work = |stopped: watch::Receiver<bool>| {
            let handling = join_all(self.streams.iter().map(|stream| {
                let engine = Engine::new(&stream.shared, &stream.settings, self.keeper.leases());
                engine.run(Until::Stopped, Some(self.poller(stream)), told(stopped.clone()), self.drain)
            }));
            async move { tokio::join!(handling, self.keep_routing(stopped)) }
        };
        let ((summaries, routed), kept_shards) = leased(&self.keeper, shutdown, work).await;
        self.summary(summaries, routed, kept_shards)
    }

    /// Renews the leases and handles what can be handled now; then returns. Waits for nothing that is due later.
    ///
    /// Leases stay held until they run out, or until [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// The leases could not be renewed, or unrouted messages not be routed; nothing was handled. That the store failed later is in the summary.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn run_once(&self) -> Result<WorkerSummary, StoreError> {
        self.keeper.run_once().await?;
        let routed = self.route().await?;
        let handling = join_all(self.streams.iter().map(|stream| {
            let engine = Engine::new(&stream.shared, &stream.settings, self.keeper.leases());
            engine.run(Until::Idle, None, std::future::pending(), self.drain)
        }));
        Ok(self.summary(handling.await, routed, 0))
    }

    /// Gives all shards back, so that others can take them at once. Returns how many could not be given back.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not given back runs out.
    pub async fn release(&self) -> usize {
        self.keeper.stop().await
    }

    /// Gives every stored message of a handler's kinds that was never led to it to that handler, those from before it was there.
    /// Returns how many. Payloads that were erased are gone.
    ///
    /// What is being received when it begins is waited for, for a minute at most, and given too: a session that has received and stays
    /// idle in its transaction holds it up. Whoever begins to receive later must know the handler.
    ///
    /// # Errors
    ///
    /// The store failed, or somebody was still receiving after a minute ([`StoreError::Timeout`]). Call it again: what was led to the handler is not led there twice.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some are given to it and others are not. Call it again.
    pub async fn catch_up(&self, handler: &HandlerKey) -> Result<u64, StoreError> {
        let mut writing = self.store.writing().await?;
        let mut given = self.give_stored(handler).await?;
        if !writing.is_empty() {
            // Places are given before transactions commit: what these added may lie before what was looked at.
            let until = self.clock.monotonic() + WRITERS_AT_MOST;
            while !writing.is_empty() {
                if self.clock.monotonic() >= until {
                    return Err(StoreError::Timeout {
                        op: "wait for who is receiving",
                        limit: WRITERS_AT_MOST,
                    });
                }
                self.clock.sleep(WRITERS_EVERY).await;
                let now = self.store.writing().await?;
                writing.retain(|one| now.contains(one));
            }
            given += self.give_stored(handler).await?;
        }
        Ok(given)
    }

    /// Gives a handler what is in sight.
    async fn give_stored(&self, handler: &HandlerKey) -> Result<u64, StoreError> {
        let mut given = 0;
        for (kind, route) in self.routes.iter().filter(|(_, route)| route.handler == *handler) {
            let mut after = crate::Seq::default();
            while let Some((last, count)) = self.store.catch_up(kind, route, after, MAX_LISTED).await? {
                given += count;
                after = last;
            }
        }
        self.wake.nudge();
        Ok(given)
    }

    fn summary(&self, summaries: Vec<StreamSummary>, routed: u64, kept_shards: usize) -> WorkerSummary {
        let keys = self.streams.iter().map(|stream| stream.key.clone());
        WorkerSummary { handlers: keys.zip(summaries).collect(), routed, kept_shards }
    }

    /// Leads messages to handlers that were not there when they came, until it is stopped.
    async fn keep_routing(&self, stopped: watch::Receiver<bool>) -> u64 {
        let mut routed = 0;
        let mut stop = std::pin::pin!(told(stopped));
        loop {
            let route = async {
                match self.route().await {
                    Ok(count) => count,
                    Err(error) => {
                        let error = error_chain(&error);
                        tracing::warn!(inbox = self.name, error, "could not route messages");
                        0
                    }
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => return routed,
                count = route => routed += count,
            }
            tokio::select! {
                biased;
                () = &mut stop => return routed,
                () = self.clock.sleep(ROUTE_EVERY) => {}
            }
        }
    }

    async fn route(&self) -> Result<u64, StoreError> {
        let mut routed = 0;
        loop {
            let count = self.store.route(&self.routes, MAX_LISTED).await?;
            if count > 0 {
                routed += count;
                self.recorder.add(&metrics::UNROUTED, &[&self.name], count);
                self.wake.nudge();
            }
            if count < u64::from(MAX_LISTED) {
                return Ok(routed);
            }
        }
    }

    fn poller(&self, stream: &Stream<S>) -> Poller {
        stream.shared.poller(&self.wake, self.poll).expect("the builder has checked the bounds")
    }
}

impl<S: InboxStore> fmt::Debug for Worker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handlers: Vec<_> = self.streams.iter().map(|stream| &stream.key).collect();
        f.debug_struct("Worker")
            .field("name", &self.name)
            .field("handlers", &handlers)
            .finish_non_exhaustive()
    }
}

impl<S: InboxStore> WorkerBuilder<S> {
    /// Sets the name, a label of every metric. Default: `inbox`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets what of a lease is kept to write what became of messages: no call of a handler goes on into it. Default: 5 s.
    pub const fn settle_timeout(mut self, limit: Duration) -> Self {
        self.settle_timeout = limit;
        self
    }

    /// Sets for how long shards are leased. Default: 30 s. So long do the messages of a worker that was killed wait.
    ///
    /// It must be longer than the longest timeout of a handler and the time to settle together, by a fifth.
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets how long it waits at least and at most before it looks for messages again. Default: 50 ms, and 15 s when there was
    /// nothing for long. A nudge ([`Worker::wake`]) ends the wait. Each handler looks for itself.
    pub const fn poll(mut self, min: Duration, max: Duration) -> Self {
        self.poll = (min, max);
        self
    }

    /// Sets how long a stop waits for messages on their way. Default: 20 s.
    pub const fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// Sets what wakes it, for several workers to share. Default: one of its own.
    pub fn wake(mut self, wake: Wake) -> Self {
        self.wake = wake;
        self
    }

    /// Sets where its numbers go. Default: nowhere.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Sets who is told what happens to the messages of a handler, after the store has it. Must not block; a panic of it is caught.
    /// Default: nobody.
    pub fn on_event(mut self, observer: impl Fn(&HandlerKey, &WorkerEvent) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Sets the clock. Default: the machine's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets where jitter comes from. Default: a seed of its own.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = rng;
        self
    }

    /// Sets which instance it is among those that share the store. Default: a new one. It must never have been used before.
    pub const fn instance(mut self, instance: Instance) -> Self {
        self.instance = Some(instance);
        self
    }

    /// Makes the worker. It does nothing until it runs.
    ///
    /// # Errors
    ///
    /// A setting is out of bounds, or the lease is too short for the timeouts.
    pub fn build(mut self) -> Result<Worker<S>, InvalidSetting> {
        let (routes, registrations) = std::mem::take(&mut self.handlers).into_parts();
        let longest = registrations.iter().map(|handler| handler.timeout).max().unwrap_or_default();
        let needed = (batch_limit(longest) + self.settle_timeout).mul_f64(10.0 / 9.0);
        if self.settle_timeout.is_zero() || needed > self.lease {
            let bound = format!(
                "at least {needed:?}: the longest timeout of a handler and a tenth, the time to settle, which is not 0, and a tenth of both"
            );
            return Err(InvalidSetting::new("lease", format!("{:?}", self.lease), bound));
        }
        let (min, max) = self.poll;
        self.wake.poller(Arc::clone(&self.clock)).min(min).max(max).build()?;
        let mut keeper = LeaseKeeper::builder(self.store.leases(), Arc::clone(&self.clock))
            .lease(self.lease)
            .drain(self.drain)
            .rng(self.rng.fork());
        if let Some(instance) = self.instance {
            keeper = keeper.instance(instance);
        }
        let keeper = Arc::new(keeper.build()?);
        let streams = registrations.into_iter().map(|registration| self.stream(registration)).collect();
        Ok(Worker {
            streams,
            routes,
            keeper,
            store: self.store,
            clock: self.clock,
            recorder: self.recorder.unwrap_or_else(|| Arc::new(NoRecorder)),
            name: self.name,
            wake: self.wake,
            poll: self.poll,
            drain: self.drain,
        })
    }

    fn stream(&mut self, registration: Registration<S>) -> Stream<S> {
        let ordered = registration.route().ordered;
        let Registration { key, how, concurrency, timeout, retry, .. } = registration;
        let batches = concurrency.min(BATCHES);
        let settings = Settings {
            batch_size: concurrency.div_ceil(batches),
            concurrency: batches,
            counts: self.recorder.is_some(),
            ordered,
        };
        let observer = self.observer.clone().map(|observer| {
            let key = key.clone();
            Arc::new(move |event: &StreamEvent| observer(&key, event))
                as Arc<dyn Fn(&StreamEvent) + Send + Sync>
        });
        let shared = Shared {
            name: format!("{}/{key}", self.name),
            labels: vec![self.name.clone(), key.as_str().to_owned()],
            metrics: &STREAM,
            store: Deliveries { store: self.store.clone(), handler: key.clone() },
            handler: Deliver {
                how,
                store: self.store.clone(),
                handler: key.clone(),
                timeout,
                clock: Arc::clone(&self.clock),
            },
            clock: Arc::clone(&self.clock),
            retry,
            rng: Mutex::new(self.rng.fork()),
            recorder: self.recorder.clone().unwrap_or_else(|| Arc::new(NoRecorder)),
            careful: Mutex::default(),
            observer,
            link: None,
            callback_panicked: AtomicBool::new(false),
            send_timeout: batch_limit(timeout),
            settle_reserve: self.settle_timeout,
        };
        Stream { key, shared: Arc::new(shared), settings }
    }
}

/// Returns how long a batch may take whose messages have so long each.
fn batch_limit(timeout: Duration) -> Duration {
    timeout.mul_f64(1.0 / 0.9)
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::{BatchContext, Handler, ManualClock, Message, Verdict};
    use relaykit_sql_store::Shards;

    use super::*;
    use crate::handler::HandlerError;
    use crate::memory::MemoryInbox;

    struct NoOp;

    impl Handler<Message> for NoOp {
        type Output = ();
        type Error = HandlerError;

        async fn handle(&self, _: &Message, _: &BatchContext) -> Verdict<(), HandlerError> {
            Verdict::Done(())
        }
    }

    #[test]
    fn a_lease_that_a_call_could_outlive_is_refused() {
        let build = |lease, timeout, settle| {
            let store = MemoryInbox::new(Shards::new(1).unwrap(), ManualClock::new());
            let mut handlers = Handlers::new();
            for (key, timeout) in [("quick", 1), ("slow", timeout)] {
                let registration = Registration::new(HandlerKey::new(key).unwrap(), NoOp).on("push");
                handlers.register(registration.timeout(Duration::from_secs(timeout))).unwrap();
            }
            let worker = Worker::builder(store, handlers).lease(Duration::from_secs(lease));
            worker.settle_timeout(Duration::from_secs(settle)).build().map(drop)
        };
        assert!(build(18, 10, 5).is_ok());
        for (lease, timeout, settle) in [(17, 10, 5), (18, 11, 5), (18, 10, 6), (18, 10, 0)] {
            let error = build(lease, timeout, settle).unwrap_err().to_string();
            assert!(error.contains("lease"), "{error}");
        }
    }
}
