use relaykit_sql_store::stream::{DeadReason, Page, RowId, Settled, Settlement, Suspicion};

use super::facts::Became;
use super::line::Line;
use super::trace::{StreamNo, What};
use super::world::Known;
use crate::history::Id;

/// Takes note of where a page showed what.
pub(super) fn read(line: &Line, stream: StreamNo, page: &Page, number: fn(&Known) -> Option<Id>) {
    let now = line.world.now();
    let mut guard = line.world.lock();
    let state = &mut *guard;
    for stored in &page.rows {
        if let Some(id) = state.known.get(&stored.message.id()).and_then(number) {
            state.streams[stream].seen_at(stored.row.seq.0, id);
        }
    }
    if !page.rows.is_empty() {
        state.trace.push(now, line.life, What::Read { stream, rows: page.rows.len() });
    }
}

/// Takes note of what was noted before something is sent.
pub(super) fn noted(line: &Line, stream: StreamNo, rows: &[RowId], suspicion: Suspicion, settled: &Settled) {
    if suspicion == Suspicion::Alone {
        let mut state = line.world.lock();
        for row in rows.iter().filter(|row| !settled.stale.contains(&row.shard)) {
            state.streams[stream].noted_alone(row.seq.0);
        }
    }
}

/// What takes note of settlements.
pub(super) struct Settling<'a> {
    pub(super) line: &'a Line,
    pub(super) stream: StreamNo,
}

impl Settling<'_> {
    /// Takes note of what became of rows.
    pub(super) fn took_effect(&self, settlement: &Settlement, settled: &Settled) {
        let done = settlement.done.iter().map(|row| (*row, Became::Done));
        let waits = settlement.retry.iter().map(|waiting| (waiting.row, Became::Waits));
        let dead = settlement.dead.iter().map(|dying| {
            let rejected = dying.reason == DeadReason::Rejected;
            let became = if rejected { Became::Rejected } else { Became::Exhausted(dying.attempts) };
            (dying.row, became)
        });
        for (row, became) in done.chain(waits).chain(dead) {
            if !settled.stale.contains(&row.shard) {
                self.became(row, became);
            }
        }
    }

    pub(super) fn became(&self, row: RowId, became: Became) {
        let now = self.line.world.now();
        let stream = self.stream;
        let mut state = self.line.world.lock();
        let id = state.streams[stream].settled(row.seq.0, became, now);
        state.trace.push(now, self.line.life, What::Settled { stream, id, became });
    }
}
