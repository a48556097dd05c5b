pub(crate) mod child;
mod subject;

use std::sync::Arc;

use clap::ValueEnum;

use crate::bench::{self, Bench};
use crate::report::Report;
use crate::stage::place::Kind::{Postgres, Sqlite};
use crate::stage::{backends, kill, network, restarts, shutdown, zombie};
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
        }
    }
}
