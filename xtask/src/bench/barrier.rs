use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::line::Better::Higher;
use super::line::{Case, Line, Probe};
use super::measure::LineResult;

const MIXES: [&str; 3] = ["happy", "failures", "limits"];

/// How many keys there are, and whether few of them have most jobs.
const KEYS: [&str; 5] = ["1", "10k", "10k-zipf", "1M", "1M-zipf"];

/// The least part of the bare map's throughput.
const OF_THE_BARE_MAP: f64 = 0.60;

/// The least ratio of two threads' throughput to one's. We want 1, no slower; the rest is for noise.
const OF_ONE_THREAD: f64 = 0.95;

/// What the Go barrier took for an operation on a machine of its own, in ns: with 1, 10 k and 1 M keys.
const ORIGINAL: [(&str, [f64; 3]); 4] = [
    ("happy on 1 thread", [21.0, 32.0, 79.0]),
    ("happy on 2 threads", [31.0, 38.0, 85.0]),
    ("failures on 1 thread", [55.0, 63.0, 168.0]),
    ("limits on 1 thread", [91.0, 193.0, 282.0]),
];

/// Lists what the order barrier is measured by.
///
/// The reference is a `HashMap` with the same hasher behind each of 64 locks, or behind a single one, that keeps the bare books:
/// the failed job of each key, the jobs in flight if they are limited, and what the next sync is to apply.
pub(super) fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for mix in MIXES {
        for keys in KEYS {
            for threads in 1..=2 {
                let case = format!("{mix}/{keys}/{threads}");
                lines.push(rate(&case, &case, book("sharded", &case), OF_THE_BARE_MAP));
                if !keys.ends_with("zipf") {
                    lines.push(rate(
                        &format!("{case}-vs-one-lock"),
                        &case,
                        book("plain", &case),
                        OF_THE_BARE_MAP,
                    ));
                }
            }
            let (one, two) = (format!("{mix}/{keys}/1"), format!("{mix}/{keys}/2"));
            lines.push(rate(&format!("{two}-vs-1-thread"), &two, book("ours", &one), OF_ONE_THREAD));
        }
        let case = format!("{mix}/10k/1/each");
        lines.push(rate(&case, &case, book("sharded", &case), OF_THE_BARE_MAP));
    }
    lines.extend([
        Line::at_most("bytes-per-blocked-key", memory("bytes-blocked"), 130.0),
        Line::at_most("bytes-per-blocked-key-worst", memory("bytes-blocked-worst"), 130.0),
        Line::at_most("bytes-after-release", memory("bytes-released"), 1.05),
        Line::at_most("bytes-after-success", memory("bytes-succeeded"), 1.05),
    ]);
    lines
}

/// Lays out how long a job took, beside the original's operation. No target: its machine was another.
pub(super) fn note(results: &[LineResult]) -> Option<Table> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header([
        "ns a job, its syncs and retries included",
        "ours",
        "Go, elsewhere",
    ]);
    for result in results.iter().filter(|result| !result.name.contains("-vs-")) {
        if let Some(time) = result.ours.details.get("ns_per_job").and_then(serde_json::Value::as_f64) {
            let original = original(&result.name).map_or_else(String::new, |time| format!("{time:.0}"));
            table.add_row([result.name.clone(), format!("{time:.1}"), original]);
        }
    }
    for column in [1, 2] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    (table.row_count() > 0).then_some(table)
}

/// Returns the original's time for what a line measures. It was measured with keys that all have as many jobs.
fn original(name: &str) -> Option<f64> {
    let mut parts = name.split('/');
    let (mix, keys, threads) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let size = ["1", "10k", "1M"].iter().position(|size| *size == keys)?;
    let threads = if threads == "1" { "1 thread".to_owned() } else { format!("{threads} threads") };
    let (_, times) = ORIGINAL.iter().find(|(name, _)| *name == format!("{mix} on {threads}"))?;
    Some(times[size])
}

fn rate(name: &str, case: &str, reference: Case, target: f64) -> Line {
    Line::ratio(name, book("ours", case), reference, Higher, target)
}

fn book(book: &str, case: &str) -> Case {
    Probe::Ours.case(format!("barrier/{book}/{case}"))
}

fn memory(case: &str) -> Case {
    Probe::Ours.case(format!("barrier/{case}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::super::line::Better::Lower;
    use super::super::measure::Side;
    use super::super::stats::Spread;
    use super::*;

    fn result(name: &str, time: f64) -> LineResult {
        let details = Map::from_iter([("ns_per_job".to_owned(), Value::from(time))]);
        let value = Spread { median: 1.0, min: 1.0, max: 1.0 };
        LineResult {
            name: name.into(),
            unit: "jobs/s".into(),
            rounds: 1,
            ours: Side { value, details },
            against: None,
            target: 0.6,
            better: Lower,
        }
    }

    #[test]
    fn every_book_is_asked_for_the_same_work() {
        for line in lines().iter().filter(|line| !line.name.ends_with("-vs-1-thread")) {
            let Some(reference) = &line.reference else { continue };
            let work = |case: &Case| case.name.splitn(3, '/').nth(2).unwrap().to_owned();
            assert_eq!(work(&line.ours), work(reference), "{}", line.name);
        }
    }

    #[test]
    fn the_original_is_known_for_evenly_used_keys() {
        let times = ["happy/1/1", "happy/1M/2", "failures/10k/1", "limits/1M/1"].map(original);
        assert_eq!(times, [Some(21.0), Some(85.0), Some(63.0), Some(282.0)]);
        for name in ["failures/10k/2", "happy/10k-zipf/1", "happy/10k/1/each", "bytes-after-release"] {
            assert_eq!(original(name), None, "{name}");
        }
    }

    #[test]
    fn the_note_has_each_line_of_work_once() {
        let results = [result("happy/1/1", 5.0), result("happy/1/1-vs-one-lock", 5.0)];
        assert_eq!(note(&results).unwrap().row_count(), 1);
        assert!(note(&[]).is_none());
    }
}
