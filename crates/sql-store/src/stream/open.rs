use super::row::Seq;

/// Which transactions may still add rows before a place that was read already, and behind which place each adds.
///
/// Places are given before transactions commit, so rows can come in sight behind what was read. Whoever reads a page says here who
/// was at it before; when one of these has ended, the store reads from before its rows on. So each page shows, of every key, all
/// that comes before its rows, whatever commits when. Stores whose writers wait for each other have no use for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenTransactions {
    /// Those that ran when the last page was read, by number.
    running: Vec<(u64, Seq)>,
    next: Option<(u64, Seq)>,
    /// All transactions from this number on add behind this place.
    mark: Option<(u64, Seq)>,
}

/// Which transactions a page does not show. The default is that of stores whose writers wait for each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Transactions that had begun and not ended.
    pub running: Vec<u64>,
    /// No transaction from this number on had ended.
    pub next: u64,
    /// All transactions from this number on add behind this place; `None` if the page has no rows.
    pub mark: Option<(u64, Seq)>,
    /// From which place the page was read, if that lies before the one that was asked for.
    pub from: Option<Seq>,
}

impl OpenTransactions {
    /// Returns those that ran when the last page was read, by number, each with the place behind which it adds.
    pub fn running(&self) -> impl Iterator<Item = (u64, Seq)> {
        self.running.iter().copied()
    }

    /// Returns a number from which on no transaction had ended when the last page was read, and behind which place those add. `None`
    /// before the first page.
    #[must_use]
    pub const fn next(&self) -> Option<(u64, Seq)> {
        self.next
    }

    /// Learns from a page, which was asked for with `self`.
    pub fn read(&mut self, snapshot: &Snapshot) {
        let running = snapshot.running.iter().map(|number| (*number, self.adds_behind(*number))).collect();
        let next = (snapshot.next, self.adds_behind(snapshot.next));
        *self = Self { running, next: Some(next), mark: snapshot.mark.or(self.mark) };
    }

    /// Returns the place behind which a transaction adds that has not ended.
    fn adds_behind(&self, number: u64) -> Seq {
        let begun_since = |(from, place): &(u64, Seq)| (number >= *from).then_some(*place);
        let ran = || self.running.iter().find(|(ran, _)| *ran == number).map(|(_, place)| *place);
        self.mark
            .as_ref()
            .and_then(begun_since)
            .or_else(ran)
            .or_else(|| self.next.as_ref().and_then(begun_since))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(running: &[u64], next: u64, mark: Option<(u64, i64)>) -> Snapshot {
        let mark = mark.map(|(number, place)| (number, Seq(place)));
        Snapshot { running: running.to_vec(), next, mark, from: None }
    }

    fn running(open: &OpenTransactions) -> Vec<(u64, i64)> {
        open.running().map(|(number, place)| (number, place.0)).collect()
    }

    #[test]
    fn of_what_ran_before_the_first_page_nothing_is_known() {
        let mut open = OpenTransactions::default();
        assert_eq!(open.next(), None);
        open.read(&snapshot(&[3], 5, Some((7, 90))));
        assert_eq!((running(&open), open.next()), (vec![(3, 0)], Some((5, Seq(0)))));
    }

    #[test]
    fn who_begins_after_a_page_adds_behind_all_places_that_were_given_before() {
        let mut open = OpenTransactions::default();
        open.read(&snapshot(&[], 7, Some((7, 90))));
        open.read(&snapshot(&[7, 8], 9, Some((10, 120))));
        assert_eq!((running(&open), open.next()), (vec![(7, 90), (8, 90)], Some((9, Seq(90)))));
        open.read(&snapshot(&[8, 9, 10, 12], 14, None));
        assert_eq!(running(&open), [(8, 90), (9, 90), (10, 120), (12, 120)]);
        assert_eq!(open.next(), Some((14, Seq(120))));
    }

    #[test]
    fn who_was_not_yet_in_sight_as_the_mark_was_drawn_may_have_a_place_before_it() {
        let mut open = OpenTransactions::default();
        open.read(&snapshot(&[], 5, Some((5, 50))));
        // 6 and 7 ran, or began, between the snapshot and the mark.
        open.read(&snapshot(&[], 6, Some((8, 80))));
        open.read(&snapshot(&[6, 7], 9, Some((9, 90))));
        assert_eq!(running(&open), [(6, 50), (7, 50)]);
    }

    #[test]
    fn a_page_without_rows_leaves_the_mark() {
        let mut open = OpenTransactions::default();
        open.read(&snapshot(&[], 5, Some((5, 50))));
        open.read(&snapshot(&[5], 6, None));
        open.read(&snapshot(&[5, 6], 8, None));
        assert_eq!((running(&open), open.next()), (vec![(5, 50), (6, 50)], Some((8, Seq(50)))));
    }

    #[test]
    fn stores_whose_writers_wait_for_each_other_have_none() {
        let mut open = OpenTransactions::default();
        open.read(&Snapshot::default());
        open.read(&Snapshot::default());
        assert_eq!((running(&open), open.next()), (vec![], Some((0, Seq(0)))));
    }
}
