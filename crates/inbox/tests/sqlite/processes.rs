//! Workers in processes of their own: this test runs itself again, as the worker.

use std::path::Path;
use std::sync::Mutex;

use relaykit_inbox::conformance::TestError;
use relaykit_inbox::sqlite::rusqlite::{Connection, params};
use relaykit_inbox::sqlite::{
    Database, Durability, SqliteInboxStore, SqliteTransactional, TransactionalHandler,
};
use relaykit_pipeline_traits::{BatchContext, Message, Rng, SystemClock, Verdict};
use relaykit_sql_store::Shards;

use crate::common::{SECOND, connect, names};
use crate::ledger::{Messages, Workers, be_a_worker, handlers, until_all_is_handled, verdict};

/// What tells the test that it is the worker: the file.
const CHILD: &str = "RELAYKIT_WORKER_FILE";

const MESSAGES: usize = 5_000;

/// Writes an effect, then fails now and then.
struct Writer {
    handler: &'static str,
    rng: Mutex<Rng>,
}

impl TransactionalHandler for Writer {
    type Error = TestError;

    fn handle(&self, tx: &Connection, message: &Message, _: &BatchContext) -> Verdict<(), TestError> {
        let id = message.id();
        tx.execute("insert into effects values (?1, ?2)", params![id.as_bytes(), self.handler]).unwrap();
        verdict(&mut self.rng.lock().unwrap())
    }
}

fn writer(handler: &'static str) -> SqliteTransactional {
    Writer { handler, rng: Mutex::new(Rng::from_entropy()) }.into()
}

/// No commit waits for the disk: it is a worker that is killed, not the machine.
fn store(path: &Path) -> SqliteInboxStore {
    let database = Database::builder(path, SystemClock::new()).busy_timeout(SECOND);
    let database = database.durability(Durability::ProcessCrashOnly).open().unwrap();
    SqliteInboxStore::new(database, &names(), Shards::new(16).unwrap())
}

/// 5,000 messages, one in ten of which comes again, by workers in two processes, of which one is killed on the way, followed by
/// another: what transactional handlers wrote is there once for each message and handler, though they fail now and then; a
/// plain handler had each message, in order, and again only what was on its way when the process was killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_have_exact_effects_and_explained_calls_while_one_is_killed() {
    const NAME: &str = "processes::two_processes_have_exact_effects_and_explained_calls_while_one_is_killed";
    if let Ok(path) = std::env::var(CHILD) {
        return be_a_worker(store(Path::new(&path)), handlers(writer)).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let store = store(&path);
    store.migrate().await.unwrap();
    // Nothing keeps a double out, so that it would be seen.
    let application = connect(&path);
    application.execute_batch("create table effects (id blob not null, handler text not null)").unwrap();
    let mut workers = Workers::new(NAME, vec![(CHILD, path.to_str().unwrap().to_owned())]);
    (0..2).for_each(|_| workers.start());
    let receiving = tokio::spawn({
        let (store, routes) = (store.clone(), handlers::<SqliteInboxStore>(writer).routes().clone());
        async move {
            let mut messages = Messages::new();
            messages.receive(store, routes, MESSAGES).await;
            messages
        }
    });
    workers.called(1_000).await;
    workers.kill();
    workers.start();
    let messages = receiving.await.unwrap();
    until_all_is_handled(&store).await;
    let (told, killed) = workers.told().await;

    messages.check(&told, &killed);
    for (handler, wanted) in [("effects", MESSAGES), ("audit", messages.count("star"))] {
        let counted: (u32, u32, u32) = application
            .query_row(
                "select count(*), count(distinct e.id), count(m.message_id)
                 from effects e left join inbox_messages m on m.message_id = e.id where e.handler = ?1",
                [handler],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
            .unwrap();
        let wanted = u32::try_from(wanted).unwrap();
        assert_eq!(counted, (wanted, wanted, wanted), "{handler}");
    }
}
