use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::args::Order;
use crate::receipts::ReceiptReport;

/// The most rejected lines that are listed one by one; the others are counted.
pub(crate) const MAX_LISTED: usize = 1_000;

/// What became of all events.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Where the events went.
    pub(crate) server: String,
    /// The seed of generated events and faults.
    pub(crate) seed: u64,
    /// Which events kept their order.
    pub(crate) order: Order,
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
    /// Events that arrived after a later one of their user; `None` if the server did not watch. Must be 0 if they were to
    /// keep their order.
    pub(crate) out_of_order: Option<u64>,
    /// Whether the server said itself what took effect, so that `lost` is more than a count of answers.
    pub(crate) checked_at_server: bool,
    /// Calls of the API.
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) events_per_second: f64,
    /// Whether the input was read to its end, and not stopped before.
    pub(crate) complete: bool,
    /// What became of the receipts, if there were to be any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) receipts: Option<ReceiptReport>,
    /// What became of the same input without order, if that was to be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unordered: Option<Box<Report>>,
}

/// A line that is no event.
#[derive(Debug, Serialize)]
pub(crate) struct RejectedLine {
    pub(crate) line: u64,
    pub(crate) reason: String,
}

impl Report {
    /// Returns whether every accepted event was delivered or is dead for a reason the API gave, in order where that was
    /// asked for.
    pub(crate) fn is_good(&self) -> bool {
        let in_order = self.order == Order::None || self.out_of_order.is_none_or(|events| events == 0);
        self.lost == 0
            && self.undelivered() == 0
            && in_order
            && self.receipts.as_ref().is_none_or(|receipts| receipts.missing == 0)
            && self.unordered.as_ref().is_none_or(|unordered| unordered.is_good())
    }

    fn undelivered(&self) -> u64 {
        self.undelivered.values().sum()
    }

    /// Prints the table, with a column for each run.
    pub(crate) fn print(&self) {
        match &self.unordered {
            None => show(&table(&[("events", self)])),
            Some(unordered) => {
                show(&table(&[("unordered", unordered), ("per user", self)]));
                unordered.print_pace("unordered: ");
            }
        }
        if let Some(receipts) = &self.receipts {
            let file = receipts.file.display();
            show(&format!(
                "receipts: {} written with the outbox, {} in {file}, {} missing; {} repeated lines, {} retried",
                receipts.written, receipts.filed, receipts.missing, receipts.repeated, receipts.retried,
            ));
        }
        self.print_pace(if self.unordered.is_some() { "per user: " } else { "" });
    }

    fn print_pace(&self, run: &str) {
        show(&format!(
            "{run}{:.1} s, {:.0} events/s to {}; {} repeated effects; lost is counted by {}",
            self.seconds,
            self.events_per_second,
            self.server,
            self.repeated,
            if self.checked_at_server { "what took effect at the server" } else { "answers alone" },
        ));
    }
}

/// Writes a report as JSON.
pub(crate) fn write(report: &impl Serialize, file: &Path) -> anyhow::Result<()> {
    let mut json = serde_json::to_string_pretty(report).context("could not express the report as JSON")?;
    json.push('\n');
    std::fs::write(file, json).with_context(|| format!("could not write {}", file.display()))
}

/// Makes a table of names and counts.
pub(crate) fn columns(header: &[&str], rows: Vec<(&str, u64)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header.iter().copied());
    for (name, count) in rows {
        table.add_row([name.to_owned(), count.to_string()]);
    }
    if let Some(counts) = table.column_mut(1) {
        counts.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// Makes the table of some runs, each with its name.
fn table(runs: &[(&str, &Report)]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_header(std::iter::once("").chain(runs.iter().map(|(name, _)| *name)));
    let mut row = |name: &str, count: &dyn Fn(&Report) -> u64| {
        let counts = runs.iter().map(|(_, run)| count(run).to_string());
        table.add_row(std::iter::once(name.to_owned()).chain(counts));
    };
    let reasons = |of: fn(&Report) -> &BTreeMap<String, u64>| -> BTreeSet<&String> {
        runs.iter().flat_map(|(_, run)| of(run).keys()).collect()
    };
    row("read", &|run| run.read);
    row("rejected", &|run| run.rejected);
    row("delivered", &|run| run.delivered);
    row("  of them and others, retried", &|run| run.retried);
    row("dead", &|run| run.dead.values().sum());
    for reason in reasons(|run| &run.dead) {
        row(&format!("  {reason}"), &|run| run.dead.get(reason).copied().unwrap_or(0));
    }
    row("undelivered, kept", &Report::undelivered);
    for reason in reasons(|run| &run.undelivered) {
        row(&format!("  {reason}"), &|run| run.undelivered.get(reason).copied().unwrap_or(0));
    }
    row("lost", &|run| run.lost);
    if runs.iter().any(|(_, run)| run.out_of_order.is_some()) {
        row("out of order", &|run| run.out_of_order.unwrap_or(0));
    }
    row("requests", &|run| run.requests);
    if runs.len() > 1 {
        row("repeated effects", &|run| run.repeated);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
        row("events a second", &|run| run.events_per_second.round() as u64);
    }
    for column in 1..=runs.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// Prints a line of the result.
#[expect(clippy::print_stdout, reason = "the result is what the demo is for")]
pub(crate) fn show(text: &str) {
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

    #[test]
    fn events_out_of_order_make_a_bad_report_if_order_was_asked_for() {
        let report = |order, out_of_order| Report { order, out_of_order, ..Report::default() };
        assert!(report(Order::None, Some(3)).is_good());
        assert!(!report(Order::PerUser, Some(3)).is_good());
        assert!(report(Order::PerUser, Some(0)).is_good());
        assert!(report(Order::PerUser, None).is_good());
    }

    #[test]
    fn a_bad_run_without_order_makes_the_comparison_bad() {
        let unordered = Box::new(Report { lost: 1, ..Report::default() });
        let report = Report { order: Order::PerUser, unordered: Some(unordered), ..Report::default() };
        assert!(!report.is_good());
    }

    #[test]
    fn two_runs_stand_in_one_table_with_the_reasons_of_both() {
        let mut unordered = Report { out_of_order: Some(77), ..Report::default() };
        unordered.dead.insert("Malformed Email".to_owned(), 2);
        let ordered = Report { order: Order::PerUser, out_of_order: Some(0), ..Report::default() };
        let table = table(&[("unordered", &unordered), ("per user", &ordered)]);
        let row = |name: &str| {
            let line = table.lines().find(|line| line.contains(name)).unwrap();
            line.split(['│', '┆']).map(str::trim).filter(|cell| !cell.is_empty()).skip(1).collect::<Vec<_>>()
        };
        assert_eq!(row("out of order"), ["77", "0"]);
        assert_eq!(row("Malformed Email"), ["2", "0"]);
    }
}
