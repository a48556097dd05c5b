//! What the outbox costs, beside plain statements that write, or delete, as many rows of the same columns.

mod add;
mod common;
mod cost;
mod database;
mod drain;
mod idle;
mod latency;
mod raw;
mod setting;
mod sqlite;
mod statements;

use std::time::Duration;

use anyhow::Context;
use relaykit_pipeline_traits::{Clock as _, SystemClock};
use tokio::runtime::{Builder, Runtime};

use crate::workload::{Measurement, stopwatch};
use setting::{On, Setting, Work};

/// How many threads the runtime has.
const THREADS: usize = 2;

/// Runs a case once, by its name: see [`Setting`]. The server is that of `RELAYKIT_TEST_POSTGRES`; SQLite's
/// files are temporary.
///
/// # Errors
///
/// No case has this name, there is no server, or it fails, or something else arrived than was added.
pub(crate) fn measure(case: &str, name: &str) -> anyhow::Result<Measurement> {
    let setting: Setting = name.parse()?;
    let measured = runtime()?.block_on(async {
        match setting.work {
            Work::Add if setting.on == On::Sqlite => sqlite::add(case, &setting),
            Work::Drain if setting.on == On::Sqlite => sqlite::drain(case, &setting).await,
            Work::Add => add::measure(case, &setting).await,
            Work::Drain | Work::Held => drain::measure(case, &setting).await,
            Work::Cost(what) => cost::measure(case, &setting, what).await,
            Work::Latency(load) => latency::measure(case, load).await,
            Work::Idle => idle::measure(case).await,
        }
    });
    measured.map(|measured| setting.describe(measured))
}

/// Waits for `work`, for `limit` at the longest.
async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = SystemClock::new().sleep(limit) => None,
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    runtime.context("could not start a runtime")
}
