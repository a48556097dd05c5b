use super::line::Better::{Higher, Lower};
use super::line::{Case, Line, Probe};

/// The least part of the throughput of plain inserts that pass over what is known.
const OF_AN_INSERT: f64 = 0.8;

/// The least part of the throughput of loops that delete pages.
const OF_DELETED_PAGES: f64 = 0.6;

/// The least part of the throughput of loops that delete one row a transaction.
const OF_A_TRANSACTION: f64 = 0.6;

/// The most memory that a backlog of a million takes, as a multiple of what one of a hundred thousand does.
const OF_LESS_BACKLOG: f64 = 1.2;

/// How many messages a transaction receives, and by how many connections.
const RECEIVED: [&str; 3] = ["1x1", "1x8", "100x1"];

/// How many handlers there are, and how many messages each is lent at a time: by default, and at most.
const PLAIN: [&str; 4] = ["1x16", "1x1000", "3x16", "3x1000"];
const TRANSACTIONAL: [&str; 2] = ["1x4", "3x4"];

/// What peers handle, too.
const HANDLED: &str = "plain/1x16";

/// Lists what the inbox is measured by: messages of 1 KB with a thousand keys, of which, when they are received, each fifth came
/// before; and handlers that do nothing.
///
/// Receiving, with one handler, is compared with plain inserts of the same columns into a table with the same unique index, each
/// transaction doing nothing else. Plain handling is compared with a loop for each handler that deletes pages of as many rows as
/// a worker settles at once, from a table of the same columns; there each handler has a table's row of its own. Transactional
/// handling is compared with as many loops as there are calls at a time (one on SQLite, where one writes at a time), that lock one row,
/// read and delete it, in a transaction each. Memory is compared with 100 bytes in each message.
///
/// Peers receive as many of the same messages, in transactions of their own making, and handle a backlog with one worker and as many at
/// a time; their time ends with the last call, ours when the worker has stopped. `graphile_worker` has jobs whose keys are the messages'
/// ids: it knows an id for as long as its job is there. `obix` has an inbox, which keeps what was handled. Neither compares what comes
/// under a known id.
pub(super) fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    lines.extend(RECEIVED.map(|size| against_raw("", &format!("receive/{size}"), OF_AN_INSERT)));
    lines.extend(PLAIN.map(|size| against_raw("", &format!("plain/{size}"), OF_DELETED_PAGES)));
    lines.extend(
        TRANSACTIONAL.map(|size| against_raw("", &format!("transactional/{size}"), OF_A_TRANSACTION)),
    );
    let memory = |thousands: u32| inbox(&format!("ours/memory/{thousands}x1000"));
    lines.push(Line::ratio("memory/1M-of-100k", memory(1_000), memory(100), Lower, OF_LESS_BACKLOG));
    // There one writes at a time.
    let on_sqlite = RECEIVED.into_iter().filter(|size| !size.ends_with("x8"));
    lines.extend(on_sqlite.map(|size| against_raw("sqlite/", &format!("receive/{size}"), OF_AN_INSERT)));
    lines.extend(PLAIN.map(|size| against_raw("sqlite/", &format!("plain/{size}"), OF_DELETED_PAGES)));
    let transactional = TRANSACTIONAL.map(|size| format!("transactional/{size}"));
    lines.extend(transactional.map(|case| against_raw("sqlite/", &case, OF_A_TRANSACTION)));
    for peer in [Probe::GRAPHILE_WORKER, Probe::OBIX] {
        let cases = RECEIVED.map(|size| format!("receive/{size}")).into_iter().chain([HANDLED.to_owned()]);
        lines.extend(cases.map(|case| Line::against_peer(inbox(&format!("ours/{case}")), peer, &case)));
    }
    lines
}

fn against_raw(on: &str, case: &str, target: f64) -> Line {
    let [ours, raw] = ["ours", "raw"].map(|side| inbox(&format!("{on}{side}/{case}")));
    Line::ratio(format!("{on}{case}"), ours, raw, Higher, target)
}

fn inbox(case: &str) -> Case {
    Probe::Ours.case(format!("inbox/{case}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_statements_are_asked_for_the_same_work() {
        let pairs: Vec<_> = lines()
            .into_iter()
            .filter_map(|line| {
                let reference = line.reference?.name;
                reference.contains("raw/").then(|| (line.ours.name.replace("ours/", "raw/"), reference))
            })
            .collect();
        assert_eq!(pairs.len(), 17);
        for (ours, reference) in pairs {
            assert_eq!(ours, reference);
        }
    }
}
