//! What the inbox costs, beside plain statements that write, or delete, as many rows of the same columns.

mod common;
mod incoming;
mod memory;
mod postgres;
mod setting;
mod sqlite;
mod work;

use std::time::Duration;

use anyhow::Context;
use relaykit_pipeline_traits::{Clock as _, SystemClock};
use tokio::runtime::{Builder, Runtime};

use crate::workload::{Measurement, stopwatch};
use setting::{On, Setting, Work};

/// How many threads the runtime has.
const THREADS: usize = 2;

/// The default.
const SHARDS: u16 = 64;

/// Runs a case once, by its name: see [`Setting`]. The server is that of `RELAYKIT_TEST_POSTGRES`; SQLite's files are temporary.
///
/// # Errors
///
/// No case has this name, there is no server, or it fails, or something else was stored or handled than was to be.
pub(crate) fn measure(case: &str, name: &str) -> anyhow::Result<Measurement> {
    let setting: Setting = name.parse()?;
    let measured = runtime()?.block_on(async {
        match (setting.on, setting.work) {
            (On::Postgres, Work::Receive) => postgres::receive(case, &setting).await,
            (On::Postgres, Work::Memory) => {
                postgres::handle(case, &setting).await?;
                memory::measure(case)
            }
            (On::Postgres, _) => postgres::handle(case, &setting).await,
            (On::Sqlite, Work::Receive) => sqlite::receive(case, &setting),
            (On::Sqlite, _) => sqlite::handle(case, &setting).await,
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
