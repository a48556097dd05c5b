//! Kills, starves and corrupts what keeps messages, and counts what is lost.
//!
//! `cargo xtask torture` runs it. [`oracle`] judges a [`history`]; [`queue`] has the tests of the persistent queue, [`outbox`] and
//! [`inbox`] those of processes on a database; each of them is a file that says what it does. [`sim`] plays whole deployments on a
//! clock that nobody waits for.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its terminal")]

mod bench;
mod drops;
mod history;
mod inbox;
mod item;
mod oracle;
mod outbox;
mod proxy;
mod queue;
mod report;
mod sabotage;
mod seeds;
mod sim;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand, ValueEnum};

/// Tortures what keeps messages.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask torture", bin_name = "cargo xtask torture")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The persistent queue: kills, failing and full disks, power loss, flipped bits.
    Queue(RunArgs<queue::Test>),
    /// The outbox: its relays and producers killed and stopped, its sessions ended.
    Outbox(RunArgs<outbox::Test>),
    /// The inbox: its workers and those who receive killed and stopped, its sessions ended.
    Inbox(RunArgs<inbox::Test>),
    /// Outbox and inbox on a simulated clock, with everything around them: a seed a round.
    Sim(RunArgs<sim::Test>),
    /// A child of the above.
    #[command(hide = true)]
    QueueChild {
        /// What it is to do, as JSON.
        plan: String,
    },
    /// Another one.
    #[command(hide = true)]
    OutboxChild {
        /// What it is to do, as JSON.
        plan: String,
    },
    /// And another.
    #[command(hide = true)]
    InboxChild {
        /// What it is to do, as JSON.
        plan: String,
    },
}

#[derive(Debug, clap::Args)]
struct RunArgs<T: ValueEnum + Send + Sync + 'static> {
    /// How much: `pr` takes minutes, `nightly` hours.
    #[arg(long, value_enum, default_value_t = Profile::Pr)]
    profile: Profile,
    /// The first seed; later rounds take those that follow. Default: one that is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Run only this test; may be given several times.
    #[arg(long, value_name = "TEST")]
    only: Vec<T>,
    /// So many rounds of each test, instead of what the profile says.
    #[arg(long)]
    rounds: Option<u64>,
    /// So many minutes in all, shared out among the tests; those that must come everywhere take as long as they need.
    #[arg(long)]
    minutes: Option<u64>,
    /// Write the counts to this file, one JSON object a line, a test each.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// What CI runs.
    Pr,
    /// Many times that.
    Nightly,
}

fn main() -> ExitCode {
    let result = match Cli::parse().what {
        What::Queue(args) => torture("queue", &args, async |bench, only| queue::run(bench, only).await),
        What::Outbox(args) => torture("outbox", &args, async |bench, only| outbox::run(bench, only).await),
        What::Inbox(args) => torture("inbox", &args, async |bench, only| inbox::run(bench, only).await),
        What::InboxChild { plan } => {
            serde_json::from_str(&plan).map_err(Into::into).and_then(|plan| inbox::child::run(&plan))
        }
        What::Sim(args) => torture("sim", &args, async |bench, only| sim::run(bench, only).await),
        What::OutboxChild { plan } => {
            serde_json::from_str(&plan).map_err(Into::into).and_then(|plan| outbox::child::run(&plan))
        }
        What::QueueChild { plan } => {
            serde_json::from_str(&plan).map_err(Into::into).and_then(|plan| queue::child::run(&plan))
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn torture<T: ValueEnum + Send + Sync + 'static>(
    what: &'static str,
    args: &RunArgs<T>,
    run: impl AsyncFnOnce(&Arc<bench::Bench>, &[T]) -> Vec<report::Report>,
) -> anyhow::Result<ExitCode> {
    let seed =
        args.seed.unwrap_or_else(|| relaykit_pipeline_traits::Rng::from_entropy().below(1_000_000_000));
    println!("seed {seed}");
    let tests = if args.only.is_empty() { T::value_variants().len() } else { args.only.len() };
    let share = args.minutes.map(|minutes| {
        std::time::Duration::from_secs(minutes * 60) / u32::try_from(tests).unwrap_or(u32::MAX)
    });
    let nightly = args.profile == Profile::Nightly;
    let bench = bench::Bench::new(what, seed, nightly, args.rounds, share)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let reports = runtime.block_on(run(&bench, &args.only));
    println!("{}", report::table(&reports));
    for report in &reports {
        for note in &report.notes {
            println!("{}: {note}", report.test);
        }
    }
    println!(
        "not covered: a real power cut, a disk that lies about its syncs, network file systems, several machines"
    );
    if let Some(path) = &args.json {
        report::save(&reports, path)?;
    }
    let failed: Vec<_> = reports.iter().filter(|report| !report.passed).map(|report| report.test).collect();
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
