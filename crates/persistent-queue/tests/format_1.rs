//! A file of format 1, which every later version must open.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_persistent_queue::{DeadReason, Queue};
use relaykit_pipeline_traits::{
    BatchContext, BatchHandler, BatchOutcome, Classify, ErrorClass, ManualClock, Verdict,
};
use relaykit_retry::{Backoff, Jitter};
use relaykit_sql_store::sqlite::rusqlite::types::Value;
use relaykit_sql_store::sqlite::rusqlite::{Connection, OpenFlags};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1.db")
}

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("not yet")]
struct NotYet(ErrorClass);

impl Classify for NotYet {
    fn class(&self) -> ErrorClass {
        self.0
    }
}

#[derive(Clone, Default)]
struct Takes {
    all: bool,
    seen: Arc<Mutex<Vec<(String, u32)>>>,
}

impl BatchHandler<String> for Takes {
    type Output = ();
    type Error = NotYet;

    async fn handle(&self, batch: &[String], cx: &BatchContext) -> BatchOutcome<(), NotYet> {
        let seen = batch.iter().map(|item| (item.clone(), cx.attempt()));
        self.seen.lock().expect("no test panics with the lock").extend(seen);
        let verdicts = batch.iter().map(|item| match &**item {
            _ if self.all => Verdict::Done(()),
            "dead" => Verdict::Dead(NotYet(ErrorClass::Permanent)),
            "retried" => Verdict::Retry { after: None, error: NotYet(ErrorClass::Transient) },
            _ => Verdict::Done(()),
        });
        BatchOutcome::Each(verdicts.collect())
    }
}

fn builder(
    path: &Path,
    takes: &Takes,
    clock: &ManualClock,
) -> relaykit_persistent_queue::Builder<String, relaykit_persistent_queue::Plain<Takes>> {
    let policy = Backoff::fixed(Duration::from_secs(60)).jitter(Jitter::None).build().expect("within bounds");
    Queue::builder(path, takes.clone()).clock(clock.clone()).retry(policy).ballast_bytes(0)
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// Makes a file with a dead letter, a batch that waits and one that was never lent.
async fn make(path: &Path) {
    let clock = ManualClock::new();
    let queue = builder(path, &Takes::default(), &clock).open().unwrap();
    queue.push_all(["done", "dead", "retried"].map(str::to_owned)).await.unwrap();
    queue.flush().await.unwrap();
    until(|| queue.stats().processed == 1).await;
    queue.pause();
    queue.push_all(["fresh", "Grüße"].map(str::to_owned)).await.unwrap();
    queue.flush().await.unwrap();
    let _ = queue.close(Duration::from_secs(1)).await;
}

/// Everything that a later version may rely on, as text.
fn contents(path: &Path) -> Vec<String> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut lines = Vec::new();
    for query in [
        "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version",
        "SELECT name, sql FROM sqlite_schema ORDER BY name",
        "SELECT * FROM batches ORDER BY id",
        "SELECT * FROM claims",
        "SELECT * FROM damaged",
        "SELECT * FROM dead ORDER BY id",
        // How many can be in flight is up to the settings.
        "SELECT id, clean FROM state",
    ] {
        let mut select = connection.prepare(query).unwrap();
        let columns = select.column_count();
        let mut rows = select.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<Value> = (0..columns).map(|at| row.get(at).unwrap()).collect();
            lines.push(format!("{values:?}"));
        }
    }
    lines
}

/// The fixture is made once for each format, by this test, when it is not there. A released one is never changed.
#[tokio::test]
async fn what_is_written_is_format_1_as_it_was_released() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    make(&path).await;
    if !fixture().exists() {
        std::fs::copy(&path, fixture()).unwrap();
        panic!("there was no fixture; it was made, and is to be looked at");
    }
    // Opening it, even to read, would leave a log beside it.
    let released = directory.path().join("released.db");
    std::fs::copy(fixture(), &released).unwrap();
    assert_eq!(contents(&path), contents(&released));
}

#[tokio::test]
async fn a_file_of_format_1_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    std::fs::copy(fixture(), &path).unwrap();
    let takes = Takes { all: true, ..Takes::default() };
    let clock = ManualClock::new();
    let queue = builder(&path, &takes, &clock).open().unwrap();
    until(|| queue.stats().processed == 2).await;
    until(|| clock.sleepers() > 0).await;
    let dead = queue.dead_letters(0, 10).await.unwrap();
    assert_eq!(
        (dead.len(), dead[0].reason, dead[0].attempts, &*dead[0].error),
        (1, DeadReason::Rejected, 1, "not yet")
    );
    queue.replay(&[dead[0].id]).await.unwrap();
    until(|| queue.stats().processed == 3).await;
    clock.advance(Duration::from_secs(60));
    until(|| queue.stats().processed == 4).await;
    let seen = takes.seen.lock().unwrap().clone();
    let expected = [("fresh", 1), ("Grüße", 1), ("dead", 1), ("retried", 2)];
    assert_eq!(seen, expected.map(|(item, attempt)| (item.to_owned(), attempt)));
}
