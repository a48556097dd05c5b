use std::time::Duration;

use relaykit_pipeline_traits::{Clock, SystemClock};

use super::common::Arrivals;
use super::database::Database;
use super::drain::Relays;
use super::setting::{On, Setting, Side, Work};
use super::statements::Statements;
use crate::workload::Measurement;

/// How long a relay has had nothing to do before it is looked at, so that it waits as long as it ever does between two looks.
const BEFORE: Duration = Duration::from_secs(26);

/// For how long it is looked at.
const TIME: Duration = Duration::from_secs(30);

/// Measures how many statements a second a relay sends that has nothing to do.
///
/// # Errors
///
/// The server fails.
pub(super) async fn measure(case: &str) -> anyhow::Result<Measurement> {
    Statements::watch()?;
    let (database, clock) = (Database::new().await?, SystemClock::new());
    let setting = Setting { side: Side::Ours, work: Work::Idle, on: On::Postgres, batch: 100, workers: 1 };
    let mut relays = Relays::start(&database, &setting, &Arrivals::new(1)).await?;
    clock.sleep(BEFORE).await;
    let transactions = transactions(&database).await;
    let before = Statements::count();
    clock.sleep(TIME).await;
    let statements = Statements::count() - before;
    let transactions = self::transactions(&database).await - transactions;
    relays.stop().await?;
    relays.close().await;
    database.clean().await?;
    let rate = f64::from(u32::try_from(statements)?) / TIME.as_secs_f64();
    Ok(Measurement::new(case, rate, "statements/s")
        .with("statements", statements)
        .with("transactions_of_the_server", transactions)
        .with("seconds", TIME.as_secs()))
}

/// Returns how many transactions there were in the database, those of its own upkeep among them.
async fn transactions(database: &Database) -> i64 {
    let committed = "select xact_commit from pg_stat_database where datname = current_database()";
    database.server.number(committed).await
}
