use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use relaykit_pipeline_traits::Classify;
use relaykit_sql_store::postgres::{Finish, TestPostgres};
use relaykit_sql_store::{SchemaError, Sql, StoreError};

use crate::common::{execute, read};

#[tokio::test]
async fn a_call_that_takes_too_long_ends_and_its_connection_is_not_used_again() {
    let Some(db) = TestPostgres::new().await else { return };
    let limit = Duration::from_millis(100);
    let pool = db.pool().max_connections(1).call_timeout(limit).build().unwrap();
    let before: i32 = read(&pool, &db, "select pg_backend_pid()").await.unwrap();
    let error = execute(&pool, &db, "select pg_sleep(60)").await.unwrap_err();
    assert!(matches!(error, StoreError::Timeout { op: "test", limit: l } if l == limit), "{error:?}");
    assert!(error.is_transient() && error.is_in_doubt());
    let after: i32 = read(&pool, &db, "select pg_backend_pid()").await.unwrap();
    assert_ne!(before, after);
    db.clean().await;
}

#[tokio::test]
async fn in_a_transaction_the_server_keeps_the_bounds_as_well_and_forgets_them_afterwards() {
    let Some(db) = TestPostgres::new().await else { return };
    let pool = db.pool().max_connections(1).build().unwrap();
    let limits = pool.transaction_within("test", Duration::from_secs(7), |conn| {
        Box::pin(async move {
            sqlx::query_as::<_, (String, String, String)>("select current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'), current_setting('transaction_isolation')")
                .fetch_one(conn)
                .await
                .map(Finish::Commit)
        })
    });
    let expected = ("7s".to_owned(), "7s".to_owned(), "read committed".to_owned());
    assert_eq!(limits.await.unwrap(), expected);
    let after: String = read(&pool, &db, "select current_setting('statement_timeout')").await.unwrap();
    assert_eq!(after, "0");
    db.clean().await;
}

#[tokio::test]
async fn a_session_that_stays_idle_in_a_transaction_is_ended_by_the_server() {
    let Some(db) = TestPostgres::new().await else { return };
    let pool = db.pool().max_connections(1).call_timeout(Duration::from_millis(150)).build().unwrap();
    let mut tx = pool.begin("test").await.unwrap();
    let watcher = db.pool().build().unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *tx).await.unwrap();
    let gone = watcher.run("test", move |conn| {
        Box::pin(async move {
            loop {
                let alive: i64 = sqlx::query_scalar("select count(*) from pg_stat_activity where pid = $1")
                    .bind(pid)
                    .fetch_one(&mut *conn)
                    .await?;
                if alive == 0 {
                    return Ok(());
                }
            }
        })
    });
    gone.await.unwrap();
    assert!(sqlx::query("select 1").execute(&mut *tx).await.is_err());
    drop(tx);
    // The pool notices, too.
    execute(&pool, &db, "select 1").await.unwrap();
    db.clean().await;
}

#[tokio::test]
async fn waiting_for_a_connection_has_a_bound() {
    let Some(db) = TestPostgres::new().await else { return };
    let limit = Duration::from_millis(50);
    let pool = db.pool().max_connections(1).acquire_timeout(limit).build().unwrap();
    let held = pool.begin("hold").await.unwrap();
    let error = execute(&pool, &db, "select 1").await.unwrap_err();
    assert!(matches!(error, StoreError::PoolTimeout { limit: l, .. } if l == limit), "{error:?}");
    assert_eq!(error.to_string(), "could not test: no connection was free within 50ms");
    held.rollback().await.unwrap();
    execute(&pool, &db, "select 1").await.unwrap();
    db.clean().await;
}

/// Raises a serialization failure as often as told.
async fn conflicts(db: &TestPostgres, times: u32) -> (Result<u32, StoreError>, u32) {
    let pool = db.pool().build().unwrap();
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    let result = pool.transaction("test", move |conn| {
        let attempt = counted.fetch_add(1, Ordering::Relaxed) + 1;
        Box::pin(async move {
            if attempt <= times {
                let raise = "do $$ begin raise exception 'lost' using errcode = '40001'; end $$";
                sqlx::raw_sql(raise).execute(conn).await?;
            }
            Ok(Finish::Commit(attempt))
        })
    });
    (result.await, tries.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_transaction_that_lost_is_tried_again_up_to_five_times() {
    let Some(db) = TestPostgres::new().await else { return };
    assert_eq!(conflicts(&db, 4).await.0.unwrap(), 5);
    let (result, tries) = conflicts(&db, u32::MAX).await;
    assert!(matches!(result, Err(StoreError::Conflict { tries: 5, .. })), "{result:?}");
    assert_eq!(tries, 5);
    db.clean().await;
}

#[tokio::test]
async fn two_that_deadlock_both_succeed() {
    let Some(db) = TestPostgres::new().await else { return };
    db.execute("create table {rows} (id int primary key, n int not null default 0)").await;
    db.execute("insert into {rows} (id) values (1), (2)").await;
    let pool = db.pool().build().unwrap();
    let met = Arc::new(tokio::sync::Barrier::new(2));
    let bump = |first: i32, second: i32| {
        let (met, names) = (Arc::clone(&met), db.names("t"));
        let tries = Arc::new(AtomicU32::new(0));
        pool.transaction("test", move |conn| {
            let met = (tries.fetch_add(1, Ordering::Relaxed) == 0).then(|| Arc::clone(&met));
            let sql = Sql::new(&names, &["update {rows} set n = n + 1 where id = $1"]);
            Box::pin(async move {
                sqlx::query(sql.clone()).bind(first).execute(&mut *conn).await?;
                if let Some(met) = met {
                    met.wait().await;
                }
                sqlx::query(sql).bind(second).execute(conn).await?;
                Ok(Finish::Commit(()))
            })
        })
    };
    let (one, two) = tokio::join!(bump(1, 2), bump(2, 1));
    one.unwrap();
    two.unwrap();
    assert_eq!(db.number("select sum(n) from {rows}").await, 4);
    db.clean().await;
}

#[tokio::test]
async fn a_rollback_leaves_nothing_and_a_commit_everything() {
    let Some(db) = TestPostgres::new().await else { return };
    db.execute("create table {rows} (id int primary key)").await;
    let pool = db.pool().max_connections(1).build().unwrap();
    for commit in [false, true] {
        let names = db.names("t");
        let told = pool.transaction("test", move |conn| {
            let sql = Sql::new(&names, &["insert into {rows} values (1)"]);
            Box::pin(async move {
                sqlx::query(sql).execute(conn).await?;
                Ok(if commit { Finish::Commit("in") } else { Finish::Rollback("out") })
            })
        });
        assert_eq!(told.await.unwrap(), if commit { "in" } else { "out" });
        assert_eq!(db.number("select count(*) from {rows}").await, i64::from(commit));
    }
    db.clean().await;
}

#[tokio::test]
async fn errors_say_what_to_do_and_never_what_a_row_holds() {
    let Some(db) = TestPostgres::new().await else { return };
    db.execute("create table {rows} (id text primary key)").await;
    let pool = db.pool().build().unwrap();
    let missing = execute(&pool, &db, "select from {nothing}").await.unwrap_err();
    let StoreError::Schema { source: SchemaError::Missing { .. }, .. } = &missing else {
        panic!("{missing:?}")
    };
    assert!(!missing.is_transient());
    let twice = execute(&pool, &db, "insert into {rows} values ('CANARY'), ('CANARY')").await.unwrap_err();
    assert!(matches!(twice, StoreError::Rejected { .. }), "{twice:?}");
    assert!(!twice.to_string().contains("CANARY"));
    assert!(!twice.source().unwrap().to_string().contains("CANARY"));
    let unreadable = read::<i64>(&pool, &db, "select 'text'").await.unwrap_err();
    assert!(matches!(unreadable, StoreError::Unreadable { .. }), "{unreadable:?}");
    db.clean().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let Some(db) = TestPostgres::new().await else { return };
    let options = db.options().host("127.0.0.1").socket("/nonexistent").port(9);
    let clock = relaykit_pipeline_traits::SystemClock::new();
    let pool = relaykit_sql_store::postgres::Guarded::connect(options, clock);
    let pool = pool.acquire_timeout(Duration::from_secs(2)).build().unwrap();
    let error = execute(&pool, &db, "select 1").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. } | StoreError::PoolTimeout { .. }), "{error:?}");
    assert!(error.is_transient());
    db.clean().await;
}

#[tokio::test]
async fn a_connection_that_the_server_ended_costs_one_call_at_most() {
    let Some(db) = TestPostgres::new().await else { return };
    let pool = db.pool().max_connections(1).build().unwrap();
    let pid: i32 = read(&pool, &db, "select pg_backend_pid()").await.unwrap();
    sqlx::query("select pg_terminate_backend($1, 5000)")
        .bind(pid)
        .execute(&mut db.connection().await)
        .await
        .unwrap();
    if let Err(error) = execute(&pool, &db, "select 1").await {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        execute(&pool, &db, "select 1").await.unwrap();
    }
    db.clean().await;
}

#[tokio::test]
async fn plans_that_no_longer_fit_the_table_cost_one_call_at_most() {
    let Some(db) = TestPostgres::new().await else { return };
    db.execute("create table {rows} (id int); insert into {rows} values (1)").await;
    let pool = db.pool().max_connections(1).build().unwrap();
    execute(&pool, &db, "select * from {rows}").await.unwrap();
    db.execute("alter table {rows} add more int").await;
    let error = execute(&pool, &db, "select * from {rows}").await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    execute(&pool, &db, "select * from {rows}").await.unwrap();
    db.clean().await;
}

#[tokio::test]
#[should_panic(expected = "the work's own")]
async fn a_panic_of_the_work_reaches_the_caller() {
    let Some(db) = TestPostgres::new().await else { panic!("the work's own, not shown: skipped") };
    let pool = db.pool().build().unwrap();
    let _: Result<(), _> = pool.run("test", |_| Box::pin(async { panic!("the work's own") })).await;
}
