use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// The most rejected lines that are listed one by one; the others are counted.
pub(crate) const MAX_LISTED: usize = 1_000;

/// What became of all events.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Where the events went.
    pub(crate) server: String,
    /// The seed of generated events and faults.
    pub(crate) seed: u64,
    /// Lines read, blank ones aside.
    pub(crate) read: u64,
    /// Lines that are no event.
    pub(crate) rejected: u64,
    /// The first of them, with their line numbers and reasons.
    pub(crate) rejected_lines: Vec<RejectedLine>,
    /// Events that the API took.
    pub(crate) delivered: u64,
    /// Events that needed more than one attempt, delivered or not.
    pub(crate) retried: u64,
    /// Events that the API will never take, by reason.
    pub(crate) dead: BTreeMap<String, u64>,
    /// Events that are kept because the API refused us, failed to the end, or we were stopped; by reason.
    pub(crate) undelivered: BTreeMap<String, u64>,
    /// Events that are nowhere. Must be 0.
    pub(crate) lost: u64,
    /// Effects at the server beyond the first of an event; harmless, since an event keeps its id.
    pub(crate) repeated: u64,
    /// Whether the server said itself what took effect, so that `lost` is more than a count of answers.
    pub(crate) checked_at_server: bool,
    /// Calls of the API.
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) events_per_second: f64,
    /// Whether the input was read to its end, and not stopped before.
    pub(crate) complete: bool,
}

/// A line that is no event.
#[derive(Debug, Serialize)]
pub(crate) struct RejectedLine {
    pub(crate) line: u64,
    pub(crate) reason: String,
}

impl Report {
    /// Returns whether every accepted event was delivered or is dead for a reason the API gave.
    pub(crate) fn is_good(&self) -> bool {
        self.lost == 0 && self.undelivered.values().sum::<u64>() == 0
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let dead: u64 = self.dead.values().sum();
        let undelivered: u64 = self.undelivered.values().sum();
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header(["", "events"]);
        let mut row = |name: &str, count: u64| {
            table.add_row([name.to_owned(), count.to_string()]);
        };
        row("read", self.read);
        row("rejected", self.rejected);
        row("delivered", self.delivered);
        row("  of them and others, retried", self.retried);
        row("dead", dead);
        for (reason, count) in &self.dead {
            row(&format!("  {reason}"), *count);
        }
        row("undelivered, kept", undelivered);
        for (reason, count) in &self.undelivered {
            row(&format!("  {reason}"), *count);
        }
        row("lost", self.lost);
        row("requests", self.requests);
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        show(&table.to_string());
        show(&format!(
            "{:.1} s, {:.0} events/s to {}; {} repeated effects; lost is counted by {}",
            self.seconds,
            self.events_per_second,
            self.server,
            self.repeated,
            if self.checked_at_server { "what took effect at the server" } else { "answers alone" },
        ));
    }

    /// Writes the report as JSON.
    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let mut json = serde_json::to_string_pretty(self).context("could not express the report as JSON")?;
        json.push('\n');
        std::fs::write(file, json).with_context(|| format!("could not write {}", file.display()))
    }
}

/// Prints a line of the result.
#[expect(clippy::print_stdout, reason = "the result is what the demo is for")]
fn show(text: &str) {
    println!("{text}");
}

/// Prints a line about the way there.
#[expect(clippy::print_stderr, reason = "progress goes beside the result")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// Prints an error with its causes.
pub(crate) fn complain(error: &anyhow::Error) {
    say(&format!("error: {error:#}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_or_undelivered_events_make_a_bad_report() {
        let mut report = Report { delivered: 5, ..Report::default() };
        report.dead.insert("Malformed Email".to_owned(), 2);
        assert!(report.is_good());
        report.undelivered.insert("refused".to_owned(), 1);
        assert!(!report.is_good());
        report.undelivered.clear();
        report.lost = 1;
        assert!(!report.is_good());
    }
}
