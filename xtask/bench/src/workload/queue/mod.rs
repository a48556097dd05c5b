//! What the durable queue costs, beside a bare loop around SQLite that does the same, and what it takes of memory and disk.

mod common;
mod footprint;
mod latency;
mod ours;
mod raw;
mod setting;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

use crate::workload::{Measurement, stopwatch};
use setting::{Setting, Side};

/// How many threads the runtime has.
const THREADS: usize = 2;

/// Runs a case once: `SIDE/DURABILITY/FLUSHxTAKE/PRODUCERS`, see [`Setting`]; `push-p99/DURABILITY`, `peak-bytes` or
/// `file-after-drain`.
///
/// # Errors
///
/// No case has this name, or something else arrived than was pushed.
pub(crate) fn measure(case: &str, name: &str) -> anyhow::Result<Measurement> {
    match name {
        "push-p99/process" => latency::push(case, setting::Durability::Process),
        "push-p99/full" => latency::push(case, setting::Durability::Full),
        "peak-bytes" => footprint::peak(case),
        "file-after-drain" => footprint::file(case),
        _ => {
            let setting: Setting = name.parse()?;
            let measured = match setting.side {
                Side::Raw => common::rate(case, setting.events(), |events| raw::run(&setting, events)),
                Side::Ours | Side::Durable => {
                    let runtime = runtime()?;
                    common::rate(case, setting.events(), |events| {
                        runtime.block_on(ours::run(&setting, events))
                    })
                }
            };
            Ok(setting.describe(measured?))
        }
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    let runtime = Builder::new_multi_thread().worker_threads(THREADS).enable_time().build();
    runtime.context("could not start a runtime")
}
