//! The recipes on a SQLite file.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::path::PathBuf;
use std::time::Duration;

use diesel::Connection as _;
use diesel::connection::SimpleConnection as _;
use relaykit_outbox::Limits;
use relaykit_outbox::sqlite::rusqlite::Connection;
use relaykit_outbox::sqlite::{Database, SqliteOutbox, SqliteOutboxStore};
use relaykit_pipeline_traits::SystemClock;
use relaykit_recipes::sqlite;
use relaykit_sql_store::{Names, Shards};
use sqlx::{ConnectOptions as _, Connection as _};
use tempfile::TempDir;

/// A shop with an outbox, in a file.
struct Shop {
    directory: TempDir,
    store: SqliteOutboxStore,
    outbox: SqliteOutbox,
}

impl Shop {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shop.db");
        let database = Database::builder(&path, SystemClock::new()).open().unwrap();
        let store = SqliteOutboxStore::new(database, &Names::new("outbox").unwrap(), Shards::default());
        store.migrate().await.unwrap();
        Connection::open(&path).unwrap().execute_batch(common::tables!("")).unwrap();
        Self { directory, outbox: store.outbox(Limits::default()), store }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("shop.db")
    }
}

#[tokio::test]
async fn diesel_books_orders() {
    let shop = Shop::new().await;
    let mut conn = diesel::SqliteConnection::establish(shop.path().to_str().unwrap()).unwrap();
    conn.batch_execute("pragma busy_timeout = 5000").unwrap();
    common::check(shop.store.clone(), async |order, messages| {
        sqlite::diesel::book(&mut conn, &shop.outbox, order, messages)
    })
    .await;
}

#[tokio::test]
async fn sea_orm_books_orders() {
    let shop = Shop::new().await;
    let url = format!("sqlite://{}", shop.path().display());
    let db = sea_orm::Database::connect(url).await.unwrap();
    common::check(shop.store.clone(), async |order, messages| {
        sqlite::sea_orm::book(&db, &shop.outbox, order, messages).await
    })
    .await;
    db.close().await.unwrap();
}

#[tokio::test]
async fn sqlx_books_orders() {
    let shop = Shop::new().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(shop.path());
    let mut conn = options.busy_timeout(Duration::from_secs(5)).connect().await.unwrap();
    common::check(shop.store.clone(), async |order, messages| {
        sqlite::sqlx::book(&mut conn, &shop.outbox, order, messages).await
    })
    .await;
    conn.close().await.unwrap();
}
