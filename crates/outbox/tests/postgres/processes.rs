//! Relays in processes of their own: this test runs itself again, as the relay.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use relaykit_outbox::conformance::{TestError, TestSender};
use relaykit_outbox::postgres::PgOutboxStore;
use relaykit_outbox::{OutboxStore, Relay};
use relaykit_pipeline_traits::{
    BatchContext, BatchHandler, BatchOutcome, Message, MessageId, Rng, SystemClock, Verdict, uuid,
};
use relaykit_retry::Backoff;
use relaykit_sql_store::Names;
use relaykit_sql_store::postgres::Guarded;

use crate::common::{Outbox, with_payload};

/// What tells the test that it is the relay: the URL, the schema and the ledger's path.
const CHILD: [&str; 3] = ["RELAYKIT_RELAY_URL", "RELAYKIT_RELAY_SCHEMA", "RELAYKIT_RELAY_LEDGER"];

/// Takes messages by writing them into a ledger that all processes append to.
struct Ledger {
    file: Mutex<File>,
    faults: Mutex<Rng>,
}

impl BatchHandler<Message> for Ledger {
    type Output = ();
    type Error = TestError;

    async fn handle(&self, batch: &[Message], _cx: &BatchContext) -> BatchOutcome<(), TestError> {
        let mut lines = String::new();
        let mut verdicts = Vec::new();
        {
            let mut faults = self.faults.lock().unwrap();
            for message in batch {
                if faults.chance(0.05) {
                    verdicts.push(Verdict::Retry { after: None, error: TestError("failed") });
                } else {
                    writeln!(lines, "{}", message.id()).unwrap();
                    verdicts.push(Verdict::Done(()));
                }
            }
        }
        // One write, so that the lines of processes do not mix.
        self.file.lock().unwrap().write_all(lines.as_bytes()).unwrap();
        BatchOutcome::Each(verdicts)
    }
}

fn relay<H>(store: PgOutboxStore, sender: H) -> Relay<PgOutboxStore, H>
where
    H: BatchHandler<Message, Error = TestError> + 'static,
{
    let retry = Backoff::fixed(Duration::from_millis(5)).unlimited_attempts();
    Relay::builder(store, sender)
        .lease(Duration::from_secs(3))
        .send_timeout(Duration::from_secs(1))
        .settle_timeout(Duration::from_secs(1))
        .poll(Duration::from_millis(5), Duration::from_millis(50))
        .retry(retry.max_hint(Duration::from_millis(5)).build().unwrap())
        .build()
        .unwrap()
}

/// Is the relay until its standard input ends.
async fn be_a_relay(url: &str, schema: &str, ledger: &str) {
    let pool = Guarded::connect(url.parse().unwrap(), SystemClock::new()).max_connections(4).build().unwrap();
    let names = Names::new("t").unwrap().in_schema(schema).unwrap();
    let file = OpenOptions::new().append(true).open(ledger).unwrap();
    let sender = Ledger { file: Mutex::new(file), faults: Mutex::new(Rng::from_entropy()) };
    let relay = relay(PgOutboxStore::new(pool, &names), sender);
    let told = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let summary = relay.run(async { drop(told.await) }).await;
    assert_eq!((summary.unfinished, summary.kept_shards), (0, 0));
}

fn start(name: &str, values: [&str; 3]) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).envs(CHILD.into_iter().zip(values));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// Four relays in four processes, of which one is stopped and one killed on the way, 100,000 messages of 1,000 keys, of
/// which 5 % fail at first: nothing is lost, nothing comes out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_lose_and_reorder_nothing_while_one_is_stopped_and_one_killed() {
    const NAME: &str =
        "processes::four_processes_lose_and_reorder_nothing_while_one_is_stopped_and_one_killed";
    if let [Ok(url), Ok(schema), Ok(ledger)] = CHILD.map(std::env::var) {
        return be_a_relay(&url, &schema, &ledger).await;
    }
    let Some(o) = Outbox::for_relays().await else { return };
    let seed = Rng::from_entropy().next_u64();
    eprintln!("seed {seed}");
    let mut rng = Rng::seeded(seed);
    let mut added: Vec<Message> = Vec::new();
    for _ in 0..100 {
        let part: Vec<_> = (0..1_000).map(|_| with_payload(&format!("k{}", rng.below(1_000)), "x")).collect();
        o.add_all(&part).await;
        added.extend(part);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    File::create(&path).unwrap();
    let url = std::env::var(relaykit_sql_store::postgres::TEST_POSTGRES).unwrap();
    let schema = o.db.names("t").schema().unwrap().as_str().to_owned();
    let values = [url.as_str(), schema.as_str(), path.to_str().unwrap()];
    let mut relays: Vec<Child> = (0..4).map(|_| start(NAME, values)).collect();
    let store = &o.store;
    let until = async |left: u64| {
        while store.depth().await.unwrap().pending > left {
            tokio::task::yield_now().await;
        }
    };
    let stop = |mut relay: Child| {
        drop(relay.stdin.take());
        assert!(relay.wait().unwrap().success());
    };
    until(80_000).await;
    stop(relays.remove(0));
    until(60_000).await;
    let mut killed = relays.remove(0);
    killed.kill().unwrap();
    killed.wait().unwrap();
    until(0).await;
    relays.into_iter().for_each(stop);

    let by_id: std::collections::HashMap<MessageId, &Message> =
        added.iter().map(|message| (message.id(), message)).collect();
    let taken = std::fs::read_to_string(&path).unwrap();
    let taken =
        taken.lines().map(|line| by_id[&MessageId::from_uuid(uuid::Uuid::parse_str(line).unwrap())].clone());
    let ledger = TestSender::new();
    ledger.note(taken);
    ledger.assert_complete_and_in_order(&added);
    o.clean().await;
}
