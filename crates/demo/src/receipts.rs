use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use relaykit_outbox::postgres::{PgOutbox, PgOutboxStore, PgSchema};
use relaykit_outbox::sqlite::rusqlite::{Connection, TransactionBehavior};
use relaykit_outbox::sqlite::{Database, SqliteOutbox, SqliteOutboxStore};
use relaykit_outbox::{Limits, RelaySummary};
use relaykit_pipeline_traits::{Clock as _, Message, MessageId, Rng, SystemClock};
use relaykit_sql_store::postgres::Guarded;
use relaykit_sql_store::postgres::sqlx::{Connection as _, PgPool};
use relaykit_sql_store::{Names, Shards};
use serde_json::json;

use crate::filing::{self, Filing, ReceiptStore};

/// How many receipts are written in one transaction.
const TOGETHER: usize = 100;

/// Where the outbox of receipts is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Sqlite(PathBuf),
    Postgres(String),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("postgres:") || text.starts_with("postgresql:") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        match text.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            _ => Err("it must be sqlite:FILE or postgres://…".to_owned()),
        }
    }
}

/// Writes a receipt for each delivered event into an outbox, from which a relay brings them into a file.
pub(crate) struct Receipts {
    outbox: Outbox,
    rng: Rng,
    clock: SystemClock,
    /// Events whose receipts are not yet written.
    unwritten: Vec<String>,
    written: Vec<String>,
    filing: Filing,
}

enum Outbox {
    Sqlite { outbox: SqliteOutbox, connection: Connection },
    Postgres { outbox: PgOutbox, pool: PgPool },
}

/// What became of the receipts.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct ReceiptReport {
    /// Receipts committed with a delivery.
    pub(crate) written: u64,
    /// Of them, those that are in the file.
    pub(crate) filed: u64,
    /// Those that are nowhere. Must be 0.
    pub(crate) missing: u64,
    /// Lines of the file beyond the first of a receipt; harmless, since it keeps its id.
    pub(crate) repeated: u64,
    /// How often a receipt waited for another attempt.
    pub(crate) retried: u64,
    pub(crate) file: PathBuf,
}

impl Receipts {
    /// Opens the outbox and starts its relay. With `faults`, the file fails now and then.
    pub(crate) async fn start(place: &Place, faults: bool, seed: u64) -> anyhow::Result<Self> {
        let clock = SystemClock::new();
        let (outbox, store, file) = match place {
            Place::Sqlite(path) => {
                let (store, outbox) = on_sqlite(Database::builder(path, clock).open()?).await?;
                let connection = Connection::open(path)?;
                connection.busy_timeout(Duration::from_secs(5))?;
                (Outbox::Sqlite { outbox, connection }, store, beside(path))
            }
            Place::Postgres(url) => {
                let (store, outbox, pool) = on_postgres(url).await?;
                let file =
                    std::env::temp_dir().join(format!("relaykit-demo-{}.receipts", std::process::id()));
                (Outbox::Postgres { outbox, pool }, store, file)
            }
        };
        let filing = Filing::start(store, file, faults, seed, None)?;
        let (unwritten, written) = (Vec::new(), Vec::new());
        Ok(Self { outbox, rng: Rng::from_entropy(), clock, unwritten, written, filing })
    }

    /// Notes that an event was delivered.
    pub(crate) fn note(&mut self, event: &str) {
        self.unwritten.push(event.to_owned());
    }

    /// Writes receipts if there are many, in one transaction.
    pub(crate) async fn write_many(&mut self) -> anyhow::Result<()> {
        if self.unwritten.len() >= TOGETHER { self.write().await } else { Ok(()) }
    }

    async fn write(&mut self) -> anyhow::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let receipts = self.unwritten.iter().map(|event| {
            let id = MessageId::new(now, &mut self.rng);
            let payload = json!({ "receipt": id.to_string(), "event": event }).to_string();
            Message::builder(id, "event.delivered", now).ordering_key(event.as_str()).payload(payload).build()
        });
        let receipts: Vec<Message> = receipts.collect::<Result<_, _>>()?;
        match &mut self.outbox {
            Outbox::Sqlite { outbox, connection, .. } => {
                tokio::task::block_in_place(|| -> anyhow::Result<()> {
                    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                    outbox.add_all(&transaction, &receipts)?;
                    Ok(transaction.commit()?)
                })?;
            }
            Outbox::Postgres { outbox, pool, .. } => {
                let mut connection = pool.acquire().await?;
                let mut transaction = connection.begin().await?;
                outbox.add_all(&mut transaction, &receipts).await?;
                transaction.commit().await?;
            }
        }
        self.written.append(&mut self.unwritten);
        self.filing.wake.nudge();
        Ok(())
    }

    /// Writes what is left, waits until everything is in the file, and compares.
    pub(crate) async fn finish(mut self) -> anyhow::Result<ReceiptReport> {
        self.write().await?;
        self.filing.drain().await?;
        let file = self.filing.file.clone();
        compare(&self.written, file, &self.filing.stop().await?)
    }
}

fn names() -> anyhow::Result<(Names, Shards)> {
    Ok((Names::new("relaykit_demo")?, Shards::new(16)?))
}

/// Makes the outbox's tables in a SQLite file.
pub(crate) async fn on_sqlite(database: Database) -> anyhow::Result<(ReceiptStore, SqliteOutbox)> {
    let (names, shards) = names()?;
    let store = SqliteOutboxStore::new(database, &names, shards);
    store.migrate().await?;
    Ok((ReceiptStore::Sqlite(store), SqliteOutbox::new(&names, shards, Limits::default())))
}

/// Makes the outbox's tables in Postgres. Receipts are written through a pool of their own.
pub(crate) async fn on_postgres(url: &str) -> anyhow::Result<(ReceiptStore, PgOutbox, PgPool)> {
    let (names, shards) = names()?;
    let guarded = Guarded::connect(url.parse()?, SystemClock::new()).max_connections(8).build()?;
    PgSchema::new(names.clone()).shards(shards).migrate(&guarded).await?;
    let store = PgOutboxStore::new(guarded, &names);
    let pool = PgPool::connect(url).await?;
    Ok((ReceiptStore::Postgres(store), PgOutbox::new(&names, Limits::default()), pool))
}

/// Returns the file for the receipts of a SQLite file.
pub(crate) fn beside(database: &Path) -> PathBuf {
    let mut file = database.as_os_str().to_owned();
    file.push(".receipts");
    file.into()
}

/// Compares the events whose receipts were written with those in the file.
pub(crate) fn compare(
    written: &[String],
    file: PathBuf,
    summary: &RelaySummary,
) -> anyhow::Result<ReceiptReport> {
    let (filed, repeated) = filing::read(&file)?;
    let events: HashSet<&str> = filed.iter().map(|receipt| receipt.event.as_str()).collect();
    let filed = written.iter().filter(|event| events.contains(event.as_str())).count() as u64;
    let written = written.len() as u64;
    Ok(ReceiptReport { written, filed, missing: written - filed, repeated, retried: summary.retried, file })
}
