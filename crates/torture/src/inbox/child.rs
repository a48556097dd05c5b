use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use relaykit_inbox::postgres::PgInboxStore;
use relaykit_inbox::sqlite::SqliteInboxStore;
use relaykit_inbox::{Worker, WorkerEvent};
use relaykit_pipeline_traits::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::handlers::{Answered, CONNECTIONS, Effective, Effects, handlers};
use super::receiver::Receiver;
use super::stream::{calls, item_id};
use crate::history::Event;
use crate::queue::child::{Order, left, orders};
use crate::stage::clock::clock;
use crate::stage::ledger::Ledger;
use crate::stage::patience::probe;
use crate::stage::place::{Place, database, pool, shards};
use crate::stage::plan::{LEASE, POLL, Plan, Role};
use crate::stage::temper::Temper;

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

pub(super) type End = watch::Receiver<Option<Order>>;

async fn live(plan: &Plan, end: &End) -> anyhow::Result<()> {
    let names = plan.place.names();
    match (plan.role, &plan.place) {
        (Role::Feed { slot }, _) => Receiver::new(plan, slot)?.receive(end).await,
        (_, Place::Sqlite { file }) => {
            let store = || Ok(SqliteInboxStore::new(database(file, clock(plan))?, &names, shards()));
            work(plan, store, end).await
        }
        (_, Place::Postgres { url, schema }) => {
            let store = || Ok(PgInboxStore::new(pool(url, schema, CONNECTIONS, clock(plan))?, &names));
            work(plan, store, end).await
        }
    }
}

/// Runs workers until told to end.
async fn work<S: Effective>(
    plan: &Plan,
    store: impl Fn() -> anyhow::Result<S>,
    end: &End,
) -> anyhow::Result<()> {
    let mut rng = Rng::seeded(plan.seed);
    let (mut running, mut probing) = (JoinSet::new(), JoinSet::new());
    for number in 0..plan.role.lives() {
        let ledger = Arc::new(Ledger::open(&plan.ledger, plan.life + number)?);
        let store = store()?;
        let (probed, tells) = (store.clone(), Arc::clone(&ledger));
        probing.spawn(async move {
            loop {
                probe(&tells, probed.depth(&calls())).await;
            }
        });
        let worker = worker(store, &ledger, plan, &mut rng, LEASE)?;
        let mut end = end.clone();
        running.spawn(async move {
            let summary = worker.run(async move { drop(end.wait_for(Option::is_some).await) }).await;
            // What was still on its way when the time to drain was over is handled again.
            let unfinished = summary.handlers.iter().any(|(_, handled)| handled.unfinished > 0);
            ledger.say(&[Event::Stopped { unsettled: unfinished || summary.kept_shards > 0 }]);
        });
    }
    while let Some(ended) = running.join_next().await {
        ended?;
    }
    Ok(())
}

/// Makes a worker that tells the ledger.
///
/// # Errors
///
/// If a setting is out of bounds.
pub(super) fn worker<S: Effective>(
    store: S,
    ledger: &Arc<Ledger>,
    plan: &Plan,
    rng: &mut Rng,
    lease: Duration,
) -> anyhow::Result<Worker<S>> {
    let effects = Effects::new(&plan.place.names(), rng.fork(), plan);
    let answered = Arc::<Answered>::default();
    let temper = Temper::new(rng.fork(), plan);
    let limit = lease * 5 / 12;
    let handlers = handlers(ledger, &answered, temper, S::effective(effects), limit)?;
    let ledger = Arc::clone(ledger);
    let worker = Worker::builder(store, handlers)
        .lease(lease)
        .settle_timeout(limit)
        .poll(Duration::from_millis(5), POLL)
        .drain(Duration::from_millis(500))
        .clock(clock(plan))
        .rng(rng.fork())
        .on_event(move |handler, event| match event {
            WorkerEvent::LeaseLost { .. } if *handler == calls() => ledger.say(&[Event::Overtaken]),
            WorkerEvent::Retried { id, .. } if *handler == calls() && answered.failed(item_id(*id)) => {
                ledger.say(&[Event::GivenUp { id: item_id(*id) }]);
            }
            WorkerEvent::StoreFailed { error } | WorkerEvent::Paused { error, .. } => {
                ledger.say(&[Event::Fault { error: error.clone() }]);
            }
            _ => {}
        })
        .build()?;
    Ok(worker)
}
