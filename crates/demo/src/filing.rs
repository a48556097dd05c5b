use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use relaykit_outbox::postgres::PgOutboxStore;
use relaykit_outbox::sqlite::SqliteOutboxStore;
use relaykit_outbox::{OutboxStore, Relay, RelaySummary};
use relaykit_pipeline_traits::{
    BatchContext, BatchHandler, BatchOutcome, Classify, Clock as _, ErrorClass, Message, Rng, SystemClock,
    Verdict,
};
use relaykit_sql_store::Wake;
use relaykit_telemetry::PrometheusRecorder;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::delivery::{STOP_WITHIN, retry_policy};

/// For how long shards are leased: so long do the receipts of a process that was killed wait for the next one.
const LEASE: Duration = Duration::from_secs(6);

/// Where receipts are until they are in the file.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub(crate) enum ReceiptStore {
    Sqlite(SqliteOutboxStore),
    Postgres(PgOutboxStore),
}

impl ReceiptStore {
    /// Returns how many receipts are not in the file yet.
    pub(crate) async fn pending(&self) -> anyhow::Result<u64> {
        let depth = match self {
            Self::Sqlite(store) => store.depth().await?,
            Self::Postgres(store) => store.depth().await?,
        };
        Ok(depth.pending)
    }
}

/// A relay that brings receipts from an outbox into a file.
pub(crate) struct Filing {
    store: ReceiptStore,
    pub(crate) file: PathBuf,
    pub(crate) wake: Wake,
    stop: oneshot::Sender<()>,
    relay: JoinHandle<RelaySummary>,
}

impl Filing {
    /// Starts the relay. With `faults`, the file fails now and then.
    pub(crate) fn start(
        store: ReceiptStore,
        file: PathBuf,
        faults: bool,
        seed: u64,
        recorder: Option<PrometheusRecorder>,
    ) -> anyhow::Result<Self> {
        let sink = Sink::open(&file, faults, seed)?;
        let (wake, (stop, stopped)) = (Wake::new(), oneshot::channel());
        let relay = match &store {
            ReceiptStore::Sqlite(store) => relay(store.clone(), sink, &wake, recorder, stopped)?,
            ReceiptStore::Postgres(store) => relay(store.clone(), sink, &wake, recorder, stopped)?,
        };
        Ok(Self { store, file, wake, stop, relay })
    }

    /// Waits until every receipt is in the file.
    pub(crate) async fn drain(&self) -> anyhow::Result<()> {
        let clock = SystemClock::new();
        let begun = clock.monotonic();
        while self.store.pending().await? > 0 {
            if clock.monotonic().since(begun) > STOP_WITHIN * 6 {
                bail!("the receipts are not all in {} after a minute", self.file.display());
            }
            clock.sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Returns how many receipts are not in the file yet.
    pub(crate) async fn pending(&self) -> anyhow::Result<u64> {
        self.store.pending().await
    }

    /// Stops the relay.
    pub(crate) async fn stop(self) -> anyhow::Result<RelaySummary> {
        let _ = self.stop.send(());
        self.relay.await.context("the relay broke down")
    }
}

fn relay<S: OutboxStore>(
    store: S,
    sink: Sink,
    wake: &Wake,
    recorder: Option<PrometheusRecorder>,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<JoinHandle<RelaySummary>> {
    let builder = Relay::builder(store, sink)
        .name("receipts")
        .wake(wake.clone())
        .send_timeout(Duration::from_secs(3))
        .settle_timeout(Duration::from_secs(2))
        .lease(LEASE)
        .retry(retry_policy()?);
    let relay = match recorder {
        Some(recorder) => builder.recorder(Arc::new(recorder)).build()?,
        None => builder.build()?,
    };
    Ok(tokio::spawn(async move { relay.run(async { drop(stopped.await) }).await }))
}

/// A line of the file.
pub(crate) struct Filed {
    /// The event that the receipt is of.
    pub(crate) event: String,
    /// Whose it is, if the receipt says.
    pub(crate) user: Option<String>,
}

/// What the file holds: each receipt once, in the order of the lines; and how many lines repeat one.
pub(crate) fn read(path: &Path) -> anyhow::Result<(Vec<Filed>, u64)> {
    let file = File::open(path).with_context(|| format!("could not read {}", path.display()))?;
    let (mut receipts, mut filed, mut repeated) = (HashSet::new(), Vec::new(), 0);
    for line in io::BufReader::new(file).lines() {
        let line: Value =
            serde_json::from_str(&line?).context("the file holds something else than receipts")?;
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        if receipts.insert(text("receipt")) {
            filed.push(Filed { event: text("event").unwrap_or_default(), user: text("user") });
        } else {
            repeated += 1;
        }
    }
    Ok((filed, repeated))
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
        let opened = OpenOptions::new().create(true).append(true).open(path).and_then(|file| {
            cut_torn_line(path, &file)?;
            Ok(file)
        });
        let file = opened.with_context(|| format!("could not open {}", path.display()))?;
        let chances = if faults { (0.1, 0.05) } else { (0.0, 0.0) };
        Ok(Self { file: Arc::new(Mutex::new(file)), faults: Mutex::new(Rng::seeded(seed)), chances })
    }

    fn fails(&self, chance: f64) -> bool {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).chance(chance)
    }
}

/// Cuts off what a process that was killed wrote of a line. Nobody was told that it was there, so it comes again.
fn cut_torn_line(path: &Path, file: &File) -> io::Result<()> {
    let bytes = std::fs::read(path)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if whole < bytes.len() { file.set_len(whole as u64) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_cut_off_and_whole_ones_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("receipts");
        std::fs::write(&path, "{\"receipt\":\"1\",\"event\":\"a\"}\n{\"rec").unwrap();
        Sink::open(&path, false, 1).unwrap();
        let (filed, repeated) = read(&path).unwrap();
        assert_eq!((filed.len(), filed[0].event.as_str(), repeated), (1, "a", 0));
        std::fs::write(&path, "{\"rec").unwrap();
        Sink::open(&path, false, 1).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
