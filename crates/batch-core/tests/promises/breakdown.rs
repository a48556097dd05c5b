use std::future::Future;
use std::time::Duration;

use relaykit_batch_core::{Cause, Overflow, Processor, Recovery};
use relaykit_pipeline_traits::{
    BatchContext, BatchHandler, BatchOutcome, Failure, ManualClock, RetryDecision, RetryPolicy, Rng, Verdict,
};

use crate::common::{
    HOUR, Oops, Outcome, Reaction, SECOND, Script, Times, add_all, all_done, answers, assert_books_balance,
    assert_room, batcher, each, idle, outputs, run_out, started,
};

type Breakdown = (&'static str, fn(usize) -> Reaction);

/// How a handler that cannot take its batch breaks down.
fn breakdowns() -> Vec<Breakdown> {
    vec![
        ("a panic before the first await", |_| Reaction::Panic("oh no")),
        ("a panic after the first await", |_| Reaction::Panic("oh no").later()),
        ("no verdicts", |_| Reaction::Answer(BatchOutcome::Each(Vec::new()))),
        ("a verdict too few", |items| {
            Reaction::Answer(BatchOutcome::Each(vec![Verdict::Done(0); items - 1]))
        }),
        // Verdicts are positional, so one for a foreign item is one too many.
        ("a verdict too many", |items| {
            Reaction::Answer(BatchOutcome::Each(vec![Verdict::Done(0); items + 1]))
        }),
    ]
}

fn is_breakdown(cause: &Cause<Oops>) -> bool {
    match cause {
        Cause::Panicked(text) => &**text == "oh no",
        Cause::WrongVerdicts { items, verdicts } => items != verdicts,
        _ => false,
    }
}

#[tokio::test]
async fn a_handler_that_breaks_down_loses_no_item_and_the_processor_lives_on() {
    for recovery in [Recovery::Off, Recovery::Bisect, Recovery::Individual { concurrency: 2 }] {
        for (how, break_down) in breakdowns() {
            let script = Script::new(
                move |batch, _| {
                    if batch[0] < 100 { break_down(batch.len()) } else { all_done(batch) }
                },
            );
            let clock = ManualClock::new();
            let processor = started(batcher(&script, &clock).max_items(5).recovery(recovery));
            let tickets = add_all(&processor, 0..5).await;
            for (item, answer) in (0..).zip(answers(tickets).await) {
                let failed = answer.unwrap_err();
                assert_eq!(failed.item, Some(item), "{how}");
                assert!(is_breakdown(&failed.cause), "{how}: {}", failed.cause);
            }
            let tickets = add_all(&processor, 100..105).await;
            assert_eq!(outputs(answers(tickets).await), (100..105).collect::<Vec<_>>(), "{how}");
            assert!(processor.stop(HOUR).await.is_clean(), "{how}");
            assert_books_balance(&processor);
        }
    }
}

#[tokio::test]
async fn a_handler_that_breaks_down_once_is_asked_again_by_the_policy() {
    for (how, break_down) in breakdowns() {
        let script = Script::new(
            move |batch, attempt| if attempt < 3 { break_down(batch.len()) } else { all_done(batch) },
        );
        let clock = ManualClock::new();
        let builder = batcher(&script, &clock).max_items(5).retry(Times { attempts: 3, delay: SECOND });
        let processor = started(builder);
        let tickets = add_all(&processor, 0..5).await;
        assert!(run_out(&clock, processor.stop(HOUR)).await.is_clean());
        assert_eq!(outputs(answers(tickets).await), [0, 1, 2, 3, 4], "{how}");
        assert_eq!(script.attempts(), [1, 2, 3], "{how}");
    }
}

#[tokio::test]
async fn an_item_that_breaks_the_handler_does_not_take_its_batch_along() {
    for recovery in [Recovery::Bisect, Recovery::Individual { concurrency: 2 }] {
        for (how, break_down) in breakdowns() {
            for poison in [0, 31, 63] {
                let script = Script::new(move |batch, _| {
                    if batch.contains(&poison) { break_down(batch.len()) } else { all_done(batch) }
                });
                let clock = ManualClock::new();
                let builder = batcher(&script, &clock).max_items(64).recovery(recovery);
                let processor = started(builder.retry(Times { attempts: 2, delay: SECOND }));
                let tickets = add_all(&processor, 0..64).await;
                assert!(run_out(&clock, processor.stop(HOUR)).await.is_clean());
                for (item, answer) in (0..).zip(answers(tickets).await) {
                    match answer {
                        Ok(output) => assert!(output == item && item != poison, "{how}"),
                        Err(failed) => {
                            assert!(item == poison && is_breakdown(&failed.cause), "{how}: {item}");
                        }
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_handler_that_panics_on_the_way_to_its_future_loses_no_item() {
    struct Early;

    impl BatchHandler<u32> for Early {
        type Output = u32;
        type Error = Oops;

        // Not an async function: the panic comes before there is a future.
        fn handle(&self, _: &[u32], _: &BatchContext) -> impl Future<Output = Outcome> + Send {
            assert!(std::env::args().count() == 0, "oh no");
            async { BatchOutcome::Refused(Oops::Bad) }
        }
    }

    let processor = Processor::builder(Early).clock(ManualClock::new()).build().unwrap();
    processor.start().unwrap();
    let ticket = processor.add(1).await.unwrap();
    processor.flush().await.unwrap();
    let failed = ticket.await.unwrap_err();
    assert_eq!(failed.item, Some(1));
    assert!(is_breakdown(&failed.cause), "{}", failed.cause);
}

#[tokio::test]
async fn a_handler_that_hangs_is_dropped_when_its_time_is_up() {
    let script = Script::new(|batch, _| if batch[0] < 100 { Reaction::Hang } else { all_done(batch) });
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(3).concurrency(1).timeout(10 * SECOND);
    let processor = started(builder);
    let tickets = add_all(&processor, 0..3).await;
    script.until_calls(1).await;
    idle().await;
    clock.advance(9 * SECOND);
    idle().await;
    assert_eq!(script.running(), 1);
    clock.advance(SECOND);
    for (item, answer) in (0..).zip(answers(tickets).await) {
        let failed = answer.unwrap_err();
        assert_eq!((failed.item, failed.attempts), (Some(item), 1));
        assert!(matches!(failed.cause, Cause::TimedOut(after) if after == 10 * SECOND), "{}", failed.cause);
    }
    assert_eq!(script.running(), 0);
    // Its place is free again.
    let tickets = add_all(&processor, 100..103).await;
    assert_eq!(outputs(answers(tickets).await), [100, 101, 102]);
}

#[tokio::test]
async fn a_call_that_timed_out_is_tried_again_by_the_policy() {
    let script = Script::sequence([Reaction::Hang, Reaction::Hang]);
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).retry(Times { attempts: 3, delay: SECOND }));
    let ticket = processor.add(1).await.unwrap();
    assert_eq!(run_out(&clock, ticket).await.unwrap(), 1);
    assert_eq!(script.attempts(), [1, 2, 3]);
}

#[tokio::test]
async fn a_panic_while_a_timed_out_call_is_dropped_loses_no_item() {
    let script =
        Script::new(
            |batch, _| {
                if batch[0] < 100 { Reaction::HangAndPanicWhenDropped } else { all_done(batch) }
            },
        );
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(4).capacity(4).concurrency(1).linger(HOUR * 9);
    let (processor, mut responses) = builder.build_with_responses(9, Overflow::Wait).unwrap();
    processor.start().unwrap();
    let tickets = add_all(&processor, 0..2).await;
    for item in 2..4 {
        processor.send(item).await.unwrap();
    }
    run_out(&clock, processor.flush()).await.unwrap();
    for (item, answer) in (0..).zip(answers(tickets).await) {
        let failed = answer.unwrap_err();
        assert_eq!(failed.item, Some(item));
        assert!(matches!(failed.cause, Cause::TimedOut(_)), "{}", failed.cause);
    }
    for item in 2..4 {
        let response = responses.try_recv().expect("sent items are answered as well");
        assert_eq!(response.item, item);
        assert!(matches!(response.result, Err(Cause::TimedOut(_))), "{response:?}");
    }
    let ticket = processor.add(100).await.unwrap();
    processor.flush().await.unwrap();
    assert_eq!(ticket.await.unwrap(), 100);
    assert_books_balance(&processor);
    assert_room(&processor, 4);
}

#[tokio::test]
async fn a_panic_while_an_aborted_call_is_dropped_loses_no_item() {
    let script = Script::new(|_, _| Reaction::HangAndPanicWhenDropped);
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).linger(Duration::ZERO).timeout(HOUR * 9));
    let ticket = processor.add(1).await.unwrap();
    script.until_calls(1).await;
    let report = run_out(&clock, processor.stop(SECOND)).await;
    assert_eq!(report.in_doubt, [1]);
    assert!(matches!(ticket.await.unwrap_err().cause, Cause::Stopped));
    assert_books_balance(&processor);
}

#[tokio::test]
async fn a_policy_that_panics_loses_no_item() {
    #[derive(Debug)]
    struct Panics;

    impl RetryPolicy for Panics {
        fn decide(&self, failure: &Failure, _: &mut Rng) -> RetryDecision {
            panic!("what is attempt {}?", failure.attempt)
        }
    }

    let script = Script::new(|batch, _| {
        each(batch, |item| match item {
            0..100 => Verdict::Retry { after: None, error: Oops::Broken },
            _ => Verdict::Done(item),
        })
    });
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(3).concurrency(1).retry(Panics);
    let (processor, mut responses) = builder.build_with_responses(9, Overflow::Wait).unwrap();
    processor.start().unwrap();
    let tickets = add_all(&processor, [0, 1]).await;
    processor.send(2).await.unwrap();
    processor.flush().await.unwrap();
    for (item, answer) in (0..).zip(answers(tickets).await) {
        let failed = answer.unwrap_err();
        assert_eq!(failed.item, Some(item));
        assert!(matches!(failed.cause, Cause::Abandoned), "{}", failed.cause);
    }
    assert_eq!(responses.try_recv().unwrap().item, 2);
    let tickets = add_all(&processor, 100..103).await;
    assert_eq!(outputs(answers(tickets).await), [100, 101, 102]);
    assert!(processor.stop(HOUR).await.is_clean());
    assert_books_balance(&processor);
}
