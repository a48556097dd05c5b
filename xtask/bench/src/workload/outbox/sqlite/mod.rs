//! The same on SQLite: one file, to which the application and the relays have connections of their own, and each commit is
//! synced.

mod file;
mod raw;

use anyhow::{Context, bail};
use relaykit_outbox::sqlite::rusqlite::TransactionBehavior;
use relaykit_pipeline_traits::{Rng, SystemClock};

use super::common::Arrivals;
use super::database::message;
use super::drain::{Drained, NoOp, PATIENCE, Relays};
use super::setting::{Setting, Side};
use super::stopwatch::Stopwatch;
use super::within;
use crate::workload::Measurement;
use file::File;

/// Measures how many messages a second are added by one connection, in transactions that do nothing else.
///
/// # Errors
///
/// SQLite fails, or more than one connection is asked for: one writes at a time.
pub(super) fn add(case: &str, setting: &Setting) -> anyhow::Result<Measurement> {
    if setting.workers != 1 {
        bail!("no case is named {case:?}");
    }
    let file = File::new()?;
    let (outbox, mut connection) = (File::outbox()?, file.connect()?);
    let (clock, mut rng) = (SystemClock::new(), Rng::from_entropy());
    let mut add = |messages: u32| -> anyhow::Result<()> {
        let mut numbers = 0..u64::from(messages);
        loop {
            let batch = numbers.by_ref().take(setting.batch as usize);
            let batch =
                batch.map(|number| message(number, &clock, &mut rng)).collect::<Result<Vec<_>, _>>()?;
            if batch.is_empty() {
                return Ok(());
            }
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            match (setting.side, &batch[..]) {
                (Side::Ours, [message]) => drop(outbox.add(&tx, message)?),
                (Side::Ours, batch) => drop(outbox.add_all(&tx, batch)?),
                (Side::Raw, batch) => raw::insert(&tx, batch)?,
            }
            tx.commit()?;
        }
    };
    let messages = setting.messages();
    add(messages / 20)?;
    let stopwatch = Stopwatch::start();
    add(messages)?;
    let rate = f64::from(messages) / stopwatch.elapsed().as_secs_f64();
    Ok(Measurement::new(case, rate, "messages/s").with("messages", messages))
}

/// Measures how many messages a second of a backlog are sent and removed. Each relay, or loop, has the file open for itself.
///
/// # Errors
///
/// SQLite fails, or something else arrived than was added.
pub(super) async fn drain(case: &str, setting: &Setting) -> anyhow::Result<Measurement> {
    let (file, messages) = (File::new()?, setting.messages());
    let arrivals = Arrivals::new(messages);
    let (time, read) = match setting.side {
        Side::Raw => {
            file.fill(raw::TABLE, messages)?;
            let loops = raw::Loops::open(&file, setting)?;
            arrivals.start();
            let stopwatch = Stopwatch::start();
            loops.run(&arrivals).await?;
            (stopwatch.elapsed(), u64::from(messages))
        }
        Side::Ours => {
            let mut relays = Relays::none();
            for _ in 0..setting.workers {
                relays.run(setting, file.store()?, NoOp(arrivals.clone()))?;
            }
            file.shared_out(setting.workers).await?;
            file.fill(file::MESSAGES, messages)?;
            arrivals.start();
            let stopwatch = Stopwatch::start();
            relays.wake.nudge();
            let complete = within(PATIENCE, arrivals.complete()).await;
            complete.with_context(|| format!("{} of {messages} were sent", arrivals.count()))?;
            let summaries = relays.stop().await?;
            (stopwatch.elapsed(), summaries.iter().map(|summary| summary.read).sum())
        }
    };
    arrivals.check()?;
    file.clean()?;
    let drained = Drained { messages, time, arrivals, read, wal_bytes: 0, statements: 0 };
    Ok(drained.describe(Measurement::new(case, drained.rate(), "messages/s")))
}
