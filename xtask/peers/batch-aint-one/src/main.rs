//! What `cargo xtask bench batch` measures of the batch-aint-one crate: `batch-aint-one-probe measure CASE` runs a case
//! once and prints one JSON object with `case`, `value` and `unit`, and the settings as further keys.
#![allow(clippy::print_stdout, reason = "a probe answers on standard output")]

mod batcher;
mod case;
#[path = "../../../bench/src/workload/mod.rs"]
mod workload;

use clap::{Parser, Subcommand};

/// Measures the batch-aint-one crate.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a case once and prints what it measured as one JSON object.
    Measure {
        /// The case, such as `answered/64`.
        case: String,
    },
}

fn main() -> anyhow::Result<()> {
    let Command::Measure { case } = Cli::parse().command;
    println!("{}", serde_json::to_string(&case::measure(&case)?)?);
    Ok(())
}
