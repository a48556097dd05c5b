//! Workers in processes of their own: this test runs itself again, as the worker.

use std::sync::Mutex;

use relaykit_inbox::conformance::TestError;
use relaykit_inbox::postgres::{PgInboxStore, PgTransactional, TransactionalHandler};
use relaykit_pipeline_traits::{BatchContext, Message, Rng, SystemClock, Verdict};
use relaykit_sql_store::postgres::{Guarded, PgUuid, TEST_POSTGRES, TestPostgres};
use relaykit_sql_store::{Names, Sql};
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;

use crate::common::schema;
use crate::ledger::{Messages, Workers, be_a_worker, handlers, until_all_is_handled, verdict};

/// What tells the test that it is the worker: the schema.
const CHILD: &str = "RELAYKIT_WORKER_SCHEMA";

const MESSAGES: usize = 50_000;

/// Writes an effect, then fails now and then.
struct Writer {
    insert: Sql,
    handler: &'static str,
    rng: Mutex<Rng>,
}

impl TransactionalHandler for Writer {
    type Error = TestError;

    async fn handle(
        &self,
        tx: &mut PgConnection,
        message: &Message,
        _: &BatchContext,
    ) -> Verdict<(), TestError> {
        let insert = sqlx::query(&self.insert).bind(PgUuid(message.id().as_uuid())).bind(self.handler);
        // A server that is too busy may end a session that does nothing for long.
        if insert.execute(tx).await.is_err() {
            return Verdict::Retry { after: None, error: TestError("not written") };
        }
        verdict(&mut self.rng.lock().unwrap())
    }
}

fn writer(names: &Names, handler: &'static str) -> PgTransactional {
    let insert = Sql::new(names, &["insert into {effects} (message_id, handler) values ($1, $2)"]);
    Writer { insert, handler, rng: Mutex::new(Rng::from_entropy()) }.into()
}

async fn be_a_postgres_worker(schema: &str) {
    let options: PgConnectOptions = std::env::var(TEST_POSTGRES).unwrap().parse().unwrap();
    // No commit waits for the disk: it is a worker that is killed, not the server.
    let options = options.application_name(schema).options([("synchronous_commit", "off")]);
    let pool = Guarded::connect(options, SystemClock::new());
    let names = Names::new("t").unwrap().in_schema(schema).unwrap();
    let store = PgInboxStore::new(pool.max_connections(10).build().unwrap(), &names);
    be_a_worker(store, handlers(|handler| writer(&names, handler))).await;
}

/// 50,000 messages, one in ten of which comes again, by workers in four processes, of which one is stopped and three are killed
/// on the way, each followed by another: what transactional handlers wrote is there once for each message and handler, though
/// they fail now and then; a plain handler had each message, in order, and again only what was on its way when a process was
/// killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_have_exact_effects_and_explained_calls_while_one_is_stopped_and_three_are_killed() {
    const NAME: &str = "processes::four_processes_have_exact_effects_and_explained_calls_while_one_is_stopped_and_three_are_killed";
    if let Ok(schema) = std::env::var(CHILD) {
        return be_a_postgres_worker(&schema).await;
    }
    let Some(db) = TestPostgres::new().await else { return };
    let (pool, names) = (db.pool().build().unwrap(), db.names("t"));
    schema(&db).shards(relaykit_sql_store::Shards::new(16).unwrap()).migrate(&pool).await.unwrap();
    // Nothing keeps a double out, so that it would be seen.
    db.execute("create table {effects} (message_id uuid not null, handler text not null)").await;
    let store = PgInboxStore::new(pool.clone(), &names);
    let routes = handlers::<PgInboxStore>(|handler| writer(&names, handler)).routes().clone();
    let mut workers = Workers::new(NAME, vec![(CHILD, names.schema().unwrap().as_str().to_owned())]);
    (0..4).for_each(|_| workers.start());
    let receiving = tokio::spawn({
        let store = store.clone();
        async move {
            let mut messages = Messages::new();
            messages.receive(store, routes, MESSAGES).await;
            messages
        }
    });
    workers.called(8_000).await;
    workers.stop().await;
    workers.start();
    for calls in [16_000, 24_000, 32_000] {
        workers.called(calls).await;
        workers.kill();
        workers.start();
    }
    let messages = receiving.await.unwrap();
    until_all_is_handled(&store).await;
    let (told, killed) = workers.told().await;

    messages.check(&told, &killed);
    let effects = [("effects", MESSAGES), ("audit", messages.count("star"))];
    for (handler, wanted) in effects {
        let counted = Sql::new(
            &names,
            &["select count(*), count(distinct e.message_id), count(m.message_id)
               from {effects} e left join {messages} m on m.message_id = e.message_id
               where e.handler = $1"],
        );
        let counted: (i64, i64, i64) =
            sqlx::query_as(counted).bind(handler).fetch_one(&mut db.connection().await).await.unwrap();
        let wanted = i64::try_from(wanted).unwrap();
        assert_eq!(counted, (wanted, wanted, wanted), "{handler}");
    }
    let idle = "select count(*) from pg_stat_activity where state like 'idle in transaction%'
        and application_name = trim('\"' from '{@schema}')";
    assert_eq!(db.number(idle).await, 0, "sessions that were left in a transaction");
    pool.close().await;
    db.clean().await;
}
