use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use relaykit_outbox::postgres::{PgOutbox, PgOutboxStore};
use relaykit_outbox::sqlite::{SqliteOutbox, SqliteOutboxStore, rusqlite};
use relaykit_outbox::{Limits, OutboxStore, Relay, RelayEvent};
use relaykit_pipeline_traits::{
    BatchContext, BatchHandler, BatchOutcome, Clock as _, Message, MessageId, Rng, SystemClock, Verdict,
};
use relaykit_retry::Backoff;
use relaykit_sql_store::Sql;
use relaykit_sql_store::postgres::sqlx::{self, ConnectOptions as _, Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::history::{Event, Id, Said};
use crate::item::Item;
use crate::queue::child::{Mood, Order, left, orders};
use crate::stage::call::Call;
use crate::stage::ledger::Ledger;
use crate::stage::patience::{bounded, probe};
use crate::stage::place::{Place, database, options, pool, shards};
use crate::stage::plan::{IDS, LEASE, POLL, Plan, Role};
use crate::stage::temper::Temper;

/// Messages that a relay may have sent and not settled: batches times messages.
pub(crate) const UNSETTLED: usize = CONCURRENCY * BATCH;
const CONCURRENCY: usize = 4;
const BATCH: usize = 10;

/// Keys of a producer.
const KEYS: u64 = 8;

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
            let business = Sql::new(&names, &["insert into {business} values ($1)"]);
            match place {
                Place::Sqlite { file } => {
                    let outbox = SqliteOutbox::new(&names, shards(), Limits::default());
                    producer.on_sqlite(file, &outbox, &business, end).await
                }
                Place::Postgres { url, schema } => {
                    let outbox = PgOutbox::new(&names, Limits::default());
                    producer.on_postgres(&options(url, schema)?, &outbox, &business, end).await
                }
            }
        }
        (_, Place::Sqlite { file }) => {
            let store = || Ok(SqliteOutboxStore::new(database(file)?, &names, shards()));
            relay(plan, store, end).await
        }
        (_, Place::Postgres { url, schema }) => {
            let store = || Ok(PgOutboxStore::new(pool(url, schema, 4)?, &names));
            relay(plan, store, end).await
        }
    }
}

type End = watch::Receiver<Option<Order>>;

/// Runs relays until told to end.
async fn relay<S: OutboxStore + Clone>(
    plan: &Plan,
    store: impl Fn() -> anyhow::Result<S>,
    end: &End,
) -> anyhow::Result<()> {
    let moody = plan.role != Role::Drain;
    let mut rng = Rng::seeded(plan.seed);
    let (mut running, mut probing) = (JoinSet::new(), JoinSet::new());
    for number in 0..plan.role.lives() {
        let ledger = Arc::new(Ledger::open(&plan.ledger, plan.life + number)?);
        let sink = Sink { ledger: Arc::clone(&ledger), temper: Temper::new(rng.fork(), moody) };
        let tells = Arc::clone(&ledger);
        let soon = Backoff::fixed(Duration::from_millis(5)).unlimited_attempts();
        let store = store()?;
        let (other, watcher) = (store.clone(), Arc::clone(&ledger));
        probing.spawn(async move {
            loop {
                probe(&watcher, other.depth()).await;
            }
        });
        let relay = Relay::builder(store, sink)
            .batch_size(BATCH)
            .concurrency(CONCURRENCY)
            .lease(LEASE)
            .send_timeout(Duration::from_millis(500))
            .settle_timeout(Duration::from_millis(500))
            .poll(Duration::from_millis(5), POLL)
            .drain(Duration::from_millis(500))
            .retry(soon.max_hint(Duration::from_millis(5)).build()?)
            .rng(rng.fork())
            .on_event(move |event| match event {
                RelayEvent::LeaseLost { .. } => tells.say(&[Event::Overtaken]),
                RelayEvent::StoreFailed { error } => tells.say(&[Event::Fault { error: error.clone() }]),
                _ => {}
            })
            .build()?;
        let mut end = end.clone();
        running.spawn(async move {
            relay.run(async move { drop(end.wait_for(Option::is_some).await) }).await;
        });
    }
    while let Some(ended) = running.join_next().await {
        ended?;
    }
    Ok(())
}

/// Takes most messages, by writing them into the ledger.
struct Sink {
    ledger: Arc<Ledger>,
    temper: Temper,
}

impl BatchHandler<Message> for Sink {
    type Output = ();
    type Error = Mood;

    async fn handle(&self, batch: &[Message], _cx: &BatchContext) -> BatchOutcome<(), Mood> {
        self.temper.dawdle().await;
        let (mut events, mut verdicts) = (Vec::new(), Vec::new());
        for message in batch {
            let item: Option<Item> = serde_json::from_slice(message.payload()).ok().filter(Item::is_whole);
            let Some(Item { id, key, .. }) = item else {
                events.push(Event::Wrong { id: 0 });
                verdicts.push(Verdict::Done(()));
                continue;
            };
            let said = self.temper.says();
            events.push(Event::Lent { id, key, said });
            verdicts.push(match said {
                Said::Again => Verdict::Retry { after: None, error: Mood },
                Said::Done | Said::Dead => Verdict::Done(()),
            });
        }
        let call = Call::told(&self.ledger, events);
        self.temper.dawdle().await;
        call.answers();
        BatchOutcome::Each(verdicts)
    }
}

/// Adds messages in transactions, of which some are rolled back.
struct Producer {
    ledger: Ledger,
    slot: u64,
    next: Id,
    rng: Rng,
}

/// What a transaction adds, and how it ends.
struct Work {
    items: Vec<Item>,
    messages: Vec<Message>,
    commits: bool,
    /// Between the last statement and the end.
    pause: Duration,
}

impl Producer {
    fn work(&mut self) -> anyhow::Result<Work> {
        let clock = SystemClock::new();
        let (mut items, mut messages) = (Vec::new(), Vec::new());
        for _ in 0..=self.rng.below(4) {
            let key = self.slot * KEYS + self.rng.below(KEYS);
            let item = Item::new(self.next, key);
            self.next += 1;
            let id = MessageId::new(clock.now(), &mut self.rng);
            let message = Message::builder(id, "item", clock.now())
                .ordering_key(format!("key-{key}").as_str())
                .payload(serde_json::to_vec(&item)?)
                .build()?;
            items.push(item);
            messages.push(message);
        }
        let offered: Vec<_> =
            items.iter().map(|item| Event::Offered { id: item.id, key: item.key }).collect();
        self.ledger.say(&offered);
        let pause = if self.rng.chance(0.3) { self.rng.below(5_000) } else { 0 };
        let commits = self.rng.chance(0.9);
        Ok(Work { items, messages, commits, pause: Duration::from_micros(pause) })
    }

    fn say(&self, work: &Work) {
        let event = |item: &Item| {
            let id = item.id;
            if work.commits { Event::Acknowledged { id } } else { Event::Refused { id } }
        };
        self.ledger.say(&work.items.iter().map(event).collect::<Vec<_>>());
    }

    async fn rest(&mut self) {
        SystemClock::new().sleep(Duration::from_micros(2_000 + self.rng.below(6_000))).await;
    }

    async fn on_sqlite(
        mut self,
        file: &Path,
        outbox: &SqliteOutbox,
        business: &Sql,
        end: &End,
    ) -> anyhow::Result<()> {
        let connection = rusqlite::Connection::open(file)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        while end.borrow().is_none() {
            let work = self.work()?;
            match add_on_sqlite(&connection, outbox, business, &work).await {
                Ok(()) => self.say(&work),
                // Whether it was committed is found out in the end.
                Err(error) => self.ledger.say(&[Event::Fault { error: error.to_string() }]),
            }
            self.rest().await;
        }
        Ok(())
    }

    async fn on_postgres(
        mut self,
        options: &sqlx::postgres::PgConnectOptions,
        outbox: &PgOutbox,
        business: &Sql,
        end: &End,
    ) -> anyhow::Result<()> {
        let mut connection: Option<PgConnection> = None;
        while end.borrow().is_none() {
            let Some(open) = &mut connection else {
                connection = bounded(async { Ok(options.connect().await?) }).await.ok();
                self.rest().await;
                continue;
            };
            let work = self.work()?;
            match bounded(add_on_postgres(open, outbox, business, self.slot, &work)).await {
                Ok(()) => self.say(&work),
                Err(error) => {
                    self.ledger.say(&[Event::Fault { error: error.to_string() }]);
                    connection = None;
                }
            }
            self.rest().await;
        }
        Ok(())
    }
}

async fn add_on_sqlite(
    connection: &rusqlite::Connection,
    outbox: &SqliteOutbox,
    business: &Sql,
    work: &Work,
) -> anyhow::Result<()> {
    let transaction =
        rusqlite::Transaction::new_unchecked(connection, rusqlite::TransactionBehavior::Immediate)?;
    for (item, message) in work.items.iter().zip(&work.messages) {
        transaction.execute(business.as_str(), [item.id.cast_signed()])?;
        outbox.add(&transaction, message)?;
    }
    SystemClock::new().sleep(work.pause / 4).await;
    if work.commits {
        transaction.commit()?;
    } else {
        transaction.rollback()?;
    }
    Ok(())
}

/// One lock for each producer of a round, whose sessions have a name of their own.
const LOCK: &str = "select pg_advisory_xact_lock(hashtext(current_setting('application_name')), $1)";

async fn add_on_postgres(
    connection: &mut PgConnection,
    outbox: &PgOutbox,
    business: &Sql,
    slot: u64,
    work: &Work,
) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    // The session of a producer that was killed may still be about to commit; whoever comes after it waits for that.
    sqlx::query(LOCK).bind(i32::try_from(slot)?).execute(&mut *transaction).await?;
    for (item, message) in work.items.iter().zip(&work.messages) {
        sqlx::query(business.clone()).bind(item.id.cast_signed()).execute(&mut *transaction).await?;
        outbox.add(&mut transaction, message).await?;
    }
    SystemClock::new().sleep(work.pause).await;
    if work.commits {
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    Ok(())
}
