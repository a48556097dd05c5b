use std::time::Duration;

use anyhow::bail;
use futures_executor::block_on;
use yaque::{Receiver, Sender, channel};

use crate::workload::stopwatch::Stopwatch;
use crate::workload::{Event, Measurement, Scratch, Tally, rate};

/// How many events there are.
const EVENTS: u32 = 200_000;

/// How many events are taken at once.
const TAKEN: usize = 100;

/// Runs a case once, by its name: `process/1`, the only way it works. Each push is a write to a file, and it is left to
/// the system when that is on disk; there is one producer and one consumer.
///
/// # Errors
///
/// No case has this name, or the run fails.
pub(crate) fn measure(case: &str) -> anyhow::Result<Measurement> {
    if case != "process/1" {
        bail!("no case is named {case:?}");
    }
    let measured = rate(case, EVENTS, |events| {
        let scratch = Scratch::new()?;
        let (sender, receiver) = channel(scratch.file("queue"))?;
        let time = block_on(run(sender, receiver, u64::from(events)))?;
        Ok((time, scratch.bytes()?))
    });
    Ok(measured?.with("producers", 1).with("taken_at_once", TAKEN))
}

/// Whoever takes while another pushes is woken by each write: the crate is faster one after the other.
async fn run(mut sender: Sender, mut receiver: Receiver, events: u64) -> anyhow::Result<Duration> {
    let mut tally = Tally::default();
    let stopwatch = Stopwatch::start();
    for number in 0..events {
        sender.send(serde_json::to_vec(&Event::new(number))?).await?;
    }
    while tally.events < events {
        let taken = receiver.recv_batch_up_to(TAKEN).await?;
        for event in taken.iter() {
            tally.add(&serde_json::from_slice(event)?);
        }
        taken.commit()?;
    }
    let time = stopwatch.elapsed();
    tally.check(events)?;
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_case_is_refused() {
        for case in ["", "process", "process/8", "full/1"] {
            assert!(measure(case).is_err(), "{case:?} was measured");
        }
    }
}
