use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use relaykit_persistent_queue::Queue;
use relaykit_pipeline_traits::{Clock, SystemClock};

use super::common::{Event, Scratch, peak_bytes};
use super::ours::{NoOp, builder, close, processed};
use super::runtime;
use super::setting::Durability;
use super::stopwatch::Stopwatch;
use crate::workload::Measurement;

const EVENTS: u32 = 1_000_000;

/// Up to this many live bytes, twice as many do not count: a file may have a mebibyte.
const FLOOR: f64 = 512.0 * 1024.0;

/// How many times as large as the live data a file may stay, and for how long it is waited for.
const WANTED: f64 = 2.0;
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures the most memory in MiB while a million events are queued, the queue is closed, opened again, and drained.
///
/// # Errors
///
/// The queue fails, or something else arrived than was pushed.
pub(super) fn peak(case: &str) -> anyhow::Result<Measurement> {
    let scratch = Scratch::new()?;
    let before = peak_bytes()?;
    runtime()?.block_on(async {
        let path = scratch.file("queue.db");
        let pushing = fill(&path, NoOp::default()).await?;
        let pushed = pushing.time;
        close(pushing.queue).await?;
        let peak_full = peak_bytes()?;

        let handler = NoOp::default();
        let stopwatch = Stopwatch::start();
        let queue = builder(Durability::Full, path, handler.clone()).batches(10).open()?;
        let opened = stopwatch.elapsed();
        processed(&queue, u64::from(EVENTS)).await?;
        let drained = stopwatch.elapsed();
        handler.tally().check(u64::from(EVENTS))?;
        close(queue).await?;
        let rate = |time: Duration| f64::from(EVENTS) / time.as_secs_f64();
        let peak = peak_bytes()?;
        Ok(Measurement::new(case, bytes(peak) / (1024.0 * 1024.0), "MiB")
            .with("items", EVENTS)
            .with("peak_bytes", peak)
            .with("peak_bytes_before", before)
            .with("peak_bytes_when_full", peak_full)
            .with("open_seconds", opened.as_secs_f64())
            .with("pushed_per_second", rate(pushed))
            .with("drained_per_second", rate(drained)))
    })
}

/// Measures how many times as many bytes as live data a file has: after nine tenths of a million events are done, and after
/// all are; the larger of the two. Ten seconds after that at the latest. Less than 512 KiB of live data counts as 512.
///
/// # Errors
///
/// The queue fails.
pub(super) fn file(case: &str) -> anyhow::Result<Measurement> {
    let scratch = Scratch::new()?;
    runtime()?.block_on(async {
        let path = scratch.file("queue.db");
        let Filled { queue, .. } = fill(&path, NoOp::default()).await?;
        let full = size(&path)?;
        let all = queue.stats().stored_bytes;
        queue.resume();
        processed(&queue, u64::from(EVENTS) / 10 * 9).await?;
        queue.pause();
        let live = queue.stats().stored_bytes;
        let most = settle(&path, live).await?;
        queue.resume();
        processed(&queue, u64::from(EVENTS)).await?;
        let drained = settle(&path, 0).await?;
        let all_files = scratch.bytes()?;
        close(queue).await?;
        Ok(Measurement::new(case, most.ratio.max(drained.ratio), "× live data")
            .with("items", EVENTS)
            .with("file_bytes", all_files)
            .with("bytes_full", full)
            .with("live_bytes_full", all)
            .with("bytes_after_nine_tenths", most.bytes)
            .with("seconds_after_nine_tenths", most.seconds)
            .with("live_bytes_after_nine_tenths", live)
            .with("bytes_after_all", drained.bytes)
            .with("seconds_after_all", drained.seconds)
            .with("peak_bytes", peak_bytes()?))
    })
}

struct Filled {
    queue: Queue<Event>,
    time: Duration,
}

/// Pushes a million events that no handler has yet.
async fn fill(path: &Path, handler: NoOp) -> anyhow::Result<Filled> {
    let queue = builder(Durability::Full, path.to_path_buf(), handler).batches(10).open()?;
    queue.pause();
    let stopwatch = Stopwatch::start();
    for number in 0..EVENTS {
        queue.push(Event::new(u64::from(number))).await?;
    }
    queue.flush().await?;
    Ok(Filled { queue, time: stopwatch.elapsed() })
}

/// A file some time after work was done.
#[derive(Debug)]
struct Settled {
    /// Its size, as a multiple of the live data's.
    ratio: f64,
    bytes: u64,
    seconds: f64,
}

/// Waits until the file is as small as wanted, or for ten seconds: space is given back when there is nothing else to do.
async fn settle(path: &Path, live: u64) -> anyhow::Result<Settled> {
    let clock = SystemClock::new();
    let stopwatch = Stopwatch::start();
    loop {
        let (now, waited) = (size(path)?, stopwatch.elapsed());
        let ratio = bytes(now) / bytes(live).max(FLOOR);
        if ratio <= WANTED || waited > PATIENCE {
            return Ok(Settled { ratio, bytes: now, seconds: waited.as_secs_f64() });
        }
        clock.sleep(Duration::from_millis(20)).await;
    }
}

fn size(path: &Path) -> anyhow::Result<u64> {
    let data = std::fs::metadata(path).with_context(|| format!("could not look at {}", path.display()))?;
    Ok(data.len())
}

#[expect(clippy::cast_precision_loss, reason = "no file has 2^53 bytes")]
fn bytes(count: u64) -> f64 {
    count as f64
}
