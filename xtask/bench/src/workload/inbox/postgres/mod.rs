//! On Postgres.

mod database;
mod raw;

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use relaykit_inbox::postgres::TransactionalHandler;
use relaykit_inbox::{Limits, postgres::PgInbox};
use relaykit_pipeline_traits::{BatchContext, Message, Verdict};
use sqlx::{Connection, PgConnection};

use super::common::{Count, new_ones};
use super::incoming::{Incoming, routes, scope};
use super::setting::{Setting, Side, Work};
use super::stopwatch::Stopwatch;
use super::work::Running;
use crate::workload::{Load, Measurement};
use database::Database;
use raw::{Inserts, Loops};

/// Counts the message and is done; its transaction does nothing else.
struct NoOp(Count);

impl TransactionalHandler for NoOp {
    type Error = Infallible;

    async fn handle(&self, _: &mut PgConnection, _: &Message, _: &BatchContext) -> Verdict<(), Infallible> {
        self.0.add(1);
        Verdict::Done(())
    }
}

/// Measures how many messages a second are received, by transactions that do nothing else.
///
/// # Errors
///
/// The server fails, or something else was stored than was received.
pub(super) async fn receive(case: &str, setting: &Setting) -> anyhow::Result<Measurement> {
    let database = Arc::new(Database::new().await?);
    let load = Load::new(setting.at_once, setting.messages())?;
    let produce = async |load: Load| {
        load.produce(|numbers| receive_part(Arc::clone(&database), *setting, numbers)).await
    };
    produce(load.warm_up()).await?;
    database.server.execute("truncate {messages}, {deliveries}, {raw}").await;
    let stopwatch = Stopwatch::start();
    produce(load).await?;
    let rate = f64::from(load.items) / stopwatch.elapsed().as_secs_f64();
    database.check_received(setting.side, new_ones(load.items)).await?;
    if let Some(database) = Arc::into_inner(database) {
        database.server.clean().await;
    }
    Ok(Measurement::new(case, rate, "messages/s"))
}

async fn receive_part(database: Arc<Database>, setting: Setting, numbers: Range<u64>) -> anyhow::Result<()> {
    let mut connection = database.server.connection().await;
    let inbox = PgInbox::new(&database.names(), routes(setting.handlers())?, Limits::default());
    let (inserts, scope) = (Inserts::new(&database), scope()?);
    let mut incoming = Incoming::new(numbers, setting.bytes());
    loop {
        let messages = incoming.batch(setting.many)?;
        if messages.is_empty() {
            return Ok(());
        }
        let mut tx = connection.begin().await?;
        match (setting.side, &messages[..]) {
            (Side::Ours, [message]) => drop(inbox.receive(&mut tx, &scope, message).await?),
            (Side::Ours, messages) => drop(inbox.receive_all(&mut tx, &scope, messages).await?),
            (Side::Raw, [message]) => inserts.one(&mut tx, message).await?,
            (Side::Raw, messages) => inserts.many(&mut tx, messages).await?,
        }
        tx.commit().await?;
    }
}

/// Measures how many messages a second of a backlog are handled, each by each handler.
///
/// # Errors
///
/// The server fails, or something else was handled than is there.
pub(super) async fn handle(case: &str, setting: &Setting) -> anyhow::Result<Measurement> {
    let database = Database::new().await?;
    let time = match setting.side {
        Side::Ours => handle_ours(&database, setting).await?,
        Side::Raw => {
            database.fill(setting).await?;
            let loops = Loops::open(&database, setting).await?;
            let stopwatch = Stopwatch::start();
            loops.run().await?;
            stopwatch.elapsed()
        }
    };
    database.check_handled().await?;
    database.server.clean().await;
    let handled = f64::from(setting.messages()) * f64::from(setting.handlers());
    Ok(Measurement::new(case, handled / time.as_secs_f64(), "handled/s"))
}

async fn handle_ours(database: &Database, setting: &Setting) -> anyhow::Result<Duration> {
    let calls = if setting.work == Work::Transactional { setting.at_once } else { 4 };
    let pool = database.pool(setting.handlers() * calls + 2)?;
    let running = Running::start(setting, database.store(&pool), |count| NoOp(count).into())?;
    database.leased().await?;
    database.fill(setting).await?;
    let took = running.handle().await?;
    pool.close().await;
    Ok(took)
}
