use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use queue_file::QueueFile;

use crate::workload::stopwatch::Stopwatch;
use crate::workload::{Event, Measurement, Scratch, Tally, rate};

/// How many events are taken at once.
const TAKEN: usize = 100;

/// Runs a case once, by its name: `process/PRODUCERS` leaves it to the system when to write, `full/PRODUCERS` syncs each
/// push.
///
/// # Errors
///
/// No case has this name, or the run fails.
pub(crate) fn measure(case: &str) -> anyhow::Result<Measurement> {
    let Some((durability, producers)) = case.split_once('/') else { bail!("no case is named {case:?}") };
    let producers: u64 = producers.parse().with_context(|| format!("{case}: how many producers?"))?;
    let (sync, events) = match durability {
        "process" => (false, 100_000),
        "full" => (true, 200),
        _ => bail!("no case is named {case:?}"),
    };
    let measured = rate(case, events, |events| {
        let scratch = Scratch::new()?;
        let mut queue = QueueFile::open(scratch.file("queue"))?;
        queue.set_sync_writes(sync);
        // What is removed need not be overwritten: ours does not either.
        queue.set_overwrite_on_remove(false);
        let time = run(&Mutex::new(queue), producers, u64::from(events))?;
        Ok((time, scratch.bytes()?))
    });
    Ok(measured?.with("producers", producers).with("taken_at_once", TAKEN))
}

fn run(queue: &Mutex<QueueFile>, producers: u64, events: u64) -> anyhow::Result<Duration> {
    let stopwatch = Stopwatch::start();
    let tally = thread::scope(|scope| {
        let pushing: Vec<_> = (0..producers)
            .map(|part| {
                scope.spawn(move || push(queue, events * part / producers, events * (part + 1) / producers))
            })
            .collect();
        // Whoever takes while others push holds them up: the crate is faster one after the other.
        for producer in pushing {
            producer.join().map_err(|_| anyhow!("a producer panicked"))??;
        }
        take(queue, events)
    })?;
    let time = stopwatch.elapsed();
    tally.check(events)?;
    Ok(time)
}

fn push(queue: &Mutex<QueueFile>, from: u64, to: u64) -> anyhow::Result<()> {
    for number in from..to {
        let event = serde_json::to_vec(&Event::new(number))?;
        lock(queue).add(&event)?;
    }
    Ok(())
}

fn take(queue: &Mutex<QueueFile>, events: u64) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    while tally.events < events {
        let mut queue = lock(queue);
        let mut taken = 0;
        for event in queue.iter().take(TAKEN) {
            tally.add(&serde_json::from_slice(&event)?);
            taken += 1;
        }
        queue.remove_n(taken)?;
    }
    Ok(tally)
}

fn lock(queue: &Mutex<QueueFile>) -> MutexGuard<'_, QueueFile> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_case_is_refused() {
        for case in ["", "full", "full/", "full/x", "sync/1"] {
            assert!(measure(case).is_err(), "{case:?} was measured");
        }
    }
}
