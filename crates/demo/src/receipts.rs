use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use relaykit_outbox::postgres::{PgOutbox, PgOutboxStore, PgSchema};
use relaykit_outbox::sqlite::rusqlite::{Connection, TransactionBehavior};
use relaykit_outbox::sqlite::{Database, SqliteOutbox, SqliteOutboxStore};
use relaykit_outbox::{Depth, Limits, OutboxStore, Relay, RelaySummary};
use relaykit_pipeline_traits::{
    BatchContext, BatchHandler, BatchOutcome, Classify, Clock, ErrorClass, Message, MessageId, Rng,
    SystemClock, Verdict,
};
use relaykit_sql_store::postgres::Guarded;
use relaykit_sql_store::postgres::sqlx::{Connection as _, PgPool};
use relaykit_sql_store::{Names, Shards, Wake};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::delivery::{STOP_WITHIN, retry_policy};

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
    wake: Wake,
    rng: Rng,
    clock: SystemClock,
    /// Events whose receipts are not yet written.
    unwritten: Vec<String>,
    written: Vec<String>,
    file: PathBuf,
    stop: oneshot::Sender<()>,
    relay: JoinHandle<RelaySummary>,
}

#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum Outbox {
    Sqlite { store: SqliteOutboxStore, outbox: SqliteOutbox, connection: Connection },
    Postgres { store: PgOutboxStore, outbox: PgOutbox, pool: PgPool },
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
        let (names, shards) = (Names::new("relaykit_demo")?, Shards::new(16)?);
        let (outbox, file) = match place {
            Place::Sqlite(path) => {
                let database = Database::builder(path, clock).open()?;
                let store = SqliteOutboxStore::new(database, &names, shards);
                store.migrate().await?;
                let connection = Connection::open(path)?;
                connection.busy_timeout(Duration::from_secs(5))?;
                let outbox = SqliteOutbox::new(&names, shards, Limits::default());
                let mut file = path.clone().into_os_string();
                file.push(".receipts");
                (Outbox::Sqlite { store, outbox, connection }, PathBuf::from(file))
            }
            Place::Postgres(url) => {
                let guarded = Guarded::connect(url.parse()?, clock).max_connections(8).build()?;
                PgSchema::new(names.clone()).shards(shards).migrate(&guarded).await?;
                let pool = PgPool::connect(url).await?;
                let file =
                    std::env::temp_dir().join(format!("relaykit-demo-{}.receipts", std::process::id()));
                let store = PgOutboxStore::new(guarded, &names);
                (Outbox::Postgres { store, outbox: PgOutbox::new(&names, Limits::default()), pool }, file)
            }
        };
        let sink = Sink::open(&file, faults, seed)?;
        let (wake, (stop, stopped)) = (Wake::new(), oneshot::channel());
        let relay = match &outbox {
            Outbox::Sqlite { store, .. } => relay(store.clone(), sink, &wake, stopped)?,
            Outbox::Postgres { store, .. } => relay(store.clone(), sink, &wake, stopped)?,
        };
        let (unwritten, written) = (Vec::new(), Vec::new());
        Ok(Self { outbox, wake, rng: Rng::from_entropy(), clock, unwritten, written, file, stop, relay })
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
        self.wake.nudge();
        Ok(())
    }

    /// Writes what is left, waits until everything is in the file, and compares.
    pub(crate) async fn finish(mut self) -> anyhow::Result<ReceiptReport> {
        self.write().await?;
        let depth = async || -> anyhow::Result<Depth> {
            Ok(match &self.outbox {
                Outbox::Sqlite { store, .. } => store.depth().await?,
                Outbox::Postgres { store, .. } => store.depth().await?,
            })
        };
        let begun = self.clock.monotonic();
        while depth().await?.pending > 0 {
            if self.clock.monotonic().since(begun) > STOP_WITHIN * 6 {
                bail!("the receipts are not all in {} after a minute", self.file.display());
            }
            self.clock.sleep(Duration::from_millis(20)).await;
        }
        let _ = self.stop.send(());
        let summary = self.relay.await.context("the relay broke down")?;
        compare(&self.written, &self.file, summary)
    }
}

fn relay<S: OutboxStore>(
    store: S,
    sink: Sink,
    wake: &Wake,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<JoinHandle<RelaySummary>> {
    let relay =
        Relay::builder(store, sink).name("receipts").wake(wake.clone()).retry(retry_policy()?).build()?;
    Ok(tokio::spawn(async move { relay.run(async { drop(stopped.await) }).await }))
}

/// Compares what was written with what is in the file.
fn compare(written: &[String], path: &Path, summary: RelaySummary) -> anyhow::Result<ReceiptReport> {
    let file = File::open(path).with_context(|| format!("could not read {}", path.display()))?;
    let (mut receipts, mut events, mut repeated) = (HashSet::new(), HashSet::new(), 0);
    for line in io::BufReader::new(file).lines() {
        let line: Value =
            serde_json::from_str(&line?).context("the file holds something else than receipts")?;
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        if receipts.insert(text("receipt")) {
            events.insert(text("event"));
        } else {
            repeated += 1;
        }
    }
    let filed = written.iter().filter(|event| events.contains(*event)).count() as u64;
    let written = written.len() as u64;
    Ok(ReceiptReport {
        written,
        filed,
        missing: written - filed,
        repeated,
        retried: summary.retried,
        file: path.to_owned(),
    })
}

/// A file that takes receipts, one a line, and has them on the disk before it says so.
struct Sink {
    file: Arc<Mutex<File>>,
    /// Chance of failing before the write, and of failing after it, when nobody can know.
    faults: Mutex<Rng>,
    chances: (f64, f64),
}

impl Sink {
    fn open(path: &Path, faults: bool, seed: u64) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("could not open {}", path.display()))?;
        let chances = if faults { (0.1, 0.05) } else { (0.0, 0.0) };
        Ok(Self { file: Arc::new(Mutex::new(file)), faults: Mutex::new(Rng::seeded(seed)), chances })
    }

    fn fails(&self, chance: f64) -> bool {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).chance(chance)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("could not write receipts")]
struct SinkError(#[from] io::Error);

impl Classify for SinkError {
    fn class(&self) -> ErrorClass {
        ErrorClass::Transient
    }
}

impl BatchHandler<Message> for Sink {
    type Output = ();
    type Error = SinkError;

    async fn handle(&self, batch: &[Message], _cx: &BatchContext) -> BatchOutcome<(), SinkError> {
        let fault = |text: &str| SinkError(io::Error::other(text.to_owned()));
        if self.fails(self.chances.0) {
            return BatchOutcome::RetryBatch { after: None, error: fault("a fault before the write") };
        }
        let mut lines = Vec::new();
        for message in batch {
            lines.extend_from_slice(message.payload());
            lines.push(b'\n');
        }
        let file = Arc::clone(&self.file);
        let written = tokio::task::spawn_blocking(move || {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_all(&lines)?;
            file.sync_data()
        });
        let error = match written.await {
            Ok(Ok(())) if !self.fails(self.chances.1) => {
                return BatchOutcome::Each(batch.iter().map(|_| Verdict::Done(())).collect());
            }
            Ok(Ok(())) => fault("a fault after the write"),
            Ok(Err(error)) => SinkError(error),
            Err(_) => fault("the write was given up"),
        };
        BatchOutcome::RetryBatch { after: None, error }
    }
}
