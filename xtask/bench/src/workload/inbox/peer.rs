//! What a peer of the inbox takes from this folder, beside what peers of the outbox take.

#[path = "common/mod.rs"]
mod common;
#[path = "../load.rs"]
#[allow(dead_code, reason = "peers share out messages among connections, and no more")]
mod load;

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, ensure};
use sqlx::PgPool;

use crate::workload::stopwatch::Stopwatch;
use crate::workload::{KEYS, Measurement};
use common::{BYTES, Repeats, new_ones, payload, received};
pub(crate) use common::{Count, HANDLED};
use load::Load;

/// What takes longer goes on for ever.
const PATIENCE: Duration = Duration::from_secs(180);

/// How many messages a filling transaction receives.
const FILLED: u32 = 1_000;

/// A message that comes in.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    /// Ids that are made one after another begin alike, as those of our messages do.
    pub(crate) id: String,
    #[allow(dead_code, reason = "not every peer has keys")]
    pub(crate) key: String,
    pub(crate) payload: String,
}

impl Incoming {
    fn new(number: u64) -> Self {
        let id = format!("0199a7f2-{:04x}-7000-8000-{number:012x}", number >> 16);
        Self { id, key: format!("k{}", number % KEYS), payload: payload(number, BYTES) }
    }
}

/// Measures how many messages a second are received by a case called `receive/MANYxCONNECTIONS`; `receive` is given those of a transaction.
/// `count` counts what was stored in the end.
///
/// # Errors
///
/// No case has this name, something cannot be received, or something else was stored.
pub(crate) async fn receive<F, R>(
    case: &str,
    pool: &PgPool,
    count: &'static str,
    receive: F,
) -> anyhow::Result<Measurement>
where
    F: Fn(Vec<Incoming>) -> R + Clone + Send + 'static,
    R: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let size = case.strip_prefix("receive/").and_then(|size| size.split_once('x'));
    let (many, connections) = size.with_context(|| format!("no case is named {case:?}"))?;
    let (many, connections): (u32, u32) = (many.parse()?, connections.parse()?);
    let load = Load::new(connections, received(many, connections))?;
    let stopwatch = Stopwatch::start();
    load.produce(|numbers| all(numbers, many, receive.clone())).await?;
    let rate = f64::from(load.items) / stopwatch.elapsed().as_secs_f64();
    let stored: i64 = sqlx::query_scalar(count).fetch_one(pool).await?;
    let wanted = new_ones(load.items);
    ensure!(stored == i64::from(wanted), "{stored} messages were stored of {wanted}");
    Ok(Measurement::new(case, rate, "messages/s").with("messages", load.items).with("payload_bytes", BYTES))
}

/// Receives a backlog of messages that are all new.
///
/// # Errors
///
/// Something cannot be received.
pub(crate) async fn fill<R>(receive: impl Fn(Vec<Incoming>) -> R) -> anyhow::Result<()>
where
    R: Future<Output = anyhow::Result<()>>,
{
    for first in (0..HANDLED).step_by(FILLED as usize) {
        let numbers = first..HANDLED.min(first + FILLED);
        receive(numbers.map(|number| Incoming::new(number.into())).collect()).await?;
    }
    Ok(())
}

async fn all<R>(numbers: Range<u64>, many: u32, receive: impl Fn(Vec<Incoming>) -> R) -> anyhow::Result<()>
where
    R: Future<Output = anyhow::Result<()>>,
{
    let mut incoming = Repeats::new(numbers);
    loop {
        let batch = incoming.batch(many, |number| Ok(Incoming::new(number)))?;
        if batch.is_empty() {
            return Ok(());
        }
        receive(batch).await?;
    }
}

/// Waits until the backlog is handled, and describes how much of it a second was.
///
/// # Errors
///
/// Something was handled twice, or not all within three minutes.
pub(crate) async fn handled(case: &str, count: &Count, since: &Stopwatch) -> anyhow::Result<Measurement> {
    let complete = tokio::time::timeout(PATIENCE, count.complete()).await;
    ensure!(complete.is_ok(), "{} messages of {HANDLED} were handled", count.get());
    let rate = f64::from(HANDLED) / since.elapsed().as_secs_f64();
    count.check()?;
    Ok(Measurement::new(case, rate, "handled/s").with("messages", HANDLED).with("payload_bytes", BYTES))
}
