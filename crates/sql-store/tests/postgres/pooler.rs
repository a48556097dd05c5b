//! The same through `PgBouncer` in transaction mode, where a session is another's after each transaction.

use std::time::Duration;

use relaykit_pipeline_traits::SystemClock;
use relaykit_sql_store::postgres::{Guarded, PgLeaseStore, TestPostgres, migrate, verify};
use relaykit_sql_store::{LeaseKeeper, Sql};

use crate::common::{execute, read, tables};

/// The environment variable with the URL of a `PgBouncer` before the server; `cargo xtask test` sets it if there is one.
const TEST_PGBOUNCER: &str = "RELAYKIT_TEST_PGBOUNCER";

async fn behind_pooler() -> Option<(TestPostgres, Guarded)> {
    let db = TestPostgres::on(TEST_PGBOUNCER).await?;
    let pool = db.pool().max_connections(4).behind_pooler(true).build().unwrap();
    Some((db, pool))
}

#[tokio::test]
async fn tables_are_migrated_and_verified_through_a_pooler() {
    let Some((db, pool)) = behind_pooler().await else { return };
    let schema = tables(&db, &pool, 8).await;
    assert_eq!(migrate(&pool, &schema).await.unwrap().from, 1);
    assert_eq!(verify(&pool, &schema).await.unwrap(), []);
    db.clean().await;
}

/// Two clients with different statements share few sessions: a statement of one must never run for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_meets_anothers_statements() {
    let Some((db, _)) = behind_pooler().await else { return };
    let tasks = (0..8).map(|task: i64| {
        let db = db.clone();
        tokio::spawn(async move {
            let pool = db.pool().max_connections(2).behind_pooler(true).build().unwrap();
            let text = if task % 2 == 0 { "select $1::text::bigint" } else { "select $1::text::bigint + 0" };
            let sql = pool.statement(Sql::new(&db.names("t"), &[text]));
            for round in 0..50 {
                let sql = sql.clone();
                let expected = task * 1000 + round;
                let told: Result<i64, _> = pool
                    .run("test", move |conn| {
                        let sql = sql.clone();
                        Box::pin(async move { sql.scalar().bind(expected.to_string()).fetch_one(conn).await })
                    })
                    .await;
                assert_eq!(told.unwrap(), expected);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    db.clean().await;
}

#[tokio::test]
async fn leases_are_kept_through_a_pooler() {
    let Some((db, pool)) = behind_pooler().await else { return };
    tables(&db, &pool, 8).await;
    let keepers = [1, 2].map(|_| {
        let store = PgLeaseStore::new(pool.clone(), &db.names("t"));
        LeaseKeeper::builder(store, SystemClock::new()).build().unwrap()
    });
    for _ in 0..3 {
        for keeper in &keepers {
            keeper.run_once().await.unwrap();
        }
    }
    assert_eq!(keepers.each_ref().map(|keeper| keeper.leases().held().len()), [4, 4]);
    db.clean().await;
}

#[tokio::test]
async fn bounds_of_one_transaction_do_not_stay_with_the_session() {
    let Some((db, pool)) = behind_pooler().await else { return };
    let short = db.pool().behind_pooler(true).call_timeout(Duration::from_millis(200)).build().unwrap();
    assert!(execute(&short, &db, "select pg_sleep(30)").await.is_err());
    for _ in 0..10 {
        let limit: String = read(&pool, &db, "select current_setting('statement_timeout')").await.unwrap();
        assert_eq!(limit, "10s");
    }
    db.clean().await;
}
