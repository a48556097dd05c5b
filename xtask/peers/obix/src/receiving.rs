use anyhow::Context;
use job::{JobSvcConfig, JobType, Jobs};
use obix::inbox::{Inbox, InboxAttempt, InboxConfig, InboxEvent, InboxHandler, InboxResult};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::inbox::{self, Count, HANDLED, Incoming};
use crate::workload::Measurement;
use crate::workload::stopwatch::Stopwatch;

/// What was stored: events stay, with their payloads.
const STORED: &str = "select count(*) from inbox_events";

#[derive(Debug, Serialize, Deserialize)]
struct Received {
    payload: String,
}

/// Looks at each event and is done.
struct NoOp(Count);

impl InboxHandler for NoOp {
    async fn handle(
        &self,
        event: &InboxEvent,
        _: InboxAttempt,
    ) -> Result<InboxResult, Box<dyn std::error::Error + Send + Sync>> {
        std::hint::black_box(event.payload::<Received>()?);
        self.0.add(1);
        Ok(InboxResult::Complete)
    }
}

/// Measures how many events a second are persisted, each with its job, whose idempotency key is the message's id. A transaction
/// of many takes them one by one; there is no call for lists. Payloads are not compared.
///
/// # Errors
///
/// No case has this name, or the server fails.
pub(crate) async fn receive(case: &str, pool: &PgPool) -> anyhow::Result<Measurement> {
    let (_jobs, inbox) = open(pool, Count::new(0)).await?;
    inbox::receive(case, pool, STORED, move |messages| persist(inbox.clone(), messages)).await
}

/// Measures how many events of a backlog a second are handled, each by a job of its own, with the settings by default: up to 50 at
/// once, for which there are connections enough.
///
/// # Errors
///
/// The server fails, or an event is handled twice.
pub(crate) async fn handle(case: &str, pool: &PgPool) -> anyhow::Result<Measurement> {
    let count = Count::new(HANDLED.into());
    let (mut jobs, inbox) = open(pool, count.clone()).await?;
    inbox::fill(|messages| persist(inbox.clone(), messages)).await?;
    let stopwatch = Stopwatch::start();
    jobs.start_poll().await?;
    let measured = inbox::handled(case, &count, &stopwatch).await;
    jobs.shutdown().await?;
    measured
}

async fn open(pool: &PgPool, count: Count) -> anyhow::Result<(Jobs, Inbox)> {
    let config = JobSvcConfig::builder().pool(pool.clone()).build();
    let mut jobs = Jobs::init(config.ok().context("the settings of the jobs do not fit")?).await?;
    let inbox = Inbox::new(pool, &mut jobs, InboxConfig::new(JobType::new("bench")), NoOp(count));
    Ok((jobs, inbox))
}

async fn persist(inbox: Inbox, messages: Vec<Incoming>) -> anyhow::Result<()> {
    let mut op = inbox.begin_op().await?;
    for Incoming { id, payload, .. } in messages {
        let _known = inbox.persist_and_queue_job_in_op(&mut op, id, Received { payload }).await?;
    }
    op.commit().await?;
    Ok(())
}
