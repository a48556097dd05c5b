use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Clock, Message, Rng, SystemClock};
use relaykit_sql_store::postgres::{Guarded, Listener, Notifier};
use sqlx::Connection;
use tokio::task::JoinHandle;

use super::common::{Arrivals, number};
use super::database::{Database, message};
use super::drain::{self, Relays};
use super::setting::{Load, On, Setting, Side, Work};
use super::stopwatch::Stopwatch;
use super::within;
use crate::workload::Measurement;

/// How many messages are added, one each so often, where the relay is idle.
const IDLE: (u32, Duration) = (200, Duration::from_millis(20));

/// For how long messages are added at half load, and how many by a transaction.
const BUSY: (Duration, u32) = (Duration::from_secs(3), 50);

/// Messages are lost if they do not arrive within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a producer has the server tell the relays at most, and how long the relay has to begin to listen.
const NOTIFY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Measures from the end of a commit to the call of the sender how long it takes in 99 of 100 cases, in µs. The producer
/// nudges the relay, or has the server notify it.
///
/// # Errors
///
/// The server fails, or something else arrived than was added.
pub(super) async fn measure(case: &str, load: Load) -> anyhow::Result<Measurement> {
    match load {
        Load::Idle | Load::Notified => {
            let (messages, pause) = IDLE;
            run(case, messages, 1, pause, load).await
        }
        Load::Half => {
            let database = Database::new().await?;
            let setting =
                Setting { side: Side::Ours, work: Work::Drain, on: On::Postgres, batch: 100, workers: 1 };
            let half = drain::run(&database, &setting).await?.rate() / 2.0;
            database.clean().await?;
            let (time, batch) = BUSY;
            let pause = Duration::from_secs_f64(f64::from(batch) / half);
            let batches = (time.as_micros() / pause.as_micros().max(1)).try_into()?;
            Ok(run(case, batches, batch, pause, load).await?.with("half_of_the_drain", half))
        }
    }
}

/// Takes note of when each message arrived.
#[derive(Clone)]
struct Noting {
    arrivals: Arrivals,
    since: Arc<Stopwatch>,
    at: Arc<Mutex<Vec<Duration>>>,
}

impl BatchHandler<Message> for Noting {
    type Output = ();
    type Error = Infallible;

    async fn handle(&self, batch: &[Message], _cx: &BatchContext) -> BatchOutcome<(), Infallible> {
        let now = self.since.elapsed();
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        for message in batch {
            if let Some(at) =
                usize::try_from(number(message.payload())).ok().and_then(|place| at.get_mut(place))
            {
                *at = now;
            }
        }
        drop(at);
        self.arrivals.add(batch.iter().map(|message| &message.payload()[..]));
        BatchOutcome::all_done(batch.len())
    }
}

/// What tells a relay of another process.
struct Told {
    notifier: Notifier,
    pool: Guarded,
    listening: JoinHandle<()>,
}

impl Told {
    async fn begin(database: &Database, relays: &Relays, clock: &SystemClock) -> anyhow::Result<Self> {
        let (names, wake) = (database.names(), relays.wake.clone());
        let listener = Listener::new(database.server.options(), &names, wake, *clock);
        let listening = tokio::spawn(async move { listener.run(std::future::pending()).await });
        let pool = database.pool()?;
        clock.sleep(NOTIFY.1).await;
        Ok(Self { notifier: Notifier::new(pool.clone(), &names, NOTIFY.0), pool, listening })
    }

    async fn end(self) {
        self.listening.abort();
        self.pool.close().await;
    }
}

async fn run(
    case: &str,
    transactions: u32,
    batch: u32,
    pause: Duration,
    load: Load,
) -> anyhow::Result<Measurement> {
    let (database, clock, mut rng) = (Database::new().await?, SystemClock::new(), Rng::from_entropy());
    let messages = transactions * batch;
    let sender = Noting {
        arrivals: Arrivals::new(messages),
        since: Arc::new(Stopwatch::start()),
        at: Arc::new(Mutex::new(vec![Duration::ZERO; messages as usize])),
    };
    let setting = Setting { side: Side::Ours, work: Work::Drain, on: On::Postgres, batch: 100, workers: 1 };
    let mut relays = Relays::with(&database, &setting, &sender).await?;
    let (outbox, mut connection) = (database.outbox(), database.server.connection().await);
    let told = match load {
        Load::Notified => Some(Told::begin(&database, &relays, &clock).await?),
        Load::Idle | Load::Half => None,
    };
    let mut committed = Vec::new();
    let begun = sender.since.elapsed();
    for transaction in 0..transactions {
        if let Some(wait) = (begun + pause * transaction).checked_sub(sender.since.elapsed()) {
            // The timer has a grain of a millisecond.
            clock.sleep(wait).await;
        }
        let numbers = transaction * batch..(transaction + 1) * batch;
        let messages: Vec<_> =
            numbers.map(|number| message(number.into(), &clock, &mut rng)).collect::<Result<_, _>>()?;
        let mut tx = connection.begin().await?;
        outbox.add_all(&mut tx, &messages).await?;
        tx.commit().await?;
        committed.extend(std::iter::repeat_n(sender.since.elapsed(), messages.len()));
        match &told {
            Some(told) => drop(told.notifier.notify().await?),
            None => relays.wake.nudge(),
        }
    }
    let adding = sender.since.elapsed().saturating_sub(begun);
    let complete = within(PATIENCE, sender.arrivals.complete()).await;
    complete.with_context(|| format!("{} of {messages} were sent", sender.arrivals.count()))?;
    if let Some(told) = told {
        told.end().await;
    }
    relays.stop().await?;
    sender.arrivals.check()?;
    relays.close().await;
    database.clean().await?;

    let at = sender.at.lock().unwrap_or_else(PoisonError::into_inner);
    let mut times: Vec<Duration> =
        at.iter().zip(&committed).map(|(at, committed)| at.saturating_sub(*committed)).collect();
    times.sort_unstable();
    let quantile = |part: usize| {
        let time = times.get(times.len() * part / 1_000).or(times.last());
        time.map(|time| time.as_secs_f64() * 1e6).context("nothing was sent")
    };
    Ok(Measurement::new(case, quantile(990)?, "µs")
        .with("p50_us", quantile(500)?)
        .with("max_us", quantile(1_000)?)
        .with("messages", messages)
        .with("inversions", sender.arrivals.inversions())
        .with("added_per_second", f64::from(messages) / adding.as_secs_f64()))
}
