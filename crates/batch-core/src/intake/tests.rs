use std::time::Duration;

use relaykit_pipeline_traits::Attempts;

use super::*;
use crate::entry::Reply;

type Buffer = Intake<u32, (), ()>;

const POLICY: FlushPolicy =
    FlushPolicy { max_items: 3, max_bytes: Some(100), max_pushes: None, linger: Duration::from_secs(5) };
const EAGER: FlushPolicy = FlushPolicy { linger: Duration::ZERO, ..POLICY };
const ROOMY: Bounds = Bounds { items: 1000, bytes: None };
const NO_KEY: u64 = 0;

fn buffer() -> Buffer {
    let mut intake = Buffer::new(ROOMY, false);
    intake.phase = Phase::Running;
    intake
}

fn at(seconds: u64) -> Monotonic {
    Monotonic::from_origin(Duration::from_secs(seconds))
}

fn seat(intake: &Buffer, key: u64, weight: usize) -> Seat<u32, (), ()> {
    let charged = u32::try_from(weight).unwrap();
    let (key, epoch) = (NonZeroU64::new(key), intake.epoch());
    Seat { reply: Reply::Stream, weight, charged, key, epoch, attempts: Attempts::default() }
}

/// Accepts an item with a key and without weight, at no particular time.
fn accept(intake: &mut Buffer, item: u32, key: u64) -> Wake {
    let seat = seat(intake, key, 0);
    intake.accept(item, seat, &POLICY, Monotonic::default)
}

/// Takes a batch as a worker would.
fn take(intake: &mut Buffer) -> Option<Batch<u32, (), ()>> {
    intake.take(&POLICY, &mut Wake::default()).map(|(batch, _)| batch)
}

/// Answers all items of the batch.
fn settle(intake: &mut Buffer, batch: &Batch<u32, (), ()>) -> Wake {
    let mut settled = Settled::default();
    for seat in &batch.seats {
        settled.add(seat.epoch, seat.key, true);
    }
    intake.settle(&mut settled, &POLICY, Monotonic::default)
}

fn flush(intake: &mut Buffer) -> Option<oneshot::Receiver<()>> {
    intake.flush(&POLICY, &mut Wake::default())
}

const NOBODY: Wake = Wake { batches: 0, timer: false };

#[test]
fn a_lingering_batch_wakes_the_timer_with_its_first_item_and_a_worker_with_its_last() {
    let mut intake = buffer();
    assert_eq!(accept(&mut intake, 1, NO_KEY), Wake { batches: 0, timer: true });
    assert_eq!(accept(&mut intake, 2, NO_KEY), NOBODY);
    assert!(take(&mut intake).is_none());
    assert_eq!(accept(&mut intake, 3, NO_KEY), Wake { batches: 1, timer: false });
    // The timer is up already; it looks at the next batch by itself.
    assert_eq!(accept(&mut intake, 4, NO_KEY), NOBODY);
    assert_eq!(take(&mut intake).unwrap().items, [1, 2, 3]);
    assert!(take(&mut intake).is_none());
}

#[test]
fn a_batch_that_does_not_linger_is_announced_once_with_its_first_item() {
    let mut intake = buffer();
    let mut announced = 0;
    for item in 0..7 {
        let seat = seat(&intake, NO_KEY, 0);
        let wake = intake.accept(item, seat, &EAGER, || panic!("nobody needs the time"));
        assert!(!wake.timer);
        announced += wake.batches;
    }
    assert_eq!(announced, 3);
    let taken: Vec<_> = std::iter::from_fn(|| intake.take(&EAGER, &mut Wake::default()))
        .map(|(batch, _)| batch.items)
        .collect();
    assert_eq!(taken, [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
}

#[test]
fn the_linger_ends_that_long_after_the_first_item_of_the_open_batch() {
    let mut intake = buffer();
    assert_eq!(intake.linger_ends(&POLICY), None);
    for (item, second) in [(1, 10), (2, 12), (3, 13), (4, 14), (5, 15)] {
        let seat = seat(&intake, NO_KEY, 0);
        intake.accept(item, seat, &POLICY, || at(second));
    }
    assert_eq!(intake.linger_ends(&POLICY), Some(at(19)));
}

#[test]
fn an_item_that_does_not_fit_closes_the_batch_before_it() {
    let mut intake = buffer();
    for (item, weight) in [(1, 60), (2, 41), (3, 59), (4, 0)] {
        let seat = seat(&intake, NO_KEY, weight);
        intake.accept(item, seat, &POLICY, Monotonic::default);
    }
    assert_eq!(take(&mut intake).unwrap().items, [1]);
    // 41 and 59 are exactly 100.
    assert_eq!(take(&mut intake).unwrap().items, [2, 3]);
    assert!(take(&mut intake).is_none());
}

#[test]
fn an_item_waits_for_the_earlier_ones_of_its_key_to_be_answered_one_by_one() {
    let mut intake = buffer();
    for item in 1..=3 {
        accept(&mut intake, item, 7);
    }
    accept(&mut intake, 10, 8);
    assert_eq!((intake.stats().buffered, intake.stats().parked), (4, 2));
    for round in 1..=3 {
        let mut wake = Wake::default();
        intake.seal(&POLICY, FlushReason::Asked, &mut wake);
        assert_eq!(wake.batches, 1);
        let batch = take(&mut intake).unwrap();
        let expected = if round == 1 { vec![1, 10] } else { vec![round] };
        assert_eq!(batch.items, expected);
        settle(&mut intake, &batch);
    }
    assert!(intake.parked.is_empty(), "idle keys cost nothing");
    assert_eq!(intake.unanswered(), 0);
}

#[test]
fn a_flush_of_nothing_has_nothing_to_wait_for() {
    let mut intake = buffer();
    assert!(flush(&mut intake).is_none());
    accept(&mut intake, 1, NO_KEY);
    assert!(flush(&mut intake).is_some());
    let batch = take(&mut intake).unwrap();
    settle(&mut intake, &batch);
    assert!(flush(&mut intake).is_none());
}

#[test]
fn a_flush_ends_with_the_last_item_before_it_and_not_earlier() {
    let mut intake = buffer();
    accept(&mut intake, 1, NO_KEY);
    let mut first = flush(&mut intake).unwrap();
    accept(&mut intake, 2, NO_KEY);
    let mut second = flush(&mut intake).unwrap();
    accept(&mut intake, 3, NO_KEY);
    let mut third = flush(&mut intake).unwrap();
    let batches: Vec<_> = std::iter::from_fn(|| take(&mut intake)).collect();
    assert_eq!(batches.len(), 3);

    settle(&mut intake, &batches[1]);
    assert!(first.try_recv().is_err() && second.try_recv().is_err(), "1 is not answered");
    settle(&mut intake, &batches[0]);
    assert!(first.try_recv().is_ok() && second.try_recv().is_ok());
    assert!(third.try_recv().is_err(), "3 is not answered");
    settle(&mut intake, &batches[2]);
    assert!(third.try_recv().is_ok());
}

#[test]
fn a_key_that_a_flush_waits_for_does_not_linger() {
    let mut intake = buffer();
    for item in 1..=2 {
        accept(&mut intake, item, 7);
    }
    let mut flushed = flush(&mut intake).unwrap();
    accept(&mut intake, 3, 7);
    let batch = take(&mut intake).unwrap();
    assert_eq!(settle(&mut intake, &batch).batches, 1);
    let batch = take(&mut intake).expect("2 is not left to the linger");
    // 3 came after the flush, and lingers.
    assert_eq!(settle(&mut intake, &batch).batches, 0);
    assert!(flushed.try_recv().is_ok());
    assert!(take(&mut intake).is_none());
}

#[test]
fn any_number_of_flushes_for_the_same_items_costs_one_epoch() {
    let mut intake = buffer();
    accept(&mut intake, 1, NO_KEY);
    let mut waiting: Vec<_> = (0..100).map(|_| flush(&mut intake).unwrap()).collect();
    assert_eq!(intake.outstanding.len(), 2);
    for _ in 0..100 {
        drop(flush(&mut intake));
    }
    // Those that were given up are forgotten, except the last.
    assert_eq!((intake.outstanding.len(), intake.flushes.len()), (2, 101));
    let batch = take(&mut intake).unwrap();
    settle(&mut intake, &batch);
    assert!(waiting.iter_mut().all(|flush| flush.try_recv().is_ok()));
    assert_eq!((intake.outstanding.len(), intake.flushes.len()), (1, 0));
}

#[test]
fn a_full_buffer_closes_its_open_batch_if_no_other_is_there() {
    let mut intake = Buffer::new(Bounds { items: 4, bytes: None }, false);
    intake.phase = Phase::Running;
    for item in 1..=3 {
        assert_eq!(accept(&mut intake, item, 7).batches, 0);
    }
    assert_eq!(accept(&mut intake, 4, 7).batches, 1);
    assert_eq!(take(&mut intake).unwrap().items, [1]);
}

#[test]
fn a_buffer_full_of_bytes_closes_its_open_batch_if_no_other_is_there() {
    let mut intake = Buffer::new(Bounds { items: 1000, bytes: Some(200) }, false);
    intake.phase = Phase::Running;
    let mut add = |item, weight| {
        let seat = seat(&intake, 7, weight);
        intake.accept(item, seat, &POLICY, Monotonic::default).batches
    };
    // Up to 100 bytes, an item of the largest size still fits in.
    assert_eq!(add(1, 50), 0);
    assert_eq!(add(2, 50), 0);
    assert_eq!(add(3, 1), 1);
    // Enough is on its way.
    assert_eq!(add(4, 50), 0);
}

#[test]
fn a_bound_too_small_for_that_leaves_batches_to_their_linger() {
    let mut intake = Buffer::new(Bounds { items: 1000, bytes: Some(199) }, false);
    intake.phase = Phase::Running;
    for item in 1..=2 {
        let seat = seat(&intake, NO_KEY, 49);
        assert_eq!(intake.accept(item, seat, &POLICY, Monotonic::default).batches, 0);
    }
}

#[test]
fn what_a_stop_takes_out_comes_oldest_first_with_parked_items_behind() {
    let mut intake = buffer();
    for item in 1..=5 {
        accept(&mut intake, item, NO_KEY);
    }
    for item in 6..=8 {
        accept(&mut intake, item, 7);
    }
    let all = intake.take_all();
    assert_eq!(all.items, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((intake.stats().buffered, intake.buffered_bytes), (0, 0));
}

#[test]
fn while_stopping_no_item_lingers() {
    let mut intake = buffer();
    for item in 1..=2 {
        accept(&mut intake, item, 7);
    }
    intake.seal(&POLICY, FlushReason::Asked, &mut Wake::default());
    let batch = take(&mut intake).unwrap();
    intake.phase = Phase::Stopping;
    assert_eq!(settle(&mut intake, &batch).batches, 1);
    assert_eq!(take(&mut intake).unwrap().items, [2]);
}

#[test]
fn the_end_of_a_run_leaves_nothing_to_the_next() {
    let mut intake = buffer();
    for item in 1..=4 {
        accept(&mut intake, item, 7);
    }
    let mut flushed = flush(&mut intake).unwrap();
    let lent = take(&mut intake).unwrap();
    let rest = intake.take_all();
    assert_eq!((lent.len(), rest.len()), (1, 3));
    intake.end_run(4);
    assert_eq!(flushed.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    assert_eq!((intake.phase, intake.run, intake.unanswered()), (Phase::Stopped, 1, 0));
    assert_eq!((intake.stats().handed_back, intake.stats().in_flight), (4, 0));
    // The key is free, although its item was never answered.
    intake.phase = Phase::Running;
    accept(&mut intake, 5, 7);
    assert_eq!(intake.stats().parked, 0);
}

#[test]
fn an_abandoned_run_counts_what_nobody_took_as_failed() {
    let mut intake = buffer();
    for item in 1..=4 {
        accept(&mut intake, item, 7);
    }
    assert_eq!(intake.abandon().items, [1, 2, 3, 4]);
    assert_eq!((intake.phase, intake.stats().failed, intake.unanswered()), (Phase::Stopped, 4, 0));
}

#[test]
fn a_batch_in_reused_lists_tells_its_own_reason_and_time() {
    let mut intake = Buffer::new(ROOMY, true);
    intake.phase = Phase::Running;
    let mut took = |seconds, items| {
        for item in 0..items {
            let seat = seat(&intake, NO_KEY, 0);
            intake.accept(item, seat, &EAGER, || at(seconds));
        }
        let (mut batch, closed) = intake.take(&EAGER, &mut Wake::default()).expect("items wait");
        settle(&mut intake, &batch);
        batch.items.clear();
        batch.seats.clear();
        intake.put_spare(batch);
        (closed.reason, closed.opened_at)
    };
    assert_eq!(took(1, 3), (FlushReason::Items, at(1)));
    assert_eq!(took(2, 1), (FlushReason::Linger, at(2)));
    assert_eq!(took(3, 3), (FlushReason::Items, at(3)));
}
