mod cancel;
pub(crate) mod child;
mod handlers;
mod plants;
mod receiver;
mod stream;
mod subject;

use std::sync::Arc;

use clap::ValueEnum;

use crate::bench::{self, Bench};
use crate::report::Report;
use crate::sabotage;
use crate::stage::place::Kind::{Postgres, Sqlite};
use crate::stage::{backends, kill, network, points, restarts, shutdown, trouble, zombie};
use subject::Inbox;

/// What is done to the inbox: to its workers, those who receive, and its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Test {
    /// Workers and receivers on SQLite, SIGKILL at random moments.
    KillSqlite,
    /// The same on Postgres.
    KillPostgres,
    /// Workers on SQLite that stand still for longer than their lease, and go on.
    ZombieSqlite,
    /// The same on Postgres.
    ZombiePostgres,
    /// Sessions of workers and receivers ended by the database.
    Backends,
    /// A Postgres server that crashes, and comes up again.
    Restarts,
    /// Connections cut, reset, delayed, stuck and lost.
    Network,
    /// Those who handle asked to stop at random moments, on SQLite.
    ShutdownSqlite,
    /// The same on Postgres.
    ShutdownPostgres,
    /// Handlers on SQLite that panic, hang, refuse and answer wrongly.
    HandlersSqlite,
    /// The same on Postgres.
    HandlersPostgres,
    /// Wall clocks that jump, on SQLite.
    ClocksSqlite,
    /// The same on Postgres.
    ClocksPostgres,
    /// Death at each named place, on SQLite.
    PointsSqlite,
    /// The same on Postgres.
    PointsPostgres,
    /// Futures that are dropped at every poll, on SQLite.
    CancelSqlite,
    /// The same on Postgres.
    CancelPostgres,
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
            Self::KillSqlite => kill::killed::<Inbox>(bench, "kill-sqlite", Sqlite).await,
            Self::KillPostgres => kill::killed::<Inbox>(bench, "kill-postgres", Postgres).await,
            Self::ZombieSqlite => zombie::stalled::<Inbox>(bench, "zombie-sqlite", Sqlite).await,
            Self::ZombiePostgres => zombie::stalled::<Inbox>(bench, "zombie-postgres", Postgres).await,
            Self::Backends => backends::ended::<Inbox>(bench).await,
            Self::Restarts => restarts::crashed::<Inbox>(bench).await,
            Self::Network => network::torn::<Inbox>(bench).await,
            Self::ShutdownSqlite => shutdown::stopped::<Inbox>(bench, "shutdown-sqlite", Sqlite).await,
            Self::ShutdownPostgres => shutdown::stopped::<Inbox>(bench, "shutdown-postgres", Postgres).await,
            Self::HandlersSqlite => trouble::handlers::<Inbox>(bench, "handlers-sqlite", Sqlite).await,
            Self::HandlersPostgres => trouble::handlers::<Inbox>(bench, "handlers-postgres", Postgres).await,
            Self::ClocksSqlite => trouble::clocks::<Inbox>(bench, "clocks-sqlite", Sqlite).await,
            Self::ClocksPostgres => trouble::clocks::<Inbox>(bench, "clocks-postgres", Postgres).await,
            Self::PointsSqlite => points::points::<Inbox>(bench, "points-sqlite", Sqlite).await,
            Self::PointsPostgres => points::points::<Inbox>(bench, "points-postgres", Postgres).await,
            Self::CancelSqlite => cancel::dropped(bench, "cancel-sqlite", Sqlite).await,
            Self::CancelPostgres => cancel::dropped(bench, "cancel-postgres", Postgres).await,
            Self::Planted => sabotage::planted(bench, &plants::PLANTS),
        }
    }
}
