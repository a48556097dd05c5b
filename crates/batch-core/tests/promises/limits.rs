use std::time::Duration;

use relaykit_batch_core::{RejectReason, Rejected};
use relaykit_pipeline_traits::{ManualClock, Rng};

use crate::common::{
    HOUR, SECOND, Script, add_all, all_done, answers, assert_books_balance, batcher, gate, idle, outputs,
    started,
};

#[tokio::test]
async fn linger_counts_from_a_batchs_first_item() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).linger(5 * SECOND));
    // The processor has been idle for a while: that does not shorten the linger, nor does a later item extend it.
    clock.advance(HOUR);
    idle().await;
    let first = processor.add(1).await.unwrap();
    clock.until_sleepers(1).await;
    clock.advance(4 * SECOND);
    let second = processor.add(2).await.unwrap();
    idle().await;
    assert_eq!(script.calls(), 0);
    clock.advance(SECOND);
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (1, 2));
    assert_eq!(script.lent(), [[1, 2]]);
}

#[tokio::test]
async fn linger_counts_anew_for_each_batch() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).max_items(2).linger(5 * SECOND));
    let mut tickets = add_all(&processor, [1]).await;
    clock.until_sleepers(1).await;
    clock.advance(3 * SECOND);
    tickets.extend(add_all(&processor, [2, 3]).await);
    script.until_calls(1).await;
    // 5 s after the first item, 2 s after the third: the timer of the first batch says nothing to the second.
    clock.advance(2 * SECOND);
    idle().await;
    assert_eq!(script.lent(), [[1, 2]]);
    clock.advance(3 * SECOND);
    assert_eq!(outputs(answers(tickets).await), [1, 2, 3]);
    assert_eq!(script.lent(), [vec![1, 2], vec![3]]);
}

#[tokio::test]
async fn no_batch_is_empty_however_much_time_passes() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).linger(SECOND));
    for item in 0..3 {
        let ticket = processor.add(item).await.unwrap();
        clock.until_sleepers(1).await;
        clock.advance(HOUR);
        ticket.await.unwrap();
        for _ in 0..10 {
            clock.advance(SECOND);
            idle().await;
        }
    }
    assert_eq!(script.lent(), [[0], [1], [2]]);
}

#[tokio::test]
async fn a_clock_that_jumps_far_ahead_flushes_once() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).linger(SECOND));
    let tickets = add_all(&processor, [1, 2]).await;
    clock.until_sleepers(1).await;
    clock.advance(HOUR * 24 * 365);
    assert_eq!(outputs(answers(tickets).await), [1, 2]);
    idle().await;
    assert_eq!(script.calls(), 1);
}

#[tokio::test]
async fn a_full_batch_goes_at_once() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).max_items(3).linger(HOUR));
    let tickets = add_all(&processor, 0..3).await;
    assert_eq!(outputs(answers(tickets).await), [0, 1, 2]);
}

#[tokio::test]
async fn with_an_endless_linger_only_full_batches_and_flushes_go() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).max_items(3).linger(Duration::MAX));
    let tickets = add_all(&processor, 0..4).await;
    script.until_calls(1).await;
    clock.advance(HOUR * 24 * 365);
    idle().await;
    assert_eq!(script.lent(), [[0, 1, 2]]);
    processor.flush().await.unwrap();
    assert_eq!(outputs(answers(tickets).await), [0, 1, 2, 3]);
}

#[tokio::test]
async fn without_linger_items_gather_only_while_all_workers_are_busy() {
    let closed = gate();
    let script = {
        let closed = closed.clone();
        Script::new(move |batch, _| all_done(batch).behind(&closed))
    };
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).max_items(10).linger(Duration::ZERO).concurrency(1));
    let mut tickets = add_all(&processor, [0]).await;
    script.until_calls(1).await;
    assert_eq!(script.lent(), [[0]]);
    tickets.extend(add_all(&processor, 1..15).await);
    closed.add_permits(9);
    answers(tickets).await;
    assert_eq!(script.lent(), [vec![0], (1..11).collect(), (11..15).collect()]);
    assert_eq!(clock.sleepers(), 0);
}

#[tokio::test]
async fn items_and_bytes_are_hard_limits() {
    for seed in 0..50 {
        let mut rng = Rng::seeded(seed);
        let (script, clock) = (Script::done(), ManualClock::new());
        let max_items = 1 + usize::try_from(rng.below(12)).unwrap();
        let builder = batcher(&script, &clock).max_items(max_items).linger(HOUR);
        let processor = started(builder.max_bytes(100, |item| *item as usize));
        // An item is its own weight.
        let items: Vec<u32> = (0..300).map(|_| u32::try_from(rng.below(101)).unwrap()).collect();
        let tickets = add_all(&processor, items.iter().copied()).await;
        processor.flush().await.unwrap();
        assert_eq!(outputs(answers(tickets).await), items, "seed {seed}");
        let lent = script.lent();
        for batch in &lent {
            assert!(!batch.is_empty() && batch.len() <= max_items, "seed {seed}: {batch:?}");
            assert!(batch.iter().sum::<u32>() <= 100, "seed {seed}: {batch:?}");
        }
        // No batch goes before its time: with the next item it would have broken a limit, or it met one exactly.
        for pair in lent.windows(2) {
            let bytes = pair[0].iter().sum::<u32>();
            let full = pair[0].len() == max_items || bytes + pair[1][0] > 100 || bytes == 100;
            assert!(full, "seed {seed}: {pair:?}");
        }
        assert_eq!(lent.concat(), items, "seed {seed}: in the order of adding");
    }
}

#[tokio::test]
async fn an_item_that_meets_the_limit_in_bytes_exactly_is_taken() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).max_bytes(100, |item| *item as usize).linger(HOUR));
    assert_eq!(processor.add(100).await.unwrap().await.unwrap(), 100);
}

#[tokio::test]
async fn an_item_that_is_too_large_is_refused_with_the_bound() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).max_bytes(100, |item| *item as usize));
    let refusals = [
        processor.add(101).await.map(drop).unwrap_err(),
        processor.try_add(101).map(drop).unwrap_err(),
        processor.add_timeout(101, HOUR).await.map(drop).unwrap_err(),
        processor.send(101).await.unwrap_err(),
        processor.try_send(101).unwrap_err(),
        processor.reserve().await.unwrap().add(101).map(drop).unwrap_err(),
        processor.reserve().await.unwrap().send(101).unwrap_err(),
    ];
    for Rejected { item, reason } in refusals {
        assert_eq!(item, 101);
        assert_eq!(reason, RejectReason::TooLarge { bytes: 101, max: 100 });
        assert_eq!(reason.to_string(), "the item has 101 bytes, but must have at most 100");
    }
    processor.flush().await.unwrap();
    assert_eq!(script.calls(), 0);
    assert_books_balance(&processor);
}
