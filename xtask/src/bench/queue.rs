use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde_json::Value;

use super::line::Better::Higher;
use super::line::{Case, Line, Probe};
use super::measure::{LineResult, Side};

const REDB: Probe = Probe::Peer("persistent-queue");
const QUEUE_FILE: Probe = Probe::Peer("queue-file");
const YAQUE: Probe = Probe::Peer("yaque");

/// What stored events survive: nothing, the crash of the process, the loss of power.
const DURABILITIES: [&str; 3] = ["memory", "process", "full"];

/// How many events a batch has, and how many batches are taken at once.
const BATCHES: [&str; 4] = ["100x1", "100x10", "1000x1", "1000x10"];

/// The same where each event is a batch.
const SINGLE: [&str; 2] = ["1x1", "1x100"];

const PRODUCERS: [u32; 2] = [1, 8];

/// The least part of the bare loop's throughput.
const OF_THE_BARE_LOOP: f64 = 0.70;

/// The most memory with a million events queued, in MiB: 32 of stored batches, 16 that wait for the disk, 8 of pages, the log
/// index, and as much again for the allocator and the program. The events have 100 MB.
const PEAK: f64 = 128.0;

/// Lists what the durable queue is measured by: events of 100 bytes of JSON, pushed one at a time, until a handler that does
/// nothing had all of them and they are removed.
///
/// The reference is a loop around SQLite on one thread, with a transaction for each batch and one to delete as many as are
/// taken at once. Peers do the same work with one push an event; the line's name says what a push has done when it returns:
/// `buffered` ones are in memory alone, `stored` ones are where the durability says.
pub(super) fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for durability in DURABILITIES {
        for batches in BATCHES {
            lines.extend(
                PRODUCERS.map(|producers| against_the_loop(&format!("{durability}/{batches}/{producers}"))),
            );
        }
        lines.extend(SINGLE.map(|batches| against_the_loop(&format!("{durability}/{batches}/1"))));
    }
    lines.push(against_the_loop("process/100x10/1/1M"));
    lines.extend([
        buffered("memory/100x10/1", REDB, "memory/1", 2.0),
        buffered("process/100x10/1", REDB, "none/1", 2.0),
        buffered("process/100x10/1", QUEUE_FILE, "process/1", 2.0),
        buffered("process/100x10/1", YAQUE, "process/1", 1.5),
        stored("process/100x10/1", QUEUE_FILE, "process/1", 2.0),
        stored("process/100x10/1", YAQUE, "process/1", 1.5),
        stored("full/100x10/1", REDB, "sync/1", 2.0),
        stored("full/100x10/8", REDB, "group/8", 2.0),
        stored("full/100x10/1", QUEUE_FILE, "full/1", 2.0),
        stored("full/100x10/8", QUEUE_FILE, "full/8", 2.0),
        Line::ratio(
            "stored/full/16-vs-1-producer",
            ours("ours-durable/full/100x10/16"),
            ours("ours-durable/full/100x10/1"),
            Higher,
            8.0,
        ),
        Line::at_most("push-p99/process", ours("push-p99/process"), 10.0),
        Line::at_most("push-p99/full", ours("push-p99/full"), 10.0),
        Line::at_most("peak-with-1M-queued", ours("peak-bytes"), PEAK),
        Line::at_most("file-after-drain", ours("file-after-drain"), 2.0),
    ]);
    lines
}

/// Lays out the memory and the files, in MiB.
pub(super) fn note(results: &[LineResult]) -> Option<Table> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header([
        "MiB",
        "peak memory",
        "reference's",
        "files after drain",
        "reference's",
    ]);
    for result in results {
        let reference = result.against.as_ref().map(|against| &against.reference);
        let of = |side: Option<&Side>, key| {
            let bytes = side.and_then(|side| side.details.get(key)).and_then(Value::as_f64);
            bytes.map_or_else(String::new, |bytes| format!("{:.1}", bytes / (1024.0 * 1024.0)))
        };
        let ours = Some(&result.ours);
        table.add_row([
            result.name.clone(),
            of(ours, "peak_bytes"),
            of(reference, "peak_bytes"),
            of(ours, "file_bytes"),
            of(reference, "file_bytes"),
        ]);
    }
    for column in 1..=4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    (table.row_count() > 0).then_some(table)
}

fn against_the_loop(case: &str) -> Line {
    let (us, bare) = (ours(&format!("ours/{case}")), ours(&format!("raw/{case}")));
    Line::ratio(case, us, bare, Higher, OF_THE_BARE_LOOP)
}

/// Compares with pushes that return once the event is in memory. Ours is stored after the linger, or when its batch is full.
fn buffered(case: &str, peer: Probe, reference: &str, target: f64) -> Line {
    let name = format!("buffered/{reference}-vs-{}", peer.name());
    Line::ratio(name, ours(&format!("ours/{case}")), peer.case(reference), Higher, target)
}

/// Compares with pushes that return once the event is stored.
fn stored(case: &str, peer: Probe, reference: &str, target: f64) -> Line {
    let name = format!("stored/{reference}-vs-{}", peer.name());
    Line::ratio(name, ours(&format!("ours-durable/{case}")), peer.case(reference), Higher, target)
}

fn ours(case: &str) -> Case {
    Probe::Ours.case(format!("queue/{case}"))
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::super::stats::Spread;
    use super::*;

    #[test]
    fn the_bare_loop_is_asked_for_the_same_work() {
        let lines = lines();
        let pairs: Vec<_> = lines
            .iter()
            .filter_map(|line| {
                let reference = line.reference.as_ref()?.name.strip_prefix("queue/raw/")?;
                Some((line.ours.name.strip_prefix("queue/ours/")?, reference))
            })
            .collect();
        assert_eq!(pairs.len(), 31);
        for (ours, reference) in pairs {
            assert_eq!(ours, reference);
        }
    }

    #[test]
    fn a_peer_has_as_many_producers_as_ours() {
        for line in lines() {
            let Some(Case { probe: Probe::Peer(_), name }) = &line.reference else { continue };
            let producers = |name: &str| name.rsplit('/').next().map(str::to_owned);
            assert_eq!(producers(&line.ours.name), producers(name), "{}", line.name);
        }
    }

    #[test]
    fn the_note_tells_memory_and_files_in_mebibytes() {
        let value = Spread { median: 1.0, min: 1.0, max: 1.0 };
        let details = Map::from_iter([("peak_bytes".to_owned(), Value::from(3 * 1024 * 1024))]);
        let result = LineResult {
            name: "full/100x1/1".into(),
            unit: "items/s".into(),
            rounds: 1,
            ours: Side { value, details },
            against: None,
            target: 0.7,
            better: Higher,
        };
        let shown = note(&[result]).unwrap().to_string();
        assert!(shown.contains("full/100x1/1") && shown.contains(" 3.0"), "{shown}");
        assert!(note(&[]).is_none());
    }
}
