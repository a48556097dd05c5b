use anyhow::Context;
use tokio::runtime::Builder;

use super::load::Load;
use super::measurement::Measurement;
use super::stopwatch::Stopwatch;

/// How many threads the runtime has.
const THREADS: usize = 2;

/// Measures how many items a second `run` brings to their end, on a multi-thread runtime with two threads.
///
/// A shorter run goes before, so that the one measured finds memory and threads as they are in steady work.
///
/// # Errors
///
/// A run fails.
pub(crate) fn rate(
    case: &str,
    load: Load,
    run: impl AsyncFn(Load) -> anyhow::Result<()>,
) -> anyhow::Result<Measurement> {
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_time().build();
    let runtime = runtime.context("could not start a runtime")?;
    runtime.block_on(run(load.warm_up()))?;
    let stopwatch = Stopwatch::start();
    runtime.block_on(run(load))?;
    let value = f64::from(load.items) / stopwatch.elapsed().as_secs_f64();
    Ok(Measurement::new(case, value, "items/s")
        .with("items", load.items)
        .with("producers", load.producers)
        .with("threads", THREADS))
}
