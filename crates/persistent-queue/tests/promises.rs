//! What the queue promises, one test each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;

use std::time::Duration;

use common::{Bench, Oops, Reaction, SECOND, Script, broken, done, each, until};
use relaykit_persistent_queue::{DeadReason, OpenError, RejectReason, WhenFull};
use relaykit_pipeline_traits::{BatchOutcome, Verdict};
use relaykit_retry::{Backoff, Jitter};

#[tokio::test]
async fn items_come_out_in_the_order_of_pushing() {
    let bench = Bench::new();
    let script = Script::done();
    let queue = bench.builder(&script).max_items(10).open().unwrap();
    for item in 0..100 {
        queue.push(item).await.unwrap();
    }
    until(|| queue.stats().processed == 100).await;
    assert_eq!(script.items(), (0..100).collect::<Vec<_>>());
    assert_eq!(script.lent().len(), 10);
    let report = queue.close(SECOND).await;
    assert_eq!((report.stored_items, report.file_closed), (0, true));
}

#[tokio::test]
async fn what_was_pushed_durably_survives_without_a_close() {
    let bench = Bench::new();
    {
        let queue = bench.builder(&Script::done()).linger(Duration::ZERO).open().unwrap();
        queue.pause();
        for item in 0..3 {
            queue.push_durable(item).await.unwrap();
        }
        // The file as a crash would leave it: the log is not written back.
        std::fs::copy(bench.path(), bench.dir.path().join("copy.db")).unwrap();
        std::fs::copy(bench.dir.path().join("queue.db-wal"), bench.dir.path().join("copy.db-wal")).unwrap();
    }
    let script = Script::done();
    let copy = bench.dir.path().join("copy.db");
    let queue =
        relaykit_persistent_queue::Queue::builder(copy, script.clone()).ballast_bytes(0).open().unwrap();
    script.calls(3).await;
    assert_eq!(script.items(), [0, 1, 2]);
    let _ = queue.close(SECOND).await;
}

#[tokio::test]
async fn a_close_stores_what_was_accepted_and_the_next_open_hands_it_out() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).open().unwrap();
    queue.pause();
    queue.push_all(0..250).await.unwrap();
    let report = queue.close(SECOND).await;
    assert_eq!((report.stored_items, report.unsaved.len(), report.file_closed), (250, 0, true));
    let script = Script::done();
    let queue = bench.builder(&script).batches(10).open().unwrap();
    until(|| queue.stats().processed == 250).await;
    assert_eq!(script.items(), (0..250).collect::<Vec<_>>());
    assert_eq!(script.lent().len(), 1, "batches that were never tried are lent together");
}

#[tokio::test]
async fn a_flush_is_a_barrier_over_everything_pushed_before() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).max_items(10).open().unwrap();
    queue.pause();
    queue.push_all(0..25).await.unwrap();
    queue.flush().await.unwrap();
    let stats = queue.stats();
    assert_eq!((stats.buffered_items, stats.stored_items, stats.stored_batches), (0, 25, 3));
}

#[tokio::test]
async fn a_batch_is_stored_once_its_first_item_has_lingered() {
    let bench = Bench::new();
    let script = Script::done();
    let queue = bench.builder(&script).linger(5 * SECOND).open().unwrap();
    queue.push(1).await.unwrap();
    until(|| bench.clock.sleepers() > 0).await;
    bench.clock.advance(4 * SECOND);
    queue.push(2).await.unwrap();
    assert_eq!(queue.stats().flushed, 0);
    bench.clock.advance(SECOND);
    script.calls(1).await;
    assert_eq!(script.lent(), [[1, 2]]);
}

#[tokio::test]
async fn a_failed_batch_waits_out_its_backoff_and_no_attempt_is_forgotten() {
    let bench = Bench::new();
    let script = Script::sequence([broken(), broken()]);
    let policy = Backoff::exponential(SECOND).jitter(Jitter::None).unlimited_attempts().build().unwrap();
    let queue = bench.builder(&script).retry(policy).linger(Duration::ZERO).open().unwrap();
    queue.push(1).await.unwrap();
    script.calls(1).await;
    until(|| queue.stats().calls == 1).await;
    until(|| bench.clock.sleepers() > 0).await;
    bench.clock.advance(SECOND);
    script.calls(2).await;
    until(|| queue.stats().calls == 2).await;
    bench.clock.advance(SECOND);
    tokio::task::yield_now().await;
    assert_eq!(script.attempts(), [1, 2]);
    until(|| bench.clock.sleepers() > 0).await;
    bench.clock.advance(SECOND);
    script.calls(3).await;
    assert_eq!(script.attempts(), [1, 2, 3]);
    until(|| queue.stats().processed == 1).await;
}

#[tokio::test]
async fn done_items_leave_and_the_rest_stays() {
    let bench = Bench::new();
    let script = Script::new(|batch, attempt| {
        each(batch, |item| match item {
            _ if attempt > 1 => Verdict::Done(()),
            2 => Verdict::Retry { after: None, error: Oops::Broken },
            3 => Verdict::Dead(Oops::Bad),
            _ => Verdict::Done(()),
        })
    });
    let policy = Backoff::fixed(Duration::ZERO).jitter(Jitter::None).max_attempts(3).build().unwrap();
    let queue = bench.builder(&script).retry(policy).open().unwrap();
    queue.push_all(1..=4).await.unwrap();
    queue.flush().await.unwrap();
    until(|| queue.stats().processed == 3).await;
    assert_eq!(script.lent(), [vec![1, 2, 3, 4], vec![2]]);
    let dead = queue.dead_letters(0, 10).await.unwrap();
    assert_eq!((dead.len(), dead[0].reason, &*dead[0].error), (1, DeadReason::Rejected, "bad item"));
    assert_eq!(queue.stats().stored_items, 0);
}

#[tokio::test]
async fn one_poison_item_among_many_is_found_by_halving() {
    let bench = Bench::new();
    let script = Script::new(|batch, _| {
        if batch.contains(&77) { Reaction::Answer(BatchOutcome::Split(Oops::Bad)) } else { done(batch) }
    });
    let queue = bench.builder(&script).max_items(500).open().unwrap();
    queue.push_all(0..500).await.unwrap();
    until(|| queue.stats().processed == 499).await;
    assert!(script.lent().len() <= 19, "{} calls", script.lent().len());
    assert_eq!(queue.stats().died, 1);
}

#[tokio::test]
async fn a_handler_that_panics_or_hangs_loses_nothing() {
    let bench = Bench::new();
    let script = Script::sequence([Reaction::Panic, Reaction::Hang]);
    let policy = Backoff::fixed(Duration::ZERO).jitter(Jitter::None).max_attempts(3).build().unwrap();
    let queue =
        bench.builder(&script).retry(policy).timeout(9 * SECOND).linger(Duration::ZERO).open().unwrap();
    queue.push(1).await.unwrap();
    script.calls(2).await;
    until(|| bench.clock.sleepers() > 0).await;
    bench.clock.advance(9 * SECOND);
    until(|| queue.stats().processed == 1).await;
    assert_eq!(script.attempts(), [1, 2, 3]);
}

#[tokio::test]
async fn a_close_interrupts_a_handler_at_its_deadline_and_spends_no_attempt() {
    let bench = Bench::new();
    let script = Script::new(|_, _| Reaction::Hang);
    let queue = bench.builder(&script).linger(Duration::ZERO).open().unwrap();
    queue.push(1).await.unwrap();
    script.calls(1).await;
    let report = queue.close(Duration::ZERO).await;
    assert_eq!((report.stored_items, report.interrupted_items), (1, 1));
    let again = Script::done();
    let queue = bench.builder(&again).open().unwrap();
    again.calls(1).await;
    assert_eq!(again.attempts(), [1]);
    drop(queue);
}

#[tokio::test]
async fn a_second_opener_is_told_which_file_is_open() {
    let bench = Bench::new();
    let _first = bench.builder(&Script::done()).open().unwrap();
    let error = bench.builder(&Script::done()).open().unwrap_err();
    assert!(matches!(&error, OpenError::AlreadyOpen { path } if *path == bench.path()), "{error:?}");
}

#[tokio::test]
async fn after_a_close_pushes_are_refused_and_the_item_comes_back() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).open().unwrap();
    let clone = queue.clone();
    let _ = queue.close(SECOND).await;
    let refused = clone.push(7).await.unwrap_err();
    assert_eq!((refused.item, refused.reason), (7, RejectReason::Closed));
    assert!(clone.flush().await.is_err());
}

#[tokio::test]
async fn a_full_queue_refuses_or_drops_its_oldest_as_chosen() {
    let bench = Bench::new();
    let queue =
        bench.builder(&Script::done()).max_items(2).bounds(4, 1 << 30, WhenFull::Reject).open().unwrap();
    queue.pause();
    queue.push_all(0..4).await.unwrap();
    let refused = queue.push(4).await.unwrap_err();
    assert_eq!((refused.item, refused.reason), (4, RejectReason::Full));
    let _ = queue.close(SECOND).await;
    let script = Script::done();
    let queue = bench.builder(&script).max_items(2).bounds(4, 1 << 30, WhenFull::DropOldest).open().unwrap();
    queue.pause();
    queue.push_all(4..6).await.unwrap();
    until(|| queue.stats().dropped == 2).await;
    queue.flush().await.unwrap();
    queue.resume();
    until(|| queue.stats().processed == 4).await;
    assert_eq!(script.items(), [2, 3, 4, 5]);
}
