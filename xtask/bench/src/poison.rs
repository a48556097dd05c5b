//! How many calls it takes to find one poison item among many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use relaykit_batch_core::{Processor, Recovery};
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Classify, ErrorClass};

use crate::workload::{Item, Measurement};

/// How many items one batch has.
const ITEMS: u64 = 500;

/// Refuses each batch with the poison item in it.
struct Picky {
    poison: u64,
    calls: Arc<AtomicU32>,
}

/// There was poison in the batch.
#[derive(Debug)]
struct Poisoned;

impl Classify for Poisoned {
    fn class(&self) -> ErrorClass {
        ErrorClass::Permanent
    }
}

impl BatchHandler<Item> for Picky {
    type Output = ();
    type Error = Poisoned;

    async fn handle(&self, batch: &[Item], _cx: &BatchContext) -> BatchOutcome<(), Poisoned> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if batch.iter().any(|item| item.number == self.poison) {
            BatchOutcome::Split(Poisoned)
        } else {
            BatchOutcome::all_done(batch.len())
        }
    }
}

/// Counts the handler's calls for a batch with one poison item, at the position that needs most.
///
/// # Errors
///
/// Another item than the poison one was not delivered, or the poison one was.
pub(crate) fn isolate(case: &str) -> anyhow::Result<Measurement> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.context("could not start a runtime")?;
    let mut worst = 0;
    for poison in 0..ITEMS {
        let calls = runtime.block_on(calls(poison)).with_context(|| format!("with poison at {poison}"))?;
        worst = worst.max(calls);
    }
    Ok(Measurement::new(case, f64::from(worst), "calls")
        .with("items", ITEMS)
        .with("poison", "one item, at each position in turn")
        .with("recovery", "bisect"))
}

async fn calls(poison: u64) -> anyhow::Result<u32> {
    let calls = Arc::new(AtomicU32::new(0));
    let processor = Processor::builder(Picky { poison, calls: Arc::clone(&calls) })
        .max_items(usize::try_from(ITEMS)?)
        .linger(Duration::MAX)
        .recovery(Recovery::Bisect)
        .build()?;
    processor.start()?;
    let mut tickets = Vec::new();
    for number in 0..ITEMS {
        tickets.push(processor.add(Item::new(number)).await?);
    }
    for (number, ticket) in (0..).zip(tickets) {
        let delivered = ticket.await.is_ok();
        ensure!(delivered == (number != poison), "item {number}: delivered is {delivered}");
    }
    let report = processor.stop(Duration::from_secs(10)).await;
    ensure!(report.is_clean(), "a processor with nothing to do handed items back: {report:?}");
    Ok(calls.load(Ordering::Relaxed))
}
