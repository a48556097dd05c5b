use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use relaykit_outbox::postgres::{PgArchive, PgOutbox, PgOutboxStore, PgSchema};
use relaykit_outbox::sqlite::SqliteOutboxStore;
use relaykit_outbox::{Archive, DeadFilter, Limits, OutboxStore, Retention};
use relaykit_pipeline_traits::{Clock as _, OrderingKey, Rng, SystemClock};
use relaykit_sql_store::Sql;
use relaykit_sql_store::postgres::sqlx::{self, PgConnection};
use relaykit_sql_store::postgres::{Guarded, TestPostgres};

use super::child::{BUSINESS, UNSETTLED, relay};
use super::producer::{Work, add_on_postgres};
use super::subject::Outbox;
use crate::bench::{Bench, Round};
use crate::drops;
use crate::history::{Event, Id, Left};
use crate::item::Item;
use crate::oracle::Promises;
use crate::report::Report;
use crate::stage::bystander::Bystander;
use crate::stage::ledger::{self, Ledger};
use crate::stage::place::{Ground, Kind, database, shards};
use crate::stage::plan::{Plan, Role, Trouble};
use crate::stage::subject::Subject as _;

/// Every public asynchronous method, but those that are only the store's for the relay: a relay that is dropped drops them.
const METHODS: [Method; 14] = [
    Method::RelayRun,
    Method::RelayRunOnce,
    Method::RelayRelease,
    Method::Retention,
    Method::Migrate,
    Method::Verify,
    Method::Depth,
    Method::DeadLetters,
    Method::Replay,
    Method::Purge,
    Method::Blocked,
    Method::Skip,
    Method::Park,
    Method::Resume,
];

/// Those that Postgres alone has.
const ON_POSTGRES: [Method; 5] = [Method::Begin, Method::Run, Method::Add, Method::AddAfter, Method::AddAll];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    RelayRun,
    RelayRunOnce,
    RelayRelease,
    Retention,
    Migrate,
    Verify,
    Depth,
    DeadLetters,
    Replay,
    Purge,
    Blocked,
    Skip,
    Park,
    Resume,
    Begin,
    Run,
    Add,
    AddAfter,
    AddAll,
}

/// More polls than any of them needs, but a relay that never ends.
const POLLS: u64 = 24;

/// How long what comes after a dropped future may take.
const SOON: Duration = Duration::from_secs(20);

/// What a relay that was dropped had is free after this.
const SHORT: Duration = Duration::from_millis(600);

/// Drops each future after each of its polls, and looks whether the outbox is as good as before.
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
    let outbox = Outbox::make(&ground).await?;
    let path = folder.path().join("ledger");
    let ledger = Ledger::open(&path, 0)?;
    let mut case =
        Case { ground: &ground, outbox: &outbox, path, ledger, next: 1, lives: 1, rng: Rng::seeded(seed) };
    let trials = match &ground {
        Ground::Sqlite { file } => {
            let store =
                SqliteOutboxStore::new(database(file, SystemClock::new())?, &ground.names(), shards());
            let store = store.with_archive();
            store.migrate().await?;
            let tables = Tables::Sqlite(Box::new(store.clone()));
            case.all(&METHODS, &store, store.archive(), &tables, None).await?
        }
        Ground::Postgres { db } => {
            let pool = db.pool().max_connections(2).build()?;
            let schema = PgSchema::new(ground.names()).shards(shards()).archive(true);
            schema.migrate(&pool).await?;
            let store = PgOutboxStore::new(pool.clone(), &ground.names());
            let archive = PgArchive::new(pool.clone(), &ground.names());
            let tables = Tables::Postgres(schema, pool.clone());
            let application = Application::new(db, &pool).await;
            let methods: Vec<_> = METHODS.into_iter().chain(ON_POSTGRES).collect();
            let trials = case.all(&methods, &store, archive, &tables, Some(&application)).await?;
            application.bystander.has(trials).await?;
            trials
        }
    };
    let idle_sessions = ground.idle_sessions().await;
    let mut history = ledger::read(&case.path)?;
    ledger::settle(&mut history, &outbox.committed(&ground).await?);
    history.extend(outbox.testimony(&ground).await?);
    let stored = outbox.depth().await?.pending;
    history.push(Event::Ended { left: Left { stored, idle_sessions, ..Left::default() } });
    ground.clean().await;
    let promises = Promises { ordered: false, unsettled: UNSETTLED, successors_wait: false };
    Ok(Round { trials, promises, history, folder })
}

/// What makes the tables, and looks at them.
enum Tables {
    Sqlite(Box<SqliteOutboxStore>),
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
    outbox: PgOutbox,
    business: Sql,
    bystander: Bystander,
}

impl Application {
    async fn new(db: &TestPostgres, pool: &Guarded) -> Self {
        let names = db.names("t");
        Self {
            pool: pool.clone(),
            outbox: PgOutbox::new(&names, Limits::default()),
            business: Sql::new(&names, &[BUSINESS]),
            bystander: Bystander::new(db, pool).await,
        }
    }

    async fn add(&self, work: &Work) -> anyhow::Result<()> {
        let mut transaction = self.pool.begin("add messages").await?;
        add_on_postgres(&mut transaction, &self.outbox, &self.business, 0, work).await?;
        Ok(transaction.commit().await?)
    }

    /// Adds in the way that the method says.
    async fn add_by(&self, method: Method, work: &Work) -> anyhow::Result<()> {
        if method == Method::Add {
            return self.add(work).await;
        }
        let mut transaction = self.pool.begin("add messages").await?;
        for item in &work.items {
            let business = sqlx::query(self.business.clone()).bind(item.id.cast_signed());
            business.execute(&mut *transaction).await?;
        }
        match method {
            Method::AddAll => drop(self.outbox.add_all(&mut transaction, work.messages()).await?),
            _ => {
                for message in work.messages() {
                    self.outbox.add_after(&mut transaction, message, Duration::from_millis(1)).await?;
                }
            }
        }
        Ok(transaction.commit().await?)
    }
}

struct Case<'a> {
    ground: &'a Ground,
    outbox: &'a Outbox,
    path: PathBuf,
    ledger: Ledger,
    next: Id,
    lives: usize,
    rng: Rng,
}

impl Case<'_> {
    /// Drops each method's future after each of its polls. Returns how many were dropped.
    async fn all<S: OutboxStore + Clone, A: Archive + Clone>(
        &mut self,
        methods: &[Method],
        store: &S,
        archive: A,
        tables: &Tables,
        application: Option<&Application>,
    ) -> anyhow::Result<u64> {
        let mut trials = 0;
        for &method in methods {
            for polls in 0..POLLS {
                trials += 1;
                let ended = self
                    .one(method, polls, store, archive.clone(), tables, application)
                    .await
                    .with_context(|| format!("{method:?} dropped at poll {polls}"))?;
                if ended {
                    break;
                }
            }
        }
        Ok(trials)
    }

    async fn one<S: OutboxStore + Clone, A: Archive>(
        &mut self,
        method: Method,
        polls: u64,
        store: &S,
        archive: A,
        tables: &Tables,
        application: Option<&Application>,
    ) -> anyhow::Result<bool> {
        let key = self.next;
        let before = self.work(key, 2)?;
        self.outbox.add(self.ground, &before).await?;
        let added = self.work(key, 2)?;
        let life = self.lives;
        let (relayed, plan) = (self.ledger_of_next()?, self.plan()?);
        let relay = relay(store.clone(), &relayed, &plan, &mut self.rng, SHORT)?;
        let retention = Retention::builder(archive).build()?;
        let ordering_key = OrderingKey::new(format!("key-{key}"))?;
        let all = DeadFilter::all();
        let future = async {
            match method {
                Method::RelayRun => drop(relay.run(std::future::pending()).await),
                Method::RelayRunOnce => drop(relay.run_once().await),
                Method::RelayRelease => {
                    let _ = relay.run_once().await;
                    relay.release().await;
                }
                Method::Retention => drop(retention.run_once().await),
                Method::Migrate => tables.migrate().await,
                Method::Verify => tables.verify().await,
                Method::Depth => drop(store.depth().await),
                Method::DeadLetters => drop(store.dead_letters(&all, 10).await),
                Method::Replay => drop(store.replay(&all, 10).await),
                Method::Purge => drop(store.purge(&all.clone().kind("nothing of it"), 10).await),
                Method::Blocked => drop(store.blocked(10).await),
                Method::Skip => drop(store.skip(&ordering_key).await),
                Method::Park => drop(store.park(&ordering_key).await),
                Method::Resume => drop(store.resume(&ordering_key).await),
                Method::Begin => drop(async { application?.pool.begin("begin").await.ok() }.await),
                Method::Run => drop(async { application?.pool.run("look", look).await.ok() }.await),
                Method::Add | Method::AddAfter | Method::AddAll => {
                    if let Some(application) = application {
                        let _ = application.add_by(method, &added).await;
                    }
                }
            }
        };
        let ended = drops::poll(future, polls, &mut self.rng.fork()).await;
        drop(relay);
        self.ledger.say_of(life, &[Event::Killed]);
        if let Some(application) = application {
            application.bystander.note().await?;
            let work = self.work(key, 1)?;
            application.add(&work).await?;
        }
        self.drain(store, &ordering_key).await?;
        Ok(ended)
    }

    /// Sends all that is there. A call that was dropped may still park the key.
    async fn drain<S: OutboxStore + Clone>(&mut self, store: &S, key: &OrderingKey) -> anyhow::Result<()> {
        let (told, mut plan) = (self.ledger_of_next()?, self.plan()?);
        plan.role = Role::Drain;
        let relay = relay(store.clone(), &told, &plan, &mut self.rng, SHORT)?;
        let clock = SystemClock::new();
        let until = clock.monotonic() + SOON;
        while store.depth().await?.pending > 0 {
            store.resume(key).await?;
            // A machine that is busy may be too slow for a lease that is so short.
            let last = relay.run_once().await;
            ensure!(clock.monotonic() < until, "{SOON:?} after that, not all is sent: {last:?}");
            clock.sleep(Duration::from_millis(2)).await;
        }
        ensure!(relay.release().await == 0, "a relay could not give its shards back");
        told.say(&[Event::Stopped { unsettled: false }]);
        Ok(())
    }

    fn work(&mut self, key: u64, count: u64) -> anyhow::Result<Work> {
        let items: Vec<_> = (self.next..self.next + count).map(|id| Item::new(id, key)).collect();
        self.next += count;
        let work = Work::of(items, &mut self.rng)?;
        self.ledger.say(&work.offered());
        Ok(work)
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

fn look(connection: &mut PgConnection) -> relaykit_sql_store::postgres::Work<'_, ()> {
    Box::pin(async move { sqlx::query("select 1").execute(connection).await.map(drop) })
}
