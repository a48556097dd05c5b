use std::time::Duration;

use anyhow::bail;
use relaykit_pipeline_traits::{Clock, SystemClock};

use super::database::Database;
use super::drain;
use super::setting::{Cost, Setting};
use super::statements::Statements;
use crate::workload::Measurement;

/// Measures what sending a message of a backlog costs; what adding it cost is left out.
///
/// # Errors
///
/// The server fails, or something else arrived than was added.
pub(super) async fn measure(case: &str, setting: &Setting, cost: Cost) -> anyhow::Result<Measurement> {
    Statements::watch()?;
    let database = Database::new().await?;
    let before = dead_tuples(&database).await;
    let drained = drain::run(&database, setting).await?;
    let dead = settled_tuples(&database, drained.messages).await? - before;
    database.clean().await?;
    let a_message = |count: i64| whole(count) / f64::from(drained.messages);
    let statements = a_message(i64::try_from(drained.statements)?);
    let (wal, dead) = (a_message(drained.wal_bytes), a_message(dead));
    let measurement = match cost {
        Cost::Statements => Measurement::new(case, statements, "statements"),
        Cost::WalBytes => Measurement::new(case, wal, "bytes"),
        Cost::DeadTuples => Measurement::new(case, dead, "tuples"),
    };
    Ok(drained
        .describe(measurement)
        .with("statements", statements)
        .with("wal_bytes", wal)
        .with("dead_tuples", dead))
}

#[expect(clippy::cast_precision_loss, reason = "no count comes near 2^53")]
fn whole(count: i64) -> f64 {
    count as f64
}

/// Returns how many row versions died, as far as the server's statistics know.
async fn dead_tuples(database: &Database) -> i64 {
    let sum = "select coalesce(sum(n_tup_upd + n_tup_del), 0) from pg_stat_user_tables \
               where schemaname = split_part('{@schema}', '\"', 2)";
    database.server.number(sum).await
}

/// Waits until the statistics have every session's part.
async fn settled_tuples(database: &Database, least: u32) -> anyhow::Result<i64> {
    let clock = SystemClock::new();
    for _ in 0..100 {
        let dead = dead_tuples(database).await;
        if dead >= i64::from(least) {
            clock.sleep(Duration::from_millis(200)).await;
            return Ok(dead_tuples(database).await);
        }
        clock.sleep(Duration::from_millis(50)).await;
    }
    bail!("the server's statistics do not know of {least} deleted rows")
}
