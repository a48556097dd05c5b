//! Our batcher at the same work.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use anyhow::ensure;
use relaykit_batch_core::Processor;
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome};

use crate::workload::{BATCH, CAPACITY, Item, Load, Measurement, Window, wait_for_cost};

/// How a processor is set up. Batches of 100, a buffer for 2,000, and the default concurrency.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    linger: Duration,
    concurrency: usize,
}

/// Lets items gather until a batch is full, by the default linger: nobody waits for them.
pub(crate) const GATHERING: Settings = Settings { linger: Duration::from_secs(5), concurrency: 8 };

/// Hands items to a free worker at once: somebody waits for each answer.
pub(crate) const AT_ONCE: Settings = Settings { linger: Duration::ZERO, concurrency: 8 };

impl Settings {
    /// Adds the settings to a measurement.
    pub(crate) fn describe(self, measurement: Measurement) -> Measurement {
        measurement
            .with("batch", BATCH)
            .with("capacity", CAPACITY)
            .with("linger", format!("{:?}", self.linger))
            .with("concurrency", self.concurrency)
    }
}

/// Looks at the batch and says that all is done.
struct NoOp;

impl BatchHandler<Item> for NoOp {
    type Output = ();
    type Error = Infallible;

    async fn handle(&self, batch: &[Item], _cx: &BatchContext) -> BatchOutcome<(), Infallible> {
        black_box(batch);
        BatchOutcome::all_done(batch.len())
    }
}

/// Takes its time.
struct Costed;

impl BatchHandler<Item> for Costed {
    type Output = ();
    type Error = Infallible;

    async fn handle(&self, batch: &[Item], _cx: &BatchContext) -> BatchOutcome<(), Infallible> {
        black_box(batch);
        wait_for_cost(batch.len()).await;
        BatchOutcome::all_done(batch.len())
    }
}

/// Sends the items; nobody waits for answers.
pub(crate) async fn send(load: Load) -> anyhow::Result<()> {
    let processor = start(NoOp, GATHERING)?;
    load.produce(|numbers| {
        let processor = processor.clone();
        async move {
            for number in numbers {
                processor.send(Item::new(number)).await?;
            }
            Ok(())
        }
    })
    .await?;
    finish(&processor, load).await
}

/// Adds the items and drops the tickets.
pub(crate) async fn add_dropped(load: Load) -> anyhow::Result<()> {
    let processor = start(NoOp, GATHERING)?;
    load.produce(|numbers| {
        let processor = processor.clone();
        async move {
            for number in numbers {
                drop(processor.add(Item::new(number)).await?);
            }
            Ok(())
        }
    })
    .await?;
    finish(&processor, load).await
}

/// Adds the items; a producer waits for each answer before it goes on.
pub(crate) async fn answered(load: Load) -> anyhow::Result<()> {
    let processor = start(NoOp, AT_ONCE)?;
    load.produce(|numbers| {
        let processor = processor.clone();
        async move {
            for number in numbers {
                processor.add(Item::new(number)).await?.await?;
            }
            Ok(())
        }
    })
    .await?;
    finish(&processor, load).await
}

/// Adds the items; a producer awaits many answers at once.
pub(crate) async fn in_flight(load: Load) -> anyhow::Result<()> {
    with_window(load, NoOp).await
}

/// Adds the items for a handler that takes its time; a producer awaits many answers at once.
pub(crate) async fn costed(load: Load) -> anyhow::Result<()> {
    with_window(load, Costed).await
}

async fn with_window<H>(load: Load, handler: H) -> anyhow::Result<()>
where
    H: BatchHandler<Item, Output = (), Error = Infallible> + 'static,
{
    let processor = start(handler, AT_ONCE)?;
    load.produce(|numbers| {
        let processor = processor.clone();
        async move {
            let mut window = Window::new(load.window());
            for number in numbers {
                window.make_room().await.transpose()?;
                window.push(processor.add(Item::new(number)).await?);
            }
            while let Some(answer) = window.oldest().await {
                answer?;
            }
            Ok(())
        }
    })
    .await?;
    finish(&processor, load).await
}

fn start<H>(handler: H, settings: Settings) -> anyhow::Result<Processor<Item, H>>
where
    H: BatchHandler<Item, Output = (), Error = Infallible> + 'static,
{
    let processor = Processor::builder(handler)
        .max_items(BATCH)
        .capacity(CAPACITY)
        .linger(settings.linger)
        .concurrency(settings.concurrency)
        .build()?;
    processor.start()?;
    Ok(processor)
}

async fn finish<H>(processor: &Processor<Item, H>, load: Load) -> anyhow::Result<()>
where
    H: BatchHandler<Item, Output = (), Error = Infallible> + 'static,
{
    processor.flush().await?;
    let done = processor.stats().done;
    ensure!(done == u64::from(load.items), "the handler did {done} of {} items", load.items);
    let report = processor.stop(Duration::from_secs(10)).await;
    ensure!(report.is_clean(), "a processor with nothing to do handed items back: {report:?}");
    Ok(())
}
