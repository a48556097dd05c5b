use std::collections::VecDeque;

use super::row::Seq;

/// How many moments are remembered at which the end of a shard was reached.
const CHECKPOINTS: usize = 8;

/// Where reading a shard stands.
///
/// Places are given before transactions commit, so a row may come in sight late, behind what was read already. Below the
/// *floor* none can: all transactions that could have added there had ended before a read that began no higher than the
/// former floor. Above it, rows are looked for again.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Rows up to here were looked at.
    cursor: Seq,
    floor: Seq,
    /// The marks under which the end was reached, and what the end was.
    checkpoints: VecDeque<(u64, Seq)>,
    /// The transactions that had ended when the present way from the floor to the end began.
    pass: Option<u64>,
    exhausted: bool,
}

impl Scan {
    /// Returns behind which place to read; `None` if the end was reached.
    pub(crate) fn after(&self) -> Option<Seq> {
        (!self.exhausted).then_some(self.cursor)
    }

    /// Takes note of a page that was read behind `from`: the last place on it, and whether there may be more.
    pub(crate) fn read(&mut self, from: Seq, last: Option<Seq>, more: bool, mark: u64, settled: u64) {
        if from <= self.floor {
            self.pass = Some(settled);
        }
        self.cursor = from.max(last.unwrap_or_default());
        if more {
            return;
        }
        self.exhausted = true;
        let full = self.checkpoints.len() == CHECKPOINTS;
        match self.checkpoints.back_mut() {
            Some(last) if full || last.1 == self.cursor => {
                *last = (mark.max(last.0), self.cursor.max(last.1));
            }
            _ => self.checkpoints.push_back((mark, self.cursor)),
        }
        if let Some(settled) = self.pass.take() {
            while let Some((mark, end)) =
                self.checkpoints.front().copied().filter(|(mark, _)| *mark <= settled)
            {
                self.checkpoints.pop_front();
                tracing::trace!(mark, floor = end.0, "nothing appears below any more");
                self.floor = self.floor.max(end);
            }
        }
    }

    /// Reads on from where it stands, as there may be new rows.
    pub(crate) fn look_again(&mut self) {
        self.exhausted = false;
    }

    /// Reads again from this place on.
    pub(crate) fn rewind(&mut self, to: Seq) {
        let before = Seq(to.0.saturating_sub(1));
        if before < self.cursor {
            self.cursor = before;
            // The way from the floor to the end goes on only if it was not left.
            self.pass = self.pass.filter(|_| before > self.floor);
        }
        self.exhausted = false;
    }

    /// Reads again what may have come in sight late, if anything may.
    pub(crate) fn rescan(&mut self) {
        if self.may_appear() {
            self.rewind(Seq(self.floor.0.saturating_add(1)));
        }
        self.exhausted = false;
    }

    /// Returns whether rows may still appear behind what was read.
    pub(crate) fn may_appear(&self) -> bool {
        self.floor < self.cursor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_transactions_under_way_the_floor_follows_the_end() {
        let mut scan = Scan::default();
        scan.read(Seq(0), Some(Seq(7)), true, 5, 5);
        assert_eq!(scan.after(), Some(Seq(7)));
        scan.read(Seq(7), Some(Seq(9)), false, 5, 5);
        assert_eq!(scan.after(), None);
        assert!(!scan.may_appear());
        scan.look_again();
        scan.read(Seq(9), Some(Seq(12)), false, 6, 6);
        assert!(!scan.may_appear());
    }

    #[test]
    fn what_a_slow_transaction_adds_is_looked_for_until_it_has_ended() {
        let mut scan = Scan::default();
        // Transaction 3 is under way; it may hold any place up to 9.
        scan.read(Seq(0), Some(Seq(9)), false, 5, 3);
        assert!(scan.may_appear());
        scan.look_again();
        scan.read(Seq(9), Some(Seq(20)), false, 8, 3);
        scan.rescan();
        assert_eq!(scan.after(), Some(Seq(0)));
        // It has ended, but 6 is under way, which may hold places from 10 on.
        scan.read(Seq(0), Some(Seq(20)), false, 9, 6);
        assert!(scan.may_appear());
        scan.rescan();
        assert_eq!(scan.after(), Some(Seq(9)), "what lies below cannot appear any more");
        scan.read(Seq(9), None, false, 10, 10);
        assert!(!scan.may_appear());
    }

    #[test]
    fn a_read_that_began_above_the_floor_does_not_move_it() {
        let mut scan = Scan::default();
        scan.read(Seq(0), Some(Seq(9)), false, 5, 3);
        scan.look_again();
        scan.read(Seq(9), Some(Seq(11)), false, 9, 9);
        assert!(scan.may_appear(), "a row of transaction 3 below 9 may have come in sight since");
    }

    #[test]
    fn a_way_that_began_before_the_transactions_ended_does_not_move_it() {
        let mut scan = Scan::default();
        scan.read(Seq(0), Some(Seq(9)), true, 5, 3);
        // The first page was read while 3 was under way; the second came after.
        scan.read(Seq(9), Some(Seq(12)), false, 6, 6);
        assert!(scan.may_appear());
    }

    #[test]
    fn rewinding_reads_from_that_place_on() {
        let mut scan = Scan::default();
        scan.read(Seq(0), Some(Seq(9)), false, 1, 1);
        scan.rewind(Seq(4));
        assert_eq!(scan.after(), Some(Seq(3)));
        scan.rewind(Seq(8));
        assert_eq!(scan.after(), Some(Seq(3)));
    }
}
