use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, ensure};
use relaykit_outbox::{OutboxStore, Relay, RelaySummary};
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Message};
use relaykit_sql_store::Wake;
use relaykit_sql_store::postgres::Guarded;
use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::common::Arrivals;
use super::database::Database;
use super::raw;
use super::setting::{Setting, Side, Work};
use super::statements::Statements;
use super::stopwatch::Stopwatch;
use super::within;
use crate::workload::Measurement;

/// A drain that takes longer goes on for ever.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Looks at each message and says that all are sent.
#[derive(Debug, Clone)]
pub(super) struct NoOp(pub(super) Arrivals);

impl BatchHandler<Message> for NoOp {
    type Output = ();
    type Error = Infallible;

    async fn handle(&self, batch: &[Message], _cx: &BatchContext) -> BatchOutcome<(), Infallible> {
        self.0.add(black_box(batch).iter().map(|message| &message.payload()[..]));
        BatchOutcome::all_done(batch.len())
    }
}

/// Measures how many messages a second of a backlog are sent and removed.
///
/// # Errors
///
/// The server fails, or something else arrived than was added.
pub(super) async fn measure(case: &str, setting: &Setting) -> anyhow::Result<Measurement> {
    let database = Database::new().await?;
    let held: Option<PgConnection> =
        if setting.work == Work::Held { Some(database.hold().await?) } else { None };
    let drained = run(&database, setting).await?;
    drop(held);
    database.clean().await?;
    Ok(drained.describe(Measurement::new(case, drained.rate(), "messages/s")))
}

/// A backlog that was sent.
#[derive(Debug)]
pub(super) struct Drained {
    pub(super) messages: u32,
    pub(super) time: Duration,
    pub(super) arrivals: Arrivals,
    /// How many rows the relays read.
    pub(super) read: u64,
    pub(super) wal_bytes: i64,
    /// Counted only if somebody does.
    pub(super) statements: u64,
}

impl Drained {
    /// Returns how many messages a second were sent.
    pub(super) fn rate(&self) -> f64 {
        f64::from(self.messages) / self.time.as_secs_f64()
    }

    /// Adds what was seen on the way to a measurement.
    pub(super) fn describe(&self, measurement: Measurement) -> Measurement {
        measurement
            .with("messages", self.messages)
            .with("inversions", self.arrivals.inversions())
            .with("last_tenth_to_first", self.arrivals.flatness(self.time))
            .with("rows_read", self.read)
    }
}

/// Commits a backlog and sends it.
///
/// # Errors
///
/// The server fails, or something else arrived than was added.
pub(super) async fn run(database: &Database, setting: &Setting) -> anyhow::Result<Drained> {
    let messages = setting.messages();
    let arrivals = Arrivals::new(messages);
    let (time, read, wal_bytes, statements) = match setting.side {
        Side::Raw => {
            let loops = raw::Loops::open(database, setting).await;
            database.fill(Side::Raw, messages).await?;
            let spent = Spent::so_far(database).await;
            arrivals.start();
            let stopwatch = Stopwatch::start();
            loops.run(&arrivals).await?;
            let (time, statements) = (stopwatch.elapsed(), Statements::count() - spent.statements);
            (time, u64::from(messages), wal_bytes(database).await - spent.wal_bytes, statements)
        }
        Side::Ours => {
            let mut relays = Relays::start(database, setting, &arrivals).await?;
            database.fill(Side::Ours, messages).await?;
            let spent = Spent::so_far(database).await;
            arrivals.start();
            let stopwatch = Stopwatch::start();
            relays.wake.nudge();
            let complete = within(PATIENCE, arrivals.complete()).await;
            complete.with_context(|| format!("{} of {messages} were sent", arrivals.count()))?;
            let summaries = relays.stop().await?;
            let (time, statements) = (stopwatch.elapsed(), Statements::count() - spent.statements);
            let wal_bytes = wal_bytes(database).await - spent.wal_bytes;
            relays.close().await;
            (time, summaries.iter().map(|summary| summary.read).sum(), wal_bytes, statements)
        }
    };
    arrivals.check()?;
    Ok(Drained { messages, time, arrivals, read, wal_bytes, statements })
}

/// What was spent before.
struct Spent {
    statements: u64,
    wal_bytes: i64,
}

impl Spent {
    async fn so_far(database: &Database) -> Self {
        let wal_bytes = wal_bytes(database).await;
        Self { statements: Statements::count(), wal_bytes }
    }
}

async fn wal_bytes(database: &Database) -> i64 {
    database.server.number("pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')").await
}

/// Relays that run, each with a pool of its own.
pub(super) struct Relays {
    pub(super) wake: Wake,
    stop: watch::Sender<bool>,
    running: JoinSet<RelaySummary>,
    pools: Vec<Guarded>,
}

impl Relays {
    /// Starts them, and waits until each has its share of the shards.
    ///
    /// # Errors
    ///
    /// The server fails.
    pub(super) async fn start(
        database: &Database,
        setting: &Setting,
        arrivals: &Arrivals,
    ) -> anyhow::Result<Self> {
        Self::with(database, setting, &NoOp(arrivals.clone())).await
    }

    /// Starts them with this sender.
    ///
    /// # Errors
    ///
    /// The server fails.
    pub(super) async fn with<H>(database: &Database, setting: &Setting, sender: &H) -> anyhow::Result<Self>
    where
        H: BatchHandler<Message, Error = Infallible> + Clone + 'static,
    {
        let mut relays = Self::none();
        for _ in 0..setting.workers {
            let pool = database.pool()?;
            relays.run(setting, database.store(&pool), sender.clone())?;
            relays.pools.push(pool);
        }
        database.shared_out(setting.workers).await?;
        Ok(relays)
    }

    /// Begins with none.
    pub(super) fn none() -> Self {
        Self {
            wake: Wake::new(),
            stop: watch::Sender::new(false),
            running: JoinSet::new(),
            pools: Vec::new(),
        }
    }

    /// Starts another one.
    ///
    /// # Errors
    ///
    /// Never: its settings are within bounds.
    pub(super) fn run<S, H>(&mut self, setting: &Setting, store: S, sender: H) -> anyhow::Result<()>
    where
        S: OutboxStore,
        H: BatchHandler<Message, Error = Infallible> + 'static,
    {
        let mut builder =
            Relay::<S, H>::builder(store, sender).batch_size(setting.batch as usize).wake(self.wake.clone());
        if setting.workers > 1 {
            // They look at each other three times a lease, and share the shards out then.
            let limit = Duration::from_millis(800);
            builder = builder.lease(Duration::from_secs(2)).send_timeout(limit).settle_timeout(limit);
        }
        let (relay, mut stopped) = (builder.build()?, self.stop.subscribe());
        self.running.spawn(async move {
            relay.run(async move { drop(stopped.wait_for(|stopped| *stopped).await) }).await
        });
        Ok(())
    }

    /// Stops them, when what is on its way has been written.
    ///
    /// # Errors
    ///
    /// One of them left something behind.
    pub(super) async fn stop(&mut self) -> anyhow::Result<Vec<RelaySummary>> {
        self.stop.send_replace(true);
        let mut summaries = Vec::new();
        while let Some(ended) = self.running.join_next().await {
            let summary = ended.context("a relay panicked")?;
            let failed = summary.lost + summary.retried + summary.dead + summary.store_failures;
            ensure!(failed == 0 && summary.unfinished == 0, "it did not go well: {summary:?}");
            summaries.push(summary);
        }
        Ok(summaries)
    }

    /// Closes their connections, after which the server's statistics have all that they did.
    pub(super) async fn close(self) {
        for pool in self.pools {
            pool.close().await;
        }
    }
}
