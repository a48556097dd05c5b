use std::time::Duration;

use relaykit_inbox::postgres::{PgInbox, PgInboxStore};
use relaykit_inbox::sqlite::{SqliteInbox, SqliteInboxStore, rusqlite};
use relaykit_inbox::{IdConflict, Inbox, Limits, Received};
use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};
use relaykit_sql_store::Sql;
use relaykit_sql_store::postgres::sqlx::postgres::PgConnectOptions;
use relaykit_sql_store::postgres::sqlx::{self, ConnectOptions as _, Connection as _, PgConnection};
use relaykit_sql_store::torture::crash_point;

use super::child::End;
use super::stream::{Batch, Stream, routes};
use crate::history::Event;
use crate::stage::clock::clock;
use crate::stage::ledger::{self, Ledger};
use crate::stage::patience::{bounded, watched};
use crate::stage::place::{Place, database, options, pool, shards};
use crate::stage::plan::Plan;

/// The slot that two receive, each in transactions of its own, beside what they write themselves. The others are received by what
/// the crate has for that.
pub(super) const IN_TRANSACTIONS: u64 = 0;

/// Receives a stream, from where nobody was told that it is stored.
pub(super) struct Receiver {
    plan: Plan,
    ledger: Ledger,
    stream: Stream,
    /// The number of the next batch.
    next: u64,
    rng: Rng,
    slot: u64,
}

/// How a slot's batches are received.
enum Way {
    /// By an inbox on the store's connections.
    Sqlite(Box<Inbox<SqliteInboxStore>>),
    Postgres(Box<Inbox<PgInboxStore>>),
    /// In transactions.
    OwnSqlite {
        connection: rusqlite::Connection,
        inbox: SqliteInbox,
        business: Sql,
    },
    OwnPostgres {
        options: PgConnectOptions,
        connection: Option<PgConnection>,
        inbox: PgInbox,
        business: Sql,
    },
}

/// The answers, or none if the transaction was rolled back.
type Answers = Option<Vec<Result<Received, IdConflict>>>;

impl Receiver {
    pub(super) fn new(plan: &Plan, slot: u64) -> anyhow::Result<Self> {
        let stream = Stream::new(slot)?;
        let next = stream.unanswered(&ledger::read(&plan.ledger)?)?;
        let ledger = Ledger::open(&plan.ledger, plan.life)?;
        Ok(Self { ledger, stream, next, rng: Rng::seeded(plan.seed), slot, plan: plan.clone() })
    }

    /// Receives batch after batch, and one in ten again, until told to end.
    pub(super) async fn receive(mut self, end: &End) -> anyhow::Result<()> {
        let mut way = self.way()?;
        while end.borrow().is_none() {
            let batch = self.stream.batch(self.next)?;
            let offered = batch.items.iter().map(|item| Event::Offered { id: item.id, key: item.key });
            self.ledger.say(&offered.collect::<Vec<_>>());
            let (pause, rolls_back) = (self.pause(), self.rng.chance(0.1));
            match way.receive(&self.ledger, &self.stream, &batch, pause, rolls_back).await {
                Ok(Some(answers)) => {
                    crash_point("receiver.answered");
                    self.told(&batch, &answers, false);
                    self.next += 1;
                    if self.rng.chance(0.1) {
                        self.again(&mut way).await?;
                    }
                }
                // It comes again, as does what nobody answered.
                Ok(None) => {}
                Err(error) => self.ledger.say(&[Event::Fault { error: error.to_string() }]),
            }
            let rest = Duration::from_micros(2_000 + self.rng.below(6_000));
            SystemClock::new().sleep(rest).await;
        }
        Ok(())
    }

    /// Receives what was received before.
    async fn again(&mut self, way: &mut Way) -> anyhow::Result<()> {
        let batch = self.stream.batch(self.rng.below(self.next))?;
        match way.receive(&self.ledger, &self.stream, &batch, Duration::ZERO, false).await {
            Ok(answers) => self.told(&batch, &answers.unwrap_or_default(), true),
            Err(error) => self.ledger.say(&[Event::Fault { error: error.to_string() }]),
        }
        Ok(())
    }

    fn told(&self, batch: &Batch, answers: &[Result<Received, IdConflict>], again: bool) {
        let event = |(item, answer): (&crate::item::Item, &Result<Received, IdConflict>)| {
            let id = item.id;
            match answer {
                Ok(Received::Stored) if again => Some(Event::Wrong { id }),
                Ok(_) => (!again).then_some(Event::Acknowledged { id }),
                Err(_) => Some(Event::Wrong { id }),
            }
        };
        self.ledger.say(&batch.items.iter().zip(answers).filter_map(event).collect::<Vec<_>>());
    }

    fn pause(&mut self) -> Duration {
        Duration::from_micros(if self.rng.chance(0.3) { self.rng.below(5_000) } else { 0 })
    }

    fn way(&self) -> anyhow::Result<Way> {
        let names = self.plan.place.names();
        let business = Sql::new(&names, &["insert into {business} values ($1)"]);
        Ok(match (&self.plan.place, self.slot == IN_TRANSACTIONS) {
            (Place::Sqlite { file }, true) => {
                let connection = rusqlite::Connection::open(file)?;
                connection.busy_timeout(Duration::from_secs(5))?;
                let inbox = SqliteInbox::new(&names, shards(), routes(), Limits::default());
                Way::OwnSqlite { connection, inbox, business }
            }
            (Place::Postgres { url, schema }, true) => {
                let inbox = PgInbox::new(&names, routes(), Limits::default());
                Way::OwnPostgres { options: options(url, schema)?, connection: None, inbox, business }
            }
            (Place::Sqlite { file }, false) => {
                let store = SqliteInboxStore::new(database(file, clock(&self.plan))?, &names, shards());
                Way::Sqlite(Inbox::new(store, routes()).into())
            }
            (Place::Postgres { url, schema }, false) => {
                let store = PgInboxStore::new(pool(url, schema, 2, clock(&self.plan))?, &names);
                Way::Postgres(Inbox::new(store, routes()).into())
            }
        })
    }
}

impl Way {
    async fn receive(
        &mut self,
        ledger: &Ledger,
        stream: &Stream,
        batch: &Batch,
        pause: Duration,
        rolls_back: bool,
    ) -> anyhow::Result<Answers> {
        match self {
            Self::Sqlite(inbox) => Ok(Some(inbox.receive_all(stream.scope(), &batch.messages).await?)),
            Self::Postgres(inbox) => {
                let received = watched(ledger, inbox.receive_all(stream.scope(), &batch.messages)).await;
                Ok(Some(received?))
            }
            Self::OwnSqlite { connection, inbox, business } => {
                let transaction = rusqlite::Transaction::new_unchecked(
                    connection,
                    rusqlite::TransactionBehavior::Immediate,
                )?;
                let answers = inbox.receive_all(&transaction, stream.scope(), &batch.messages)?;
                for id in stored(batch, &answers) {
                    transaction.execute(business.as_str(), [id])?;
                }
                SystemClock::new().sleep(pause / 4).await;
                crash_point("receiver.stored");
                if rolls_back {
                    transaction.rollback()?;
                    return Ok(None);
                }
                transaction.commit()?;
                crash_point("receiver.committed");
                Ok(Some(answers))
            }
            Self::OwnPostgres { options, connection, inbox, business } => {
                let mut open = match connection.take() {
                    Some(open) => open,
                    None => bounded(async { Ok(options.connect().await?) }).await?,
                };
                let work = in_transaction(&mut open, inbox, business, stream, batch, pause, rolls_back);
                let answers = bounded(work).await?;
                // After an error it is not used again.
                *connection = Some(open);
                Ok(answers)
            }
        }
    }
}

async fn in_transaction(
    connection: &mut PgConnection,
    inbox: &PgInbox,
    business: &Sql,
    stream: &Stream,
    batch: &Batch,
    pause: Duration,
    rolls_back: bool,
) -> anyhow::Result<Answers> {
    let mut transaction = connection.begin().await?;
    let answers = inbox.receive_all(&mut transaction, stream.scope(), &batch.messages).await?;
    for id in stored(batch, &answers) {
        sqlx::query(business.clone()).bind(id).execute(&mut *transaction).await?;
    }
    SystemClock::new().sleep(pause).await;
    crash_point("receiver.stored");
    if rolls_back {
        transaction.rollback().await?;
        return Ok(None);
    }
    transaction.commit().await?;
    crash_point("receiver.committed");
    Ok(Some(answers))
}

/// The numbers of what was stored now.
fn stored(batch: &Batch, answers: &[Result<Received, IdConflict>]) -> impl Iterator<Item = i64> {
    let new = |(item, answer): (&crate::item::Item, &Result<Received, IdConflict>)| {
        (*answer == Ok(Received::Stored)).then_some(item.id.cast_signed())
    };
    batch.items.iter().zip(answers).filter_map(new).collect::<Vec<_>>().into_iter()
}
