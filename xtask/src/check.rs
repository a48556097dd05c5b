mod arrows;
mod deny;
mod features;
mod lockfile;
mod manifests;
mod package;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use comfy_table::Table;
use comfy_table::presets::NOTHING;

use crate::stopwatch::Stopwatch;
use crate::workspace::Workspace;
use crate::{process, recipes};

/// What `cargo xtask check` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only this step; may be given several times.
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
}

/// A step of the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// The code is formatted, that of the recipes for other drivers, too.
    Format,
    /// Clippy has nothing to say about any target with all features on, nor about the recipes.
    Clippy,
    /// Each feature compiles alone, and so do none and the default ones.
    Features,
    /// The docs build without warnings.
    Docs,
    /// Crates use what architecture.md lets them use; manifests and lockfile keep to the rules.
    Arrows,
    /// Licences, banned crates and sources (needs cargo-deny).
    Deny,
    /// Each published crate packs, and builds from its package.
    Package,
}

/// How a step ended.
#[derive(Debug)]
enum Outcome {
    Passed,
    /// The step could not run here; what to do about it.
    Skipped(String),
    Failed(anyhow::Error),
}

/// Runs the steps and says which of them failed.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::load()?;
    let steps = if args.only.is_empty() { Step::value_variants() } else { &args.only };
    let mut report = Vec::new();
    for &step in steps {
        eprintln!("== {}", step.name());
        let stopwatch = Stopwatch::start();
        let outcome = judge(step.run(&workspace), process::is_ci());
        let elapsed = stopwatch.elapsed();
        match &outcome {
            Outcome::Passed => {}
            Outcome::Skipped(reason) => eprintln!("skip: {reason}"),
            Outcome::Failed(error) => eprintln!("error: {error:#}"),
        }
        eprintln!("== {} {} in {:.1} s", step.name(), outcome.word(), elapsed.as_secs_f64());
        report.push((step, outcome, elapsed));
    }
    println!("{}", table(&report));
    let failed = failed(&report);
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value().expect("no step is hidden").get_name().to_owned()
    }

    fn run(self, workspace: &Workspace) -> anyhow::Result<Outcome> {
        match self {
            Self::Format => {
                process::run(process::cargo(["fmt", "--all", "--check"]).current_dir(&workspace.root))?;
                process::run(&mut recipes::cargo(workspace, ["fmt", "--check"]))?;
            }
            Self::Clippy => {
                let args = ["clippy", "--workspace", "--all-targets", "--all-features", "--locked"];
                process::run(
                    process::cargo(args).args(["--", "-D", "warnings"]).current_dir(&workspace.root),
                )?;
                let args = ["clippy", "--all-targets", "--locked", "--", "-D", "warnings"];
                process::run(&mut recipes::cargo(workspace, args))?;
            }
            Self::Features => features::run(workspace)?,
            Self::Docs => {
                let mut doc =
                    process::cargo(["doc", "--workspace", "--no-deps", "--all-features", "--locked"]);
                process::run(doc.env("RUSTDOCFLAGS", "-D warnings").current_dir(&workspace.root))?;
            }
            Self::Arrows => rules(workspace)?,
            Self::Deny => return deny::run(workspace),
            Self::Package => package::run(workspace)?,
        }
        Ok(Outcome::Passed)
    }
}

/// Checks what needs no compiler: arrows, manifests, lockfile.
fn rules(workspace: &Workspace) -> anyhow::Result<()> {
    let mut broken: Vec<String> = Vec::new();
    broken.extend(arrows::violations(&workspace.members).iter().map(ToString::to_string));
    broken.extend(manifests::violations(&workspace.members).iter().map(ToString::to_string));
    broken.extend(lockfile::read(&workspace.root)?.iter().map(ToString::to_string));
    for line in &broken {
        eprintln!("  {line}");
    }
    if !broken.is_empty() {
        bail!("{} rules are broken", broken.len());
    }
    Ok(())
}

/// Decides how a step ended: in CI, a step that skipped has failed.
fn judge(result: anyhow::Result<Outcome>, ci: bool) -> Outcome {
    match result {
        Ok(Outcome::Skipped(reason)) if ci => {
            Outcome::Failed(anyhow::anyhow!("{reason}").context("skipped in CI"))
        }
        Ok(outcome) => outcome,
        Err(error) => Outcome::Failed(error),
    }
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Skipped(_) => "skipped",
            Self::Failed(_) => "failed",
        }
    }
}

fn failed(report: &[(Step, Outcome, Duration)]) -> Vec<String> {
    let failed = report.iter().filter(|(_, outcome, _)| matches!(outcome, Outcome::Failed(_)));
    failed.map(|(step, _, _)| step.name()).collect()
}

fn table(report: &[(Step, Outcome, Duration)]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["step", "outcome", "seconds"]);
    for (step, outcome, elapsed) in report {
        let seconds = format!("{:.1}", elapsed.as_secs_f64());
        table.add_row([step.name(), outcome.word().to_owned(), seconds]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped() -> Outcome {
        Outcome::Skipped("cargo-deny is not installed".into())
    }

    #[test]
    fn a_skip_fails_in_ci_and_says_why() {
        let Outcome::Failed(error) = judge(Ok(skipped()), true) else { panic!("not failed") };
        assert_eq!(format!("{error:#}"), "skipped in CI: cargo-deny is not installed");
        assert!(matches!(judge(Ok(skipped()), false), Outcome::Skipped(_)));
    }

    #[test]
    fn an_error_fails_everywhere() {
        assert!(matches!(judge(Err(anyhow::anyhow!("no")), false), Outcome::Failed(_)));
        assert!(matches!(judge(Ok(Outcome::Passed), true), Outcome::Passed));
    }

    #[test]
    fn only_failed_steps_are_listed_as_failed() {
        let report = [
            (Step::Format, Outcome::Passed, Duration::ZERO),
            (Step::Docs, Outcome::Failed(anyhow::anyhow!("no")), Duration::ZERO),
            (Step::Deny, skipped(), Duration::ZERO),
        ];
        assert_eq!(failed(&report), ["docs"]);
        let text = table(&report).to_string();
        assert!(text.contains("docs") && text.contains("skipped") && text.contains("passed"), "{text}");
    }
}
