use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde_json::Value;

use super::line::Better::{Higher, Lower};
use super::line::{Case, Line, Probe};
use super::measure::{LineResult, Side};

const OUTBOX_POSTGRES: Probe = Probe::Peer("outbox-postgres");

/// How many messages are sent at once.
const BATCHES: [u32; 3] = [10, 100, 1000];

const RELAYS: [u32; 3] = [1, 2, 4];

/// The least part of a plain insert's throughput: of one row, and of many by one statement.
const OF_AN_INSERT: f64 = 0.90;
const OF_MANY_INSERTED: f64 = 0.70;

/// The least part of the throughput of loops that delete pages.
const OF_DELETED_PAGES: f64 = 0.70;

/// How many times as fast as one four relays are at least.
const OF_ONE_RELAY: f64 = 1.3;

/// The least part of the throughput that is left beside a long transaction.
const BESIDE_A_TRANSACTION: f64 = 0.8;

/// The longest time from a commit to the sender in 99 of 100 cases, in µs.
const LATENCY: f64 = 10_000.0;

/// The same where the producer is another process, and the server tells the relay.
const NOTIFIED: f64 = 50_000.0;

/// Lists what the outbox is measured by: messages of 100 bytes with a thousand keys, and a sender that does nothing.
///
/// Adding is compared with plain inserts of the same rows into the same table, each transaction doing nothing else. Draining is
/// compared with as many loops that delete pages of as many rows from a table of the same columns, in no order among them.
///
/// Peers add as many messages of the same size by a transaction, and drain a backlog with one worker. `graphile_worker` works jobs
/// off in any order (`any`) or, by named queues, key by key (`keys`). `obix` hands the messages to one subscriber in the order of all,
/// and keeps them. `outbox-postgres`, the store of `outbox-core`, keeps no order.
pub(super) fn lines() -> Vec<Line> {
    let mut lines = vec![
        against_raw("add/1x1", Higher, OF_AN_INSERT),
        against_raw("add/1x8", Higher, OF_AN_INSERT),
        against_raw("add/100x1", Higher, OF_MANY_INSERTED),
    ];
    for batch in BATCHES {
        let drain = |relays| {
            let line = against_raw(&format!("drain/{batch}x{relays}"), Higher, OF_DELETED_PAGES);
            line.at_most_rounds(if relays == 1 { 2 } else { 1 })
        };
        lines.extend(RELAYS.map(drain));
    }
    for batch in BATCHES {
        let drain = |relays| ours(&format!("drain/{batch}x{relays}"));
        let name = format!("drain/{batch}x4-of-{batch}x1");
        lines.push(Line::ratio(name, drain(4), drain(1), Higher, OF_ONE_RELAY).at_most_rounds(1));
    }
    lines.extend([
        Line::ratio(
            "beside-a-transaction/100x1",
            ours("held/100x1"),
            ours("drain/100x1"),
            Higher,
            BESIDE_A_TRANSACTION,
        )
        .at_most_rounds(2),
        Line::at_most("statements/100x1", ours("statements/100x1"), 0.05).at_most_rounds(1),
        Line::at_most("dead-tuples/100x1", ours("dead-tuples/100x1"), 1.05).at_most_rounds(1),
        against_raw("wal-bytes/100x1", Lower, 1.5).at_most_rounds(1),
        Line::at_most("latency-p99/idle", outbox("latency-idle"), LATENCY).at_most_rounds(2),
        Line::at_most("latency-p99/notified", outbox("latency-notified"), NOTIFIED).at_most_rounds(2),
        Line::at_most("latency-p99/half-load", outbox("latency-half"), LATENCY).at_most_rounds(2),
        Line::at_most("statements/idle", outbox("idle"), 0.2).at_most_rounds(1),
    ]);
    lines.extend([
        on_sqlite("add/1x1", OF_AN_INSERT),
        on_sqlite("add/100x1", OF_MANY_INSERTED),
        on_sqlite("drain/100x1", OF_DELETED_PAGES).at_most_rounds(2),
        on_sqlite("drain/100x2", OF_DELETED_PAGES).at_most_rounds(2),
    ]);
    for (peer, drains) in [
        (Probe::GRAPHILE_WORKER, &["drain/any", "drain/keys"][..]),
        (Probe::OBIX, &["drain/100"]),
        (OUTBOX_POSTGRES, &["drain/100"]),
    ] {
        lines.push(Line::against_peer(ours("add/1x1"), peer, "add/1"));
        lines.push(Line::against_peer(ours("add/100x1"), peer, "add/100"));
        lines.extend(drains.iter().map(|drain| Line::against_peer(ours("drain/100x1"), peer, drain)));
    }
    lines
}

/// Lays out the order within keys, whether the end is as fast as the beginning, and the middle of the latencies.
pub(super) fn note(results: &[LineResult]) -> Option<Table> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header([
        "last round",
        "inversions",
        "reference's",
        "last tenth/first",
        "reference's",
        "rows read/message",
        "p50 µs",
    ]);
    for result in results {
        let reference = result.against.as_ref().map(|against| &against.reference);
        let of =
            |side: Option<&Side>, key| side.and_then(|side| side.details.get(key)).and_then(Value::as_f64);
        let shown = |value: Option<f64>, decimals| {
            value.map_or_else(String::new, |value| format!("{value:.decimals$}"))
        };
        let ours = Some(&result.ours);
        let read = of(ours, "rows_read").zip(of(ours, "messages")).map(|(rows, messages)| rows / messages);
        let row = [
            shown(of(ours, "inversions"), 0),
            shown(of(reference, "inversions"), 0),
            shown(of(ours, "last_tenth_to_first"), 2),
            shown(of(reference, "last_tenth_to_first"), 2),
            shown(read, 2),
            shown(of(ours, "p50_us"), 0),
        ];
        if row.iter().any(|cell| !cell.is_empty()) {
            table.add_row([result.name.clone()].into_iter().chain(row));
        }
    }
    for column in 1..=6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    (table.row_count() > 0).then_some(table)
}

fn against_raw(case: &str, better: super::line::Better, target: f64) -> Line {
    Line::ratio(case, ours(case), outbox(&format!("raw/{case}")), better, target)
}

fn on_sqlite(case: &str, target: f64) -> Line {
    let [ours, raw] = ["ours", "raw"].map(|side| outbox(&format!("sqlite/{side}/{case}")));
    Line::ratio(format!("sqlite/{case}"), ours, raw, Higher, target)
}

fn ours(case: &str) -> Case {
    outbox(&format!("ours/{case}"))
}

fn outbox(case: &str) -> Case {
    Probe::Ours.case(format!("outbox/{case}"))
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::super::stats::Spread;
    use super::*;

    #[test]
    fn plain_statements_are_asked_for_the_same_work() {
        let pairs: Vec<_> = lines()
            .into_iter()
            .filter_map(|line| {
                let reference = line.reference?.name.strip_prefix("outbox/raw/")?.to_owned();
                Some((line.ours.name.strip_prefix("outbox/ours/")?.to_owned(), reference))
            })
            .collect();
        assert_eq!(pairs.len(), 13);
        for (ours, reference) in pairs {
            assert_eq!(ours, reference);
        }
    }

    #[test]
    fn the_note_tells_the_inversions_of_both_sides() {
        let side = |inversions: u32| Side {
            value: Spread { median: 1.0, min: 1.0, max: 1.0 },
            details: Map::from_iter([("inversions".to_owned(), Value::from(inversions))]),
        };
        let against = super::super::measure::Against {
            reference: side(77),
            ratio: Spread { median: 1.0, min: 1.0, max: 1.0 },
        };
        let result = LineResult {
            name: "drain/100x4".into(),
            unit: "messages/s".into(),
            rounds: 1,
            ours: side(0),
            against: Some(against),
            target: 0.7,
            better: Higher,
        };
        let shown = note(&[result]).unwrap().to_string();
        assert!(shown.contains("drain/100x4") && shown.contains("77"), "{shown}");
        assert!(note(&[]).is_none());
    }
}
