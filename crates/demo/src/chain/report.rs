use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::book::{Receipts, Standing};
use super::poster::Posted;
use super::site::Passed;
use crate::report::{columns, show};

/// What became of all events, from the first byte to the last receipt.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ChainReport {
    /// Where the events went.
    pub(crate) server: String,
    /// The seed of generated events and faults.
    pub(crate) seed: u64,
    /// Events made up.
    pub(crate) made: u64,
    /// Requests to the endpoint.
    pub(crate) posted: u64,
    /// Events answered with 202. Must be all.
    pub(crate) accepted: u64,
    /// Webhooks in the inbox. Must be as many.
    pub(crate) stored: u64,
    /// Requests that brought a webhook which was stored before.
    pub(crate) duplicates_dropped: u64,
    /// Requests with a wrong signature, of which nothing was stored.
    pub(crate) rejected: u64,
    /// Requests that failed and were posted again.
    pub(crate) failed: u64,
    /// Requests that were answered in another way than they should be, by reason. Must be none.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Events that the API took.
    pub(crate) delivered: u64,
    /// Events lent to the API's handler more than once.
    pub(crate) retried: u64,
    /// Events that the API will never take, by reason.
    pub(crate) dead: BTreeMap<String, u64>,
    /// Events that are kept, by where.
    pub(crate) undelivered: BTreeMap<String, u64>,
    /// Accepted events that are nowhere. Must be 0.
    pub(crate) lost: u64,
    /// Effects at the server beyond the first of an event; harmless, since an event keeps its id.
    pub(crate) repeated: u64,
    /// Events that arrived after a later one of their user; `None` if the server did not watch. Must be 0.
    pub(crate) out_of_order: Option<u64>,
    /// Whether the server said itself what took effect.
    pub(crate) checked_at_server: bool,
    /// Calls of the API.
    pub(crate) requests: u64,
    pub(crate) receipts: ReceiptsReport,
    pub(crate) seconds: f64,
    pub(crate) events_per_second: f64,
    /// Whether all events were posted and came to their end, and nobody stopped it before.
    pub(crate) complete: bool,
    /// Where what is left is kept.
    pub(crate) folder: Option<PathBuf>,
}

/// What became of the receipts.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ReceiptsReport {
    /// Accepted events whose receipt is in the file.
    pub(crate) filed: u64,
    /// Those whose receipt is nowhere. Must be 0.
    pub(crate) missing: u64,
    /// Receipts in the inbox or the outbox.
    pub(crate) left: u64,
    /// Receipts behind that of a later event of their user. Must be 0.
    pub(crate) out_of_order: u64,
    /// Lines of the file beyond the first of a receipt; harmless, since it keeps its id.
    pub(crate) repeated: u64,
    /// How often a receipt waited for another attempt.
    pub(crate) retried: u64,
    pub(crate) file: PathBuf,
}

/// The books, to be compared.
pub(super) struct Books {
    pub(super) posted: Posted,
    pub(super) passed: Passed,
    pub(super) standing: Standing,
    pub(super) receipts: Receipts,
    pub(super) repeated_lines: u64,
}

impl ChainReport {
    /// Compares the books.
    pub(super) fn of(books: Books) -> Self {
        let Books { posted, passed, standing, receipts, repeated_lines } = books;
        let mut dead: BTreeMap<String, u64> = BTreeMap::new();
        for (items, reason) in &passed.dead_in_queue {
            *dead.entry(reason.clone()).or_default() += items;
        }
        if passed.events.dead > 0 {
            dead.insert("dead letters of the inbox".to_owned(), passed.events.dead);
        }
        let mut undelivered = BTreeMap::new();
        for (place, left) in [("the inbox", passed.events.pending), ("the queue", passed.left_in_queue)] {
            if left > 0 {
                undelivered.insert(format!("in {place}, for the next time"), left);
            }
        }
        // Those that the API took or refused for good are not open any more.
        let dead_unsaid = dead.values().sum::<u64>().saturating_sub(standing.dead);
        let kept = undelivered.values().sum::<u64>() + dead_unsaid;
        let receipts_left = passed.receipts.pending + passed.receipts.dead + passed.left_in_outbox;
        Self {
            made: posted.made,
            posted: posted.requests,
            accepted: standing.accepted,
            stored: passed.stored,
            duplicates_dropped: passed.known,
            rejected: passed.unauthorized,
            failed: posted.failed,
            refused: posted.refused,
            delivered: standing.delivered,
            retried: passed.retried,
            dead,
            undelivered,
            lost: standing.open.saturating_sub(kept) + standing.false_deliveries,
            repeated: standing.repeated,
            requests: passed.calls,
            receipts: ReceiptsReport {
                filed: receipts.filed,
                missing: receipts.missing.saturating_sub(receipts_left),
                left: receipts_left,
                out_of_order: receipts.out_of_order,
                repeated: repeated_lines,
                retried: passed.filed_again,
                file: passed.file,
            },
            ..Self::default()
        }
    }

    /// Returns whether every event that was accepted was delivered once, in its user's order, or is dead for a reason the API gave,
    /// and has its receipt.
    pub(crate) fn is_good(&self) -> bool {
        let accepted = !self.complete || (self.accepted == self.made && self.stored == self.accepted);
        accepted
            && self.refused.is_empty()
            && self.lost == 0
            && self.undelivered.is_empty()
            && self.out_of_order.is_none_or(|events| events == 0)
            && self.receipts.missing + self.receipts.left + self.receipts.out_of_order == 0
    }

    /// Prints the ledger.
    pub(crate) fn print(&self) {
        let receipts = &self.receipts;
        let mut rows = vec![("events", self.made), ("posted, with repetitions", self.posted)];
        rows.push(("accepted", self.accepted));
        rows.push(("duplicates dropped", self.duplicates_dropped));
        rows.push(("rejected: wrong signature", self.rejected));
        rows.push(("failed and posted again", self.failed));
        rows.extend(self.refused.iter().map(|(reason, count)| (reason.as_str(), *count)));
        rows.push(("delivered", self.delivered));
        rows.push(("  of them and others, retried", self.retried));
        rows.extend(self.dead.iter().map(|(reason, count)| (reason.as_str(), *count)));
        rows.extend(self.undelivered.iter().map(|(place, count)| (place.as_str(), *count)));
        rows.push(("lost", self.lost));
        rows.extend(self.out_of_order.map(|events| ("out of order", events)));
        rows.push(("receipts", receipts.filed));
        rows.push(("receipts missing", receipts.missing + receipts.left));
        rows.push(("receipts out of order", receipts.out_of_order));
        show(&columns(&["from first byte to last receipt", ""], rows));
        show(&format!(
            "{:.1} s, {:.0} events/s to {} in {} requests; {} repeated effects, {} repeated receipts; lost is counted by {}",
            self.seconds,
            self.events_per_second,
            self.server,
            self.requests,
            self.repeated,
            receipts.repeated,
            if self.checked_at_server { "what took effect at the server" } else { "answers alone" },
        ));
        if let Some(folder) = &self.folder {
            show(&format!("what is left is in {}", folder.display()));
        }
    }
}

/// What passed an endpoint until it was stopped.
#[derive(Debug, Serialize)]
pub(crate) struct ServedReport {
    pub(crate) stored: u64,
    pub(crate) duplicates_dropped: u64,
    pub(crate) rejected: u64,
    /// Webhooks of kinds that have no handler.
    pub(crate) unrouted: u64,
    /// How often a webhook waited for another attempt of a handler.
    pub(crate) handled_again: u64,
    pub(crate) delivered: u64,
    pub(crate) dead: u64,
    /// What waits for the next time.
    pub(crate) left_in_inbox: u64,
    pub(crate) left_in_queue: u64,
    pub(crate) left_in_outbox: u64,
}

impl ServedReport {
    pub(super) fn of(passed: &Passed) -> Self {
        let dead: u64 = passed.dead_in_queue.iter().map(|(items, _)| items).sum();
        Self {
            stored: passed.stored,
            duplicates_dropped: passed.known,
            rejected: passed.unauthorized,
            unrouted: passed.unrouted,
            handled_again: passed.handled_again,
            delivered: passed.delivered,
            dead: dead + passed.events.dead + passed.receipts.dead,
            left_in_inbox: passed.events.pending + passed.receipts.pending,
            left_in_queue: passed.left_in_queue,
            left_in_outbox: passed.left_in_outbox,
        }
    }

    pub(crate) fn print(&self) {
        let rows = vec![
            ("stored", self.stored),
            ("duplicates dropped", self.duplicates_dropped),
            ("rejected: wrong signature", self.rejected),
            ("without a handler", self.unrouted),
            ("handled again", self.handled_again),
            ("delivered", self.delivered),
            ("dead", self.dead),
            ("left in the inbox", self.left_in_inbox),
            ("left in the queue", self.left_in_queue),
            ("left in the outbox", self.left_in_outbox),
        ];
        show(&columns(&["webhooks", ""], rows));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> ChainReport {
        let (made, accepted, stored, delivered) = (5, 5, 5, 5);
        ChainReport {
            made,
            accepted,
            stored,
            delivered,
            out_of_order: Some(0),
            complete: true,
            ..ChainReport::default()
        }
    }

    #[test]
    fn each_entry_that_must_be_none_makes_a_bad_report() {
        assert!(good().is_good());
        let receipts = |of: fn(&mut ReceiptsReport)| {
            let mut receipts = ReceiptsReport::default();
            of(&mut receipts);
            ChainReport { receipts, ..good() }
        };
        let one = || BTreeMap::from([("reason".to_owned(), 1)]);
        for bad in [
            ChainReport { lost: 1, ..good() },
            ChainReport { accepted: 4, ..good() },
            ChainReport { stored: 6, ..good() },
            ChainReport { out_of_order: Some(1), ..good() },
            ChainReport { refused: one(), ..good() },
            ChainReport { undelivered: one(), ..good() },
            receipts(|receipts| receipts.missing = 1),
            receipts(|receipts| receipts.left = 1),
            receipts(|receipts| receipts.out_of_order = 1),
        ] {
            assert!(!bad.is_good(), "{bad:?}");
        }
        assert!(ChainReport { dead: one(), ..good() }.is_good(), "the API gave a reason");
    }

    #[test]
    fn what_is_open_and_kept_nowhere_is_lost() {
        let books = |open, left_in_queue| Books {
            posted: Posted::default(),
            passed: Passed { left_in_queue, ..Passed::default() },
            standing: Standing { accepted: 5, delivered: 5 - open, open, ..Standing::default() },
            receipts: Receipts { filed: 5, ..Receipts::default() },
            repeated_lines: 0,
        };
        assert_eq!(ChainReport::of(books(3, 1)).lost, 2);
        assert_eq!(ChainReport::of(books(3, 3)).lost, 0);
        assert_eq!(ChainReport::of(books(0, 0)).lost, 0);
    }
}
