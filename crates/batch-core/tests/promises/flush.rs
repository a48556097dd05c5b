use std::time::Duration;

use relaykit_batch_core::NotRunning;
use relaykit_pipeline_traits::{ManualClock, Verdict};

use crate::common::{
    HOUR, Oops, SECOND, Script, Times, add_all, all_done, answers, batcher, each, gate, idle, outputs,
    poll_once, run_out, started,
};

#[tokio::test]
async fn a_flush_sends_the_open_batch_without_its_linger() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).linger(HOUR));
    let tickets = add_all(&processor, 0..3).await;
    processor.flush().await.unwrap();
    assert_eq!(script.lent(), [[0, 1, 2]]);
    assert_eq!(outputs(answers(tickets).await), [0, 1, 2]);
}

#[tokio::test]
async fn a_flush_waits_for_items_that_wait_to_be_tried_again() {
    let script = Script::new(|batch, attempt| {
        each(batch, |item| {
            if item == 1 && attempt < 3 {
                Verdict::Retry { after: None, error: Oops::Broken }
            } else {
                Verdict::Done(item)
            }
        })
    });
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).retry(Times { attempts: 3, delay: 10 * SECOND }));
    let tickets = add_all(&processor, 0..3).await;
    let mut flush = std::pin::pin!(processor.flush());
    for _ in 0..2 {
        assert!(poll_once(flush.as_mut()).is_pending());
        clock.until_sleepers(1).await;
        idle().await;
        assert!(poll_once(flush.as_mut()).is_pending());
        clock.advance(10 * SECOND);
    }
    flush.await.unwrap();
    assert_eq!(processor.stats().done, 3);
    assert_eq!(outputs(answers(tickets).await), [0, 1, 2]);
}

#[tokio::test]
async fn a_flush_waits_for_items_that_wait_for_their_key() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).linger(Duration::MAX).order_by(|item| Some(item % 2)));
    let tickets = add_all(&processor, 0..6).await;
    processor.flush().await.unwrap();
    assert_eq!(processor.stats().done, 6);
    assert_eq!(outputs(answers(tickets).await), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_flush_waits_for_batches_in_flight() {
    let closed = gate();
    let script = {
        let closed = closed.clone();
        Script::new(move |batch, _| all_done(batch).behind(&closed))
    };
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).max_items(1).concurrency(2));
    let tickets = add_all(&processor, 0..3).await;
    script.until_calls(2).await;
    let mut flush = std::pin::pin!(processor.flush());
    for _ in 0..3 {
        idle().await;
        assert!(poll_once(flush.as_mut()).is_pending());
        closed.add_permits(1);
    }
    flush.await.unwrap();
    assert_eq!(outputs(answers(tickets).await), [0, 1, 2]);
}

#[tokio::test]
async fn a_flush_does_not_wait_for_later_items() {
    let (first, never) = (gate(), gate());
    let script = {
        let (first, never) = (first.clone(), never.clone());
        Script::new(move |batch, _| all_done(batch).behind(if batch[0] == 1 { &first } else { &never }))
    };
    let clock = ManualClock::new();
    let builder =
        batcher(&script, &clock).max_items(1).concurrency(2).order_by(|item| (*item > 2).then_some(()));
    let processor = started(builder);
    let _one = processor.add(1).await.unwrap();
    let mut flush = std::pin::pin!(processor.flush());
    assert!(poll_once(flush.as_mut()).is_pending());
    // One in flight, one lingering, one that waits for its key.
    let _later = add_all(&processor, [2, 3, 4]).await;
    script.until_calls(2).await;
    first.add_permits(1);
    flush.await.unwrap();
    assert_eq!(processor.stats().done, 1);
    // A second one does wait for them.
    let mut flush = std::pin::pin!(processor.flush());
    idle().await;
    assert!(poll_once(flush.as_mut()).is_pending());
    never.add_permits(3);
    flush.await.unwrap();
    assert_eq!(processor.stats().done, 4);
}

#[tokio::test]
async fn flushes_that_overlap_each_end_in_their_turn() {
    let closed = gate();
    let script = {
        let closed = closed.clone();
        Script::new(move |batch, _| all_done(batch).behind(&closed))
    };
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).concurrency(1));
    let mut flushes = Vec::new();
    for item in 0..4 {
        processor.send(item).await.unwrap();
        for _ in 0..2 {
            let mut flush = Box::pin(processor.flush());
            assert!(poll_once(flush.as_mut()).is_pending());
            flushes.push(flush);
        }
    }
    for turn in 0..4 {
        closed.add_permits(1);
        idle().await;
        let ended = flushes.iter_mut().filter_map(|f| poll_once(f.as_mut()).is_ready().then_some(())).count();
        assert_eq!(ended, 2, "turn {turn}");
        flushes.drain(..2);
    }
}

#[tokio::test]
async fn a_flush_of_an_idle_processor_returns_at_once() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock));
    for _ in 0..3 {
        assert!(poll_once(std::pin::pin!(processor.flush())).is_ready());
    }
    assert_eq!(script.calls(), 0);
}

#[tokio::test]
async fn a_flush_says_so_if_the_processor_does_not_run() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = batcher(&script, &clock).build().unwrap();
    assert_eq!(processor.flush().await, Err(NotRunning));
    processor.start().unwrap();
    assert_eq!(processor.flush().await, Ok(()));
    assert!(processor.stop(HOUR).await.is_clean());
    assert_eq!(processor.flush().await, Err(NotRunning));
}

#[tokio::test]
async fn a_flush_says_so_if_a_stop_hands_its_items_back() {
    let closed = gate();
    let script = {
        let closed = closed.clone();
        Script::new(move |batch, _| all_done(batch).behind(&closed))
    };
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock));
    processor.send(1).await.unwrap();
    let flush = tokio::spawn({
        let processor = processor.clone();
        async move { processor.flush().await }
    });
    script.until_calls(1).await;
    let report = run_out(&clock, processor.stop(SECOND)).await;
    assert_eq!(report.in_doubt, [1]);
    assert_eq!(flush.await.unwrap(), Err(NotRunning));
}

#[tokio::test]
async fn a_flush_during_a_graceful_stop_ends_with_it() {
    let closed = gate();
    let script = {
        let closed = closed.clone();
        Script::new(move |batch, _| all_done(batch).behind(&closed))
    };
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock));
    processor.send(1).await.unwrap();
    let stop = tokio::spawn({
        let processor = processor.clone();
        async move { processor.stop(HOUR).await }
    });
    script.until_calls(1).await;
    let mut flush = std::pin::pin!(processor.flush());
    assert!(poll_once(flush.as_mut()).is_pending());
    closed.add_permits(1);
    flush.await.unwrap();
    assert!(stop.await.unwrap().is_clean());
}
