use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use relaykit_inbox::sqlite::{Database, SqliteInboxStore};
use relaykit_inbox::{
    Depth, HandlerKey, Handlers, HmacSha256, Inbox, InboxStore as _, Registration, Scope, Worker,
    WorkerSummary,
};
use relaykit_pipeline_traits::{Clock as _, Recorder, SystemClock};
use relaykit_retry::within;
use relaykit_sql_store::{Names, Seq, Shards};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::endpoint::{Counts, Endpoint, Faults};
use super::handlers::{IntoQueue, Receipt, ReceiptElsewhere};
use super::webhook::KINDS;
use crate::args::{self, Args};
use crate::delivery::{Event, STOP_WITHIN, retry_policy};
use crate::filing::Filing;
use crate::queue::{Kept, Said, ToApi};
use crate::receipts::{Place, beside, on_postgres, on_sqlite};
use crate::server::Server;

/// How often the end is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// For how long shards are leased: so long do the webhooks of a process that was killed wait for the next one.
const LEASE: Duration = Duration::from_secs(6);

/// The whole chain: an endpoint that takes webhooks into an inbox, whose handlers put events on the queue to the API, and receipts
/// into the outbox.
pub(super) struct Site {
    pub(super) address: SocketAddr,
    store: SqliteInboxStore,
    handlers: [HandlerKey; 2],
    api: ToApi,
    filing: Filing,
    counts: Arc<Counts>,
    stop: watch::Sender<Stage>,
    endpoint: JoinHandle<std::io::Result<()>>,
    worker: JoinHandle<WorkerSummary>,
}

/// How far the stop has come: parts end in the order in which events pass them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    EndpointStops,
    WorkerStops,
}

/// What passed a chain.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Webhooks stored.
    pub(super) stored: u64,
    /// Repetitions of webhooks that were stored before.
    pub(super) known: u64,
    /// Requests without a right signature.
    pub(super) unauthorized: u64,
    /// Webhooks of kinds that have no handler, stored until they have one.
    pub(super) unrouted: u64,
    /// How often a webhook waited for another attempt of a handler.
    pub(super) handled_again: u64,
    /// What the inbox still holds for the handler that makes events.
    pub(super) events: Depth,
    /// What it holds for the handler that writes receipts.
    pub(super) receipts: Depth,
    pub(super) delivered: u64,
    pub(super) retried: u64,
    pub(super) calls: u64,
    /// Events that the queue set aside, with the reason.
    pub(super) dead_in_queue: Vec<(u64, String)>,
    /// Events that wait in the queue for the next time, or could not be stored.
    pub(super) left_in_queue: u64,
    pub(super) left_in_outbox: u64,
    /// How often a receipt waited for another attempt.
    pub(super) filed_again: u64,
    pub(super) file: PathBuf,
}

impl Site {
    /// Opens everything in a folder, goes on with what an earlier run left there, and listens.
    pub(super) async fn start(
        args: &Args,
        listen: SocketAddr,
        folder: &Path,
        seed: u64,
        server: &Server,
        tell: impl Fn(&Event, Said) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let clock = SystemClock::new();
        let database = match &args.outbox {
            Some(Place::Sqlite(path)) => path.clone(),
            _ => folder.join("app.db"),
        };
        let file = beside(&database);
        let database = Database::builder(&database, clock)
            .open()
            .with_context(|| format!("could not open {}", database.display()))?;
        let store = SqliteInboxStore::new(database.clone(), &Names::new("relaykit_inbox")?, Shards::new(16)?);
        store.migrate().await?;
        let recorder = server.recorder();
        let faults = args.faults != args::Faults::None;
        let api = ToApi::open(server, &folder.join("queue.db"), Kept::PerUser, tell)?;

        let [iterable, receipts] = [HandlerKey::new("iterable")?, HandlerKey::new("receipts")?];
        let (filing, receipt) = if let Some(Place::Postgres(url)) = &args.outbox {
            let (outbox_store, outbox, pool) = on_postgres(url).await?;
            let filing = Filing::start(outbox_store, file, faults, seed, recorder.clone())?;
            let handler = ReceiptElsewhere::new(outbox, pool, filing.wake.clone());
            (filing, Registration::new(receipts.clone(), handler).concurrency(8))
        } else {
            let (outbox_store, outbox) = on_sqlite(database).await?;
            let filing = Filing::start(outbox_store, file, faults, seed, recorder.clone())?;
            let handler = Receipt::new(outbox, filing.wake.clone());
            (filing, Registration::transactional(receipts.clone(), handler).concurrency(64))
        };
        let event = Registration::new(iterable.clone(), IntoQueue::new(api.queue.clone())).concurrency(256);
        let mut handlers = Handlers::new();
        for registration in [event, receipt] {
            let registration = registration.ordered().timeout(Duration::from_secs(3)).retry(retry_policy()?);
            handlers.register(KINDS.into_iter().fold(registration, Registration::on))?;
        }
        let signature = HmacSha256::github(args.secret()?.as_bytes())?;
        let mut inbox = Inbox::new(store.clone(), handlers.routes().clone()).verify(signature.clone());
        let mut builder =
            Worker::builder(store.clone(), handlers).settle_timeout(Duration::from_secs(2)).lease(LEASE);
        if let Some(recorder) = recorder {
            let recorder: Arc<dyn Recorder> = Arc::new(recorder);
            inbox = inbox.recorder(Arc::clone(&recorder));
            builder = builder.recorder(recorder);
        }
        let worker = builder.build()?;
        let inbox = inbox.wake(worker.wake());

        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("could not listen on {listen}"))?;
        let address = listener.local_addr().context("could not ask for the address")?;
        let counts = Arc::new(Counts::default());
        let faults = Faults::new(args.faults, seed);
        let router =
            Endpoint::new(inbox, Scope::new("github")?, signature, faults, Arc::clone(&counts)).router();
        let stop = watch::Sender::new(Stage::Running);
        let stopped = reached(&stop, Stage::EndpointStops);
        let endpoint =
            tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stopped).await });
        let stopped = reached(&stop, Stage::WorkerStops);
        let worker = tokio::spawn(async move { worker.run(stopped).await });
        let handlers = [iterable, receipts];
        Ok(Self { address, store, handlers, api, filing, counts, stop, endpoint, worker })
    }

    /// Returns how many events have come to the end of their way.
    pub(super) fn delivered(&self) -> u64 {
        self.api.tally().delivered
    }

    /// Waits until everything that was stored has come to the end of its way, or the API refuses to take anything. `show` is called
    /// now and then.
    pub(super) async fn drain(&self, mut show: impl FnMut(u64)) -> anyhow::Result<()> {
        let clock = SystemClock::new();
        loop {
            // In the order of the way: what has left one part is in the next.
            let in_inbox = self.in_inbox().await?;
            let in_queue = self.api.queue.stats().stored_items;
            show(self.delivered());
            if in_inbox == 0 && in_queue == 0 {
                break;
            }
            let tally = self.api.tally();
            if tally.refused > 0 && tally.delivered == 0 {
                break;
            }
            clock.sleep(LOOK_AGAIN).await;
        }
        self.filing.drain().await.context("the receipts")
    }

    /// Returns how much waits for handlers.
    async fn in_inbox(&self) -> anyhow::Result<u64> {
        let mut pending = 0;
        for handler in &self.handlers {
            pending += self.store.depth(handler).await.context("could not look into the inbox")?.pending;
        }
        Ok(pending)
    }

    /// Stops everything, the endpoint first. What has not come to its end is kept in the folder.
    pub(super) async fn stop(self) -> anyhow::Result<Passed> {
        let clock = SystemClock::new();
        self.stop.send_replace(Stage::EndpointStops);
        let mut endpoint = self.endpoint;
        let ended = within(&clock, STOP_WITHIN, async { Ok((&mut endpoint).await) }, || ());
        match ended.await {
            Ok(ended) => ended.context("the endpoint broke down")?.context("the endpoint failed")?,
            // Somebody keeps a connection open.
            Err(()) => endpoint.abort(),
        }
        self.stop.send_replace(Stage::WorkerStops);
        let worked = self.worker.await.context("the worker broke down")?;
        let queue = self.api.queue.close(STOP_WITHIN).await;
        let pending = self.filing.pending().await?;
        let file = self.filing.file.clone();
        let filed = self.filing.stop().await?;

        let [events, receipts] = self.handlers.each_ref().map(|handler| self.store.depth(handler));
        let (events, receipts) = (events.await?, receipts.await?);
        let unrouted = self.store.unrouted(Seq::default(), 1_000).await?.len() as u64;
        let dead = self.api.take_dead().into_iter();
        let tally = self.api.tally();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Passed {
            stored: count(&self.counts.stored),
            known: count(&self.counts.known),
            unauthorized: count(&self.counts.unauthorized),
            unrouted,
            handled_again: worked.retried(),
            events,
            receipts,
            delivered: tally.delivered,
            retried: tally.retried,
            calls: tally.calls,
            dead_in_queue: dead
                .map(|dead| (dead.items, format!("{}: {}", dead.reason, dead.error)))
                .collect(),
            left_in_queue: queue.stored_items + queue.unsaved.len() as u64,
            left_in_outbox: pending,
            filed_again: filed.retried,
            file,
        })
    }
}

/// Waits for a stage of the stop.
fn reached(stop: &watch::Sender<Stage>, stage: Stage) -> impl Future<Output = ()> + Send + use<> {
    let mut stop = stop.subscribe();
    async move {
        // A sender that is gone stops everything, too.
        let _ = stop.wait_for(|now| *now >= stage).await;
    }
}
