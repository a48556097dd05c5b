use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use persistent_queue::{Builder, Consumer, Durability, MemStore, Producer, RedbStore, Store};

use crate::workload::stopwatch::Stopwatch;
use crate::workload::{Event, Measurement, Scratch, Tally, rate};

/// How many events the queue holds at once, as ours buffers.
const CAPACITY: usize = 20_000;

/// Runs a case once, by its name: `DURABILITY/PRODUCERS`, where the durability is the crate's own: `sync`, `group`, `none`, or
/// `memory` for its store in memory. The others are in redb.
///
/// Acknowledgements are not synced by themselves, as in our queue: after a crash, an event may come again.
///
/// # Errors
///
/// No case has this name, or the run fails.
pub(crate) fn measure(case: &str) -> anyhow::Result<Measurement> {
    let Some((durability, producers)) = case.split_once('/') else { bail!("no case is named {case:?}") };
    let producers: u64 = producers.parse().with_context(|| format!("{case}: how many producers?"))?;
    let memory = durability == "memory";
    let (durability, events) = match durability {
        "memory" => (Durability::None, 200_000),
        "none" => (Durability::None, 10_000),
        "sync" => (Durability::Sync, 200),
        "group" => (Durability::Group, 800),
        _ => bail!("no case is named {case:?}"),
    };
    let measured = rate(case, events, |events| {
        let scratch = Scratch::new()?;
        let events = u64::from(events);
        let time = if memory {
            run(MemStore::new(), durability, producers, events)?
        } else {
            run(RedbStore::open(scratch.file("queue.redb"))?, durability, producers, events)?
        };
        Ok((time, scratch.bytes()?))
    });
    Ok(measured?.with("producers", producers).with("durable_acks", false))
}

fn run<S: Store + 'static>(
    store: S,
    durability: Durability,
    producers: u64,
    events: u64,
) -> anyhow::Result<Duration> {
    let queue = Builder::new(store).capacity(CAPACITY).durability(durability).durable_acks(false);
    let (producer, consumer) = queue.open()?;
    let stopwatch = Stopwatch::start();
    let tally = thread::scope(|scope| {
        let pushing: Vec<_> = (0..producers)
            .map(|part| {
                let producer = producer.clone();
                scope.spawn(move || {
                    push(&producer, events * part / producers, events * (part + 1) / producers)
                })
            })
            .collect();
        let tally = take(&consumer, events)?;
        for producer in pushing {
            producer.join().map_err(|_| anyhow!("a producer panicked"))??;
        }
        anyhow::Ok(tally)
    })?;
    let time = stopwatch.elapsed();
    tally.check(events)?;
    Ok(time)
}

fn push<S: Store>(producer: &Producer<S>, from: u64, to: u64) -> anyhow::Result<()> {
    for number in from..to {
        let event = serde_json::to_vec(&Event::new(number))?;
        producer.push(&event).map_err(|error| anyhow!("could not push: {error}"))?;
    }
    Ok(())
}

fn take<S: Store>(consumer: &Consumer<S>, events: u64) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    while tally.events < events {
        let Some(reserved) = consumer.reserve()? else {
            thread::yield_now();
            continue;
        };
        tally.add(&serde_json::from_slice(&reserved)?);
        reserved.ack()?;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_case_is_refused() {
        for case in ["", "sync", "sync/", "sync/x", "full/1"] {
            assert!(measure(case).is_err(), "{case:?} was measured");
        }
    }
}
