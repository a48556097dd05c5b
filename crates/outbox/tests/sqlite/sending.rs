//! What an application can do to the file while the sender is called.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_outbox::Relay;
use relaykit_outbox::conformance::TestError;
use relaykit_outbox::sqlite::SqliteOutboxStore;
use relaykit_outbox::sqlite::rusqlite::Result;
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Message};

use crate::common::{Harness, connect, database, names};

/// Takes messages while it writes an order, through a connection that waits for nobody.
#[derive(Clone)]
struct Shop {
    path: PathBuf,
    orders: Arc<Mutex<Vec<Result<usize>>>>,
}

impl BatchHandler<Message> for Shop {
    type Output = ();
    type Error = TestError;

    async fn handle(&self, batch: &[Message], _cx: &BatchContext) -> BatchOutcome<(), TestError> {
        self.orders.lock().unwrap().push(order(&self.path));
        BatchOutcome::all_done(batch.len())
    }
}

/// Writes an order, or fails at once if somebody else is writing.
fn order(path: &Path) -> Result<usize> {
    let application = connect(path);
    application.busy_timeout(Duration::ZERO)?;
    application.execute_batch("begin immediate")?;
    let written = application.execute("insert into orders values (null)", [])?;
    application.execute_batch("commit")?;
    Ok(written)
}

#[tokio::test]
async fn others_write_without_waiting_while_something_is_sent() {
    let mut h = Harness::new().await;
    for (key, payload) in [("a", "1"), ("b", "2"), ("", "3")] {
        h.add(key, payload);
    }
    // The relay takes the shard.
    h.application.execute_batch("update outbox_shards set owner = null, since = null, until = null").unwrap();
    let store = SqliteOutboxStore::new(database(&h.path(), &h.clock), &names(), h.shards);
    let shop = Shop { path: h.path(), orders: Arc::default() };
    let relay = Relay::builder(store, shop.clone()).clock(h.clock.clone()).build().unwrap();
    // Another batch would be sent while this one is settled, and a settlement is a write.
    assert_eq!(relay.run_once().await.unwrap().sent, 3);
    assert_eq!(*shop.orders.lock().unwrap(), [Ok(1)]);
    assert_eq!(h.number("select count(*) from orders"), 1);

    h.application.execute_batch("begin immediate").unwrap();
    assert!(order(&h.path()).is_err(), "a transaction that is open would be seen");
}
