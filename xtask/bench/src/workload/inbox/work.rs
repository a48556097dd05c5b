use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, ensure};
use relaykit_inbox::{Handlers, InboxStore, Registration, Worker, WorkerSummary};
use relaykit_pipeline_traits::{BatchContext, Handler, Message, Verdict};
use relaykit_sql_store::Wake;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::common::Count;
use super::incoming::{KIND, keys};
use super::setting::{Setting, Work};
use super::stopwatch::Stopwatch;
use super::within;

/// What takes longer goes on for ever.
const PATIENCE: Duration = Duration::from_secs(180);

/// Looks at each message and is done.
struct NoOp(Count);

impl Handler<Message> for NoOp {
    type Output = ();
    type Error = Infallible;

    async fn handle(&self, message: &Message, _cx: &BatchContext) -> Verdict<(), Infallible> {
        black_box(message.payload());
        self.0.add(1);
        Verdict::Done(())
    }
}

/// A worker that runs.
pub(super) struct Running {
    wake: Wake,
    stop: watch::Sender<bool>,
    worker: JoinHandle<WorkerSummary>,
    count: Count,
}

impl Running {
    /// Starts it, with as many handlers that do nothing as the setting says.
    ///
    /// # Errors
    ///
    /// Never: its settings are within bounds.
    pub(super) fn start<S: InboxStore>(
        setting: &Setting,
        store: S,
        transactional: impl Fn(Count) -> S::Transactional,
    ) -> anyhow::Result<Self> {
        let count = Count::new(u64::from(setting.messages()) * u64::from(setting.handlers()));
        let mut handlers = Handlers::new();
        for key in keys(setting.handlers())? {
            let registration = match setting.work {
                Work::Transactional => Registration::transactional(key, transactional(count.clone())),
                _ => Registration::new(key, NoOp(count.clone())),
            };
            handlers.register(registration.on(KIND).concurrency(setting.at_once as usize))?;
        }
        let worker = Worker::builder(store, handlers).build()?;
        let (wake, stop) = (worker.wake(), watch::Sender::new(false));
        let mut stopped = stop.subscribe();
        let worker = tokio::spawn(async move {
            worker.run(async move { drop(stopped.wait_for(|stopped| *stopped).await) }).await
        });
        Ok(Self { wake, stop, worker, count })
    }

    /// Handles what is there, and returns how long that took.
    ///
    /// # Errors
    ///
    /// The store fails, or something else was handled than is there.
    pub(super) async fn handle(self) -> anyhow::Result<Duration> {
        let stopwatch = Stopwatch::start();
        self.wake.nudge();
        let complete = within(PATIENCE, self.count.complete()).await;
        complete.with_context(|| format!("{} were handled", self.count.get()))?;
        self.stop.send_replace(true);
        let summary = self.worker.await.context("the worker panicked")?;
        let took = stopwatch.elapsed();
        self.count.check()?;
        for (handler, summary) in &summary.handlers {
            let failed = summary.lost + summary.retried + summary.dead + summary.store_failures;
            ensure!(failed == 0 && summary.unfinished == 0, "{handler} did not go well: {summary:?}");
        }
        Ok(took)
    }
}
