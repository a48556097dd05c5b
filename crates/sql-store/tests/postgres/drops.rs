//! A future that is dropped half-way must not cost anybody a write (T19).

use relaykit_pipeline_traits::SystemClock;
use relaykit_sql_store::Sql;
use relaykit_sql_store::postgres::{Guarded, TestPostgres};
use sqlx::postgres::PgPoolOptions;

use crate::common::{drop_after, execute, poll_once};

/// Beyond the polls that any of these futures needs.
const MAX_POLLS: usize = 12;

async fn tables(db: &TestPostgres) {
    db.execute("create table {rows} (id bigint generated always as identity, what text)").await;
}

/// Pools with one connection each, so that the next call meets what the one before has left.
async fn pools(db: &TestPostgres) -> [(Guarded, sqlx::PgPool); 2] {
    let foreign = PgPoolOptions::new().max_connections(1).connect_with(db.options()).await.unwrap();
    let shared = Guarded::shared(foreign.clone(), SystemClock::new()).build().unwrap();
    let unused = PgPoolOptions::new().max_connections(1).connect_lazy_with(db.options());
    [(shared, foreign), (db.pool().max_connections(1).build().unwrap(), unused)]
}

async fn insert(pool: &Guarded, db: &TestPostgres) {
    execute(pool, db, "insert into {rows} (what) values ('acknowledged')").await.unwrap();
}

#[tokio::test]
async fn a_write_is_durable_though_a_begin_was_dropped_before_it_at_any_poll() {
    let Some(db) = TestPostgres::new().await else { return };
    tables(&db).await;
    let mut acknowledged = 0;
    for (pool, foreign) in pools(&db).await {
        for polls in 0..MAX_POLLS {
            drop(drop_after(polls, pool.begin("test")).await);
            insert(&pool, &db).await;
            acknowledged += 1;
        }
        pool.close().await;
        foreign.close().await;
    }
    assert_eq!(db.number("select count(*) from {rows}").await, acknowledged);
    db.clean().await;
}

/// The reason for all this: sqlx's own `begin`, dropped by the others who use the pool.
#[tokio::test]
async fn a_write_is_durable_though_others_drop_their_begin_on_the_shared_pool() {
    let Some(db) = TestPostgres::new().await else { return };
    tables(&db).await;
    let [(pool, foreign), _] = pools(&db).await;
    let mut acknowledged = 0;
    for round in 0..5 {
        for polls in 0..MAX_POLLS {
            drop(drop_after(polls, foreign.begin()).await);
            if round % 2 == 0 {
                insert(&pool, &db).await;
            } else {
                let mut tx = pool.begin("test").await.unwrap();
                let sql =
                    Sql::new(&db.names("t"), &["insert into {rows} (what) values ('in a transaction')"]);
                sqlx::query(sql).execute(&mut *tx).await.unwrap();
                tx.commit().await.unwrap();
            }
            acknowledged += 1;
        }
    }
    foreign.close().await;
    assert_eq!(db.number("select count(*) from {rows}").await, acknowledged);
    db.clean().await;
}

#[tokio::test]
async fn what_others_forgot_in_a_transaction_is_not_committed_with_ours() {
    let Some(db) = TestPostgres::new().await else { return };
    tables(&db).await;
    let [(pool, foreign), _] = pools(&db).await;
    for _ in 0..2 {
        let sql = Sql::new(&db.names("t"), &["begin; insert into {rows} (what) values ('forgotten')"]);
        sqlx::raw_sql(sql).execute(&foreign).await.unwrap();
        let tx = pool.begin("test").await.unwrap();
        tx.commit().await.unwrap();
        insert(&pool, &db).await;
    }
    assert_eq!(db.number("select count(*) from {rows} where what = 'forgotten'").await, 0);
    assert_eq!(db.number("select count(*) from {rows}").await, 2);
    db.clean().await;
}

#[tokio::test]
async fn a_call_that_is_dropped_at_any_poll_leaves_its_connection_clean() {
    let Some(db) = TestPostgres::new().await else { return };
    tables(&db).await;
    let mut acknowledged = 0;
    for (pool, foreign) in pools(&db).await {
        for polls in 0..MAX_POLLS {
            let call = execute(&pool, &db, "insert into {rows} (what) values ('dropped')");
            drop(drop_after(polls, call).await);
            let name = db.names("t");
            let call = pool.transaction("test", move |conn| {
                let sql = Sql::new(&name, &["insert into {rows} (what) values ('dropped')"]);
                Box::pin(async move {
                    sqlx::query(sql).execute(conn).await?;
                    Ok(relaykit_sql_store::postgres::Finish::Commit(()))
                })
            });
            drop(drop_after(polls, call).await);
            insert(&pool, &db).await;
            acknowledged += 1;
        }
        pool.close().await;
        foreign.close().await;
    }
    let durable = db.number("select count(*) from {rows} where what = 'acknowledged'").await;
    assert_eq!(durable, acknowledged);
    let idle = "select count(*) from pg_stat_activity \
                where state like 'idle in transaction%' and application_name = trim('\"' from '{@schema}')";
    assert_eq!(db.number(idle).await, 0);
    db.clean().await;
}

#[tokio::test]
async fn a_call_goes_on_though_nobody_waits_for_it() {
    let Some(db) = TestPostgres::new().await else { return };
    tables(&db).await;
    let pool = db.pool().max_connections(1).build().unwrap();
    assert!(poll_once(execute(&pool, &db, "insert into {rows} (what) values ('dropped')")).is_none());
    // The one connection is free again only when that call has ended.
    insert(&pool, &db).await;
    assert_eq!(db.number("select count(*) from {rows}").await, 2);
    db.clean().await;
}
