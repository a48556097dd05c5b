use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context;
use graphile_worker::{
    Database, IntoTaskHandlerResult, JobKeyMode, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler,
    WorkerContext, WorkerOptions, WorkerUtils,
};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::case::{SCHEMA, TAKEN};
use crate::inbox::{self, Count, HANDLED, Incoming};
use crate::workload::Measurement;
use crate::workload::stopwatch::Stopwatch;

/// How many jobs run at once: as many as messages are lent to our handler by default.
const CONCURRENCY: usize = 16;

/// What was stored: jobs stay until they are worked off.
const STORED: &str = "select count(*) from graphile_worker.jobs";

#[derive(Debug, Serialize, Deserialize)]
struct Handled {
    payload: String,
}

impl TaskHandler for Handled {
    const IDENTIFIER: &'static str = "handle";

    async fn run(self, cx: WorkerContext) -> impl IntoTaskHandlerResult {
        std::hint::black_box(&self.payload);
        if let Some(count) = cx.get_ext::<Count>() {
            count.add(1);
        }
        Ok::<(), String>(())
    }
}

/// Measures how many jobs a second are added whose key is the message's id, by calls that are transactions of their own.
///
/// A single job of a known key is left as it was (`unsafe_dedupe`). Lists know no such mode, and no key twice: in them a job that is
/// there is replaced by its like. Keys are known until their jobs are worked off; nothing is compared.
///
/// # Errors
///
/// No case has this name, or the server fails.
pub(crate) async fn receive(case: &str, pool: &PgPool, utils: WorkerUtils) -> anyhow::Result<Measurement> {
    let utils = Arc::new(utils);
    inbox::receive(case, pool, STORED, move |messages| add(Arc::clone(&utils), messages)).await
}

/// Measures how many jobs of a backlog a second are worked off, in any order, by one worker.
///
/// # Errors
///
/// The server fails, or a job runs twice.
pub(crate) async fn handle(
    case: &str,
    utils: WorkerUtils,
    database: Database,
) -> anyhow::Result<Measurement> {
    let utils = Arc::new(utils);
    inbox::fill(|messages| add(Arc::clone(&utils), messages)).await?;
    let count = Count::new(HANDLED.into());
    let worker = WorkerOptions::default()
        .database(database)
        .schema(SCHEMA)
        .concurrency(CONCURRENCY)
        .local_queue(LocalQueueConfig::default().with_size(TAKEN))
        .add_extension(count.clone())
        .define_job::<Handled>()
        .init()
        .await?;
    let worker = Arc::new(worker);
    let stopwatch = Stopwatch::start();
    let running = tokio::spawn({
        let worker = Arc::clone(&worker);
        async move { worker.run().await }
    });
    let measured = inbox::handled(case, &count, &stopwatch).await;
    worker.request_shutdown();
    running.await.context("the worker panicked")??;
    Ok(measured?.with("batch", TAKEN).with("concurrency", CONCURRENCY))
}

async fn add(utils: Arc<WorkerUtils>, messages: Vec<Incoming>) -> anyhow::Result<()> {
    if let [message] = &messages[..] {
        let RawJobSpec { identifier, payload, spec } = job(message, JobKeyMode::UnsafeDedupe)?;
        drop(utils.add_raw_job(&identifier, payload, spec).await?);
        return Ok(());
    }
    let mut seen = HashSet::new();
    let first = messages.iter().filter(|message| seen.insert(&message.id));
    let jobs = first.map(|message| job(message, JobKeyMode::PreserveRunAt));
    let jobs = jobs.collect::<anyhow::Result<Vec<_>>>()?;
    drop(utils.add_raw_jobs(&jobs).await?);
    Ok(())
}

fn job(message: &Incoming, mode: JobKeyMode) -> anyhow::Result<RawJobSpec> {
    Ok(RawJobSpec {
        identifier: Handled::IDENTIFIER.to_owned(),
        payload: serde_json::to_value(Handled { payload: message.payload.clone() })?,
        spec: JobSpec { job_key: Some(message.id.clone()), job_key_mode: Some(mode), ..JobSpec::default() },
    })
}
