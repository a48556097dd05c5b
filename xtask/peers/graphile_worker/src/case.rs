use std::sync::Arc;

use anyhow::Context;
use graphile_worker::{
    Database, IntoTaskHandlerResult, JobSpec, LocalQueueConfig, RawJobSpec, TaskHandler, WorkerContext,
    WorkerOptions, WorkerUtils,
};
use serde::{Deserialize, Serialize};

use crate::receiving;
use crate::workload::stopwatch::Stopwatch;
use crate::workload::{Arrivals, KEYS, Measurement, Throwaway, added, drained, payload};

pub(crate) const SCHEMA: &str = "graphile_worker";

/// How many jobs are taken at once: as many as our relay reads for a batch.
pub(crate) const TAKEN: usize = 100;

/// How many jobs run at once, as in the crate's own benches.
const CONCURRENCY: usize = 8;

/// How many jobs a filling call adds.
const FILLED: usize = 1_000;

/// Runs a case once, by its name: `add/1` and `add/100` add as many jobs by a call, which is a transaction of its own. `drain/any`
/// works a backlog off, each job when it comes. `drain/keys` has a named queue for each key, which the crate works off one by one.
/// `receive/MANYxCONNECTIONS` adds jobs whose keys are the ids of messages, and `plain/1x16` works such a backlog off.
///
/// # Errors
///
/// No case has this name, or the run fails.
pub(crate) async fn measure(case: &str) -> anyhow::Result<Measurement> {
    let database = Throwaway::new(16).await?;
    let pool: Database = database.pool.clone().into();
    let utils = WorkerUtils::new(pool.clone(), SCHEMA);
    utils.migrate().await?;
    let measured = match case {
        "add/1" => add(case, &utils, 6_000, 1).await,
        "add/100" => add(case, &utils, 50_000, 100).await,
        "drain/any" => drain(case, &utils, pool, 100_000, false).await,
        "drain/keys" => drain(case, &utils, pool, 20_000, true).await,
        "plain/1x16" => receiving::handle(case, utils, pool).await,
        _ => receiving::receive(case, &database.pool, utils).await,
    };
    database.remove().await?;
    measured
}

#[derive(Debug, Serialize, Deserialize)]
struct Sent {
    payload: String,
}

impl TaskHandler for Sent {
    const IDENTIFIER: &'static str = "bench";

    async fn run(self, cx: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(arrivals) = cx.get_ext::<Arrivals>() {
            arrivals.add(std::iter::once(self.payload.as_bytes()));
        }
        Ok::<(), String>(())
    }
}

fn job(number: u64, keyed: bool) -> anyhow::Result<RawJobSpec> {
    let queue_name = keyed.then(|| format!("k{}", number % KEYS));
    Ok(RawJobSpec {
        identifier: Sent::IDENTIFIER.to_owned(),
        payload: serde_json::to_value(Sent { payload: payload(number) })?,
        spec: JobSpec { queue_name, ..JobSpec::default() },
    })
}

async fn add(case: &str, utils: &WorkerUtils, jobs: u32, batch: usize) -> anyhow::Result<Measurement> {
    let stopwatch = Stopwatch::start();
    fill(utils, jobs, batch, false).await?;
    Ok(added(case, jobs, stopwatch.elapsed()).with("batch", batch))
}

async fn fill(utils: &WorkerUtils, jobs: u32, batch: usize, keyed: bool) -> anyhow::Result<()> {
    let mut numbers = 0..u64::from(jobs);
    loop {
        let batch = numbers.by_ref().take(batch).map(|number| job(number, keyed));
        let mut batch = batch.collect::<anyhow::Result<Vec<_>>>()?;
        match batch.len() {
            0 => return Ok(()),
            1 => {
                let RawJobSpec { identifier, payload, spec } = batch.remove(0);
                drop(utils.add_raw_job(&identifier, payload, spec).await?);
            }
            _ => drop(utils.add_raw_jobs(&batch).await?),
        }
    }
}

async fn drain(
    case: &str,
    utils: &WorkerUtils,
    database: Database,
    jobs: u32,
    keyed: bool,
) -> anyhow::Result<Measurement> {
    fill(utils, jobs, FILLED, keyed).await?;
    let arrivals = Arrivals::new(jobs);
    let worker = WorkerOptions::default()
        .database(database)
        .schema(SCHEMA)
        .concurrency(CONCURRENCY)
        .local_queue(LocalQueueConfig::default().with_size(TAKEN))
        .add_extension(arrivals.clone())
        .define_job::<Sent>()
        .init()
        .await?;
    let worker = Arc::new(worker);
    arrivals.start();
    let stopwatch = Stopwatch::start();
    let running = tokio::spawn({
        let worker = Arc::clone(&worker);
        async move { worker.run().await }
    });
    let measured = drained(case, jobs, &arrivals, &stopwatch).await;
    worker.request_shutdown();
    running.await.context("the worker panicked")??;
    Ok(measured?.with("batch", TAKEN).with("concurrency", CONCURRENCY))
}
