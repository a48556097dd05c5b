//! What a relay's sessions do while its sender is called.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use relaykit_outbox::conformance::TestError;
use relaykit_outbox::postgres::PgOutboxStore;
use relaykit_outbox::{OutboxStore, Relay};
use relaykit_pipeline_traits::{
    BatchContext, BatchHandler, BatchOutcome, Clock, Message, SystemClock, Verdict,
};
use relaykit_sql_store::postgres::{Guarded, TestPostgres};
use sqlx::PgConnection;
use tokio::sync::Mutex;

use crate::common::{Outbox, keyed, message};

/// How often a sender looks, 5 ms apart, before it believes that a transaction waits for it.
const LOOKS: u32 = 600;

/// Sessions of this test that are in a transaction: its relay's, for the sender's own is left out.
const OPEN: &str = "select count(*) from pg_stat_activity
    where application_name = $1 and pid <> pg_backend_pid() and (state like 'idle in transaction%' or xact_start is not null)";

/// Takes messages when it has seen all sessions of the relay without a transaction.
///
/// The relay reads pages and renews leases meanwhile, which is over in a moment; what is open because something is sent stays
/// open until the sender answers.
#[derive(Clone)]
struct Onlooker {
    application: String,
    look: Arc<Mutex<PgConnection>>,
    calls: Arc<AtomicU32>,
}

impl Onlooker {
    async fn new(db: &TestPostgres) -> Self {
        let application = db.names("t").schema().unwrap().as_str().to_owned();
        Self { application, look: Arc::new(Mutex::new(db.connection().await)), calls: Arc::default() }
    }

    async fn open(&self) -> i64 {
        let mut look = self.look.lock().await;
        sqlx::query_scalar(OPEN).bind(&self.application).fetch_one(&mut *look).await.unwrap()
    }
}

impl BatchHandler<Message> for Onlooker {
    type Output = ();
    type Error = TestError;

    async fn handle(&self, batch: &[Message], _cx: &BatchContext) -> BatchOutcome<(), TestError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        for _ in 0..LOOKS {
            if self.open().await == 0 {
                return BatchOutcome::all_done(batch.len());
            }
            SystemClock::new().sleep(Duration::from_millis(5)).await;
        }
        let held = || Verdict::Dead(TestError("a transaction is open while it is sent"));
        BatchOutcome::Each(batch.iter().map(|_| held()).collect())
    }
}

async fn check(o: Outbox, pool: Guarded) {
    let sender = Onlooker::new(&o.db).await;
    let store = PgOutboxStore::new(pool.clone(), &o.db.names("t"));
    // Several batches at once, of several pages.
    let relay = Relay::builder(store, sender.clone()).batch_size(2).build().unwrap();
    for key in ["a", "b", "c"] {
        o.add_to(key, 4).await;
    }
    o.add(&message().build().unwrap()).await;
    let summary = relay.run_once().await.unwrap();
    assert_eq!((summary.sent, summary.dead, summary.retried), (13, 0, 0));
    assert!(sender.calls.load(Ordering::Relaxed) >= 7);
    assert_eq!(relay.release().await, 0);
    pool.close().await;
    o.clean().await;
}

#[tokio::test]
async fn no_transaction_is_open_while_something_is_sent() {
    let Some(o) = Outbox::for_relays().await else { return };
    let pool = o.db.pool().build().unwrap();
    check(o, pool).await;
}

/// On a pool that the application shares with the relay, too.
#[tokio::test]
async fn no_transaction_is_open_on_a_shared_pool_while_something_is_sent() {
    let Some(o) = Outbox::for_relays().await else { return };
    let pool = sqlx::PgPool::connect_with(o.db.options()).await.unwrap();
    let guarded = Guarded::shared(pool.clone(), SystemClock::new()).build().unwrap();
    check(o, guarded).await;
    pool.close().await;
}

/// What the sender looks at would show a transaction.
#[tokio::test]
async fn a_transaction_that_is_held_open_would_be_seen() {
    let Some(o) = Outbox::for_relays().await else { return };
    let sender = Onlooker::new(&o.db).await;
    assert_eq!(sender.open().await, 0);
    let mut conn = o.connection().await;
    let mut tx = sqlx::Connection::begin(&mut conn).await.unwrap();
    o.outbox.add(&mut tx, &keyed("a")).await.unwrap();
    assert_eq!(sender.open().await, 1);
    tx.commit().await.unwrap();
    assert_eq!((sender.open().await, o.store.depth().await.unwrap().pending), (0, 1));
    o.clean().await;
}
