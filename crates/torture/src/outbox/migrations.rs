use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use relaykit_outbox::postgres::PgSchema;
use relaykit_outbox::sqlite::{Database, SqliteOutboxStore, migration_sql, rusqlite};
use relaykit_outbox::{Depth, OutboxStore as _};
use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};
use relaykit_sql_store::postgres::TestPostgres;
use relaykit_sql_store::postgres::sqlx::{self, AssertSqlSafe};
use relaykit_sql_store::{Names, Shards};
use tokio::task::JoinSet;

use crate::bench::Bench;
use crate::drops;
use crate::report::Report;
use crate::stage::place::Kind;

/// How many migrate at once.
const MIGRATORS: u64 = 8;

/// How many polls a migration that is given up gets at most.
const POLLS: u64 = 30;

/// Many migrate at once, are given up, and have their sessions ended; and a script ends after each of its statements.
pub(crate) async fn torn(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("migrations");
    if !Kind::Postgres.is_there() {
        bench.skip(&mut report, "needs a Postgres server");
        return report;
    }
    for seed in bench.seed..bench.seed + bench.rounds(6, 300) {
        if bench.is_over(report.test) {
            break;
        }
        for result in [on_postgres(seed).await, on_sqlite(bench, seed).await] {
            match result {
                Ok(trials) => report.trials += trials,
                Err(error) => report.fail(format!("{error:#}; {}", bench.failed(report.test, seed))),
            }
        }
    }
    report
}

/// Where one sentence of a script ends and the next begins.
fn pieces(script: &str, end: &str) -> Vec<String> {
    let mut pieces: Vec<_> = script.split_inclusive(end).map(str::to_owned).collect();
    // What ends it commits.
    pieces.pop();
    pieces
}

async fn on_postgres(seed: u64) -> anyhow::Result<u64> {
    let mut rng = Rng::seeded(seed);
    let mut trials = 0;
    let db = TestPostgres::new().await.context("there is no server")?;
    let schema = PgSchema::new(db.names("t"));
    let script = schema.migration_sql();
    let statements = pieces(&script, "$relaykit_do$;\n");
    ensure!(statements.len() > 1, "the script has no parts");
    for count in 1..=statements.len() {
        let mut connection = db.connection().await;
        sqlx::raw_sql(AssertSqlSafe(statements[..count].concat())).execute(&mut connection).await?;
        // The session ends without a word.
        drop(connection);
        trials += 1;
    }
    // It waits for those that still hold the lock.
    let pool = db.pool().max_connections(2).build()?;
    let migrated = schema.migrate(&pool).await?;
    ensure!(migrated.from == 0, "something was left by a script that was cut off: {migrated:?}");
    db.execute(
        "insert into {messages} (shard, message_id, kind, payload, headers, occurred_at)
        select 0, gen_random_uuid(), 'kept', 'x', '{}', now() from generate_series(1, 5)",
    )
    .await;
    let with_archive = schema.clone().archive(true);
    let mut migrators = JoinSet::new();
    for _ in 0..MIGRATORS {
        let (db, schema, mut rng) = (db.clone(), with_archive.clone(), rng.fork());
        migrators.spawn(async move {
            let mut tries = 0_u64;
            loop {
                tries += 1;
                let pool = db.pool().max_connections(1).build()?;
                if tries < 20 && rng.chance(0.5) {
                    let polls = rng.below(POLLS);
                    drops::poll(async { drop(schema.migrate(&pool).await) }, polls, &mut rng).await;
                } else if schema.migrate(&pool).await.is_ok() {
                    return anyhow::Ok(tries);
                }
                ensure!(tries < 1_000, "a migration never succeeds");
            }
        });
    }
    let mut killer = db.connection().await;
    for _ in 0..10 {
        SystemClock::new().sleep(Duration::from_micros(rng.below(8_000))).await;
        sqlx::query(crate::stage::backends::END_ONE).execute(&mut killer).await?;
    }
    while let Some(tries) = migrators.join_next().await {
        trials += tries??;
    }
    let pool = db.pool().max_connections(2).build()?;
    let again = with_archive.migrate(&pool).await?;
    ensure!(again.from == again.to, "they all succeeded, and left this to do: {again:?}");
    let differences = with_archive.verify(&pool).await?;
    ensure!(differences.is_empty(), "{differences:?}");
    let kept = db.number("select count(*) from {messages}").await;
    ensure!(kept == 5, "of 5 messages that were there before, {kept} are");
    pool.close().await;
    db.clean().await;
    Ok(trials)
}

fn open(file: &Path, names: &Names) -> anyhow::Result<SqliteOutboxStore> {
    let database = Database::builder(file, SystemClock::new()).open()?;
    Ok(SqliteOutboxStore::new(database, names, Shards::default()))
}

async fn on_sqlite(bench: &Bench, seed: u64) -> anyhow::Result<u64> {
    let mut rng = Rng::seeded(seed);
    let folder = bench.fast_folder()?;
    let (file, names) = (folder.path().join("app.db"), Names::new("t")?.on_sqlite());
    let mut trials = 0;
    let script = migration_sql(&names, Shards::default());
    let statements = pieces(&script, ";\n");
    ensure!(statements.len() > 1, "the script has no parts");
    for count in 1..=statements.len() {
        let connection = rusqlite::Connection::open(&file)?;
        connection.execute_batch(&statements[..count].concat())?;
        drop(connection);
        trials += 1;
    }
    let store = open(&file, &names)?;
    let migrated = store.migrate().await?;
    ensure!(migrated.from == 0, "something was left by a script that was cut off: {migrated:?}");
    let mut migrators = JoinSet::new();
    for _ in 0..MIGRATORS {
        let (file, names, mut rng) = (file.clone(), names.clone(), rng.fork());
        migrators.spawn(async move {
            let mut tries = 0_u64;
            loop {
                tries += 1;
                let store = open(&file, &names)?.with_archive();
                if tries < 20 && rng.chance(0.5) {
                    let polls = rng.below(POLLS);
                    drops::poll(async { drop(store.migrate().await) }, polls, &mut rng).await;
                } else if store.migrate().await.is_ok() {
                    return anyhow::Ok(tries);
                }
                ensure!(tries < 1_000, "a migration never succeeds");
            }
        });
    }
    while let Some(tries) = migrators.join_next().await {
        trials += tries??;
    }
    let store = open(&file, &names)?.with_archive();
    let again = store.migrate().await?;
    ensure!(again.from == again.to, "they all succeeded, and left this to do: {again:?}");
    let differences = store.verify().await?;
    ensure!(differences.is_empty(), "{differences:?}");
    ensure!(store.depth().await? == Depth::default(), "the tables are not empty");
    Ok(trials)
}
