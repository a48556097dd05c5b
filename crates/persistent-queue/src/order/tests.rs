#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_000);
const LATER: Timestamp = Timestamp::from_micros(2_000);

fn keys(hashes: &[u64]) -> Keys {
    Keys { hashes: hashes.iter().copied().collect(), free: false }
}

fn line(batches: &[&[u64]]) -> Line {
    let mut line = Line::new(100);
    for (id, hashes) in (1..).zip(batches) {
        line.add(id, keys(hashes), None);
    }
    line
}

fn held(line: &Line, id: i64, now: Timestamp) -> Option<Vec<u64>> {
    line.held(id, &[], now).map(|held| {
        let mut hashes = held.hashes;
        hashes.sort_unstable();
        hashes
    })
}

fn lent(id: i64) -> (i64, Held) {
    (id, Held::default())
}

#[test]
fn what_is_held_in_one_batch_is_held_in_those_beside_it() {
    let line = line(&[&[1], &[1]]);
    let held = Held { hashes: vec![1], free: false };
    assert_eq!(line.held(2, &[(1, held)], NOW), None);
}

#[test]
fn a_key_is_held_while_an_older_batch_has_it_and_the_others_go_on() {
    let mut line = line(&[&[1, 2], &[2, 3], &[2]]);
    assert_eq!(held(&line, 1, NOW), Some(vec![]));
    assert_eq!(held(&line, 2, NOW), Some(vec![2]));
    assert_eq!(held(&line, 3, NOW), None);
    line.forget(1, NOW);
    assert_eq!(held(&line, 2, NOW), Some(vec![]));
    assert_eq!(held(&line, 3, NOW), None);
}

#[test]
fn batches_that_are_lent_together_do_not_hold_each_other() {
    let line = line(&[&[1], &[1], &[1]]);
    assert!(line.held(2, &[lent(1)], NOW).unwrap().is_nothing());
    assert_eq!(line.held(3, &[lent(1)], NOW), None);
    assert!(line.held(3, &[lent(1), lent(2)], NOW).unwrap().is_nothing());
}

#[test]
fn what_waits_is_lent_in_its_time_and_what_was_only_held_as_soon_as_it_can() {
    let mut line = line(&[&[1], &[1, 2, 3]]);
    // Of the second batch, 2 failed, 3 is done, and 1 was held.
    line.keep(2, Some(&[(Some(1), false), (Some(2), true)]), Some(LATER), NOW);
    line.put_away(2, NOW);
    assert!(!line.wants());
    line.forget(1, NOW);
    assert_eq!(line.take_wanted(9), [2]);
    line.bring(2);
    assert_eq!(held(&line, 2, NOW), Some(vec![2]));
    assert_eq!(held(&line, 2, LATER), Some(vec![]));
    // Held once more, 2 still waits.
    line.keep(2, Some(&[(Some(2), false)]), Some(LATER), NOW);
    assert_eq!(held(&line, 2, NOW), None);
}

#[test]
fn a_batch_whose_turn_comes_while_it_is_being_settled_is_wanted_then() {
    let mut line = line(&[&[1], &[1, 2]]);
    line.keep(2, Some(&[(Some(1), false)]), None, NOW);
    line.forget(1, NOW);
    assert!(!line.wants());
    line.put_away(2, NOW);
    assert_eq!(line.take_wanted(9), [2]);
}

#[test]
fn items_without_a_key_are_held_by_nothing_but_their_own_wait() {
    let mut line = line(&[&[1]]);
    line.add(2, Keys { hashes: [1].into(), free: true }, None);
    let held = line.held(2, &[], NOW).unwrap();
    assert!(held.holds(Some(1)) && !held.holds(None));
    line.keep(2, Some(&[(Some(1), false), (None, true)]), Some(LATER), NOW);
    assert_eq!(line.held(2, &[], NOW), None);
    assert!(!line.held(2, &[], LATER).unwrap().holds(None));
}

#[test]
fn room_is_bounded_and_comes_back() {
    let mut line = Line::new(3);
    line.add(1, keys(&[1, 2]), Some(LATER));
    assert!(line.has_room());
    line.add(2, keys(&[1, 2]), None);
    assert!(!line.has_room());
    line.forget(1, NOW);
    assert!(line.has_room());
    line.forget(2, NOW);
    assert!(line.holders.is_empty() && line.batches.is_empty() && line.away == 0 && line.wanted.is_empty());
    for id in 0..MAX_AWAY {
        line.add(i64::try_from(id).unwrap(), Keys::unknown(), Some(LATER));
    }
    assert!(!line.has_room());
}
