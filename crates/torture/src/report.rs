use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use crate::oracle::Judgement;

/// What a test counted.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) test: &'static str,
    /// How often something was done to the queue that it must survive.
    pub(crate) trials: u64,
    /// Items that were acknowledged.
    pub(crate) items: u64,
    pub(crate) lost: u64,
    pub(crate) phantom: u64,
    pub(crate) reordered: u64,
    /// Explained ones; with the others they are all.
    pub(crate) duplicates: u64,
    pub(crate) unexplained: u64,
    /// Items whose effect in the database is there not once.
    pub(crate) effects: u64,
    pub(crate) stuck: u64,
    pub(crate) leaks: u64,
    /// The longest time after the last fault until what the dead had held was handled by others, in seconds.
    pub(crate) recovery: Option<f64>,
    pub(crate) passed: bool,
    pub(crate) seconds: f64,
    /// More that was counted, and what went wrong, in words.
    pub(crate) notes: Vec<String>,
}

impl Report {
    pub(crate) fn of(test: &'static str) -> Self {
        Self {
            test,
            trials: 0,
            items: 0,
            lost: 0,
            phantom: 0,
            reordered: 0,
            duplicates: 0,
            unexplained: 0,
            effects: 0,
            stuck: 0,
            leaks: 0,
            recovery: None,
            passed: true,
            seconds: 0.0,
            notes: Vec::new(),
        }
    }

    /// Adds what an oracle said about so many trials.
    pub(crate) fn add(&mut self, trials: u64, judgement: &Judgement) {
        let count = |ids: &Vec<u64>| ids.len() as u64;
        self.trials += trials;
        self.lost += count(&judgement.lost);
        self.phantom += count(&judgement.phantom);
        self.reordered += count(&judgement.reordered);
        self.duplicates += judgement.duplicates.values().sum::<u64>() + count(&judgement.unexplained);
        self.unexplained += count(&judgement.unexplained);
        self.effects += count(&judgement.effects);
        self.stuck += count(&judgement.stuck);
        self.leaks += judgement.leaks.len() as u64;
        self.passed &= judgement.is_clean();
    }

    /// Notes how long a recovery took.
    pub(crate) fn recovered(&mut self, micros: u64) {
        let seconds = Duration::from_micros(micros).as_secs_f64();
        self.recovery = Some(self.recovery.unwrap_or_default().max((seconds * 100.0).ceil() / 100.0));
    }

    /// Notes a failure.
    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        self.passed = false;
        self.notes.push(what.into());
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    pub(crate) fn took(mut self, time: Duration) -> Self {
        if let Some(seconds) = self.recovery {
            self.notes.push(format!("what the dead held was handled by others within {seconds:.2} s"));
        }
        self.seconds = (time.as_secs_f64() * 10.0).round() / 10.0;
        self
    }
}

/// Makes the table for people.
pub(crate) fn table(reports: &[Report]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header([
        "test",
        "trials",
        "items",
        "lost",
        "phantom",
        "reordered",
        "duplicates",
        "unexplained",
        "effects ≠ 1",
        "stuck",
        "leaks",
        "s",
        "",
    ]);
    for report in reports {
        table.add_row([
            report.test.to_owned(),
            report.trials.to_string(),
            report.items.to_string(),
            report.lost.to_string(),
            report.phantom.to_string(),
            report.reordered.to_string(),
            report.duplicates.to_string(),
            report.unexplained.to_string(),
            report.effects.to_string(),
            report.stuck.to_string(),
            report.leaks.to_string(),
            format!("{:.1}", report.seconds),
            if report.passed { "passed" } else { "FAILED" }.to_owned(),
        ]);
    }
    table
}

/// Writes one object a line, a test each.
///
/// # Errors
///
/// If the file cannot be written.
pub(crate) fn save(reports: &[Report], path: &Path) -> anyhow::Result<()> {
    let mut file = File::create(path).with_context(|| format!("could not make {}", path.display()))?;
    for report in reports {
        writeln!(file, "{}", serde_json::to_string(report)?)?;
    }
    Ok(())
}
