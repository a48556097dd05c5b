use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::bench::Bench;
use crate::report::Report;

/// A bug that a build of its own can be told to have, and the test that must catch it.
#[derive(Debug, Clone, Copy)]
struct Plant {
    bug: &'static str,
    test: &'static str,
    rounds: u64,
    /// Which count of the test must not be zero.
    shows: fn(&Counts) -> u64,
}

/// Bugs that the queue could have.
const PLANTS: [Plant; 7] = [
    Plant { bug: "ack_before_commit", test: "kill", rounds: 12, shows: |counts| counts.lost },
    Plant { bug: "flush_forgets_the_tail", test: "kill", rounds: 12, shows: |counts| counts.lost },
    Plant { bug: "removes_before_handling", test: "kill", rounds: 12, shows: |counts| counts.lost },
    Plant { bug: "overtakes_what_waits", test: "shutdown", rounds: 12, shows: |counts| counts.reordered },
    Plant { bug: "drops_what_it_cannot_decode", test: "flips", rounds: 1, shows: |counts| counts.lost },
    Plant { bug: "counts_no_death", test: "poison", rounds: 2, shows: |counts| counts.stuck },
    Plant { bug: "syncs_nothing", test: "power", rounds: 1, shows: |counts| counts.lost },
];

#[derive(Debug, Deserialize)]
struct Counts {
    lost: u64,
    reordered: u64,
    stuck: u64,
    passed: bool,
}

/// Plants each bug, and lets the test that is named for it find it.
pub(crate) fn planted(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("planted");
    let program = match build(bench) {
        Ok(program) => program,
        Err(error) => {
            report.fail(format!("{error:#}"));
            return report;
        }
    };
    // With nothing planted, the same build passes.
    let nothing = Plant { bug: "nothing", test: "kill", rounds: 3, shows: |counts| counts.lost };
    for plant in std::iter::once(&nothing).chain(&PLANTS) {
        report.trials += 1;
        let must_fail = plant.bug != "nothing";
        println!("planted: {} must be caught by {}", plant.bug, plant.test);
        match run(bench, &program, plant) {
            Ok(counts) if must_fail && (counts.passed || (plant.shows)(&counts) == 0) => {
                report.fail(format!("{}: `{}` did not catch it: {counts:?}", plant.bug, plant.test));
            }
            Ok(counts) if !must_fail && !counts.passed => {
                report.fail(format!("nothing was planted, and `{}` failed: {counts:?}", plant.test));
            }
            Ok(_) => {}
            Err(error) => report.fail(format!("{}: {error:#}", plant.bug)),
        }
    }
    if report.passed {
        report.note(format!("{} of {} planted bugs were caught", PLANTS.len(), PLANTS.len()));
    }
    report
}

fn run(bench: &Bench, program: &Path, plant: &Plant) -> anyhow::Result<Counts> {
    let folder = bench.fast_folder()?;
    let json = folder.path().join("report.json");
    let status = Command::new(program)
        .args(["queue", "--only", plant.test, "--seed", &bench.seed.to_string()])
        .args(["--rounds", &plant.rounds.to_string(), "--json"])
        .arg(&json)
        .env("RELAYKIT_PLANT", plant.bug)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let text = std::fs::read_to_string(&json).with_context(|| format!("no report, {status}"))?;
    Ok(serde_json::from_str(text.trim())?)
}

/// Builds this program with what can be switched on for tests, in a target directory of its own. Returns where it is.
///
/// # Errors
///
/// If cargo fails.
pub(crate) fn build(bench: &Bench) -> anyhow::Result<PathBuf> {
    let target = bench.workshop.root().join("sabotaged");
    let flags = format!("{} --cfg relaykit_torture", std::env::var("RUSTFLAGS").unwrap_or_default());
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--locked", "--package", "relaykit-torture", "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTFLAGS", flags.trim())
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .stdin(Stdio::null())
        .status()
        .context("could not start cargo")?;
    if !status.success() {
        bail!("the build with planted bugs failed: {status}");
    }
    Ok(target.join("debug").join(format!("relaykit-torture{}", std::env::consts::EXE_SUFFIX)))
}
