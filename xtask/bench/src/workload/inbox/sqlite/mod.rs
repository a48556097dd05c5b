//! The same on SQLite: one file, to which the application and the worker have connections of their own, and each commit is synced.

mod file;
mod raw;

use std::convert::Infallible;

use relaykit_inbox::sqlite::TransactionalHandler;
use relaykit_inbox::sqlite::rusqlite::{Connection, TransactionBehavior};
use relaykit_pipeline_traits::{BatchContext, Message, Verdict};

use super::common::{Count, new_ones};
use super::incoming::{Incoming, routes, scope};
use super::setting::{Setting, Side};
use super::stopwatch::Stopwatch;
use super::work::Running;
use crate::workload::Measurement;
use file::File;

/// Counts the message and is done; its transaction does nothing else.
struct NoOp(Count);

impl TransactionalHandler for NoOp {
    type Error = Infallible;

    fn handle(&self, _: &Connection, _: &Message, _: &BatchContext) -> Verdict<(), Infallible> {
        self.0.add(1);
        Verdict::Done(())
    }
}

/// Measures how many messages a second are received by one connection, in transactions that do nothing else.
///
/// # Errors
///
/// SQLite fails, or something else was stored than was received.
pub(super) fn receive(case: &str, setting: &Setting) -> anyhow::Result<Measurement> {
    let file = File::new()?;
    let (mut connection, scope) = (file.connect()?, scope()?);
    let inbox = File::inbox(routes(setting.handlers())?)?;
    let mut receive = |messages: u32| -> anyhow::Result<()> {
        let mut incoming = Incoming::new(0..messages.into(), setting.bytes());
        loop {
            let messages = incoming.batch(setting.many)?;
            if messages.is_empty() {
                return Ok(());
            }
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            match (setting.side, &messages[..]) {
                (Side::Ours, [message]) => drop(inbox.receive(&tx, &scope, message)?),
                (Side::Ours, messages) => drop(inbox.receive_all(&tx, &scope, messages)?),
                (Side::Raw, messages) => raw::insert(&tx, messages)?,
            }
            tx.commit()?;
        }
    };
    receive(setting.messages() / 20)?;
    file.connect()?.execute_batch("delete from t_messages; delete from t_deliveries; delete from t_raw")?;
    let stopwatch = Stopwatch::start();
    receive(setting.messages())?;
    let rate = f64::from(setting.messages()) / stopwatch.elapsed().as_secs_f64();
    file.check_received(setting.side, new_ones(setting.messages()))?;
    Ok(Measurement::new(case, rate, "messages/s"))
}

/// Measures how many messages a second of a backlog are handled, each by each handler.
///
/// # Errors
///
/// SQLite fails, or something else was handled than is there.
pub(super) async fn handle(case: &str, setting: &Setting) -> anyhow::Result<Measurement> {
    let file = File::new()?;
    let time = match setting.side {
        Side::Ours => {
            let running = Running::start(setting, file.store()?, |count| NoOp(count).into())?;
            file.leased().await?;
            file.fill(setting)?;
            running.handle().await?
        }
        Side::Raw => {
            file.fill(setting)?;
            let loops = raw::Loops::open(&file, setting)?;
            let stopwatch = Stopwatch::start();
            loops.run().await?;
            stopwatch.elapsed()
        }
    };
    file.check_handled()?;
    let handled = f64::from(setting.messages()) * f64::from(setting.handlers());
    Ok(Measurement::new(case, handled / time.as_secs_f64(), "handled/s"))
}
