use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::bench::Bench;
use crate::report::Report;

/// A bug that a build of its own can be told to have, and the test that must catch it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plant {
    pub(crate) bug: &'static str,
    pub(crate) test: &'static str,
    pub(crate) rounds: u64,
    /// Which count of the test must not be zero.
    pub(crate) shows: fn(&Counts) -> u64,
}

const NOTHING: &str = "nothing";

#[derive(Debug, Deserialize)]
pub(crate) struct Counts {
    pub(crate) lost: u64,
    pub(crate) reordered: u64,
    pub(crate) stuck: u64,
    pub(crate) effects: u64,
    passed: bool,
}

/// Plants each bug, and lets the test that is named for it find it.
pub(crate) fn planted(bench: &Arc<Bench>, plants: &[Plant]) -> Report {
    let mut report = Report::of("planted");
    let program = match build(bench) {
        Ok(program) => program,
        Err(error) => {
            report.fail(format!("{error:#}"));
            return report;
        }
    };
    // With nothing planted, the same build passes.
    let nothing = plants.first().map(|plant| Plant { bug: NOTHING, rounds: 3, ..*plant });
    for plant in nothing.iter().chain(plants) {
        report.trials += 1;
        let must_fail = plant.bug != NOTHING;
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
        report.note(format!("{} of {} planted bugs were caught", plants.len(), plants.len()));
    }
    report
}

fn run(bench: &Bench, program: &Path, plant: &Plant) -> anyhow::Result<Counts> {
    let folder = bench.fast_folder()?;
    let json = folder.path().join("report.json");
    let status = Command::new(program)
        .args([bench.what, "--only", plant.test, "--seed", &bench.seed.to_string()])
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
