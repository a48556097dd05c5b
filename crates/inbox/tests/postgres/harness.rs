use std::time::Duration;

use relaykit_inbox::conformance::{Call, Harness, Script, TestError};
use relaykit_inbox::postgres::{PgInbox, PgInboxStore, PgSchema, PgTransactional, TransactionalHandler};
use relaykit_inbox::{Limits, Routes, Scope};
use relaykit_pipeline_traits::{BatchContext, ManualClock, Message, SystemClock, Verdict};
use relaykit_sql_store::postgres::{Guarded, TestPostgres, TestRole};
use relaykit_sql_store::{Names, Shards, Sql};
use sqlx::{Connection, PgConnection};

use crate::role::{MIGRATOR, RECEIVER, WORKER};

/// The environment variable with the URL of a `PgBouncer` before the server; `cargo xtask test` sets it if there is one.
pub(crate) const TEST_PGBOUNCER: &str = "RELAYKIT_TEST_PGBOUNCER";

/// An inbox in a schema of its own.
pub(crate) struct Postgres {
    db: TestPostgres,
    pool: Guarded,
    pooler: bool,
    clock: ManualClock,
}

impl Postgres {
    pub(crate) async fn new() -> Option<Self> {
        Some(Self::on(TestPostgres::new().await?, false).await)
    }

    pub(crate) async fn behind_pooler() -> Option<Self> {
        Some(Self::on(TestPostgres::on(TEST_PGBOUNCER).await?, true).await)
    }

    /// Nobody may do more than it must: the tables are a migrator's, and the store is that of a worker, which receives too.
    pub(crate) async fn under_roles() -> Option<Self> {
        let db = TestPostgres::new().await?;
        let migrator = TestRole::new(&db, &MIGRATOR).await;
        let pool = migrator.pool();
        schema(&db).migrate(&pool).await.unwrap();
        pool.close().await;
        let role = TestRole::new(&db, &WORKER).await;
        for grant in RECEIVER {
            role.run(&db, grant).await;
        }
        db.execute(EFFECTS).await;
        role.run(&db, "grant insert on {effects} to {role}").await;
        let pool = Guarded::connect(role.options(), SystemClock::new()).max_connections(8).build().unwrap();
        Some(Self { db, pool, pooler: false, clock: ManualClock::new() })
    }

    async fn on(db: TestPostgres, pooler: bool) -> Self {
        let pool = db.pool().max_connections(8).behind_pooler(pooler).build().unwrap();
        schema(&db).migrate(&pool).await.unwrap();
        db.execute(EFFECTS).await;
        Self { db, pool, pooler, clock: ManualClock::new() }
    }
}

const EFFECTS: &str = "create table {effects} (payload text not null)";

fn schema(db: &TestPostgres) -> PgSchema {
    PgSchema::new(db.names("t")).shards(Shards::new(16).unwrap())
}

/// Writes an effect, and does as it is told.
struct Writer {
    names: Names,
    pooler: bool,
    script: Script,
}

impl TransactionalHandler for Writer {
    type Error = TestError;

    async fn handle(
        &self,
        tx: &mut PgConnection,
        message: &Message,
        _: &BatchContext,
    ) -> Verdict<(), TestError> {
        let insert =
            Sql::new(&self.names, &["insert into {effects} (payload) values (convert_from($1, 'UTF8'))"]);
        let query = sqlx::query(insert).persistent(!self.pooler).bind(&message.payload()[..]);
        query.execute(tx).await.unwrap();
        match self.script.ask(message) {
            Call::Hang => std::future::pending().await,
            call => call.verdict(),
        }
    }
}

impl Harness for Postgres {
    type Store = PgInboxStore;

    fn store(&self) -> PgInboxStore {
        PgInboxStore::new(self.pool.clone(), &self.db.names("t"))
    }

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    async fn receive_and_abort(&self, scope: &Scope, messages: &[Message], routes: &Routes) {
        let inbox = PgInbox::new(&self.db.names("t"), routes.clone(), Limits::default());
        let mut conn = self.db.connection().await;
        let mut tx = conn.begin().await.unwrap();
        inbox.behind_pooler(self.pooler).receive_all(&mut tx, scope, messages).await.unwrap();
        tx.rollback().await.unwrap();
    }

    async fn pass(&self, time: Duration) {
        let micros = i64::try_from(time.as_micros()).unwrap();
        let mut conn = self.db.connection().await;
        // In a transaction: between two, a pooler may change the session, and with it the statement.
        let mut tx = conn.begin().await.unwrap();
        for sql in [
            "update {messages} set received_at = received_at - $1 * interval '1 microsecond'",
            "update {deliveries} set retry_at = retry_at - $1 * interval '1 microsecond',
                first_failed_at = first_failed_at - $1 * interval '1 microsecond'",
            "update {dead} set died_at = died_at - $1 * interval '1 microsecond'",
            "update {shards} set until = until - $1 * interval '1 microsecond'",
            "update {members} set until = until - $1 * interval '1 microsecond'",
        ] {
            let sql = Sql::new(&self.db.names("t"), &[sql]);
            sqlx::query(sql).persistent(false).bind(micros).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
    }

    fn writer(&self, script: Script) -> PgTransactional {
        Writer { names: self.db.names("t"), pooler: self.pooler, script }.into()
    }

    async fn effects(&self) -> Vec<String> {
        let mut conn = self.db.connection().await;
        let mut tx = conn.begin().await.unwrap();
        let sql = Sql::new(&self.db.names("t"), &["select payload from {effects}"]);
        let effects = sqlx::query_scalar(sql).persistent(false).fetch_all(&mut *tx).await;
        let mut effects: Vec<String> = effects.unwrap();
        effects.sort_unstable();
        effects
    }
}
