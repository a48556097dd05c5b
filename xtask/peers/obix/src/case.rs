use anyhow::Context;
use job::{JobSvcConfig, JobType, Jobs};
use obix::{
    EventCtx, EventDelivery, FlushOp, Handled, InsertOrder, MailboxConfig, OutboxEventJobConfig,
    SingletonSubscriber, out::Outbox,
};
use serde::{Deserialize, Serialize};

use crate::migrate::migrate;
use crate::receiving;
use crate::workload::stopwatch::Stopwatch;
use crate::workload::{Arrivals, Measurement, Throwaway, added, drained, payload};

/// How many messages a filling transaction adds.
const FILLED: usize = 1_000;

/// How many messages the subscriber acknowledges at once.
const BATCH: usize = 100;

/// Runs a case once, by its name: `add/1` and `add/100` add as many messages in a transaction, `drain/100` hands a backlog to a
/// single subscriber, in the order of all messages, and moves its checkpoint on after each hundred. Nothing is removed.
/// `receive/MANYxCONNECTIONS` persists events in the inbox, and `plain/1x16` handles a backlog of it.
///
/// # Errors
///
/// No case has this name, or the run fails.
pub(crate) async fn measure(case: &str) -> anyhow::Result<Measurement> {
    // An event in the inbox is handled by a job of its own, of which each has a connection.
    let connections = if case.starts_with("plain/") { 64 } else { 16 };
    let database = Throwaway::new(connections).await?;
    migrate(&database.pool, env!("MIGRATIONS")).await?;
    let outbox = Outbox::<Sent>::init(&database.pool, MailboxConfig::builder().build()).await?;
    let measured = match case {
        "add/1" => add(case, &outbox, 6_000, 1).await,
        "add/100" => add(case, &outbox, 50_000, 100).await,
        "drain/100" => drain(case, &database, &outbox, 100_000).await,
        "plain/1x16" => receiving::handle(case, &database.pool).await,
        _ => receiving::receive(case, &database.pool).await,
    };
    drop(outbox);
    database.remove().await?;
    measured
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sent {
    payload: String,
}

async fn add(case: &str, outbox: &Outbox<Sent>, messages: u32, batch: usize) -> anyhow::Result<Measurement> {
    let stopwatch = Stopwatch::start();
    fill(outbox, messages, batch).await?;
    Ok(added(case, messages, stopwatch.elapsed()).with("batch", batch))
}

async fn fill(outbox: &Outbox<Sent>, messages: u32, batch: usize) -> anyhow::Result<()> {
    let mut numbers = 0..u64::from(messages);
    loop {
        let events: Vec<_> =
            numbers.by_ref().take(batch).map(|number| Sent { payload: payload(number) }).collect();
        if events.is_empty() {
            return Ok(());
        }
        let mut op = outbox.begin_op().await?;
        outbox.publish_all_persisted(&mut op, events).await?;
        op.commit().await?;
    }
}

/// Takes each message.
#[derive(Debug)]
struct NoOp(Arrivals);

impl SingletonSubscriber<Sent> for NoOp {
    type Batch = Vec<String>;

    async fn handle_persistent<'inv>(
        &self,
        cx: EventCtx<'inv, Vec<String>>,
        event: &EventDelivery<Sent>,
    ) -> Result<Handled<'inv>, Box<dyn std::error::Error + Send + Sync>> {
        let Some(event) = &event.payload else { return Ok(cx.skip()) };
        let payload = event.payload.clone();
        Ok(cx.collect_with(|batch| batch.push(payload)))
    }

    async fn flush(
        &self,
        _op: &mut FlushOp<'_, InsertOrder>,
        batch: Vec<String>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0.add(batch.iter().map(String::as_bytes));
        Ok(())
    }
}

async fn drain(
    case: &str,
    database: &Throwaway,
    outbox: &Outbox<Sent>,
    messages: u32,
) -> anyhow::Result<Measurement> {
    fill(outbox, messages, FILLED).await?;
    let arrivals = Arrivals::new(messages);
    let config = JobSvcConfig::builder().pool(database.pool.clone()).build();
    let mut jobs = Jobs::init(config.ok().context("the settings of the jobs do not fit")?).await?;
    let subscriber = OutboxEventJobConfig::new(JobType::new("bench")).with_max_batch_size(BATCH);
    outbox.register_singleton_subscriber(&mut jobs, subscriber, NoOp(arrivals.clone())).await?;
    arrivals.start();
    let stopwatch = Stopwatch::start();
    jobs.start_poll().await?;
    let measured = drained(case, messages, &arrivals, &stopwatch).await;
    jobs.shutdown().await?;
    Ok(measured?.with("batch", BATCH).with("workers", 1))
}
