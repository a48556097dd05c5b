mod anomalies;
mod cancel;
pub(crate) mod child;
mod migrations;
mod plants;
mod poison;
mod producer;
mod sink;
mod subject;

use std::sync::Arc;

use clap::ValueEnum;

use crate::bench::{self, Bench};
use crate::report::Report;
use crate::sabotage;
use crate::stage::place::Kind::{Postgres, Sqlite};
use crate::stage::{backends, kill, network, points, restarts, shutdown, trouble, zombie};
use subject::Outbox;

/// What is done to the outbox: to its relays, its producers, and its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Test {
    /// Relays and producers on SQLite, SIGKILL at random moments.
    KillSqlite,
    /// The same on Postgres.
    KillPostgres,
    /// Relays on SQLite that stand still for longer than their lease, and go on.
    ZombieSqlite,
    /// The same on Postgres.
    ZombiePostgres,
    /// Sessions of relays and producers ended by the database.
    Backends,
    /// A Postgres server that crashes, and comes up again.
    Restarts,
    /// Connections cut, reset, delayed, stuck and lost.
    Network,
    /// Those who handle asked to stop at random moments, on SQLite.
    ShutdownSqlite,
    /// The same on Postgres.
    ShutdownPostgres,
    /// Senders on SQLite that panic, hang, refuse and answer wrongly.
    SendersSqlite,
    /// The same on Postgres.
    SendersPostgres,
    /// Wall clocks that jump, on SQLite.
    ClocksSqlite,
    /// The same on Postgres.
    ClocksPostgres,
    /// A message that kills its sender.
    Poison,
    /// Death at each named place, on SQLite.
    PointsSqlite,
    /// The same on Postgres.
    PointsPostgres,
    /// Futures that are dropped at every poll, on SQLite.
    CancelSqlite,
    /// The same on Postgres.
    CancelPostgres,
    /// Migrations at once, given up, and cut off.
    Migrations,
    /// What goes wrong with other statements.
    Anomalies,
    /// Bugs that the other tests must catch.
    Planted,
}

/// Runs the tests, all unless some are named.
pub(crate) async fn run(bench: &Arc<Bench>, only: &[Test]) -> Vec<Report> {
    bench::run_all(only, async |test: Test| test.run(bench).await).await
}

impl Test {
    async fn run(self, bench: &Arc<Bench>) -> Report {
        match self {
            Self::KillSqlite => kill::killed::<Outbox>(bench, "kill-sqlite", Sqlite).await,
            Self::KillPostgres => kill::killed::<Outbox>(bench, "kill-postgres", Postgres).await,
            Self::ZombieSqlite => zombie::stalled::<Outbox>(bench, "zombie-sqlite", Sqlite).await,
            Self::ZombiePostgres => zombie::stalled::<Outbox>(bench, "zombie-postgres", Postgres).await,
            Self::Backends => backends::ended::<Outbox>(bench).await,
            Self::Restarts => restarts::crashed::<Outbox>(bench).await,
            Self::Network => network::torn::<Outbox>(bench).await,
            Self::ShutdownSqlite => shutdown::stopped::<Outbox>(bench, "shutdown-sqlite", Sqlite).await,
            Self::ShutdownPostgres => shutdown::stopped::<Outbox>(bench, "shutdown-postgres", Postgres).await,
            Self::SendersSqlite => trouble::handlers::<Outbox>(bench, "senders-sqlite", Sqlite).await,
            Self::SendersPostgres => trouble::handlers::<Outbox>(bench, "senders-postgres", Postgres).await,
            Self::ClocksSqlite => trouble::clocks::<Outbox>(bench, "clocks-sqlite", Sqlite).await,
            Self::ClocksPostgres => trouble::clocks::<Outbox>(bench, "clocks-postgres", Postgres).await,
            Self::Poison => poison::poisoned(bench).await,
            Self::PointsSqlite => points::points::<Outbox>(bench, "points-sqlite", Sqlite).await,
            Self::PointsPostgres => points::points::<Outbox>(bench, "points-postgres", Postgres).await,
            Self::CancelSqlite => cancel::dropped(bench, "cancel-sqlite", Sqlite).await,
            Self::CancelPostgres => cancel::dropped(bench, "cancel-postgres", Postgres).await,
            Self::Migrations => migrations::torn(bench).await,
            Self::Anomalies => anomalies::shown(bench).await,
            Self::Planted => sabotage::planted(bench, &plants::PLANTS),
        }
    }
}
