use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use relaykit_inbox::postgres::{PgInbox, PgInboxStore, PgSchema};
use relaykit_inbox::sqlite::SqliteInboxStore;
use relaykit_inbox::{Cleaner, DeadFilter, Limits, Retention, Seq};
use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};
use relaykit_sql_store::postgres::Guarded;

use super::child::worker;
use super::handlers::Effective;
use super::stream::{Batch, Stream, calls, effects, routes};
use super::subject::Inbox;
use crate::bench::{Bench, Round};
use crate::drops;
use crate::history::{Event, Left};
use crate::oracle::Promises;
use crate::report::Report;
use crate::stage::bystander::Bystander;
use crate::stage::ledger::{self, Ledger};
use crate::stage::place::{Ground, Kind, database, shards};
use crate::stage::plan::{Plan, Role, Trouble};
use crate::stage::subject::Subject;

/// Every public asynchronous method, but those that are only the store's for the worker: a worker that is dropped drops them.
const METHODS: [Method; 14] = [
    Method::Receive,
    Method::ReceiveAll,
    Method::WorkerRun,
    Method::WorkerRunOnce,
    Method::WorkerRelease,
    Method::CatchUp,
    Method::Clean,
    Method::Migrate,
    Method::Verify,
    Method::Depth,
    Method::Unrouted,
    Method::DeadLetters,
    Method::Replay,
    Method::Purge,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Receive,
    ReceiveAll,
    WorkerRun,
    WorkerRunOnce,
    WorkerRelease,
    CatchUp,
    Clean,
    Migrate,
    Verify,
    Depth,
    Unrouted,
    DeadLetters,
    Replay,
    Purge,
    /// In a transaction of the application's, on Postgres.
    ReceiveInTransaction,
}

/// More polls than any of them needs, but a worker that never ends.
const POLLS: u64 = 24;

/// How long what comes after a dropped future may take.
const SOON: Duration = Duration::from_secs(20);

/// What a worker that was dropped had is free after this.
const SHORT: Duration = Duration::from_millis(600);

/// The slot of the stream that is received here.
const SLOT: u64 = 7;

/// Drops each future after each of its polls, and looks whether the inbox is as good as before.
pub(crate) async fn dropped(bench: &Arc<Bench>, test: &'static str, kind: Kind) -> Report {
    let mut report = Report::of(test);
    if !kind.is_there() {
        bench.skip(&mut report, "needs a Postgres server");
        return report;
    }
    bench.play(&mut report, bench.rounds(2, 60), |bench, seed| round(bench, seed, kind)).await;
    report
}

async fn round(bench: Arc<Bench>, seed: u64, kind: Kind) -> anyhow::Result<Round> {
    let folder = bench.fast_folder()?;
    let ground = Ground::make(kind, folder.path()).await?;
    let inbox = Inbox::make(&ground).await?;
    let path = folder.path().join("ledger");
    let (ledger, stream) = (Ledger::open(&path, 0)?, Stream::new(SLOT)?);
    let mut case = Case { ground: &ground, path, ledger, stream, next: 0, lives: 1, rng: Rng::seeded(seed) };
    let trials = match &ground {
        Ground::Sqlite { file } => {
            let file = database(file, SystemClock::new())?;
            let store = SqliteInboxStore::new(file, &ground.names(), shards());
            let tables = Tables::Sqlite(Box::new(store.clone()));
            case.all(&METHODS, &store, &tables, None).await?
        }
        Ground::Postgres { db } => {
            let pool = db.pool().max_connections(4).build()?;
            let store = PgInboxStore::new(pool.clone(), &ground.names());
            let tables = Tables::Postgres(PgSchema::new(ground.names()).shards(shards()), pool.clone());
            let inbox = PgInbox::new(&ground.names(), routes(), Limits::default());
            let bystander = Bystander::new(db, &pool).await;
            let application = Application { pool, inbox, bystander };
            let methods: Vec<_> = METHODS.into_iter().chain([Method::ReceiveInTransaction]).collect();
            let trials = case.all(&methods, &store, &tables, Some(&application)).await?;
            application.bystander.has(trials).await?;
            trials
        }
    };
    let idle_sessions = ground.idle_sessions().await;
    let mut history = ledger::read(&case.path)?;
    ledger::settle(&mut history, &inbox.committed(&ground).await?);
    history.extend(inbox.testimony(&ground).await?);
    let left = inbox.depth().await?;
    let stored = left.pending + left.dead;
    history.push(Event::Ended { left: Left { stored, idle_sessions, ..Left::default() } });
    ground.clean().await;
    let promises = Promises { ordered: false, unsettled: Inbox::UNSETTLED, successors_wait: false };
    Ok(Round { trials, promises, history, folder })
}

/// What makes the tables, and looks at them.
enum Tables {
    Sqlite(Box<SqliteInboxStore>),
    Postgres(PgSchema, Guarded),
}

impl Tables {
    async fn migrate(&self) {
        match self {
            Self::Sqlite(store) => drop(store.migrate().await),
            Self::Postgres(schema, pool) => drop(schema.migrate(pool).await),
        }
    }

    async fn verify(&self) {
        match self {
            Self::Sqlite(store) => drop(store.verify().await),
            Self::Postgres(schema, pool) => drop(schema.verify(pool).await),
        }
    }
}

/// An application with a pool that the store uses, too.
struct Application {
    pool: Guarded,
    inbox: PgInbox,
    bystander: Bystander,
}

impl Application {
    async fn receive(&self, stream: &Stream, batch: &Batch) -> anyhow::Result<()> {
        let mut transaction = self.pool.begin("receive messages").await?;
        self.inbox.receive_all(&mut transaction, stream.scope(), &batch.messages).await?;
        Ok(transaction.commit().await?)
    }
}

struct Case<'a> {
    ground: &'a Ground,
    path: PathBuf,
    ledger: Ledger,
    stream: Stream,
    /// The number of the next batch.
    next: u64,
    lives: usize,
    rng: Rng,
}

impl Case<'_> {
    /// Drops each method's future after each of its polls. Returns how many were dropped.
    async fn all<S: Effective>(
        &mut self,
        methods: &[Method],
        store: &S,
        tables: &Tables,
        application: Option<&Application>,
    ) -> anyhow::Result<u64> {
        let mut trials = 0;
        for &method in methods {
            for polls in 0..POLLS {
                trials += 1;
                let ended = self
                    .one(method, polls, store, tables, application)
                    .await
                    .with_context(|| format!("{method:?} dropped at poll {polls}"))?;
                if ended {
                    break;
                }
            }
        }
        Ok(trials)
    }

    async fn one<S: Effective>(
        &mut self,
        method: Method,
        polls: u64,
        store: &S,
        tables: &Tables,
        application: Option<&Application>,
    ) -> anyhow::Result<bool> {
        let inbox = relaykit_inbox::Inbox::new(store.clone(), routes());
        let (before, batch) = (self.batch()?, self.batch()?);
        self.receive(&inbox, &before).await?;
        let life = self.lives;
        let (told, plan) = (self.ledger_of_next()?, self.plan()?);
        let worker = worker(store.clone(), &told, &plan, &mut self.rng, SHORT)?;
        let day = Duration::from_secs(86_400);
        let retention = Retention::default().payloads(Some(day)).dead(Some(day)).ids(Some(30 * day));
        let cleaner = Cleaner::new(store.clone(), retention, day)?;
        let (scope, all, calls) = (self.stream.scope(), DeadFilter::all(), calls());
        let future = async {
            match method {
                Method::Receive => drop(inbox.receive(scope, &batch.messages[0]).await),
                Method::ReceiveAll => drop(inbox.receive_all(scope, &batch.messages).await),
                Method::WorkerRun => drop(worker.run(std::future::pending()).await),
                Method::WorkerRunOnce => drop(worker.run_once().await),
                Method::WorkerRelease => {
                    let _ = worker.run_once().await;
                    worker.release().await;
                }
                Method::CatchUp => drop(worker.catch_up(&calls).await),
                Method::Clean => drop(cleaner.run_once().await),
                Method::Migrate => tables.migrate().await,
                Method::Verify => tables.verify().await,
                Method::Depth => drop(store.depth(&effects()).await),
                Method::Unrouted => drop(store.unrouted(Seq::default(), 10).await),
                Method::DeadLetters => drop(store.dead_letters(None, &all, 10).await),
                Method::Replay => drop(store.replay(Some(&calls), &all, 10).await),
                Method::Purge => drop(store.purge(None, &all.clone().kind("nothing of it"), 10).await),
                Method::ReceiveInTransaction => {
                    if let Some(application) = application {
                        let _ = application.receive(&self.stream, &batch).await;
                    }
                }
            }
        };
        let ended = drops::poll(future, polls, &mut self.rng.fork()).await;
        drop(worker);
        self.ledger.say_of(life, &[Event::Killed]);
        // Whoever sent it never got an answer, and sends it again.
        self.receive(&inbox, &batch).await?;
        if let Some(application) = application {
            application.bystander.note().await?;
        }
        self.drain(store).await?;
        Ok(ended)
    }

    /// Handles all that is there.
    async fn drain<S: Effective>(&mut self, store: &S) -> anyhow::Result<()> {
        let (told, mut plan) = (self.ledger_of_next()?, self.plan()?);
        plan.role = Role::Drain;
        let worker = worker(store.clone(), &told, &plan, &mut self.rng, SHORT)?;
        let clock = SystemClock::new();
        let until = clock.monotonic() + SOON;
        while store.depth(&calls()).await?.pending + store.depth(&effects()).await?.pending > 0 {
            // A machine that is busy may be too slow for a lease that is so short.
            let last = worker.run_once().await;
            ensure!(clock.monotonic() < until, "{SOON:?} after that, not all is handled: {last:?}");
            clock.sleep(Duration::from_millis(2)).await;
        }
        ensure!(worker.release().await == 0, "a worker could not give its shards back");
        told.say(&[Event::Stopped { unsettled: false }]);
        Ok(())
    }

    fn batch(&mut self) -> anyhow::Result<Batch> {
        let batch = self.stream.batch(self.next)?;
        self.next += 1;
        let offered = batch.items.iter().map(|item| Event::Offered { id: item.id, key: item.key });
        self.ledger.say(&offered.collect::<Vec<_>>());
        Ok(batch)
    }

    async fn receive<S: Effective>(
        &self,
        inbox: &relaykit_inbox::Inbox<S>,
        batch: &Batch,
    ) -> anyhow::Result<()> {
        for answer in inbox.receive_all(self.stream.scope(), &batch.messages).await? {
            answer?;
        }
        let told = batch.items.iter().map(|item| Event::Acknowledged { id: item.id });
        self.ledger.say(&told.collect::<Vec<_>>());
        Ok(())
    }

    fn ledger_of_next(&mut self) -> anyhow::Result<Arc<Ledger>> {
        let life = self.lives;
        self.lives += 1;
        Ok(Arc::new(Ledger::open(&self.path, life)?))
    }

    fn plan(&mut self) -> anyhow::Result<Plan> {
        Ok(Plan {
            place: self.ground.place()?,
            ledger: self.path.clone(),
            life: self.lives,
            seed: self.rng.next_u64() >> 1,
            role: Role::Work { engines: 1 },
            trouble: Trouble::Usual,
        })
    }
}
