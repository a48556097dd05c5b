pub(crate) mod child;
mod kill;
mod life;

use std::sync::Arc;

use clap::ValueEnum;
use relaykit_pipeline_traits::{Clock as _, SystemClock};

use crate::bench::Bench;
use crate::report::Report;

/// What is done to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Test {
    /// SIGKILL at random moments.
    Kill,
    /// Closed, or left without a close, at random moments.
    Shutdown,
}

/// Runs the tests, all unless some are named.
pub(crate) async fn run(bench: &Arc<Bench>, only: &[Test]) -> Vec<Report> {
    let clock = SystemClock::new();
    let mut reports = Vec::new();
    for test in Test::value_variants() {
        if !only.is_empty() && !only.contains(test) {
            continue;
        }
        let begun = clock.monotonic();
        let report = test.run(bench).await.took(clock.monotonic().since(begun));
        println!("{}: {} trials in {:.1} s", report.test, report.trials, report.seconds);
        reports.push(report);
    }
    reports
}

impl Test {
    async fn run(self, bench: &Arc<Bench>) -> Report {
        match self {
            Self::Kill => kill::killed(bench).await,
            Self::Shutdown => kill::shut_down(bench).await,
        }
    }
}
