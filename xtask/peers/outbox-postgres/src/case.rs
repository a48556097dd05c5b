use std::sync::Arc;

use anyhow::{Context, bail};
use outbox_core::prelude::{
    Event, OutboxConfig, OutboxError, OutboxManagerBuilder, OutboxService, Transport,
};
use outbox_postgres::{PostgresOutbox, PostgresWriter};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::migrate::migrate;
use crate::workload::stopwatch::Stopwatch;
use crate::workload::{Arrivals, Measurement, Throwaway, added, drained, payload};

/// How many messages a filling transaction adds.
const FILLED: usize = 1_000;

/// Runs a case once, by its name: `add/1` and `add/100` add as many messages in a transaction, `drain/100` sends a backlog by one
/// manager with its default batch of 100. The crate keeps no order, and one message's trigger notifies for each write of its row.
///
/// # Errors
///
/// No case has this name, or the run fails.
pub(crate) async fn measure(case: &str) -> anyhow::Result<Measurement> {
    let database = Throwaway::new(8).await?;
    migrate(&database.pool, env!("MIGRATIONS")).await?;
    let measured = match case {
        "add/1" => add(case, &database, 6_000, 1).await,
        "add/100" => add(case, &database, 30_000, 100).await,
        "drain/100" => drain(case, &database, 20_000).await,
        _ => bail!("no case is named {case:?}"),
    };
    database.remove().await?;
    measured
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sent {
    payload: String,
}

async fn add(case: &str, database: &Throwaway, messages: u32, batch: usize) -> anyhow::Result<Measurement> {
    let stopwatch = Stopwatch::start();
    fill(database, messages, batch).await?;
    Ok(added(case, messages, stopwatch.elapsed()).with("batch", batch))
}

async fn fill(database: &Throwaway, messages: u32, batch: usize) -> anyhow::Result<()> {
    let service = OutboxService::new(Arc::new(PostgresWriter), Arc::new(OutboxConfig::default()));
    let mut connection = database.pool.acquire().await?;
    let mut numbers = (0..u64::from(messages)).peekable();
    while numbers.peek().is_some() {
        let mut tx = sqlx::Connection::begin(&mut *connection).await?;
        for number in numbers.by_ref().take(batch) {
            service.add_event("bench", Sent { payload: payload(number) }, None, &mut *tx).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

/// Takes each message.
#[derive(Debug)]
struct NoOp(Arrivals);

#[async_trait::async_trait]
impl Transport<Sent> for NoOp {
    async fn publish(&self, event: Event<Sent>) -> Result<(), OutboxError> {
        self.0.add(std::iter::once(event.payload.as_value().payload.as_bytes()));
        Ok(())
    }
}

async fn drain(case: &str, database: &Throwaway, messages: u32) -> anyhow::Result<Measurement> {
    fill(database, messages, FILLED).await?;
    let (arrivals, config) = (Arrivals::new(messages), Arc::new(OutboxConfig::default()));
    let (stop, stopped) = watch::channel(false);
    let manager = OutboxManagerBuilder::new()
        .storage(Arc::new(PostgresOutbox::<Sent>::new(database.pool.clone(), Arc::clone(&config))))
        .publisher(Arc::new(NoOp(arrivals.clone())))
        .config(config)
        .shutdown_rx(stopped)
        .build()?;
    arrivals.start();
    let stopwatch = Stopwatch::start();
    let running = tokio::spawn(manager.run());
    let measured = drained(case, messages, &arrivals, &stopwatch).await;
    stop.send_replace(true);
    running.await.context("the manager panicked")??;
    Ok(measured?.with("batch", 100).with("workers", 1))
}
