use std::time::Duration;

use relaykit_outbox::conformance::Harness;
use relaykit_outbox::postgres::{PgOutbox, PgOutboxStore, PgSchema};
use relaykit_outbox::{AddError, Added, Limits};
use relaykit_pipeline_traits::{ManualClock, Message, MessageId, Rng, Timestamp};
use relaykit_sql_store::postgres::{Guarded, TestPostgres};
use relaykit_sql_store::{Shards, Sql};
use sqlx::Connection;

/// The environment variable with the URL of a `PgBouncer` before the server.
pub(crate) const TEST_PGBOUNCER: &str = "RELAYKIT_TEST_PGBOUNCER";

/// An outbox in a schema of its own.
pub(crate) struct Postgres {
    pub(crate) db: TestPostgres,
    pub(crate) pool: Guarded,
    pub(crate) outbox: PgOutbox,
    pub(crate) clock: ManualClock,
}

impl Postgres {
    pub(crate) async fn new() -> Option<Self> {
        Some(Self::on(TestPostgres::new().await?, false).await)
    }

    pub(crate) async fn behind_pooler() -> Option<Self> {
        Some(Self::on(TestPostgres::on(TEST_PGBOUNCER).await?, true).await)
    }

    async fn on(db: TestPostgres, pooler: bool) -> Self {
        let pool = db.pool().max_connections(6).behind_pooler(pooler).build().unwrap();
        let names = db.names("t");
        PgSchema::new(names.clone()).shards(Shards::new(16).unwrap()).migrate(&pool).await.unwrap();
        let outbox = PgOutbox::new(&names, Limits::default()).behind_pooler(pooler);
        Self { db, pool, outbox, clock: ManualClock::new() }
    }

    /// Runs SQL with one parameter, a number.
    async fn run(&self, sql: &'static str, number: i64) {
        let sql = Sql::new(&self.db.names("t"), &[sql]);
        // In a transaction: between two, a pooler may change the session, and with it the statement.
        let mut conn = self.db.connection().await;
        let mut tx = conn.begin().await.unwrap();
        sqlx::query(&sql).persistent(false).bind(number).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }
}

impl Harness for Postgres {
    type Store = PgOutboxStore;

    fn store(&self) -> PgOutboxStore {
        PgOutboxStore::new(self.pool.clone(), &self.db.names("t"))
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn add(&self, messages: &[Message], delay: Option<Duration>) -> Result<Vec<Added>, AddError> {
        let mut conn = self.db.connection().await;
        let mut tx = conn.begin().await.unwrap();
        let added = match delay {
            None => self.outbox.add_all(&mut tx, messages).await?,
            Some(delay) => {
                let mut added = Vec::new();
                for message in messages {
                    added.push(self.outbox.add_after(&mut tx, message, delay).await?);
                }
                added
            }
        };
        tx.commit().await.unwrap();
        Ok(added)
    }

    async fn add_and_abort(&self, messages: &[Message]) {
        let mut conn = self.db.connection().await;
        let mut tx = conn.begin().await.unwrap();
        self.outbox.add_all(&mut tx, messages).await.unwrap();
        tx.rollback().await.unwrap();
    }

    async fn pass(&self, time: Duration) {
        let micros = i64::try_from(time.as_micros()).unwrap();
        self.run(
            "update {messages} set added_at = added_at - $1 * interval '1 microsecond',
                retry_at = retry_at - $1 * interval '1 microsecond',
                first_failed_at = first_failed_at - $1 * interval '1 microsecond'",
            micros,
        )
        .await;
        self.run("update {shards} set until = until - $1 * interval '1 microsecond'", micros).await;
        self.run("update {members} set until = until - $1 * interval '1 microsecond'", micros).await;
    }
}

pub(crate) fn message(key: Option<&str>, payload: &str, rng: &mut Rng) -> Message {
    let at = Timestamp::from_millis(1_763_683_200_000);
    let builder = Message::builder(MessageId::new(at, rng), "case", at).payload(payload.to_owned());
    match key {
        Some(key) => builder.ordering_key(key).build().unwrap(),
        None => builder.build().unwrap(),
    }
}
