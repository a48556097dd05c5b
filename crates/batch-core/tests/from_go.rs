//! The test tables of the Go original, in our words. P1–P22 are about the processor, E1–E18 about what a handler
//! answers. Where we differ on purpose, the test says so.
//!
//! Common setup, as there: one batch at a time, 10 items, 500 ms linger, 3 attempts, 1 ms between them, room for 100,
//! items that cannot be judged in company tried one by one. There, items are added before the start; here that is
//! refused (P19, P20), so the tests start first.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use common::{
    Answer, Batcher, HOUR, Oops, Reaction, Script, Times, add_all, all_done, answers, assert_books_balance,
    batcher, each, idle, outputs, run_out, started,
};
use relaykit_batch_core::{Builder, Cause, Overflow, Recovery, RejectReason, Rejected, StopReport};
use relaykit_pipeline_traits::{BatchOutcome, ManualClock, Verdict};

type Report = StopReport<u32, u32, Oops>;

const MS: Duration = Duration::from_millis(1);

fn setup(script: &Script, clock: &ManualClock) -> Builder<u32, Script> {
    batcher(script, clock)
        .concurrency(1)
        .max_items(10)
        .linger(500 * MS)
        .retry(Times { attempts: 3, delay: MS })
        .capacity(100)
        .recovery(Recovery::Individual { concurrency: 1 })
}

async fn stop(clock: &ManualClock, processor: &Batcher) -> Report {
    run_out(clock, processor.stop(HOUR)).await
}

/// Adds the items, stops, and returns the answers.
async fn run(builder: Builder<u32, Script>, clock: &ManualClock, items: std::ops::Range<u32>) -> Vec<Answer> {
    let processor = started(builder);
    let tickets = add_all(&processor, items).await;
    assert!(stop(clock, &processor).await.is_clean());
    assert_books_balance(&processor);
    answers(tickets).await
}

/// Returns how many calls had several items, and how many had one.
fn calls(script: &Script) -> (usize, usize) {
    let lent = script.lent();
    let singles = lent.iter().filter(|items| items.len() == 1).count();
    (lent.len() - singles, singles)
}

/// Lets the script answer for batches of several items, and handles each item by itself.
fn batches(react: impl Fn(&[u32], u32) -> Reaction + Send + Sync + 'static) -> Script {
    Script::new(move |batch, attempt| if batch.len() > 1 { react(batch, attempt) } else { all_done(batch) })
}

fn broken() -> Reaction {
    Reaction::Answer(BatchOutcome::RetryBatch { after: None, error: Oops::Broken })
}

fn split() -> Reaction {
    Reaction::Answer(BatchOutcome::Split(Oops::Broken))
}

#[test]
fn p1_the_defaults_are_those_of_the_original_or_documented() {
    let builder = format!("{:?}", batcher(&Script::done(), &ManualClock::new()));
    // There: 100, 5 s, 1 attempt, one by one, 2000 buffered, 49 at once. The README says why ours differ where they do.
    for setting in [
        "max_items: 100",
        "linger: 5s",
        "retry: NoRetry",
        "recovery: Bisect",
        "capacity: 2000",
        "concurrency: 8",
        "timeout: 30s",
    ] {
        assert!(builder.contains(setting), "{setting} in {builder}");
    }
}

// P2, another logger: we speak to `tracing`, so there is none to set.

#[test]
fn p3_a_policy_of_ones_own_is_taken() {
    let policy = Times { attempts: 9, delay: MS };
    let builder = format!("{:?}", batcher(&Script::done(), &ManualClock::new()).retry(policy));
    assert!(builder.contains("retry: Times { attempts: 9"), "{builder}");
}

#[test]
fn p4_invalid_settings_are_refused_by_name() {
    // There they silently become the defaults, and 101 individual senders become 1.
    let clock = ManualClock::new();
    let script = Script::done();
    let fresh = || setup(&script, &clock);
    let refused = |builder: Builder<u32, Script>| builder.build().unwrap_err().field;
    assert_eq!(refused(fresh().max_items(0)), "max_items");
    assert_eq!(refused(fresh().recovery(Recovery::Individual { concurrency: 0 })), "recovery.concurrency");
    assert_eq!(refused(fresh().capacity(0)), "capacity");
    assert_eq!(refused(fresh().concurrency(0)), "concurrency");
    assert_eq!(refused(fresh().timeout(Duration::ZERO)), "timeout");
    // A linger of 0 s is a setting of its own here: what is there goes at once.
    assert!(fresh().linger(Duration::ZERO).build().is_ok());
}

#[test]
fn p5_valid_settings_are_taken_as_they_are() {
    let clock = ManualClock::new();
    let script = Script::done();
    let builder = batcher(&script, &clock).max_items(1).linger(MS).capacity(1).concurrency(1);
    let builder = builder.recovery(Recovery::Off);
    let shown = format!("{builder:?}");
    for setting in ["max_items: 1,", "linger: 1ms", "capacity: 1,", "concurrency: 1,", "recovery: Off"] {
        assert!(shown.contains(setting), "{setting} in {shown}");
    }
    assert!(builder.build().is_ok());
}

async fn sizes(items: u32, batches: usize) {
    let (script, clock) = (Script::done(), ManualClock::new());
    let answers = run(setup(&script, &clock), &clock, 0..items).await;
    assert_eq!(outputs(answers), (0..items).collect::<Vec<_>>());
    assert_eq!(script.calls(), batches);
}

#[tokio::test]
async fn p6_a_full_batch_is_one_call() {
    sizes(10, 1).await;
}

#[tokio::test]
async fn p7_a_partial_batch_is_one_call() {
    sizes(9, 1).await;
}

#[tokio::test]
async fn p8_forty_nine_items_are_five_calls() {
    sizes(49, 5).await;
}

#[tokio::test]
async fn p9_no_items_are_no_call() {
    sizes(0, 0).await;
}

#[tokio::test]
async fn p10_dead_items_are_not_tried_again() {
    let (script, clock) =
        (Script::new(|batch, _| each(batch, |_| Verdict::Dead(Oops::Bad))), ManualClock::new());
    let answers = run(setup(&script, &clock), &clock, 0..2).await;
    assert_eq!(calls(&script), (1, 0));
    assert!(answers.iter().all(|answer| matches!(answer, Err(failed) if failed.cause.is_dead())));
}

#[tokio::test]
async fn p11_a_batch_that_fails_every_time_uses_up_its_attempts() {
    let (script, clock) = (batches(|_, _| broken()), ManualClock::new());
    let builder = setup(&script, &clock).retry(Times { attempts: 2, delay: MS });
    let answers = run(builder, &clock, 0..2).await;
    assert_eq!(calls(&script), (2, 0));
    assert_eq!(script.lent(), [[0, 1], [0, 1]]);
    for answer in answers {
        let failed = answer.unwrap_err();
        assert!(matches!(failed.cause, Cause::Exhausted(_)) && failed.attempts == 2);
    }
}

#[tokio::test]
async fn p12_one_item_that_cannot_be_judged_in_company_is_tried_alone() {
    let script = batches(|batch, _| {
        each(batch, |item| if item == 0 { Verdict::Isolate(Oops::Broken) } else { Verdict::Done(item) })
    });
    let clock = ManualClock::new();
    assert_eq!(outputs(run(setup(&script, &clock), &clock, 0..2).await), [0, 1]);
    assert_eq!(calls(&script), (1, 1));
}

#[tokio::test]
async fn p13_a_split_batch_is_tried_one_by_one() {
    let (script, clock) = (batches(|_, _| split()), ManualClock::new());
    assert_eq!(outputs(run(setup(&script, &clock), &clock, 0..2).await), [0, 1]);
    assert_eq!(calls(&script), (1, 2));
}

#[tokio::test]
async fn p14_without_recovery_a_split_batch_fails_as_a_whole() {
    let (script, clock) = (batches(|_, _| split()), ManualClock::new());
    let answers = run(setup(&script, &clock).recovery(Recovery::Off), &clock, 0..2).await;
    assert_eq!(calls(&script), (1, 0));
    assert!(answers.iter().all(|answer| matches!(answer, Err(failed) if not_isolated(&failed.cause))));
}

#[tokio::test]
async fn p15_without_recovery_only_the_isolated_item_fails() {
    let script = batches(|batch, _| {
        each(batch, |item| if item == 0 { Verdict::Isolate(Oops::Broken) } else { Verdict::Done(item) })
    });
    let clock = ManualClock::new();
    let answers = run(setup(&script, &clock).recovery(Recovery::Off), &clock, 0..2).await;
    assert_eq!(calls(&script), (1, 0));
    assert!(matches!(&answers[0], Err(failed) if not_isolated(&failed.cause)));
    assert!(matches!(answers[1], Ok(1)));
}

fn not_isolated(cause: &Cause<Oops>) -> bool {
    matches!(cause, Cause::NotIsolated(_))
}

#[tokio::test]
async fn p16_the_handlers_error_is_the_source_of_the_answer() {
    // There, errors are joined and searched for a sentinel. Here the cause is a variant, and the error its source.
    let (script, clock) =
        (Script::new(|batch, _| each(batch, |_| Verdict::Dead(Oops::Bad))), ManualClock::new());
    let mut answers = run(setup(&script, &clock), &clock, 0..1).await;
    let failed = answers.pop().unwrap().unwrap_err();
    assert_eq!(failed.source().unwrap().downcast_ref::<Oops>(), Some(&Oops::Bad));
    assert_eq!(failed.to_string(), "item was not delivered after 1 attempts: the handler gave it up");
}

#[tokio::test]
async fn p17_without_a_stream_nothing_blocks() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(setup(&script, &clock));
    processor.send(1).await.unwrap();
    assert!(stop(&clock, &processor).await.is_clean());
    assert_eq!(script.calls(), 1);
}

#[tokio::test]
async fn p18_twenty_thousand_dead_items_are_two_thousand_calls_and_as_many_responses() {
    let (script, clock) =
        (Script::new(|batch, _| each(batch, |_| Verdict::Dead(Oops::Bad))), ManualClock::new());
    let (processor, mut responses) =
        setup(&script, &clock).build_with_responses(100, Overflow::Wait).unwrap();
    processor.start().unwrap();
    let reader = tokio::spawn(async move {
        let mut dead = Vec::new();
        while let Some(response) = responses.recv().await {
            assert!(response.result.unwrap_err().is_dead());
            dead.push(response.item);
        }
        dead
    });
    for item in 0..20_000 {
        processor.send(item).await.unwrap();
    }
    assert!(stop(&clock, &processor).await.is_clean());
    drop(processor);
    assert_eq!(reader.await.unwrap(), (0..20_000).collect::<Vec<_>>());
    assert_eq!(script.calls(), 2_000);
}

/// Adds an item where that is refused, and gets it back.
async fn refused(processor: &Batcher, item: u32) {
    match processor.add(item).await {
        Err(Rejected { item: back, reason: RejectReason::NotRunning }) => assert_eq!(back, item),
        other => panic!("adding {item} while stopped: {other:?}"),
    }
}

#[tokio::test]
async fn p19_start_stop_start_stop() {
    // There, items added while stopped wait for a start that may never come. Here they are handed back.
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = setup(&script, &clock).concurrency(8).build().unwrap();
    refused(&processor, 1).await;
    processor.start().unwrap();
    let two = processor.add(2).await.unwrap();
    assert!(stop(&clock, &processor).await.is_clean());
    refused(&processor, 3).await;
    processor.start().unwrap();
    let four = processor.add(4).await.unwrap();
    assert!(stop(&clock, &processor).await.is_clean());
    refused(&processor, 5).await;
    assert_eq!((two.await.unwrap(), four.await.unwrap()), (2, 4));
    assert_eq!(script.lent(), [[2], [4]]);
    assert_books_balance(&processor);
}

#[tokio::test]
async fn p20_stop_stop_start_stop() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = setup(&script, &clock).build().unwrap();
    for item in [1, 2] {
        refused(&processor, item).await;
        assert!(processor.stop(HOUR).await.is_clean());
    }
    processor.start().unwrap();
    let four = processor.add(4).await.unwrap();
    assert!(stop(&clock, &processor).await.is_clean());
    refused(&processor, 5).await;
    assert_eq!(four.await.unwrap(), 4);
    assert_eq!(script.lent(), [[4]]);
}

#[tokio::test]
async fn p21_a_second_start_changes_nothing() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = setup(&script, &clock).build().unwrap();
    let mut tickets = Vec::new();
    for item in [1, 2, 3] {
        processor.start().unwrap();
        tickets.push(processor.add(item).await.unwrap());
    }
    assert!(stop(&clock, &processor).await.is_clean());
    refused(&processor, 5).await;
    assert_eq!(outputs(answers(tickets).await), [1, 2, 3]);
    assert_eq!(script.lent(), [[1, 2, 3]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p22_adds_that_race_with_stops_lose_nothing() {
    const ITEMS: u32 = 1_000;
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(setup(&script, &clock).concurrency(4));
    #[expect(clippy::async_yields_async, reason = "the answers come with the last stop")]
    let adders: Vec<_> = (0..ITEMS)
        .map(|item| {
            let processor = processor.clone();
            tokio::spawn(async move {
                // Whoever meets a stop has the item back, and adds it again.
                loop {
                    match processor.add(item).await {
                        Ok(ticket) => return ticket,
                        Err(rejected) => {
                            assert_eq!((rejected.item, rejected.reason), (item, RejectReason::NotRunning));
                        }
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let stoppers: Vec<_> = (0..ITEMS)
        .map(|_| {
            let processor = processor.clone();
            tokio::spawn(async move {
                let report = processor.stop(HOUR).await;
                // Another stop may be under way; then whoever called that one starts.
                let _ = processor.start();
                report
            })
        })
        .collect();
    for stopper in stoppers {
        assert!(stopper.await.unwrap().is_clean());
    }
    let _ = processor.start();
    let mut tickets = Vec::new();
    for adder in adders {
        tickets.push(adder.await.unwrap());
    }
    assert!(processor.stop(HOUR).await.is_clean());
    assert_eq!(outputs(answers(tickets).await), (0..ITEMS).collect::<Vec<_>>());
    let mut lent = script.lent().concat();
    lent.sort_unstable();
    assert_eq!(lent, (0..ITEMS).collect::<Vec<_>>());
    assert_books_balance(&processor);
}

/// Runs one row of the table of errors: two attempts, and whatever is alone succeeds.
async fn row(script: &Script, recovery: Recovery, items: u32) -> Vec<Answer> {
    let clock = ManualClock::new();
    let builder = setup(script, &clock).retry(Times { attempts: 2, delay: MS }).recovery(recovery);
    run(builder, &clock, 0..items).await
}

const INDIVIDUALLY: Recovery = Recovery::Individual { concurrency: 1 };

/// Tells an answer as the table does: `-` done, `d` dead, `r` failed with a hint that trying again may help.
fn told(answers: &[Answer]) -> String {
    let mark = |answer: &Answer| match answer {
        Ok(_) => '-',
        Err(failed) if failed.cause.is_dead() => 'd',
        Err(_) => 'r',
    };
    answers.iter().map(mark).collect()
}

#[tokio::test]
async fn e1_success() {
    let script = batches(|batch, _| all_done(batch));
    assert_eq!(told(&row(&script, INDIVIDUALLY, 2).await), "--");
    assert_eq!(calls(&script), (1, 0));
}

#[tokio::test]
async fn e2_an_error_for_the_whole_batch_at_once() {
    // There, an error beside the status. Here the handler says what it means: nothing is taken from us.
    let script = batches(|_, _| Reaction::Answer(BatchOutcome::Refused(Oops::Broken)));
    let answers = row(&script, INDIVIDUALLY, 2).await;
    assert_eq!(told(&answers), "rr");
    assert!(answers.iter().all(|a| matches!(a, Err(f) if matches!(f.cause, Cause::Refused(_)))));
    assert_eq!(calls(&script), (1, 0));
}

#[tokio::test]
async fn e3_retry_then_success() {
    let script = batches(|batch, attempt| if attempt == 1 { broken() } else { all_done(batch) });
    assert_eq!(told(&row(&script, INDIVIDUALLY, 2).await), "--");
    assert_eq!(calls(&script), (2, 0));
}

// E4, success with errors inside: `Done` holds no error, so a handler cannot say that.

#[tokio::test]
async fn e5_retry_twice() {
    let script = batches(|_, _| broken());
    assert_eq!(told(&row(&script, INDIVIDUALLY, 2).await), "rr");
    assert_eq!(calls(&script), (2, 0));
}

#[tokio::test]
async fn e6_cannot_retry() {
    let script = batches(|batch, _| each(batch, |_| Verdict::Dead(Oops::Bad)));
    assert_eq!(told(&row(&script, INDIVIDUALLY, 3).await), "ddd");
    assert_eq!(calls(&script), (1, 0));
}

#[tokio::test]
async fn e7_retry_then_cannot_retry() {
    let script = batches(
        |batch, attempt| if attempt == 1 { broken() } else { each(batch, |_| Verdict::Dead(Oops::Bad)) },
    );
    assert_eq!(told(&row(&script, INDIVIDUALLY, 3).await), "ddd");
    assert_eq!(calls(&script), (2, 0));
}

/// Dead, not judged, done: the list of E8 and E9.
fn partial(batch: &[u32]) -> Reaction {
    each(batch, |item| match item {
        0 => Verdict::Dead(Oops::Bad),
        1 => Verdict::Isolate(Oops::Broken),
        item => Verdict::Done(item),
    })
}

#[tokio::test]
async fn e8_partial_success_without_individual_calls() {
    let script = batches(|batch, _| partial(batch));
    assert_eq!(told(&row(&script, Recovery::Off, 3).await), "dr-");
    assert_eq!(calls(&script), (1, 0));
}

#[tokio::test]
async fn e9_partial_success_with_individual_calls() {
    let script = batches(|batch, _| partial(batch));
    assert_eq!(told(&row(&script, INDIVIDUALLY, 4).await), "d---");
    assert_eq!(calls(&script), (1, 1));
}

#[tokio::test]
async fn e10_partial_success_without_errors() {
    let script = batches(|batch, _| each(batch, Verdict::Done));
    assert_eq!(told(&row(&script, INDIVIDUALLY, 2).await), "--");
    assert_eq!(calls(&script), (1, 0));
}

#[tokio::test]
async fn e11_partial_success_where_nothing_could_be_judged() {
    let script = batches(|batch, _| each(batch, |_| Verdict::Isolate(Oops::Broken)));
    assert_eq!(told(&row(&script, INDIVIDUALLY, 2).await), "--");
    assert_eq!(calls(&script), (1, 2));
}

#[tokio::test]
async fn e12_a_list_without_verdicts_is_an_error_and_never_silence() {
    // There, the items are never answered. Here all attempts are used, then each is tried alone.
    let script = batches(|_, _| Reaction::Answer(BatchOutcome::Each(Vec::new())));
    assert_eq!(told(&row(&script, INDIVIDUALLY, 2).await), "--");
    assert_eq!(calls(&script), (2, 2));

    let script = Script::new(|_, _| Reaction::Answer(BatchOutcome::Each(Vec::new())));
    let answers = row(&script, Recovery::Off, 2).await;
    assert_eq!(calls(&script), (2, 0));
    for answer in answers {
        let cause = answer.unwrap_err().cause;
        assert!(matches!(cause, Cause::WrongVerdicts { items: 2, verdicts: 0 }), "{cause}");
    }
}

#[tokio::test]
async fn e13_nothing_could_be_judged_and_individual_calls_are_off() {
    let script = batches(|_, _| split());
    assert_eq!(told(&row(&script, Recovery::Off, 3).await), "rrr");
    assert_eq!(calls(&script), (1, 0));
}

#[tokio::test]
async fn e14_to_e16_a_split_batch_is_tried_one_by_one_whatever_its_error() {
    for error in [Oops::Broken, Oops::Throttled, Oops::Bad] {
        let script = batches(move |_, _| Reaction::Answer(BatchOutcome::Split(error)));
        assert_eq!(told(&row(&script, INDIVIDUALLY, 4).await), "----", "{error}");
        assert_eq!(calls(&script), (1, 4), "{error}");
    }
}

// E17, a split with an empty list: `Split` has no list, so no item can be missing from it.

#[tokio::test]
async fn e18_an_answer_that_does_not_fit_is_an_error_for_each_item() {
    // There, a foreign status. Here outcomes are a closed set; what remains is a list that is too long.
    let script = Script::new(|_, _| Reaction::Answer(BatchOutcome::Each(vec![Verdict::Done(0); 3])));
    let answers = row(&script, Recovery::Off, 2).await;
    for answer in answers {
        let cause = answer.unwrap_err().cause;
        assert!(matches!(cause, Cause::WrongVerdicts { items: 2, verdicts: 3 }), "{cause}");
    }
    assert_eq!(calls(&script), (2, 0));
}

#[tokio::test]
async fn a_lone_item_lingers_and_no_longer() {
    // Not in the Go tables: the interval flush.
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = Arc::new(started(setup(&script, &clock)));
    let ticket = processor.add(1).await.unwrap();
    idle().await;
    clock.advance(499 * MS);
    idle().await;
    assert_eq!(script.calls(), 0);
    clock.advance(MS);
    assert_eq!(ticket.await.unwrap(), 1);
}
