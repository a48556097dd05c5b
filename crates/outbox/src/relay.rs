use std::fmt;
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_pipeline_traits::{
    BatchHandler, Clock, InvalidSetting, Message, NoRecorder, Recorder, RetryPolicy, Rng, SystemClock,
};
use relaykit_retry::{Backoff, Policy};
use relaykit_sql_store::stream::{
    Engine, Link, Observer, Sender, Settings, Shared, StreamStore, Until, leased, told,
};
use relaykit_sql_store::{Instance, Lease, LeaseKeeper, StoreError, Wake};

use crate::metrics::STREAM;
use crate::store::{
    Depth, OpenTransactions, OutboxStore, Page, ReadFrom, RowId, Settled, Settlement, Suspicion,
};

pub use relaykit_sql_store::stream::{StreamEvent as RelayEvent, StreamSummary as RelaySummary};

/// Sends what was added, at least once, in order within each key.
///
/// Any number of relays share a store, in one process or many: each holds leases on its share of the shards, and reads, sends
/// and settles the messages of these alone. No transaction is open while something is sent.
pub struct Relay<S: OutboxStore, H> {
    shared: Arc<Shared<Rows<S>, Sender<H>>>,
    settings: Settings,
    keeper: Arc<LeaseKeeper<S::Leases>>,
    wake: Wake,
    poll: (Duration, Duration),
    drain: Duration,
}

/// Builds a [`Relay`]; made by [`Relay::builder`].
#[must_use = "a relay is made by `build`"]
pub struct RelayBuilder<S, H> {
    name: String,
    store: S,
    sender: H,
    clock: Arc<dyn Clock>,
    rng: Rng,
    retry: Arc<dyn RetryPolicy>,
    recorder: Option<Arc<dyn Recorder>>,
    observer: Option<Observer>,
    link: Option<Link>,
    instance: Option<Instance>,
    wake: Wake,
    batch_size: usize,
    concurrency: usize,
    send_timeout: Duration,
    settle_timeout: Duration,
    lease: Duration,
    poll: (Duration, Duration),
    drain: Duration,
}

impl<S, H> Relay<S, H>
where
    S: OutboxStore,
    H: BatchHandler<Message> + 'static,
    H::Error: fmt::Display,
{
    /// Begins a relay that sends the messages of `store` with `sender`.
    pub fn builder(store: S, sender: H) -> RelayBuilder<S, H> {
        RelayBuilder {
            name: "outbox".to_owned(),
            store,
            sender,
            clock: Arc::new(SystemClock::new()),
            rng: Rng::from_entropy(),
            retry: Arc::new(default_retry()),
            recorder: None,
            observer: None,
            link: None,
            instance: None,
            wake: Wake::new(),
            batch_size: 100,
            concurrency: 4,
            send_timeout: Duration::from_secs(15),
            settle_timeout: Duration::from_secs(5),
            lease: Duration::from_secs(30),
            poll: (Duration::from_millis(50), Duration::from_secs(15)),
            drain: Duration::from_secs(20),
        }
    }

    /// Returns what wakes this relay: nudge it after a commit, and what was added is found at once.
    #[must_use]
    pub fn wake(&self) -> Wake {
        self.wake.clone()
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.shared.store.0
    }

    /// Sends until `shutdown` ends. Then nothing more is begun; what is on its way is waited for, up to the time to drain;
    /// the shards are given back.
    ///
    /// A store that fails is tried again, less and less often.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A dropped run drops the calls of the sender, and gives nothing back: others take its shards after the lease and send
    /// again what was on its way.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) -> RelaySummary {
        let work = |stopped| {
            let engine = Engine::new(&self.shared, &self.settings, self.keeper.leases());
            engine.run(Until::Stopped, Some(self.poller()), told(stopped), self.drain)
        };
        let (mut summary, kept_shards) = leased(&self.keeper, shutdown, work).await;
        summary.kept_shards = kept_shards;
        summary
    }

    /// Renews the leases and sends what can be sent now; then returns. Waits for nothing that is due later.
    ///
    /// Leases stay held until they run out, or until [`release`](Self::release).
    ///
    /// # Errors
    ///
    /// The leases could not be renewed; nothing was sent. That the store failed later is in the summary.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run).
    pub async fn run_once(&self) -> Result<RelaySummary, StoreError> {
        self.keeper.run_once().await?;
        let engine = Engine::new(&self.shared, &self.settings, self.keeper.leases());
        Ok(engine.run(Until::Idle, None, std::future::pending(), self.drain).await)
    }

    /// Gives all shards back, so that others can take them at once. Returns how many could not be given back.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not given back runs out.
    pub async fn release(&self) -> usize {
        self.keeper.stop().await
    }

    fn poller(&self) -> relaykit_sql_store::Poller {
        self.shared.poller(&self.wake, self.poll).expect("the builder has checked the bounds")
    }
}

/// The messages of an outbox as a stream.
struct Rows<S>(S);

impl<S: OutboxStore> StreamStore for Rows<S> {
    fn page(
        &self,
        from: &[ReadFrom],
        open: &OpenTransactions,
        limit: u32,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send {
        self.0.page(from, open, limit)
    }

    fn settle(&self, settlement: &Settlement) -> impl Future<Output = Result<Settled, StoreError>> + Send {
        self.0.settle(settlement)
    }

    fn suspect(
        &self,
        leases: &[Lease],
        rows: &[RowId],
        suspicion: Suspicion,
    ) -> impl Future<Output = Result<Settled, StoreError>> + Send {
        self.0.suspect(leases, rows, suspicion)
    }

    fn depth(&self) -> impl Future<Output = Result<Depth, StoreError>> + Send {
        self.0.depth()
    }
}

impl<S: OutboxStore, H> fmt::Debug for Relay<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay")
            .field("name", &self.shared.name)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<S, H> RelayBuilder<S, H>
where
    S: OutboxStore,
    H: BatchHandler<Message> + 'static,
    H::Error: fmt::Display,
{
    /// Sets the name, a label of every metric. Default: `outbox`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how many messages the sender is lent at a time, at most one of each key. Default: 100. From 1 to 1000.
    pub const fn batch_size(mut self, messages: usize) -> Self {
        self.batch_size = messages;
        self
    }

    /// Sets how many batches are on their way at a time. Default: 4. From 1 to 64.
    pub const fn concurrency(mut self, batches: usize) -> Self {
        self.concurrency = batches;
        self
    }

    /// Sets when a failed message is tried again, and when it becomes a dead letter. Default: exponential backoff with full
    /// jitter from 1 s to 60 s, and a dead letter after 10 attempts.
    pub fn retry(mut self, policy: impl RetryPolicy + 'static) -> Self {
        self.retry = Arc::new(policy);
        self
    }

    /// Sets how long a call of the sender may take. Default: 15 s. It is cut to what remains of the leases.
    pub const fn send_timeout(mut self, limit: Duration) -> Self {
        self.send_timeout = limit;
        self
    }

    /// Sets what of a lease is kept to write what became of a batch: no call of the sender goes on into it. Default: 5 s.
    pub const fn settle_timeout(mut self, limit: Duration) -> Self {
        self.settle_timeout = limit;
        self
    }

    /// Sets for how long shards are leased. Default: 30 s. So long do the messages of a relay that was killed wait.
    ///
    /// It must be longer than the time to send and the time to settle together, by a tenth for clocks that differ.
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets how long it waits at least and at most before it looks for messages again. Default: 50 ms, and 15 s when there was
    /// nothing for long. A nudge ([`Relay::wake`]) ends the wait.
    pub const fn poll(mut self, min: Duration, max: Duration) -> Self {
        self.poll = (min, max);
        self
    }

    /// Sets how long a stop waits for batches on their way. Default: 20 s.
    pub const fn drain(mut self, limit: Duration) -> Self {
        self.drain = limit;
        self
    }

    /// Sets what wakes it, for several relays to share. Default: one of its own.
    pub fn wake(mut self, wake: Wake) -> Self {
        self.wake = wake;
        self
    }

    /// Sets where its numbers go. Default: nowhere.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Sets who is told what happens, after the store has it. Must not block. Default: nobody.
    ///
    /// If it panics, that is logged, the first time, and the relay goes on.
    pub fn on_event(mut self, observer: impl Fn(&RelayEvent) + Send + Sync + 'static) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Sets how the span of a call of the sender is linked to those of the messages' producers. It is given the span, before
    /// the call, and the messages, whose headers may have a `traceparent`. Must not block. Default: not at all.
    ///
    /// With `relaykit-telemetry` and `tracing-opentelemetry`:
    ///
    /// ```text
    /// .link_spans(|span, messages| {
    ///     for producer in messages.iter().filter_map(|message| relaykit_telemetry::extract(message.headers())) {
    ///         span.add_link(producer);
    ///     }
    /// })
    /// ```
    ///
    /// If it panics, that is logged, the first time, and the message is sent all the same.
    pub fn link_spans(mut self, link: impl Fn(&tracing::Span, &[Message]) + Send + Sync + 'static) -> Self {
        self.link = Some(Arc::new(link));
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

    /// Makes the relay. It does nothing until it runs.
    ///
    /// # Errors
    ///
    /// A setting is out of bounds, or the lease is too short for the timeouts.
    pub fn build(mut self) -> Result<Relay<S, H>, InvalidSetting> {
        check("batch_size", self.batch_size, 1_000)?;
        check("concurrency", self.concurrency, 64)?;
        let needed = (self.send_timeout + self.settle_timeout).mul_f64(10.0 / 9.0);
        if self.send_timeout.is_zero() || self.settle_timeout.is_zero() || needed > self.lease {
            let bound =
                format!("at least {needed:?}: the times to send and to settle, and a tenth; none of them 0");
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
        let settings = Settings {
            batch_size: self.batch_size,
            concurrency: self.concurrency,
            counts: self.recorder.is_some(),
            ordered: true,
        };
        Ok(Relay {
            keeper: Arc::new(keeper.build()?),
            settings,
            wake: self.wake,
            poll: self.poll,
            drain: self.drain,
            shared: Arc::new(Shared {
                labels: vec![self.name.clone()],
                name: self.name,
                metrics: &STREAM,
                store: Rows(self.store),
                handler: Sender(self.sender),
                clock: self.clock,
                retry: self.retry,
                rng: Mutex::new(self.rng),
                recorder: self.recorder.unwrap_or_else(|| Arc::new(NoRecorder)),
                careful: Mutex::default(),
                observer: self.observer,
                link: self.link,
                callback_panicked: AtomicBool::new(false),
                send_timeout: self.send_timeout,
                settle_reserve: self.settle_timeout,
            }),
        })
    }
}

fn default_retry() -> Policy {
    Backoff::exponential(Duration::from_secs(1))
        .max_attempts(10)
        .build()
        .expect("these settings are within bounds")
}

fn check(field: &'static str, value: usize, max: usize) -> Result<(), InvalidSetting> {
    if value == 0 || value > max {
        return Err(InvalidSetting::new(field, value, format!("from 1 to {max}")));
    }
    Ok(())
}
