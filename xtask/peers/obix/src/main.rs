//! What `cargo xtask bench outbox` and `cargo xtask bench inbox` measure of the obix crate: `obix-probe measure CASE`
//! runs a case once and prints one JSON object with `case`, `value` and `unit`, and the settings as further keys.
#![allow(clippy::print_stdout, reason = "a probe answers on standard output")]

mod case;
#[path = "../../../bench/src/workload/inbox/peer.rs"]
mod inbox;
mod migrate;
mod receiving;
#[path = "../../../bench/src/workload/outbox/peer.rs"]
mod workload;

use clap::{Parser, Subcommand};

/// Measures the obix crate.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a case once and prints what it measured as one JSON object.
    Measure {
        /// The case, such as `add/1`.
        case: String,
    },
}

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let Command::Measure { case } = Cli::parse().command;
    println!("{}", serde_json::to_string(&case::measure(&case).await?)?);
    Ok(())
}
