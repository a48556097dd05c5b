//! Takes webhooks, delivers them to an Iterable API, and proves that none was lost. Run it by `cargo xtask demo`.

mod args;
mod chain;
mod delivery;
mod durable;
mod event_line;
mod filing;
mod generator;
mod ledger;
mod lines;
mod metrics;
mod ordered;
mod progress;
mod queue;
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
    if let Some(listen) = args.serve {
        let report = runtime.block_on(chain::serve(args, listen))?;
        report.print();
        write(args, &report)?;
        return Ok(true);
    }
    if args.is_direct() {
        let report = runtime.block_on(delivery::deliver_all(args))?;
        report.print();
        write(args, &report)?;
        return Ok(report.is_good());
    }
    let report = runtime.block_on(chain::run(args))?;
    report.print();
    write(args, &report)?;
    Ok(report.is_good())
}

/// Writes a report as JSON, if it is asked for.
fn write(args: &Args, report: &impl serde::Serialize) -> anyhow::Result<()> {
    args.report.as_ref().map_or(Ok(()), |file| report::write(report, file))
}
