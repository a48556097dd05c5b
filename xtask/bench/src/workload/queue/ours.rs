use std::convert::Infallible;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use relaykit_persistent_queue::{Builder, Plain, Queue};
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Clock, SystemClock};

use super::common::{Event, Scratch, Tally};
use super::setting::{Durability, Setting, Side};
use super::stopwatch::Stopwatch;
use crate::workload::Load;

/// How often it is asked whether all is done.
const LOOK: Duration = Duration::from_millis(1);

/// Looks at each event and says that all are done.
#[derive(Debug, Clone, Default)]
pub(super) struct NoOp(Arc<Mutex<Tally>>);

impl NoOp {
    /// Returns what arrived so far.
    pub(super) fn tally(&self) -> Tally {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BatchHandler<Event> for NoOp {
    type Output = ();
    type Error = Infallible;

    async fn handle(&self, batch: &[Event], _cx: &BatchContext) -> BatchOutcome<(), Infallible> {
        let mut tally = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for event in black_box(batch) {
            tally.add(event);
        }
        BatchOutcome::all_done(batch.len())
    }
}

/// Pushes events one at a time, and returns how long it took until the handler had all of them and they were removed, and the
/// bytes of the files after that.
///
/// # Errors
///
/// The queue fails, or something else arrived than was pushed.
pub(super) async fn run(setting: &Setting, events: u32) -> anyhow::Result<(Duration, u64)> {
    let scratch = Scratch::new()?;
    let handler = NoOp::default();
    let queue = builder(setting.durability, scratch.file("queue.db"), handler.clone())
        .max_items(setting.flush as usize)
        .batches(setting.take as usize)
        .open()?;
    let load = Load::new(setting.producers, events)?;
    let durable = setting.side == Side::Durable;
    let stopwatch = Stopwatch::start();
    load.produce(|numbers| {
        let queue = queue.clone();
        async move {
            for number in numbers {
                if durable {
                    queue.push_durable(Event::new(number)).await?;
                } else {
                    queue.push(Event::new(number)).await?;
                }
            }
            Ok(())
        }
    })
    .await?;
    queue.flush().await?;
    processed(&queue, u64::from(events)).await?;
    let time = stopwatch.elapsed();
    handler.tally().check(u64::from(events))?;
    let bytes = scratch.bytes()?;
    close(queue).await?;
    Ok((time, bytes))
}

/// Begins a queue with defaults, but for the ballast, which is no part of the work.
pub(super) fn builder(durability: Durability, path: PathBuf, handler: NoOp) -> Builder<Event, Plain<NoOp>> {
    use relaykit_persistent_queue::Durability::{Full, ProcessCrashOnly};

    let builder = match durability {
        Durability::Memory => Queue::in_memory(handler),
        Durability::Process => Queue::builder(path, handler).durability(ProcessCrashOnly),
        Durability::Full => Queue::builder(path, handler).durability(Full),
    };
    builder.ballast_bytes(0)
}

/// Waits until so many events are done and removed.
///
/// # Errors
///
/// They are not within two minutes.
pub(super) async fn processed(queue: &Queue<Event>, events: u64) -> anyhow::Result<()> {
    let clock = SystemClock::new();
    let stopwatch = Stopwatch::start();
    while queue.stats().processed < events {
        ensure!(stopwatch.elapsed() < Duration::from_secs(120), "it goes on for ever: {:?}", queue.stats());
        clock.sleep(LOOK).await;
    }
    Ok(())
}

/// Closes a queue that works no more.
///
/// # Errors
///
/// Something is left over.
pub(super) async fn close(queue: Queue<Event>) -> anyhow::Result<()> {
    let report = queue.close(Duration::from_secs(10)).await;
    ensure!(report.unsaved.is_empty(), "{} events were not stored", report.unsaved.len());
    report.file_closed.then_some(()).context("the queue did not close its file")
}

#[cfg(test)]
mod tests {
    use super::super::{raw, runtime};
    use super::*;

    #[test]
    fn both_sides_bring_all_events_to_their_end() {
        for name in ["memory/10x2/1", "process/1x1/3", "full/100x10/8", "process/7x3/2"] {
            let ours: Setting = format!("ours/{name}").parse().unwrap();
            let durable: Setting = format!("ours-durable/{name}").parse().unwrap();
            let bare: Setting = format!("raw/{name}").parse().unwrap();
            for setting in [ours, durable] {
                runtime().unwrap().block_on(run(&setting, 105)).unwrap();
            }
            raw::run(&bare, 105).unwrap();
        }
    }
}
