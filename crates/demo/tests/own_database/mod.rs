//! A database for one test: relays that share an outbox bring each other's receipts away.

use relaykit_pipeline_traits::Rng;
use relaykit_sql_store::postgres::TEST_POSTGRES;
use relaykit_sql_store::postgres::sqlx::{self, AssertSqlSafe, Connection as _, PgConnection};
use reqwest::Url;

/// A database that is there for one test. It stays if the test failed.
pub(crate) struct OwnDatabase {
    server: String,
    name: String,
    pub(crate) url: String,
}

impl OwnDatabase {
    /// Makes it; `None` if there is no server, and the test is to be skipped.
    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    pub(crate) async fn new() -> Option<Self> {
        let Ok(server) = std::env::var(TEST_POSTGRES) else {
            assert!(
                std::env::var_os("CI").is_none(),
                "{TEST_POSTGRES} is not set, and nothing may be skipped in CI"
            );
            eprintln!("skip: {TEST_POSTGRES} is not set; `cargo xtask test` sets it");
            return None;
        };
        let name = format!("demo_{:016x}", Rng::from_entropy().next_u64());
        let mut url = Url::parse(&server).expect("the URL is one");
        url.set_path(&name);
        let this = Self { server, name, url: url.to_string() };
        this.execute("create database").await;
        Some(this)
    }

    pub(crate) async fn drop(self) {
        self.execute("drop database").await;
    }

    async fn execute(&self, what: &str) {
        let mut server = PgConnection::connect(&self.server).await.expect("the server takes connections");
        let sql = format!("{what} {}", self.name);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut server).await.expect("the server does as it is told");
    }
}
