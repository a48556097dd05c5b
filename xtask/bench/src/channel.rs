//! Bare channels: the fair reference, which gathers nothing and promises nothing.

use std::hint::black_box;

use anyhow::ensure;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::workload::{CAPACITY, Item, Load, Window};

/// An item, and where its answer goes.
type Answerable = (Item, oneshot::Sender<()>);

/// Moves the items through a bounded channel to one consumer.
pub(crate) async fn send(load: Load) -> anyhow::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<Item>(CAPACITY);
    let consumer = tokio::spawn(async move {
        let mut moved = 0;
        while let Some(item) = receiver.recv().await {
            black_box(&item);
            moved += 1;
        }
        moved
    });
    load.produce(|numbers| {
        let sender = sender.clone();
        async move {
            for number in numbers {
                sender.send(Item::new(number)).await?;
            }
            Ok(())
        }
    })
    .await?;
    drop(sender);
    check(consumer.await?, load)
}

/// Moves the items with a place for an answer each; nobody waits for answers.
pub(crate) async fn answers_dropped(load: Load) -> anyhow::Result<()> {
    let (sender, consumer) = answering_consumer();
    load.produce(|numbers| {
        let sender = sender.clone();
        async move {
            for number in numbers {
                let (answer, answered) = oneshot::channel();
                sender.send((Item::new(number), answer)).await?;
                drop(answered);
            }
            Ok(())
        }
    })
    .await?;
    drop(sender);
    check(consumer.await?, load)
}

/// Moves the items with a place for an answer each; a producer waits for one before it goes on.
pub(crate) async fn answered(load: Load) -> anyhow::Result<()> {
    with_answers(load, 1).await
}

/// Moves the items with a place for an answer each; a producer awaits many at once.
pub(crate) async fn in_flight(load: Load) -> anyhow::Result<()> {
    with_answers(load, load.window()).await
}

async fn with_answers(load: Load, window: usize) -> anyhow::Result<()> {
    let (sender, consumer) = answering_consumer();
    load.produce(|numbers| {
        let sender = sender.clone();
        async move {
            if window == 1 {
                for number in numbers {
                    let (answer, answered) = oneshot::channel();
                    sender.send((Item::new(number), answer)).await?;
                    answered.await?;
                }
                return Ok(());
            }
            let mut window = Window::new(window);
            for number in numbers {
                window.make_room().await.transpose()?;
                let (answer, answered) = oneshot::channel();
                sender.send((Item::new(number), answer)).await?;
                window.push(answered);
            }
            while let Some(answer) = window.oldest().await {
                answer?;
            }
            Ok(())
        }
    })
    .await?;
    drop(sender);
    check(consumer.await?, load)
}

/// Starts a consumer that answers each item, and returns how many it moved.
fn answering_consumer() -> (mpsc::Sender<Answerable>, JoinHandle<u32>) {
    let (sender, mut receiver) = mpsc::channel::<Answerable>(CAPACITY);
    let consumer = tokio::spawn(async move {
        let mut moved = 0;
        while let Some((item, answer)) = receiver.recv().await {
            black_box(&item);
            // Whoever dropped the other end does not wait.
            let _ = answer.send(());
            moved += 1;
        }
        moved
    });
    (sender, consumer)
}

fn check(moved: u32, load: Load) -> anyhow::Result<()> {
    ensure!(moved == load.items, "the consumer received {moved} of {} items", load.items);
    Ok(())
}
