//! The recipes on a real Postgres. `cargo xtask test` starts one.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::env;

use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use diesel_async::{AsyncConnection as _, SimpleAsyncConnection as _};
use relaykit_outbox::Limits;
use relaykit_outbox::postgres::{PgOutbox, PgOutboxStore, PgSchema};
use relaykit_recipes::postgres;
use relaykit_sql_store::postgres::{Guarded, TEST_POSTGRES, TestPostgres};

/// A shop with an outbox, in a schema of its own.
struct Shop {
    db: TestPostgres,
    pool: Guarded,
    store: PgOutboxStore,
    outbox: PgOutbox,
    url: String,
    schema: String,
}

impl Shop {
    async fn new() -> Option<Self> {
        let db = TestPostgres::new().await?;
        db.execute(common::tables!("{@schema}.")).await;
        let (names, pool) = (db.names("outbox"), db.pool().build().unwrap());
        PgSchema::new(names.clone()).migrate(&pool).await.unwrap();
        Some(Self {
            store: PgOutboxStore::new(pool.clone(), &names),
            outbox: PgOutbox::new(&names, Limits::default()),
            url: env::var(TEST_POSTGRES).unwrap(),
            schema: names.schema().unwrap().as_str().to_owned(),
            db,
            pool,
        })
    }

    /// What leads a connection to the shop's tables.
    fn search_path(&self) -> String {
        format!("set search_path to {}", self.schema)
    }

    async fn clean(self) {
        self.pool.close().await;
        self.db.clean().await;
    }
}

#[tokio::test]
async fn diesel_books_orders() {
    let Some(shop) = Shop::new().await else { return };
    let mut conn = diesel::PgConnection::establish(&shop.url).unwrap();
    conn.batch_execute(&shop.search_path()).unwrap();
    common::check(shop.store.clone(), async |order, messages| {
        postgres::diesel::book(&mut conn, &shop.outbox, order, messages)
    })
    .await;
    shop.clean().await;
}

#[tokio::test]
async fn diesel_async_books_orders() {
    let Some(shop) = Shop::new().await else { return };
    let mut conn = diesel_async::AsyncPgConnection::establish(&shop.url).await.unwrap();
    conn.batch_execute(&shop.search_path()).await.unwrap();
    common::check(shop.store.clone(), async |order, messages| {
        postgres::diesel_async::book(&mut conn, &shop.outbox, order, messages).await
    })
    .await;
    drop(conn);
    shop.clean().await;
}

#[tokio::test]
async fn sea_orm_books_orders() {
    let Some(shop) = Shop::new().await else { return };
    let mut options = sea_orm::ConnectOptions::new(&shop.url);
    options.set_schema_search_path(&shop.schema).max_connections(2);
    let db = sea_orm::Database::connect(options).await.unwrap();
    common::check(shop.store.clone(), async |order, messages| {
        postgres::sea_orm::book(&db, &shop.outbox, order, messages).await
    })
    .await;
    db.close().await.unwrap();
    shop.clean().await;
}

#[tokio::test]
async fn tokio_postgres_books_orders() {
    let Some(shop) = Shop::new().await else { return };
    let (mut client, connection) = tokio_postgres::connect(&shop.url, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(&shop.search_path()).await.unwrap();
    common::check(shop.store.clone(), async |order, messages| {
        postgres::tokio_postgres::book(&mut client, &shop.outbox, order, messages).await
    })
    .await;
    drop(client);
    connection.await.unwrap().unwrap();
    shop.clean().await;
}
