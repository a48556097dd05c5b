use std::env;

use relaykit_pipeline_traits::{Clock, Rng, SystemClock};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};

use super::pool::{Guarded, GuardedBuilder};
use crate::{Ident, Names, Sql};

/// The environment variable that holds the URL of a server for tests; `cargo xtask test` sets it.
pub const TEST_POSTGRES: &str = "RELAYKIT_TEST_POSTGRES";

/// A schema of its own for one test. Feature `test-util`.
///
/// It stays after a test that failed, to be looked at; [`clean`](Self::clean) removes it.
#[derive(Debug, Clone)]
pub struct TestPostgres {
    options: PgConnectOptions,
    schema: Ident,
}

impl TestPostgres {
    /// Makes the schema on the server of [`TEST_POSTGRES`]. Without a server, the test is to be skipped.
    ///
    /// # Panics
    ///
    /// There is no server and this is CI, or the server does not do as it is told.
    pub async fn new() -> Option<Self> {
        Self::on(TEST_POSTGRES).await
    }

    /// Makes the schema on the server of another environment variable, such as one behind a pooler.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    pub async fn on(variable: &str) -> Option<Self> {
        let Ok(url) = env::var(variable) else {
            let ci = env::var("CI").is_ok_and(|ci| !matches!(ci.as_str(), "" | "0" | "false"));
            assert!(!ci, "{variable} is not set, and nothing may be skipped in CI: run `cargo xtask test`");
            eprintln!("skip: {variable} is not set; `cargo xtask test` sets it");
            return None;
        };
        let options: PgConnectOptions = url.parse().expect("the URL is one of Postgres");
        let schema = format!("t{}_{:016x}", std::process::id(), Rng::from_entropy().next_u64());
        let schema = Ident::new(schema).expect("it is made of letters and digits");
        let this = Self { options: options.application_name(schema.as_str()), schema };
        this.execute("create schema {@schema}").await;
        Some(this)
    }

    /// Returns how to connect to the server. The application's name is the schema's, for a look at the sessions.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Returns names in the schema.
    ///
    /// # Panics
    ///
    /// The prefix is none.
    #[must_use]
    pub fn names(&self, prefix: &str) -> Names {
        let names = Names::new(prefix).and_then(|names| names.in_schema(self.schema.as_str()));
        names.expect("the prefix is an identifier")
    }

    /// Begins a guarded pool on the real clock.
    pub fn pool(&self) -> GuardedBuilder {
        self.pool_on(SystemClock::new())
    }

    /// Begins a guarded pool on a clock.
    pub fn pool_on(&self, clock: impl Clock) -> GuardedBuilder {
        Guarded::connect(self.options(), clock)
    }

    /// Opens a connection.
    ///
    /// # Panics
    ///
    /// The server refuses.
    pub async fn connection(&self) -> PgConnection {
        self.options.connect().await.expect("the server for tests takes connections")
    }

    /// Runs SQL on a connection of its own; tables are called by the prefix `t`, as in `{messages}`.
    ///
    /// # Panics
    ///
    /// The server refuses.
    pub async fn execute(&self, sql: &'static str) {
        let sql = Sql::new(&self.names("t"), &[sql]);
        let result = sqlx::raw_sql(sql.clone()).execute(&mut self.connection().await).await;
        result.unwrap_or_else(|error| panic!("{}: {error}", sql.as_str()));
    }

    /// Reads one number; tables are called as in [`execute`](Self::execute).
    ///
    /// # Panics
    ///
    /// The server refuses.
    pub async fn number(&self, sql: &'static str) -> i64 {
        let sql = Sql::new(&self.names("t"), &["select (", sql, ")::bigint"]);
        let result =
            sqlx::query_scalar(sql.clone()).persistent(false).fetch_one(&mut self.connection().await).await;
        result.unwrap_or_else(|error| panic!("{}: {error}", sql.as_str()))
    }

    /// Removes the schema with all that is in it.
    ///
    /// # Panics
    ///
    /// The server refuses.
    pub async fn clean(self) {
        self.execute("drop schema {@schema} cascade").await;
    }
}
