mod barrier;
mod batch;
mod inbox;
mod json;
mod line;
mod measure;
mod outbox;
mod probe;
mod queue;
mod retry;
mod stats;
mod table;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::ValueEnum;
use comfy_table::Table;

use crate::postgres::{self, Postgres};
use crate::workspace::Workspace;
use line::Line;
use measure::LineResult;
use probe::Probes;

/// What `cargo xtask bench` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which bench to run.
    name: Bench,
    /// Also write the results to this file, one JSON object for each line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run each case at most twice; shorthand for `--rounds 2`.
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// How often to run each case; 5 by default, 3 for the outbox, 1 for the inbox. Some lines need fewer.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Measure only lines with this text in their name.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// A bench: a list of lines, in a file of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// The order barrier beside a bare map behind locks: throughput and memory.
    Barrier,
    /// The batcher beside bare channels and the batch-aint-one crate.
    Batch,
    /// The inbox on Postgres and SQLite beside plain inserts and deletes, and two crates of its kind.
    Inbox,
    /// The outbox on Postgres and SQLite beside plain inserts and deletes, and three crates of its kind.
    Outbox,
    /// The durable queue beside a bare loop around SQLite, and three crates of its kind.
    Queue,
    /// Retry decisions: time, allocations, and the backoff crate.
    Retry,
}

impl Bench {
    fn lines(self) -> Vec<Line> {
        match self {
            Self::Barrier => barrier::lines(),
            Self::Batch => batch::lines(),
            Self::Inbox => inbox::lines(),
            Self::Outbox => outbox::lines(),
            Self::Queue => queue::lines(),
            Self::Retry => retry::lines(),
        }
    }

    /// Lays out what else one should know of the results.
    fn note(self, results: &[LineResult]) -> Option<Table> {
        match self {
            Self::Barrier => barrier::note(results),
            Self::Outbox => outbox::note(results),
            Self::Queue => queue::note(results),
            Self::Batch | Self::Inbox | Self::Retry => None,
        }
    }

    /// Returns how often its cases are run by default.
    const fn rounds(self) -> u32 {
        match self {
            Self::Inbox => 1,
            Self::Outbox => 3,
            Self::Barrier | Self::Batch | Self::Queue | Self::Retry => 5,
        }
    }

    /// Obtains the Postgres that it needs, if it needs one.
    fn postgres(self) -> anyhow::Result<Option<Postgres>> {
        match self {
            Self::Inbox | Self::Outbox => match postgres::obtain()? {
                Some(postgres) => Ok(Some(postgres)),
                None => bail!("this bench needs a Postgres"),
            },
            Self::Barrier | Self::Batch | Self::Queue | Self::Retry => Ok(None),
        }
    }
}

/// Builds the probes, measures each line and prints a table.
///
/// # Errors
///
/// A probe does not build, or a line could not be measured; the other lines are measured and printed before.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let lines = select(args.name.lines(), args.only.as_deref());
    if lines.is_empty() {
        bail!("no line of this bench has {:?} in its name", args.only.as_deref().unwrap_or_default());
    }
    let mut json = args.json.as_deref().map(create).transpose()?;
    let postgres = args.name.postgres()?;
    let variables = postgres.iter().flat_map(Postgres::variables);
    let variables = variables.map(|(name, value)| (name, value.to_owned())).collect();
    let probes = Probes::build(&Workspace::load()?, lines.iter().flat_map(Line::cases), variables)?;

    let mut results = Vec::new();
    let mut failed = Vec::new();
    for (number, line) in (1..).zip(&lines) {
        eprintln!("measuring {} ({number} of {})", line.name, lines.len());
        match measure::measure(line, rounds(args), |case| probes.measure(case)) {
            Ok(result) => {
                if let Some(file) = &mut json {
                    writeln!(file, "{}", json::object(&result)).context("could not write the results")?;
                }
                results.push(result);
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                eprintln!("error: {}: {error:#}", line.name);
                failed.push(line.name.as_str());
            }
        }
    }

    println!("{}", table::table(&results));
    if let Some(note) = args.name.note(&results) {
        println!("\n{note}\n");
    }
    println!("{} of {} targets met", results.iter().filter(|result| result.met()).count(), results.len());
    if !failed.is_empty() {
        bail!("could not measure {} of {} lines: {}", failed.len(), lines.len(), failed.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

fn rounds(args: &Args) -> u32 {
    if args.quick { 2 } else { args.rounds.unwrap_or(args.name.rounds()) }
}

fn select(lines: Vec<Line>, only: Option<&str>) -> Vec<Line> {
    lines.into_iter().filter(|line| only.is_none_or(|text| line.name.contains(text))).collect()
}

fn create(path: &std::path::Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("could not create {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn lines_have_distinct_names_and_usable_targets() {
        for bench in Bench::value_variants() {
            let lines = bench.lines();
            let names: BTreeSet<_> = lines.iter().map(|line| &line.name).collect();
            assert_eq!(names.len(), lines.len(), "{bench:?} names a line twice");
            for line in &lines {
                assert!(line.target.is_finite() && line.target >= 0.0, "{bench:?} {}", line.name);
                assert!(line.reference.is_some() || !line.name.contains("-vs-"), "{bench:?} {}", line.name);
            }
        }
    }

    #[test]
    fn lines_are_selected_by_a_part_of_their_name() {
        let names: Vec<_> = select(batch::lines(), Some("send/")).into_iter().map(|line| line.name).collect();
        assert_eq!(names, ["send/1", "send/64"]);
        assert!(select(batch::lines(), Some("no such line")).is_empty());
    }
}
