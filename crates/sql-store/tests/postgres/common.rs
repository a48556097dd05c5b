use std::pin::pin;
use std::task::{Context, Poll, Waker};

use relaykit_sql_store::postgres::{Guarded, LEASE_MIGRATION, LEASE_TABLES, TestPostgres, migrate};
use relaykit_sql_store::{Migration, Schema, Sql, StoreError};

/// Polls a future up to `polls` times, then drops it. A poll comes when the future asks for one.
///
/// Returns its output if it ended first.
pub(crate) async fn drop_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Polls a future once.
pub(crate) fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// A migration that makes the lease tables and one more.
pub(crate) static TABLES: [Migration; 1] = [Migration {
    version: 1,
    name: "tables",
    parts: &[LEASE_MIGRATION, "create table {messages} (id int primary key, shard int not null); "],
}];

/// Makes tables with so many shards, and returns how they are described.
pub(crate) async fn tables(db: &TestPostgres, pool: &Guarded, shards: i64) -> Schema {
    let schema = Schema::new(db.names("t"), &TABLES, &LEASE_TABLES).with_number("shards", shards);
    migrate(pool, &schema).await.unwrap();
    schema
}

/// Runs a statement without parameters and without rows.
pub(crate) async fn execute(pool: &Guarded, db: &TestPostgres, sql: &'static str) -> Result<(), StoreError> {
    let sql = pool.statement(Sql::new(&db.names("t"), &[sql]));
    pool.run("test", move |conn| {
        let sql = sql.clone();
        Box::pin(async move { sql.query().execute(conn).await.map(drop) })
    })
    .await
}

/// Reads one value.
pub(crate) async fn read<T>(pool: &Guarded, db: &TestPostgres, sql: &'static str) -> Result<T, StoreError>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin + 'static,
{
    let sql = pool.statement(Sql::new(&db.names("t"), &[sql]));
    pool.run("test", move |conn| {
        let sql = sql.clone();
        Box::pin(async move { sql.scalar().fetch_one(conn).await })
    })
    .await
}
