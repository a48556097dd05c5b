use std::ops::Range;
use std::sync::Arc;

use relaykit_pipeline_traits::{Rng, SystemClock};
use sqlx::Connection;

use super::database::{Database, message};
use super::raw::Inserts;
use super::setting::{Setting, Side};
use super::stopwatch::Stopwatch;
use crate::workload::{Load, Measurement};

/// Measures how many messages a second are added, by transactions of their own that do nothing else.
///
/// # Errors
///
/// The server fails.
pub(super) async fn measure(case: &str, setting: &Setting) -> anyhow::Result<Measurement> {
    let database = Arc::new(Database::new().await?);
    let load = Load::new(setting.workers, setting.messages())?;
    let (side, batch) = (setting.side, u64::from(setting.batch));
    let produce =
        async |load: Load| load.produce(|numbers| add(Arc::clone(&database), side, batch, numbers)).await;
    produce(load.warm_up()).await?;
    let stopwatch = Stopwatch::start();
    produce(load).await?;
    let time = stopwatch.elapsed();
    database.server.execute("truncate {messages}").await;
    if let Some(database) = Arc::into_inner(database) {
        database.clean().await?;
    }
    let rate = f64::from(load.items) / time.as_secs_f64();
    Ok(Measurement::new(case, rate, "messages/s").with("messages", load.items))
}

async fn add(database: Arc<Database>, side: Side, batch: u64, numbers: Range<u64>) -> anyhow::Result<()> {
    let mut connection = database.server.connection().await;
    let (outbox, inserts) = (database.outbox(), Inserts::new(&database));
    let (clock, mut rng) = (SystemClock::new(), Rng::from_entropy());
    let mut numbers = numbers;
    loop {
        let messages = numbers.by_ref().take(usize::try_from(batch)?);
        let messages =
            messages.map(|number| message(number, &clock, &mut rng)).collect::<Result<Vec<_>, _>>()?;
        if messages.is_empty() {
            return Ok(());
        }
        let mut tx = connection.begin().await?;
        match (side, &messages[..]) {
            (Side::Ours, [message]) => drop(outbox.add(&mut tx, message).await?),
            (Side::Ours, messages) => drop(outbox.add_all(&mut tx, messages).await?),
            (Side::Raw, [message]) => inserts.one(&mut tx, message).await?,
            (Side::Raw, messages) => inserts.many(&mut tx, messages).await?,
        }
        tx.commit().await?;
    }
}
