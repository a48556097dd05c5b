use relaykit_pipeline_traits::{Rng, SystemClock};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnectOptions;

use super::pool::Guarded;
use super::testing::TestPostgres;
use crate::Sql;

/// A role that can log in and may do nothing else than what a test grants. Feature `test-util`.
///
/// It stays after a test that failed; [`drop`](Self::drop) removes it.
#[derive(Debug)]
pub struct TestRole {
    name: String,
    options: PgConnectOptions,
}

impl TestRole {
    /// Makes it, with these grants, in which it is called `{role}`, and tables as in [`TestPostgres::execute`].
    ///
    /// # Panics
    ///
    /// The server refuses.
    pub async fn new(db: &TestPostgres, grants: &[&'static str]) -> Self {
        let name = format!("role_{:016x}", Rng::from_entropy().next_u64());
        let role = Self { options: db.options().username(&name).password("test"), name };
        role.run(db, "create role {role} login password 'test'; grant usage on schema {@schema} to {role}")
            .await;
        for grant in grants {
            role.run(db, grant).await;
        }
        role
    }

    /// Runs SQL that names it, not as it.
    ///
    /// # Panics
    ///
    /// The server refuses.
    pub async fn run(&self, db: &TestPostgres, sql: &'static str) {
        let sql = Sql::new(&db.names("t"), &[sql]);
        // Its name stands where a table's would.
        let sql = sql.as_str().replace(&db.names("t").table("role"), &self.name);
        let result = sqlx::raw_sql(AssertSqlSafe(sql.as_str())).execute(&mut db.connection().await).await;
        result.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Returns how it connects.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Makes a pool of its connections, on the real clock.
    ///
    /// # Panics
    ///
    /// Never: the settings are those by default.
    #[must_use]
    pub fn pool(&self) -> Guarded {
        let pool = Guarded::connect(self.options(), SystemClock::new()).build();
        pool.expect("the defaults are within bounds")
    }

    /// Removes it with what is its own.
    ///
    /// # Panics
    ///
    /// The server refuses.
    pub async fn drop(self, db: &TestPostgres) {
        self.run(db, "drop owned by {role}; drop role {role}").await;
    }
}
