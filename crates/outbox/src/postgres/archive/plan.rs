use std::ops::Range;

use crate::retention::Upkeep;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A partition of the archive, but for the default one, as the catalog knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) oid: i64,
    /// Where it begins, in µs since 1970; `None` if it has no beginning.
    pub(super) lower: Option<i64>,
    /// Where it ends; `None` if it has no end.
    pub(super) upper: Option<i64>,
}

impl Partition {
    /// Tells whether a row of that day can be in it.
    fn has_of(&self, day: i64) -> bool {
        let Range { start, end } = micros(day);
        self.lower.is_none_or(|lower| lower < end) && self.upper.is_none_or(|upper| upper > start)
    }

    /// Tells whether all that can be in it was sent before the day.
    fn is_before(&self, day: i64) -> bool {
        self.upper.is_some_and(|upper| upper <= micros(day).start)
    }
}

/// Returns the first day that is kept.
pub(super) fn cutoff(today: i64, upkeep: &Upkeep) -> i64 {
    today - i64::from(upkeep.days_kept)
}

/// Returns the days that need a partition and have none, not even a part of one.
pub(super) fn missing(today: i64, partitions: &[Partition], upkeep: &Upkeep) -> Vec<i64> {
    let days = (0..i64::from(upkeep.days_ahead)).map(|ahead| today + ahead);
    days.filter(|day| is_missing(*day, partitions)).collect()
}

pub(super) fn is_missing(day: i64, partitions: &[Partition]) -> bool {
    !partitions.iter().any(|partition| partition.has_of(day))
}

/// Returns the partitions that are wholly past.
pub(super) fn past(today: i64, partitions: &[Partition], upkeep: &Upkeep) -> Vec<i64> {
    let cutoff = cutoff(today, upkeep);
    let past = partitions.iter().filter(|partition| partition.is_before(cutoff));
    past.map(|partition| partition.oid).collect()
}

fn micros(day: i64) -> Range<i64> {
    day.saturating_mul(MICROS_PER_DAY)..day.saturating_add(1).saturating_mul(MICROS_PER_DAY)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn upkeep(days_ahead: u16, days_kept: u16) -> Upkeep {
        Upkeep { days_ahead, days_kept, chunk: 1_000, lock_timeout: Duration::from_millis(100) }
    }

    fn days(oid: i64, first: i64, count: i64) -> Partition {
        let end = first + count;
        Partition { oid, lower: Some(first * MICROS_PER_DAY), upper: Some(end * MICROS_PER_DAY) }
    }

    #[test]
    fn the_days_to_come_are_made_but_for_those_that_have_a_partition_or_a_part_of_one() {
        assert_eq!(missing(100, &[], &upkeep(3, 7)), [100, 101, 102]);
        assert_eq!(missing(100, &[days(1, 100, 1)], &upkeep(3, 7)), [101, 102]);
        assert_eq!(missing(100, &[days(1, 90, 12)], &upkeep(3, 7)), [102]);
        let afternoon = Partition { lower: Some(101 * MICROS_PER_DAY + 1), ..days(1, 101, 1) };
        assert_eq!(missing(100, &[afternoon], &upkeep(3, 7)), [100, 102]);
        let open = Partition { upper: None, ..days(1, 101, 1) };
        assert_eq!(missing(100, &[open], &upkeep(3, 7)), [100]);
    }

    #[test]
    fn only_what_is_wholly_past_is_dropped() {
        let all = [days(1, 92, 1), days(2, 93, 1), days(3, 80, 13), days(4, 80, 14), days(5, 100, 1)];
        assert_eq!(past(100, &all, &upkeep(3, 7)), [1, 3]);
        assert_eq!(past(100, &all, &upkeep(3, 0)), [1, 2, 3, 4], "today stays");
        let open =
            [Partition { oid: 6, lower: None, upper: None }, Partition { lower: None, ..days(7, 0, 9) }];
        assert_eq!(past(100, &open, &upkeep(3, 0)), [7]);
    }
}
