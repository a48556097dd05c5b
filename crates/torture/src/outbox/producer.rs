use std::path::Path;
use std::time::Duration;

use relaykit_outbox::postgres::PgOutbox;
use relaykit_outbox::sqlite::{SqliteOutbox, rusqlite};
use relaykit_pipeline_traits::{Clock as _, Message, MessageId, Rng, SystemClock};
use relaykit_sql_store::Sql;
use relaykit_sql_store::postgres::sqlx::{self, ConnectOptions as _, Connection as _, PgConnection};
use relaykit_sql_store::torture::crash_point;

use super::child::End;
use crate::history::{Event, Id};
use crate::item::Item;
use crate::stage::ledger::Ledger;
use crate::stage::patience::bounded;

/// Keys of a producer.
const KEYS: u64 = 8;

/// Adds messages in transactions, of which some are rolled back.
pub(super) struct Producer {
    pub(super) ledger: Ledger,
    pub(super) slot: u64,
    pub(super) next: Id,
    pub(super) rng: Rng,
}

/// What a transaction adds, and how it ends.
pub(super) struct Work {
    pub(super) items: Vec<Item>,
    messages: Vec<Message>,
    commits: bool,
    /// Between the last statement and the end.
    pause: Duration,
}

impl Work {
    /// Makes messages of items, for a transaction that commits.
    ///
    /// # Errors
    ///
    /// If an item is too large for a message.
    pub(super) fn of(items: Vec<Item>, rng: &mut Rng) -> anyhow::Result<Self> {
        let now = SystemClock::new().now();
        let mut messages = Vec::new();
        for item in &items {
            let message = Message::builder(MessageId::new(now, rng), "item", now)
                .ordering_key(format!("key-{}", item.key).as_str())
                .payload(serde_json::to_vec(item)?)
                .build()?;
            messages.push(message);
        }
        Ok(Self { items, messages, commits: true, pause: Duration::ZERO })
    }

    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// What is to be told before.
    pub(super) fn offered(&self) -> Vec<Event> {
        self.items.iter().map(|item| Event::Offered { id: item.id, key: item.key }).collect()
    }

    /// What is to be told after it has ended.
    pub(super) fn ended(&self) -> Vec<Event> {
        let event = |item: &Item| {
            let id = item.id;
            if self.commits { Event::Acknowledged { id } } else { Event::Refused { id } }
        };
        self.items.iter().map(event).collect()
    }
}

impl Producer {
    fn work(&mut self) -> anyhow::Result<Work> {
        let mut items = Vec::new();
        for _ in 0..=self.rng.below(4) {
            let key = self.slot * KEYS + self.rng.below(KEYS);
            items.push(Item::new(self.next, key));
            self.next += 1;
        }
        let mut work = Work::of(items, &mut self.rng)?;
        self.ledger.say(&work.offered());
        if self.rng.chance(0.3) {
            // One of them commits late: what others added after it is long in sight.
            let longest = if self.slot == 1 { 40_000 } else { 5_000 };
            work.pause = Duration::from_micros(self.rng.below(longest));
        }
        work.commits = self.rng.chance(0.9);
        Ok(work)
    }

    async fn rest(&mut self) {
        SystemClock::new().sleep(Duration::from_micros(2_000 + self.rng.below(6_000))).await;
    }

    pub(super) async fn on_sqlite(
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
                Ok(()) => self.ledger.say(&work.ended()),
                // Whether it was committed is found out in the end.
                Err(error) => self.ledger.say(&[Event::Fault { error: error.to_string() }]),
            }
            self.rest().await;
        }
        Ok(())
    }

    pub(super) async fn on_postgres(
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
                Ok(()) => self.ledger.say(&work.ended()),
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
    let transaction = begun_on_sqlite(connection, outbox, business, work)?;
    SystemClock::new().sleep(work.pause / 16).await;
    crash_point("producer.added");
    if work.commits {
        transaction.commit()?;
        crash_point("producer.committed");
    } else {
        transaction.rollback()?;
    }
    Ok(())
}

/// Begins a transaction that adds messages.
///
/// # Errors
///
/// If SQLite refuses.
pub(super) fn begun_on_sqlite<'c>(
    connection: &'c rusqlite::Connection,
    outbox: &SqliteOutbox,
    business: &Sql,
    work: &Work,
) -> anyhow::Result<rusqlite::Transaction<'c>> {
    let transaction =
        rusqlite::Transaction::new_unchecked(connection, rusqlite::TransactionBehavior::Immediate)?;
    for (item, message) in work.items.iter().zip(&work.messages) {
        transaction.execute(business.as_str(), [item.id.cast_signed()])?;
        outbox.add(&transaction, message)?;
    }
    Ok(transaction)
}

/// One lock for each producer of a round, whose sessions have a name of their own.
const LOCK: &str = "select pg_advisory_xact_lock(hashtext(current_setting('application_name')), $1)";

pub(super) async fn add_on_postgres(
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
    crash_point("producer.added");
    if work.commits {
        transaction.commit().await?;
        crash_point("producer.committed");
    } else {
        transaction.rollback().await?;
    }
    Ok(())
}
