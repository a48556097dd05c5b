//! Roles with the least rights that they need, as the docs of `relaykit_outbox::postgres` list them.

use relaykit_pipeline_traits::{Rng, SystemClock};
use relaykit_sql_store::Sql;
use relaykit_sql_store::postgres::{Guarded, TestPostgres};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnectOptions;

/// What a writer needs.
pub(crate) const WRITER: [&str; 2] =
    ["grant insert, select on {messages} to {role}", "grant usage on sequence {messages_seq} to {role}"];

/// What a relay needs.
pub(crate) const RELAY: [&str; 3] = [
    "grant select, insert, update, delete on {messages}, {dead}, {members} to {role}",
    "grant select, update on {shards} to {role}",
    "grant select on sequence {messages_seq} to {role}",
];

/// What a migrator needs.
pub(crate) const MIGRATOR: [&str; 1] = ["grant create on schema {@schema} to {role}"];

/// A role that can log in and may do nothing else than what a test grants.
pub(crate) struct Role {
    name: String,
    pub(crate) options: PgConnectOptions,
}

impl Role {
    pub(crate) async fn new(db: &TestPostgres, grants: &[&'static str]) -> Self {
        let name = format!("role_{:016x}", Rng::from_entropy().next_u64());
        let role = Self { options: db.options().username(&name).password("test"), name };
        role.run(db, "create role {role} login password 'test'; grant usage on schema {@schema} to {role}")
            .await;
        for grant in grants {
            role.run(db, grant).await;
        }
        role
    }

    pub(crate) async fn run(&self, db: &TestPostgres, sql: &'static str) {
        let sql = Sql::new(&db.names("t"), &[sql]);
        // Its name stands where a table's would.
        let sql = sql.as_str().replace(&db.names("t").table("role"), &self.name);
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db.connection().await).await.unwrap();
    }

    pub(crate) fn pool(&self) -> Guarded {
        Guarded::connect(self.options.clone(), SystemClock::new()).build().unwrap()
    }

    pub(crate) async fn drop(self, db: &TestPostgres) {
        self.run(db, "drop owned by {role}; drop role {role}").await;
    }
}
