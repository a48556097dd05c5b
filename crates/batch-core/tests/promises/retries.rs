use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_batch_core::Cause;
use relaykit_pipeline_traits::MAX_FREE_ROUNDS;
use relaykit_pipeline_traits::{BatchOutcome, ManualClock, Verdict};

use crate::common::{
    HOUR, Oops, Reaction, Recorded, SECOND, Said, Script, Times, add_all, all_done, answers,
    assert_books_balance, batcher, each, idle, outputs, run_out, started,
};

fn retry(error: Oops, after: Option<Duration>) -> Said {
    Verdict::Retry { after, error }
}

fn retry_batch(error: Oops, after: Option<Duration>) -> Reaction {
    Reaction::Answer(BatchOutcome::RetryBatch { after, error })
}

#[tokio::test]
async fn by_default_nothing_is_tried_again() {
    let script = Script::new(|batch, _| each(batch, |_| retry(Oops::Broken, None)));
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock));
    let ticket = processor.add(1).await.unwrap();
    processor.flush().await.unwrap();
    let failed = ticket.await.unwrap_err();
    assert_eq!((failed.item, failed.attempts), (Some(1), 1));
    assert!(matches!(&failed.cause, Cause::Exhausted(error) if **error == Oops::Broken));
    assert_eq!(script.calls(), 1);
}

#[tokio::test]
async fn a_failed_item_waits_out_the_policys_delay_or_the_hint() {
    for (hint, wait) in [(None, 2), (Some(SECOND), 2), (Some(7 * SECOND), 7)] {
        let script = Script::sequence([retry_batch(Oops::Broken, hint)]);
        let clock = ManualClock::new();
        let builder = batcher(&script, &clock).linger(Duration::ZERO);
        let processor = started(builder.retry(Times { attempts: 2, delay: 2 * SECOND }));
        let ticket = processor.add(1).await.unwrap();
        clock.until_sleepers(1).await;
        clock.advance((wait - 1) * SECOND);
        idle().await;
        assert_eq!(script.calls(), 1, "hint {hint:?}");
        clock.advance(SECOND);
        assert_eq!(ticket.await.unwrap(), 1);
        assert_eq!(script.attempts(), [1, 2]);
    }
}

#[tokio::test]
async fn only_the_failed_items_of_a_batch_are_lent_again() {
    let script = Script::new(|batch, attempt| {
        each(batch, |item| {
            if item % 3 == 0 && attempt == 1 { retry(Oops::Broken, None) } else { Verdict::Done(item) }
        })
    });
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).retry(Times { attempts: 2, delay: SECOND }));
    let tickets = add_all(&processor, 0..9).await;
    assert!(run_out(&clock, processor.stop(HOUR)).await.is_clean());
    assert_eq!(outputs(answers(tickets).await), (0..9).collect::<Vec<_>>());
    assert_eq!(script.lent(), [(0..9).collect(), vec![0, 3, 6]]);
}

#[tokio::test]
async fn an_item_is_answered_when_its_attempts_are_spent() {
    let script = Script::new(|_, _| retry_batch(Oops::Broken, None));
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).retry(Times { attempts: 5, delay: SECOND }));
    let tickets = add_all(&processor, 0..3).await;
    assert!(run_out(&clock, processor.stop(HOUR)).await.is_clean());
    for answer in answers(tickets).await {
        let failed = answer.unwrap_err();
        assert_eq!(failed.attempts, 5);
        assert!(matches!(&failed.cause, Cause::Exhausted(error) if **error == Oops::Broken));
    }
    assert_eq!(script.attempts(), [1, 2, 3, 4, 5]);
    assert_books_balance(&processor);
}

#[tokio::test]
async fn the_policy_is_told_attempt_time_passed_hint_and_the_delay_before() {
    let policy = Recorded::new(Times { attempts: 3, delay: 4 * SECOND });
    let script = Script::new(|_, attempt| retry_batch(Oops::Broken, (attempt == 2).then_some(9 * SECOND)));
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).retry(policy.clone()));
    let ticket = processor.add(1).await.unwrap();
    // Waiting in the buffer is not part of the time that the policy is told.
    clock.until_sleepers(1).await;
    clock.advance(SECOND);
    assert!(run_out(&clock, processor.stop(HOUR)).await.is_clean());
    assert!(ticket.await.is_err());
    let told: Vec<_> =
        policy.told().iter().map(|f| (f.attempt, f.elapsed, f.hint, f.previous_delay)).collect();
    let expected = [
        (1, Duration::ZERO, None, None),
        (2, 4 * SECOND, Some(9 * SECOND), Some(4 * SECOND)),
        (3, 13 * SECOND, None, Some(9 * SECOND)),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn being_throttled_spends_no_attempt_until_there_were_too_many_free_rounds() {
    spends_no_attempt_at_first(
        || retry_batch(Oops::Throttled, None),
        |cause| matches!(cause, Cause::Exhausted(error) if **error == Oops::Throttled),
    )
    .await;
}

#[tokio::test]
async fn being_left_untried_spends_no_attempt_until_there_were_too_many_free_rounds() {
    let untried = || Reaction::Answer(BatchOutcome::Each(vec![Verdict::Untried; 2]));
    spends_no_attempt_at_first(untried, |cause| matches!(cause, Cause::Untried)).await;
}

async fn spends_no_attempt_at_first(
    free: impl Fn() -> Reaction + Send + Sync + 'static,
    expected: impl Fn(&Cause<Oops>) -> bool,
) {
    let script = Script::new(move |_, _| free());
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).retry(Times { attempts: 3, delay: SECOND }));
    let tickets = add_all(&processor, 0..2).await;
    assert!(run_out(&clock, processor.stop(HOUR)).await.is_clean());
    for answer in answers(tickets).await {
        let failed = answer.unwrap_err();
        assert_eq!(failed.attempts, 3);
        assert!(expected(&failed.cause), "{}", failed.cause);
    }
    // The calls that spend an attempt are the last three.
    assert_eq!(script.calls(), MAX_FREE_ROUNDS as usize + 3);
    assert!(script.attempts()[..=MAX_FREE_ROUNDS as usize].iter().all(|attempt| *attempt == 1));
}

#[tokio::test]
async fn a_throttled_item_keeps_its_attempts_for_real_failures() {
    let reactions =
        [Oops::Throttled, Oops::Broken, Oops::Throttled, Oops::Throttled].map(|e| retry_batch(e, None));
    let script = Script::sequence(reactions);
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).retry(Times { attempts: 2, delay: SECOND }));
    let ticket = processor.add(1).await.unwrap();
    run_out(&clock, processor.flush()).await.unwrap();
    // One attempt was spent when the throttled calls came: with two allowed, nothing is left after another failure.
    let failed = ticket.await;
    assert_eq!(failed.unwrap(), 1);
    assert_eq!(script.attempts(), [1, 1, 2, 2, 2]);
}

#[tokio::test]
async fn items_left_untried_behind_a_handled_one_are_lent_again_at_once() {
    // A handler that takes one item a call.
    let script = Script::new(|batch, _| {
        let first = batch[0];
        each(batch, |item| if item == first { Verdict::Done(item) } else { Verdict::Untried })
    });
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).concurrency(1).max_items(40).linger(HOUR));
    let tickets = add_all(&processor, 0..40).await;
    assert_eq!(outputs(answers(tickets).await), (0..40).collect::<Vec<_>>());
    assert_eq!(script.calls(), 40);
    assert!(script.attempts().iter().all(|attempt| *attempt == 1));
}

#[tokio::test]
async fn a_handler_that_takes_one_item_a_call_ends_a_batch_of_any_size() {
    let script = Script::new(|batch, _| {
        let first = batch[0];
        each(batch, |item| if item == first { Verdict::Done(item) } else { Verdict::Untried })
    });
    let clock = ManualClock::new();
    let items = 3 * MAX_FREE_ROUNDS;
    let processor = started(batcher(&script, &clock).concurrency(1).max_items(items as usize).linger(HOUR));
    let tickets = add_all(&processor, 0..items).await;
    assert_eq!(outputs(answers(tickets).await), (0..items).collect::<Vec<_>>());
}

#[tokio::test]
async fn refused_items_are_handed_back_at_once_and_spend_no_attempt() {
    let script = Script::new(|_, _| Reaction::Answer(BatchOutcome::Refused(Oops::Broken)));
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).retry(Times { attempts: 9, delay: SECOND }));
    let tickets = add_all(&processor, 0..3).await;
    processor.flush().await.unwrap();
    for (item, answer) in (0..).zip(answers(tickets).await) {
        let failed = answer.unwrap_err();
        assert_eq!((failed.item, failed.attempts), (Some(item), 0));
        assert!(matches!(&failed.cause, Cause::Refused(error) if **error == Oops::Broken));
        assert!(!failed.cause.is_dead());
    }
    assert_eq!(script.calls(), 1);
}

#[tokio::test]
async fn a_batch_that_waits_to_be_tried_again_keeps_its_place() {
    let script = Script::sequence([retry_batch(Oops::Broken, None)]);
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(1).concurrency(1);
    let processor = started(builder.retry(Times { attempts: 2, delay: SECOND }));
    let tickets = add_all(&processor, [1, 2]).await;
    clock.until_sleepers(1).await;
    idle().await;
    assert_eq!(script.lent(), [[1]]);
    clock.advance(SECOND);
    assert_eq!(outputs(answers(tickets).await), [1, 2]);
    assert_eq!(script.lent(), [[1], [1], [2]]);
}

#[tokio::test]
async fn a_handler_is_told_the_attempt_and_when_its_time_is_up() {
    use relaykit_pipeline_traits::{BatchContext, BatchHandler, Clock as _, Monotonic};

    type Seen = Arc<Mutex<Vec<(u32, Option<Monotonic>)>>>;

    struct Curious(Seen);

    impl BatchHandler<u32> for Curious {
        type Output = u32;
        type Error = Oops;

        async fn handle(&self, _: &[u32], cx: &BatchContext) -> BatchOutcome<u32, Oops> {
            self.0.lock().unwrap().push((cx.attempt(), cx.deadline()));
            BatchOutcome::RetryBatch { after: None, error: Oops::Broken }
        }
    }

    let (seen, clock) = (Seen::default(), ManualClock::new());
    let builder = relaykit_batch_core::Processor::builder(Curious(Arc::clone(&seen))).clock(clock.clone());
    let builder =
        builder.timeout(3 * SECOND).retry(Times { attempts: 2, delay: SECOND }).linger(Duration::ZERO);
    let processor = builder.build().unwrap();
    processor.start().unwrap();
    let begin = clock.monotonic();
    let ticket = processor.add(1).await.unwrap();
    assert!(run_out(&clock, ticket).await.is_err());
    let expected = [(1, Some(begin + 3 * SECOND)), (2, Some(begin + 4 * SECOND))];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test]
async fn retries_do_not_disturb_other_batches() {
    let script =
        Script::new(|batch, _| if batch == [0] { retry_batch(Oops::Broken, None) } else { all_done(batch) });
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(1).concurrency(2);
    let processor = started(builder.retry(Times { attempts: 2, delay: SECOND }));
    let slow = processor.add(0).await.unwrap();
    let tickets = add_all(&processor, 1..20).await;
    assert_eq!(outputs(answers(tickets).await).len(), 19);
    assert!(run_out(&clock, slow).await.is_err());
}
