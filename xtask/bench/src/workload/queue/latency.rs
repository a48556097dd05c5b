use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::common::Event;
use super::common::{Scratch, peak_bytes};
use super::ours::{NoOp, builder, close, processed};
use super::runtime;
use super::setting::Durability;
use super::stopwatch::Stopwatch;
use crate::workload::Measurement;

/// How many events are pushed, and in what time each.
const EVENTS: u32 = 40_000;
const EACH: Duration = Duration::from_micros(50);

/// Measures how long a push takes at most in 99 of 100 cases, in µs, at 20,000 events a second. It returns once the event is
/// buffered; batches of 100 are stored and handled meanwhile.
///
/// # Errors
///
/// The queue fails.
pub(super) fn push(case: &str, durability: Durability) -> anyhow::Result<Measurement> {
    let scratch = Scratch::new()?;
    let runtime = runtime()?;
    let handler = NoOp::default();
    let (mut times, time) = runtime.block_on(async {
        let queue = builder(durability, scratch.file("queue.db"), handler.clone()).batches(10).open()?;
        let mut times = Vec::new();
        let start = Stopwatch::start();
        for number in 0..EVENTS {
            wait_until(&start, EACH * number);
            let event = Event::new(u64::from(number));
            let stopwatch = Stopwatch::start();
            queue.push(event).await?;
            times.push(stopwatch.elapsed());
        }
        let time = start.elapsed();
        queue.flush().await?;
        processed(&queue, u64::from(EVENTS)).await?;
        close(queue).await?;
        anyhow::Ok((times, time))
    })?;
    handler.tally().check(u64::from(EVENTS))?;
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 1_000).or(times.last()).copied().map(micros);
    let quantile = |part| at(part).context("nothing was pushed");
    Ok(Measurement::new(case, quantile(990)?, "µs")
        .with("p50_us", quantile(500)?)
        .with("p999_us", quantile(999)?)
        .with("max_us", quantile(1_000)?)
        .with("pushes", EVENTS)
        .with("pushes_per_second", f64::from(EVENTS) / time.as_secs_f64())
        .with("peak_bytes", peak_bytes()?))
}

/// Waits on this thread, which is no worker's. Whoever is late does not wait.
#[expect(clippy::disallowed_methods, reason = "a bench measures the machine's own time")]
fn wait_until(start: &Stopwatch, due: Duration) {
    if let Some(left) = due.checked_sub(start.elapsed()) {
        thread::sleep(left);
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
