use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use relaykit_outbox::postgres::{PgOutbox, PgOutboxStore};
use relaykit_outbox::sqlite::{SqliteOutbox, SqliteOutboxStore};
use relaykit_outbox::{Limits, OutboxStore, Relay, RelayEvent};
use relaykit_pipeline_traits::Rng;
use relaykit_retry::Backoff;
use relaykit_sql_store::Sql;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::producer::Producer;
use super::sink::Sink;
use crate::history::Event;
use crate::queue::child::{Order, left, orders};
use crate::stage::clock::clock;
use crate::stage::ledger::Ledger;
use crate::stage::patience::probe;
use crate::stage::place::{Place, database, options, pool, shards};
use crate::stage::plan::{ATTEMPTS, IDS, LEASE, POLL, Plan, Role, Trouble};
use crate::stage::temper::Temper;

/// Messages that a relay may have sent and not settled: batches times messages.
pub(crate) const UNSETTLED: usize = CONCURRENCY * BATCH;
const CONCURRENCY: usize = 4;
const BATCH: usize = 10;

/// Does what the plan says, and tells the ledger.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let end = orders();
        tokio::select! {
            ended = live(plan, &end) => ended,
            () = left(end.clone()) => Ok(()),
        }
    })?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn live(plan: &Plan, end: &End) -> anyhow::Result<()> {
    let names = plan.place.names();
    match (plan.role, &plan.place) {
        (Role::Feed { slot }, place) => {
            let ledger = Ledger::open(&plan.ledger, plan.life)?;
            let producer =
                Producer { ledger, slot, next: plan.life as u64 * IDS, rng: Rng::seeded(plan.seed) };
            let business = Sql::new(&names, &[BUSINESS]);
            match place {
                Place::Sqlite { file } => {
                    let outbox = SqliteOutbox::new(&names, shards(), Limits::default()).clock(clock(plan));
                    producer.on_sqlite(file, &outbox, &business, end).await
                }
                Place::Postgres { url, schema } => {
                    let outbox = PgOutbox::new(&names, Limits::default());
                    producer.on_postgres(&options(url, schema)?, &outbox, &business, end).await
                }
            }
        }
        (_, Place::Sqlite { file }) => {
            let store = || Ok(SqliteOutboxStore::new(database(file, clock(plan))?, &names, shards()));
            work(plan, store, end).await
        }
        (_, Place::Postgres { url, schema }) => {
            let store = || Ok(PgOutboxStore::new(pool(url, schema, 4, clock(plan))?, &names));
            work(plan, store, end).await
        }
    }
}

/// What is written beside each message.
pub(super) const BUSINESS: &str = "insert into {business} values ($1)";

pub(super) type End = watch::Receiver<Option<Order>>;

/// Runs relays until told to end.
async fn work<S: OutboxStore + Clone>(
    plan: &Plan,
    store: impl Fn() -> anyhow::Result<S>,
    end: &End,
) -> anyhow::Result<()> {
    let mut rng = Rng::seeded(plan.seed);
    let (mut running, mut probing) = (JoinSet::new(), JoinSet::new());
    for number in 0..plan.role.lives() {
        let ledger = Arc::new(Ledger::open(&plan.ledger, plan.life + number)?);
        let store = store()?;
        let (other, watcher) = (store.clone(), Arc::clone(&ledger));
        probing.spawn(async move {
            loop {
                probe(&watcher, other.depth()).await;
            }
        });
        let relay = relay(store, &ledger, plan, &mut rng, LEASE)?;
        let mut end = end.clone();
        running.spawn(async move {
            let summary = relay.run(async move { drop(end.wait_for(Option::is_some).await) }).await;
            // What was still on its way when the time to drain was over is sent again.
            ledger.say(&[Event::Stopped { unsettled: summary.unfinished > 0 || summary.kept_shards > 0 }]);
        });
    }
    while let Some(ended) = running.join_next().await {
        ended?;
    }
    Ok(())
}

/// Makes a relay that tells the ledger.
///
/// # Errors
///
/// If a setting is out of bounds.
pub(super) fn relay<S: OutboxStore>(
    store: S,
    ledger: &Arc<Ledger>,
    plan: &Plan,
    rng: &mut Rng,
    lease: Duration,
) -> anyhow::Result<Relay<S, Sink>> {
    let sink = Sink { ledger: Arc::clone(ledger), temper: Temper::new(rng.fork(), plan) };
    let tells = Arc::clone(ledger);
    let soon = Backoff::fixed(Duration::from_millis(5));
    let soon = match plan.trouble {
        Trouble::Poison => soon.max_attempts(ATTEMPTS),
        _ => soon.unlimited_attempts(),
    };
    let relay = Relay::builder(store, sink)
        .batch_size(BATCH)
        .concurrency(CONCURRENCY)
        .lease(lease)
        .send_timeout(lease * 5 / 12)
        .settle_timeout(lease * 5 / 12)
        .poll(Duration::from_millis(5), POLL)
        .drain(Duration::from_millis(500))
        .retry(soon.max_hint(Duration::from_millis(5)).build()?)
        .clock(clock(plan))
        .rng(rng.fork())
        .on_event(move |event| match event {
            RelayEvent::LeaseLost { .. } => tells.say(&[Event::Overtaken]),
            RelayEvent::StoreFailed { error } | RelayEvent::Paused { error, .. } => {
                tells.say(&[Event::Fault { error: error.clone() }]);
            }
            _ => {}
        })
        .build()?;
    Ok(relay)
}
