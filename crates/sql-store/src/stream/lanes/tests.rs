use relaykit_pipeline_traits::{MessageId, Rng, Timestamp};

use super::super::open::Snapshot;
use super::*;

pub(super) const SHARD: Shard = Shard::new(1);
const LEASE: Lease = Lease { shard: SHARD, token: 7 };

pub(super) fn row(seq: i64) -> RowId {
    RowId { shard: SHARD, seq: Seq(seq) }
}

fn key() -> OrderingKey {
    OrderingKey::new("k").unwrap()
}

pub(super) fn stored(seq: i64) -> Stored {
    let at = Timestamp::from_millis(1);
    let id = MessageId::new(at, &mut Rng::seeded(seq.unsigned_abs()));
    let message = Message::builder(id, "kind", at).ordering_key("k").build().unwrap();
    Stored {
        row: row(seq),
        message,
        attempts: 0,
        age: Duration::ZERO,
        failing_for: None,
        waited: false,
        suspicion: Suspicion::Clear,
    }
}

fn unkeyed(seq: i64) -> Stored {
    let at = Timestamp::from_millis(1);
    let id = MessageId::new(at, &mut Rng::seeded(seq.unsigned_abs()));
    Stored { message: Message::builder(id, "kind", at).build().unwrap(), ..stored(seq) }
}

fn page(seqs: impl IntoIterator<Item = i64>) -> Page {
    Page { rows: seqs.into_iter().map(stored).collect(), ..Page::default() }
}

fn load(lanes: &mut Lanes, seqs: impl IntoIterator<Item = i64>) {
    lanes.look_again();
    lanes.next_page().unwrap();
    lanes.load(page(seqs), 1_000, Monotonic::default());
}

fn take(lanes: &mut Lanes) -> Vec<i64> {
    lanes.take(10, |_| true).iter().map(|loaded| loaded.row.seq.0).collect()
}

fn lanes() -> Lanes {
    let mut lanes = Lanes::new(1_000, true);
    lanes.hold(&[LEASE]);
    lanes
}

#[test]
fn the_next_of_a_key_goes_when_the_one_before_it_has_gone() {
    let mut lanes = lanes();
    load(&mut lanes, [1, 2]);
    assert_eq!(take(&mut lanes), [1]);
    assert!(take(&mut lanes).is_empty());
    lanes.end(row(1), Some(&key()), 7, End::Gone);
    assert_eq!(take(&mut lanes), [2]);
}

#[test]
fn what_comes_behind_a_row_that_waits_is_dropped() {
    let mut lanes = lanes();
    load(&mut lanes, [1, 2]);
    take(&mut lanes);
    lanes.end(row(1), Some(&key()), 7, End::Waits(Monotonic::NEVER));
    assert!(take(&mut lanes).is_empty());
    assert!(lanes.is_empty());
}

#[test]
fn a_page_from_before_a_row_ended_brings_neither_it_nor_its_successors_back() {
    for (end, then) in [(End::Gone, vec![2]), (End::Waits(Monotonic::NEVER), vec![])] {
        let mut lanes = lanes();
        load(&mut lanes, [1]);
        take(&mut lanes);
        lanes.look_again();
        lanes.next_page().unwrap();
        lanes.end(row(1), Some(&key()), 7, end);
        // The page was read before that.
        lanes.load(page([1, 2]), 1_000, Monotonic::default());
        assert_eq!(take(&mut lanes), then);
    }
}

#[test]
fn rows_that_are_read_again_are_there_once() {
    let mut lanes = lanes();
    load(&mut lanes, [1, 2]);
    lanes.start_over();
    load(&mut lanes, [1, 2]);
    assert_eq!(take(&mut lanes), [1]);
    lanes.start_over();
    load(&mut lanes, [1, 2]);
    assert!(take(&mut lanes).is_empty());
}

#[test]
fn rows_beyond_the_room_of_a_key_are_read_again_when_it_is_empty() {
    let mut lanes = lanes();
    let room = i64::try_from(LANE_ROOM).unwrap();
    load(&mut lanes, 1..=room + 5);
    for seq in 1..=room {
        assert_eq!(take(&mut lanes), [seq]);
        assert!(!lanes.wants_back());
        lanes.end(row(seq), Some(&key()), 7, End::Gone);
    }
    assert!(lanes.wants_back());
    lanes.go_back();
    assert_eq!(lanes.next_page().unwrap().0[0].after, Seq(room));
}

#[test]
fn a_row_of_a_lower_place_goes_first_also_if_there_is_no_room() {
    let mut lanes = lanes();
    let room = i64::try_from(LANE_ROOM).unwrap();
    load(&mut lanes, 10..10 + room);
    lanes.start_over();
    load(&mut lanes, std::iter::once(3).chain(10..10 + room));
    assert_eq!(take(&mut lanes), [3]);
}

#[test]
fn what_does_not_fit_is_read_again() {
    let mut lanes = Lanes::new(2, true);
    lanes.hold(&[LEASE]);
    load(&mut lanes, [1, 2, 3]);
    assert_eq!(take(&mut lanes), [1]);
    lanes.end(row(1), Some(&key()), 7, End::Gone);
    assert_eq!(lanes.next_page().unwrap().0[0].after, Seq(2));
}

#[test]
fn a_shard_under_another_token_begins_anew() {
    let mut lanes = lanes();
    load(&mut lanes, [1, 2]);
    take(&mut lanes);
    lanes.hold(&[Lease { token: 8, ..LEASE }]);
    assert!(lanes.is_empty());
    lanes.end(row(1), Some(&key()), 7, End::Gone);
    load(&mut lanes, [1, 2]);
    assert_eq!(take(&mut lanes), [1], "nobody knows what became of it");
}

#[test]
fn a_shard_that_is_kept_after_all_goes_on_and_sends_nothing_twice() {
    let mut lanes = lanes();
    load(&mut lanes, [1, 2, 3]);
    assert_eq!(take(&mut lanes), [1]);
    // About to be given back, as soon as the work on it has ended.
    lanes.hold(&[]);
    assert!(take(&mut lanes).is_empty());
    assert!(lanes.next_page().is_none());
    lanes.hold(&[LEASE]);
    load(&mut lanes, [1, 2, 3]);
    assert!(take(&mut lanes).is_empty(), "1 is on its way");
    lanes.end(row(1), Some(&key()), 7, End::Gone);
    assert_eq!(take(&mut lanes), [2]);
}

#[test]
fn a_page_from_before_a_shard_is_read_anew_is_passed_over() {
    let mut lanes = lanes();
    load(&mut lanes, [1]);
    take(&mut lanes);
    lanes.end(row(1), Some(&key()), 7, End::Gone);
    lanes.look_again();
    assert_eq!(lanes.next_page().unwrap().0[0].after, Seq(1));
    lanes.hold(&[]);
    lanes.hold(&[LEASE]);
    lanes.load(page([5]), 1_000, Monotonic::default());
    assert!(take(&mut lanes).is_empty());
    assert_eq!(lanes.next_page().unwrap().0[0].after, Seq(0));
}

#[test]
fn a_shard_of_which_something_was_lost_is_read_anew_when_the_rest_has_ended() {
    let mut lanes = lanes();
    lanes.next_page().unwrap();
    let other = Stored { row: row(9), ..unkeyed(9) };
    lanes.load(Page { rows: vec![stored(1), other], ..Page::default() }, 1_000, Monotonic::default());
    assert_eq!(take(&mut lanes), [1, 9]);
    lanes.end(row(1), Some(&key()), 7, End::Lost);
    lanes.hold(&[LEASE]);
    assert!(lanes.next_page().is_none());
    lanes.end(row(9), None, 7, End::Gone);
    lanes.hold(&[LEASE]);
    load(&mut lanes, [1, 2]);
    assert_eq!(take(&mut lanes), [1]);
}

#[test]
fn a_page_of_a_lost_shard_is_passed_over() {
    let mut lanes = lanes();
    lanes.next_page().unwrap();
    lanes.hold(&[]);
    lanes.load(page([1]), 1_000, Monotonic::default());
    assert!(lanes.is_empty());
}

#[test]
fn what_a_row_that_waited_held_is_read_again_when_it_has_gone() {
    let mut lanes = lanes();
    lanes.next_page().unwrap();
    let waited = Stored { waited: true, ..stored(4) };
    lanes.load(Page { rows: vec![waited], ..Page::default() }, 1_000, Monotonic::default());
    load(&mut lanes, []);
    take(&mut lanes);
    lanes.end(row(4), Some(&key()), 7, End::Gone);
    lanes.go_back();
    assert_eq!(lanes.next_page().unwrap().0[0].after, Seq(4));
}

#[test]
fn what_a_row_that_came_back_without_an_answer_held_is_read_before_later_rows() {
    let mut lanes = lanes();
    lanes.next_page().unwrap();
    let waited = Stored { waited: true, ..stored(4) };
    // It hides 5, while the end of the shard is read.
    lanes.load(Page { rows: vec![waited, unkeyed(7)], ..Page::default() }, 1_000, Monotonic::default());
    let loaded = lanes.take(1, |_| true).pop().unwrap();
    lanes.end(row(4), Some(&key()), 7, End::Back(Box::new(loaded)));
    // It has gone, and nobody was told.
    load(&mut lanes, [8]);
    take(&mut lanes);
    lanes.end(row(4), Some(&key()), 7, End::Gone);
    assert!(take(&mut lanes).is_empty());
    lanes.go_back();
    load(&mut lanes, [5, 8]);
    assert_eq!(take(&mut lanes), [5]);
}

#[test]
fn what_comes_behind_a_row_that_was_not_there_to_wait_is_read_again_at_once() {
    let mut lanes = lanes();
    load(&mut lanes, [1, 2]);
    take(&mut lanes);
    lanes.end(row(1), Some(&key()), 7, End::ReadAgain);
    load(&mut lanes, [3]);
    assert!(take(&mut lanes).is_empty());
    lanes.go_back();
    load(&mut lanes, [2, 3]);
    assert_eq!(take(&mut lanes), [2]);
}

#[test]
fn what_comes_behind_a_row_that_waited_is_read_when_its_wait_is_over_though_it_has_gone() {
    let over = Monotonic::default() + Duration::from_secs(1);
    let mut lanes = lanes();
    load(&mut lanes, [1, 2]);
    take(&mut lanes);
    lanes.end(row(1), Some(&key()), 7, End::Waits(over));
    // A settlement that was given up has taken effect late: 1 is gone, and nobody was told.
    load(&mut lanes, []);
    assert!(!lanes.wants_back());
    lanes.waits_end(over);
    lanes.go_back();
    load(&mut lanes, [2, 3]);
    assert_eq!(take(&mut lanes), [2]);
}

#[test]
fn what_comes_behind_a_row_that_waited_is_read_as_soon_as_a_later_one_shows_that_it_has_gone() {
    let mut lanes = lanes();
    load(&mut lanes, [1, 2]);
    take(&mut lanes);
    lanes.end(row(1), Some(&key()), 7, End::Waits(Monotonic::NEVER));
    load(&mut lanes, []);
    assert!(!lanes.wants_back());
    // It was skipped.
    load(&mut lanes, [3, 4]);
    assert!(take(&mut lanes).is_empty() && lanes.wants_back());
    lanes.go_back();
    load(&mut lanes, [2, 3, 4]);
    assert_eq!(take(&mut lanes), [2]);
}

#[test]
fn a_key_that_is_read_again_goes_on_though_its_next_row_waits_meanwhile() {
    let over = Monotonic::default() + Duration::from_secs(1);
    let mut lanes = lanes();
    lanes.next_page().unwrap();
    let first = Stored { waited: true, ..stored(1) };
    lanes.load(Page { rows: vec![first, stored(5)], ..Page::default() }, 1_000, over);
    take(&mut lanes);
    // It had waited, so what lies behind it is read again; the next is here already, and fails.
    lanes.end(row(1), Some(&key()), 7, End::Gone);
    assert_eq!(take(&mut lanes), [5]);
    lanes.go_back();
    lanes.next_page().unwrap();
    lanes.end(row(5), Some(&key()), 7, End::Waits(over));
    lanes.waits_end(over);
    lanes.load(page([5, 6]), 1_000, over);
    assert!(take(&mut lanes).is_empty(), "the page may show it as it was before");
    lanes.go_back();
    let (from, _) = lanes.next_page().unwrap();
    let rows = [5, 6].into_iter().filter(|seq| Seq(*seq) > from[0].after);
    lanes.load(page(rows), 1_000, over);
    assert_eq!(take(&mut lanes), [5]);
}

#[test]
fn no_more_waits_are_remembered_than_there_is_room_for() {
    let mut lanes = lanes();
    let all = i64::try_from(WAITS).unwrap() + 10;
    for seq in 1..=all {
        let key = format!("k{seq}");
        let message = Message::builder(stored(seq).message.id(), "kind", Timestamp::from_millis(1));
        let message = message.ordering_key(key.as_str()).build().unwrap();
        lanes.look_again();
        lanes.next_page().unwrap();
        let rows = vec![Stored { message, ..stored(seq) }];
        lanes.load(Page { rows, ..Page::default() }, 1_000, Monotonic::default());
        assert_eq!(take(&mut lanes), [seq]);
        lanes.end(row(seq), Some(&OrderingKey::new(key).unwrap()), 7, End::Waits(Monotonic::NEVER));
    }
    assert_eq!((lanes.waits.len(), lanes.waiting.len()), (WAITS, WAITS));
}

#[test]
fn a_page_from_before_a_row_waits_does_not_end_its_wait() {
    let mut lanes = lanes();
    load(&mut lanes, [1]);
    take(&mut lanes);
    lanes.start_over();
    lanes.next_page().unwrap();
    lanes.end(row(1), Some(&key()), 7, End::Waits(Monotonic::NEVER));
    // It was read before that, and 1 has gone since, though nobody was told.
    lanes.load(page([1, 2]), 1_000, Monotonic::default());
    assert!(take(&mut lanes).is_empty() && !lanes.wants_back());
    load(&mut lanes, [3]);
    assert!(take(&mut lanes).is_empty() && lanes.wants_back());
    lanes.go_back();
    load(&mut lanes, [2, 3]);
    assert_eq!(take(&mut lanes), [2]);
}

#[test]
fn later_rows_of_a_key_wait_until_those_left_behind_are_read() {
    let mut lanes = lanes();
    load(&mut lanes, [9]);
    take(&mut lanes);
    lanes.end(row(9), Some(&key()), 7, End::Gone);
    // It waited, and the store hid what is behind it while the end of the shard was read.
    lanes.start_over();
    lanes.next_page().unwrap();
    let waited = Stored { waited: true, ..stored(4) };
    lanes.load(Page { rows: vec![waited], ..Page::default() }, 1_000, Monotonic::default());
    assert_eq!(take(&mut lanes), [4]);
    load(&mut lanes, []);
    lanes.end(row(4), Some(&key()), 7, End::Gone);
    lanes.look_again();
    assert_eq!(lanes.next_page().unwrap().0[0].after, Seq(4));
    lanes.load(page([5]), 1_000, Monotonic::default());
    assert_eq!(take(&mut lanes), [5]);
}

#[test]
fn a_look_that_is_asked_for_while_a_page_is_on_its_way_is_taken_after_it() {
    let mut lanes = lanes();
    lanes.next_page().unwrap();
    lanes.look_again();
    lanes.load(page([]), 1_000, Monotonic::default());
    assert!(lanes.next_page().is_some());
    lanes.load(page([]), 1_000, Monotonic::default());
    assert!(lanes.next_page().is_none());
}

#[test]
fn what_is_to_be_read_again_is_not_passed_over_by_the_page_on_its_way() {
    let mut lanes = lanes();
    lanes.next_page().unwrap();
    let waited = Stored { waited: true, ..stored(4) };
    lanes.load(Page { rows: vec![waited], ..Page::default() }, 1_000, Monotonic::default());
    take(&mut lanes);
    lanes.look_again();
    lanes.next_page().unwrap();
    lanes.end(row(4), Some(&key()), 7, End::Gone);
    lanes.go_back();
    // Read while row 4 still held row 5.
    lanes.load(page([]), 1_000, Monotonic::default());
    assert!(lanes.wants_back());
    lanes.go_back();
    assert_eq!(lanes.next_page().unwrap().0[0].after, Seq(4));
    lanes.load(page([5, 6]), 1_000, Monotonic::default());
    assert_eq!(take(&mut lanes), [5]);
}

#[test]
fn rows_that_are_due_are_read_again_unless_they_are_here() {
    let mut lanes = lanes();
    load(&mut lanes, [1, 5]);
    lanes.look_again();
    lanes.next_page().unwrap();
    lanes.load(Page { due: vec![row(1)], ..Page::default() }, 1_000, Monotonic::default());
    assert!(!lanes.wants_back());
    lanes.look_again();
    lanes.next_page().unwrap();
    lanes.load(Page { due: vec![row(3)], ..Page::default() }, 1_000, Monotonic::default());
    lanes.go_back();
    assert_eq!(lanes.next_page().unwrap().0[0].after, Seq(2));
}

#[test]
fn a_suspect_goes_alone_and_holds_its_key_meanwhile() {
    let mut lanes = lanes();
    lanes.next_page().unwrap();
    let suspect = Stored { suspicion: Suspicion::Company, ..stored(1) };
    let rows = vec![suspect, stored(2), unkeyed(3)];
    lanes.load(Page { rows, ..Page::default() }, 1_000, Monotonic::default());
    assert_eq!(take(&mut lanes), [3]);
    assert!(lanes.has_suspects());
    assert_eq!(lanes.take_suspect(|_| true).unwrap().row, row(1));
    assert!(!lanes.has_suspects() && take(&mut lanes).is_empty());
    lanes.end(row(1), Some(&key()), 7, End::Gone);
    assert_eq!(take(&mut lanes), [2]);
}

#[test]
fn a_suspect_whose_shard_stands_still_keeps_nobody_waiting() {
    let mut lanes = lanes();
    lanes.next_page().unwrap();
    let suspect = Stored { suspicion: Suspicion::Company, ..stored(1) };
    lanes.load(Page { rows: vec![unkeyed(3), suspect], ..Page::default() }, 1_000, Monotonic::default());
    assert_eq!(take(&mut lanes), [3]);
    assert!(lanes.has_suspects());
    lanes.hold(&[]);
    assert!(!lanes.has_suspects() && lanes.take_suspect(|_| true).is_none());
    lanes.hold(&[LEASE]);
    assert!(lanes.take_suspect(|_| false).is_none());
    assert!(lanes.take_suspect(|_| true).is_some());
}

#[test]
fn a_row_before_a_suspect_goes_first_and_in_company() {
    let mut lanes = lanes();
    lanes.next_page().unwrap();
    let suspect = Stored { suspicion: Suspicion::Company, ..stored(5) };
    lanes.load(Page { rows: vec![suspect.clone()], ..Page::default() }, 1_000, Monotonic::default());
    assert!(take(&mut lanes).is_empty());
    lanes.start_over();
    lanes.next_page().unwrap();
    lanes.load(Page { rows: vec![stored(4), suspect], ..Page::default() }, 1_000, Monotonic::default());
    assert!(lanes.take_suspect(|_| true).is_none(), "4 is no suspect");
    assert_eq!(take(&mut lanes), [4]);
}

#[test]
fn a_shard_is_read_through_when_nothing_of_it_is_left_or_on_its_way() {
    let mut lanes = lanes();
    assert_eq!(lanes.read_through().count(), 0, "it was not read");
    load(&mut lanes, [1]);
    assert_eq!(lanes.read_through().count(), 0);
    take(&mut lanes);
    assert_eq!(lanes.read_through().count(), 0);
    lanes.end(row(1), Some(&key()), 7, End::Gone);
    assert_eq!(lanes.read_through().collect::<Vec<_>>(), [SHARD]);
    lanes.look_again();
    assert_eq!(lanes.read_through().count(), 0, "there may be more");
}

#[test]
fn what_came_in_sight_before_a_place_is_read_in_every_shard_also_in_one_that_was_not_asked_for() {
    let mut lanes = Lanes::new(1_000, true);
    let other = Lease { shard: Shard::new(2), token: 7 };
    lanes.hold(&[LEASE, other]);
    lanes.next_page().unwrap();
    let elsewhere = Stored { row: RowId { shard: other.shard, seq: Seq(9) }, ..unkeyed(9) };
    let rows = vec![stored(1), stored(2), elsewhere];
    // Of the first shard there may be more; the other was read to its end.
    lanes.load(Page { rows, ..Page::default() }, 2, Monotonic::default());
    let (from, _) = lanes.next_page().unwrap();
    assert_eq!(from, [ReadFrom { shard: SHARD, after: Seq(2) }]);
    let snapshot = Snapshot { from: Some(Seq(5)), ..Snapshot::default() };
    lanes.load(Page { rows: vec![stored(3)], snapshot, ..Page::default() }, 2, Monotonic::default());
    assert_eq!(lanes.next_page().unwrap().0, [ReadFrom { shard: other.shard, after: Seq(5) }]);
}

#[test]
fn rows_of_a_page_go_by_their_places_and_those_without_room_are_read_again() {
    let other = Shard::new(2);
    let mut lanes = Lanes::new(4, true);
    lanes.hold(&[LEASE, Lease { shard: other, token: 9 }]);
    lanes.next_page().unwrap();
    let of_other = |seq| Stored { row: RowId { shard: other, seq: Seq(seq) }, ..unkeyed(seq) };
    let rows = vec![unkeyed(1), unkeyed(4), unkeyed(5), of_other(2), of_other(3), of_other(6)];
    lanes.load(Page { rows, ..Page::default() }, 1_000, Monotonic::default());
    assert_eq!(take(&mut lanes), [1, 2, 3, 4]);
    let (from, _) = lanes.next_page().unwrap();
    let after = |shard, seq| ReadFrom { shard, after: Seq(seq) };
    assert_eq!(from, [after(SHARD, 4), after(other, 5)]);
}
