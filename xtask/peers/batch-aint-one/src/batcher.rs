//! The peer's batcher at our work.

use std::convert::Infallible;
use std::hint::black_box;
use std::task::Poll;

use batch_aint_one::{Batcher, BatchingPolicy, Limits, Processor};
use tokio::task::coop::unconstrained;

use crate::workload::{BATCH, CAPACITY, Item, Load, Measurement, Window, wait_for_cost};

/// How a batcher is set up. Batches of 100, and a queue for 2,000.
///
/// Of the crate's policies (immediate, balanced, and by duration) and of a concurrency of 1, 2 and 8, each case has
/// the pair that was fastest for it, or one that no other beat beyond the noise.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    policy: BatchingPolicy,
    concurrency: usize,
}

/// For producers that wait for each answer.
pub(crate) const ANSWERED: Settings =
    Settings { policy: BatchingPolicy::Balanced { min_size_hint: BATCH }, concurrency: 8 };

/// For producers that await many answers at once.
pub(crate) const IN_FLIGHT: Settings = Settings { policy: BatchingPolicy::Immediate, concurrency: 2 };

/// For a processor that takes its time: as many calls at once as ours has.
pub(crate) const COSTED: Settings = Settings { policy: BatchingPolicy::Immediate, concurrency: 8 };

impl Settings {
    /// Adds the settings to a measurement.
    pub(crate) fn describe(&self, measurement: Measurement) -> Measurement {
        measurement
            .with("batch", BATCH)
            .with("capacity", CAPACITY)
            .with("policy", self.policy.to_string())
            .with("concurrency", self.concurrency)
    }
}

/// Looks at the batch and says that all is done.
#[derive(Debug, Clone)]
struct NoOp;

impl Processor for NoOp {
    type Key = ();
    type Input = Item;
    type Output = ();
    type Error = Infallible;
    type Resources = ();

    async fn acquire_resources(&self, (): ()) -> Result<(), Infallible> {
        Ok(())
    }

    async fn process(
        &self,
        (): (),
        inputs: impl Iterator<Item = Item> + Send,
        (): (),
    ) -> Result<Vec<()>, Infallible> {
        Ok(inputs
            .map(|item| {
                black_box(&item);
            })
            .collect())
    }
}

/// Takes its time.
#[derive(Debug, Clone)]
struct Costed;

impl Processor for Costed {
    type Key = ();
    type Input = Item;
    type Output = ();
    type Error = Infallible;
    type Resources = ();

    async fn acquire_resources(&self, (): ()) -> Result<(), Infallible> {
        Ok(())
    }

    async fn process(
        &self,
        (): (),
        inputs: impl Iterator<Item = Item> + Send,
        (): (),
    ) -> Result<Vec<()>, Infallible> {
        let batch: Vec<_> = inputs.collect();
        black_box(&batch);
        wait_for_cost(batch.len()).await;
        Ok(vec![(); batch.len()])
    }
}

/// Adds the items; a producer waits for each answer before it goes on.
pub(crate) async fn answered(load: Load) -> anyhow::Result<()> {
    let batcher = start(NoOp, &ANSWERED);
    load.produce(|numbers| {
        let batcher = batcher.clone();
        async move {
            for number in numbers {
                batcher.add((), Item::new(number)).await?;
            }
            Ok(())
        }
    })
    .await?;
    finish(batcher).await;
    Ok(())
}

/// Adds the items; a producer awaits many answers at once.
pub(crate) async fn in_flight(load: Load) -> anyhow::Result<()> {
    with_window(load, NoOp, &IN_FLIGHT).await
}

/// Adds the items for a processor that takes its time; a producer awaits many answers at once.
pub(crate) async fn costed(load: Load) -> anyhow::Result<()> {
    with_window(load, Costed, &COSTED).await
}

async fn with_window<P>(load: Load, processor: P, settings: &Settings) -> anyhow::Result<()>
where
    P: Processor<Key = (), Input = Item, Output = (), Error = Infallible> + Sync,
{
    let batcher = start(processor, settings);
    load.produce(|numbers| {
        let batcher = batcher.clone();
        async move {
            let mut window = Window::new(load.window());
            for number in numbers {
                window.make_room().await.transpose()?;
                // Its first poll hands the item over, unless tokio would rather have the task pause: an item that
                // is handed over only when its turn to be awaited comes would hold up all later ones.
                let mut answer = Box::pin(unconstrained(batcher.add((), Item::new(number))));
                match futures_util::poll!(&mut answer) {
                    Poll::Ready(answered) => answered?,
                    Poll::Pending => window.push(answer),
                }
            }
            while let Some(answer) = window.oldest().await {
                answer?;
            }
            Ok(())
        }
    })
    .await?;
    finish(batcher).await;
    Ok(())
}

fn start<P: Processor>(processor: P, settings: &Settings) -> Batcher<P> {
    let limits = Limits::builder()
        .max_batch_size(BATCH)
        .max_key_concurrency(settings.concurrency)
        .max_key_queued_items(CAPACITY)
        .max_items_awaiting_worker(CAPACITY)
        .build();
    Batcher::builder()
        .name("bench")
        .processor(processor)
        .limits(limits)
        .batching_policy(settings.policy.clone())
        .build()
}

async fn finish<P: Processor>(batcher: Batcher<P>) {
    let worker = batcher.worker_handle();
    worker.shut_down().await;
    worker.wait_for_shutdown().await;
}
