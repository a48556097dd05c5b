//! Delivers events to an Iterable API and proves that none was lost. Run it by `cargo xtask demo`.

mod args;
mod delivery;
mod durable;
mod event_line;
mod generator;
mod ledger;
mod lines;
mod metrics;
mod ordered;
mod progress;
mod receipts;
mod report;
mod server;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::args::Args;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::complain(&error);
            ExitCode::from(2)
        }
    }
}

/// Runs the demo. Returns whether every accepted event was delivered or is dead for a reason the API gave, and in
/// order where that was asked for.
fn run(args: &Args) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    let report = runtime.block_on(delivery::deliver_all(args))?;
    report.print();
    if let Some(file) = &args.report {
        report.write(file)?;
    }
    Ok(report.is_good())
}
