use super::row::Seq;

/// Where reading a shard stands.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Rows up to here were looked at.
    cursor: Seq,
    exhausted: bool,
}

impl Scan {
    /// Returns behind which place to read; `None` if the end was reached.
    pub(crate) fn after(&self) -> Option<Seq> {
        (!self.exhausted).then_some(self.cursor)
    }

    /// Takes note of a page that was read behind `from`: the last place on it, and whether there may be more.
    pub(crate) fn read(&mut self, from: Seq, last: Option<Seq>, more: bool) {
        // A page that went back and came to the end has nothing between its last row and where reading stood.
        self.cursor = if more { last.unwrap_or(from) } else { self.cursor.max(last.unwrap_or(from)) };
        self.exhausted = !more;
    }

    /// Reads on from where it stands, as there may be new rows.
    pub(crate) fn look_again(&mut self) {
        self.exhausted = false;
    }

    /// Reads again from this place on.
    pub(crate) fn rewind(&mut self, to: Seq) {
        self.cursor = self.cursor.min(Seq(to.0.saturating_sub(1)));
        self.exhausted = false;
    }

    /// Returns whether rows behind this place were looked at.
    pub(crate) fn is_beyond(&self, place: Seq) -> bool {
        place < self.cursor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_the_last_row_until_the_end() {
        let mut scan = Scan::default();
        assert_eq!(scan.after(), Some(Seq(0)));
        scan.read(Seq(0), Some(Seq(7)), true);
        assert_eq!(scan.after(), Some(Seq(7)));
        scan.read(Seq(7), None, false);
        assert_eq!(scan.after(), None);
        scan.look_again();
        assert_eq!(scan.after(), Some(Seq(7)));
    }

    #[test]
    fn a_page_that_went_back_stands_at_its_last_row_unless_it_came_to_the_end() {
        let mut scan = Scan::default();
        scan.read(Seq(0), Some(Seq(9)), true);
        scan.read(Seq(3), Some(Seq(5)), true);
        assert_eq!(scan.after(), Some(Seq(5)));
        scan.read(Seq(5), Some(Seq(20)), true);
        scan.read(Seq(8), Some(Seq(11)), false);
        scan.look_again();
        assert_eq!(scan.after(), Some(Seq(20)));
    }

    #[test]
    fn rewinding_reads_from_that_place_on() {
        let mut scan = Scan::default();
        scan.read(Seq(0), Some(Seq(9)), false);
        assert!(scan.is_beyond(Seq(8)) && !scan.is_beyond(Seq(9)));
        scan.rewind(Seq(4));
        assert_eq!(scan.after(), Some(Seq(3)));
        scan.rewind(Seq(8));
        assert_eq!(scan.after(), Some(Seq(3)));
    }
}
