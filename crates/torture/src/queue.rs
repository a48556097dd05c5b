mod cancel;
pub(crate) mod child;
mod flips;
mod full;
mod kill;
pub(crate) mod life;
mod owner;
mod plants;
mod points;
mod poison;
mod power;
mod reopen;
mod syscalls;

use std::sync::Arc;

use clap::ValueEnum;

use crate::bench::{self, Bench};
use crate::report::Report;
use crate::sabotage;

/// What is done to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Test {
    /// SIGKILL at random moments.
    Kill,
    /// Closed, or left without a close, at random moments.
    Shutdown,
    /// Death at each named place.
    Points,
    /// An item that kills its handler.
    Poison,
    /// Death or an error at each system call that changes the disk.
    Syscalls,
    /// Power loss at every moment.
    Power,
    /// Flipped bits.
    Flips,
    /// A full disk.
    Full,
    /// A second opener, and a foreign lock.
    Owner,
    /// Futures that are dropped at every poll.
    Cancel,
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
            Self::Kill => kill::killed(bench).await,
            Self::Shutdown => kill::shut_down(bench).await,
            Self::Points => points::points(bench).await,
            Self::Poison => poison::poisoned(bench).await,
            Self::Syscalls => syscalls::swept(bench).await,
            Self::Power => power::cut(bench).await,
            Self::Flips => flips::flipped(bench).await,
            Self::Full => full::filled(bench).await,
            Self::Owner => owner::contended(bench).await,
            Self::Cancel => cancel::dropped(bench).await,
            Self::Planted => sabotage::planted(bench, &plants::PLANTS),
        }
    }
}
