//! What `cargo xtask bench` measures of our crates: `relaykit-bench measure CASE` runs a case once and prints one JSON
//! object with `case`, `value` and `unit`, and the settings as further keys.
#![allow(clippy::print_stdout, reason = "a probe answers on standard output")]

mod allocations;
#[path = "workload/barrier/mod.rs"]
mod barrier;
mod case;
mod channel;
mod decision;
#[path = "workload/inbox/mod.rs"]
mod inbox;
#[path = "workload/outbox/mod.rs"]
mod outbox;
mod poison;
mod processor;
#[path = "workload/queue/mod.rs"]
mod queue;
mod workload;

use clap::{Parser, Subcommand};

/// Measures our crates.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a case once and prints what it measured as one JSON object.
    Measure {
        /// The case, such as `processor-send/64`.
        case: String,
    },
}

fn main() -> anyhow::Result<()> {
    let Command::Measure { case } = Cli::parse().command;
    println!("{}", serde_json::to_string(&case::measure(&case)?)?);
    Ok(())
}
