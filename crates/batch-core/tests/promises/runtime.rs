use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use relaykit_batch_core::{ABORT_GRACE, Cause, Overflow, RejectReason};
use relaykit_pipeline_traits::{BatchOutcome, ManualClock, Verdict};
use tokio::runtime::Runtime;

use crate::common::{
    Answer, Batcher, HOUR, Oops, Outcome, Reaction, SECOND, Script, Times, add_all, all_done, answers,
    assert_books_balance, assert_room, batcher, idle, outputs, run_out, started,
};

#[tokio::test]
async fn dropping_the_last_handle_brings_everything_to_its_end() {
    let script = Script::new(|batch, attempt| match attempt {
        1 => Reaction::Answer(BatchOutcome::RetryBatch { after: None, error: Oops::Broken }),
        _ => all_done(batch),
    });
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(3).linger(Duration::MAX).concurrency(2);
    let builder = builder.retry(Times { attempts: 2, delay: SECOND }).order_by(|item| Some(item % 4));
    let (processor, mut responses) = builder.build_with_responses(99, Overflow::Wait).unwrap();
    processor.start().unwrap();
    let tickets = add_all(&processor, 0..10).await;
    for item in 10..20 {
        processor.send(item).await.unwrap();
    }
    let other = processor.clone();
    drop(processor);
    let late = other.add(20).await.expect("a handle is left");
    drop(other);
    assert_eq!(outputs(run_out(&clock, answers(tickets)).await), (0..10).collect::<Vec<_>>());
    assert_eq!(run_out(&clock, late).await.unwrap(), 20);
    let mut seen = Vec::new();
    while let Some(response) = run_out(&clock, responses.recv()).await {
        seen.push(response.item);
    }
    seen.sort_unstable();
    assert_eq!(seen, (10..20).collect::<Vec<_>>());
    idle().await;
    assert_eq!(clock.sleepers(), 0);
}

#[tokio::test]
async fn an_idle_processor_ends_with_its_last_handle() {
    for linger in [Duration::ZERO, SECOND, Duration::MAX] {
        let (script, clock) = (Script::done(), ManualClock::new());
        let (processor, mut responses) =
            batcher(&script, &clock).linger(linger).build_with_responses(1, Overflow::Wait).unwrap();
        processor.start().unwrap();
        idle().await;
        drop(processor);
        // The stream ends when the engine is gone, timer and all.
        assert!(responses.recv().await.is_none(), "{linger:?}");
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn assert_abandoned(answers: Vec<Answer>) {
    for (item, answer) in (0..).zip(answers) {
        let failed = answer.unwrap_err();
        assert_eq!(failed.item, Some(item));
        assert!(matches!(failed.cause, Cause::Abandoned), "{item}: {}", failed.cause);
    }
}

/// In flight, waiting to be tried again, in a full batch, lingering, and waiting for their key.
fn abandoned_script() -> Script {
    Script::new(|batch, _| match batch[0] {
        0 => Reaction::Hang,
        _ => Reaction::Answer(BatchOutcome::RetryBatch { after: None, error: Oops::Broken }),
    })
}

fn abandoned_processor(script: &Script, clock: &ManualClock) -> Batcher {
    let builder = batcher(script, clock).max_items(2).capacity(20).concurrency(2).linger(HOUR);
    let builder = builder.retry(Times { attempts: 2, delay: HOUR });
    builder.order_by(|item| (*item > 6).then_some(())).build().unwrap()
}

#[test]
fn a_runtime_that_goes_away_hands_every_item_back_through_its_ticket() {
    let (script, clock) = (abandoned_script(), ManualClock::new());
    let processor = abandoned_processor(&script, &clock);
    let first = runtime();
    let tickets = first.block_on(async {
        processor.start().unwrap();
        let tickets = add_all(&processor, 0..10).await;
        script.until_calls(2).await;
        idle().await;
        assert_eq!(processor.stats().in_flight, 4);
        tickets
    });
    drop(first);
    // The handle is still there, and nobody stops: the tickets know all the same.
    assert_abandoned(runtime().block_on(answers(tickets)));
    assert_books_balance(&processor);
}

#[test]
fn a_processor_whose_runtime_went_away_starts_on_another_one() {
    let (script, clock) = (abandoned_script(), ManualClock::new());
    let processor = abandoned_processor(&script, &clock);
    let first = runtime();
    let tickets = first.block_on(async {
        processor.start().unwrap();
        add_all(&processor, 0..10).await
    });
    drop(first);
    runtime().block_on(async {
        assert_abandoned(answers(tickets).await);
        assert_eq!(processor.try_add(1).unwrap_err().reason, RejectReason::NotRunning);
        processor.start().unwrap();
        assert_room(&processor, 20);
    });
}

#[test]
fn a_runtime_that_goes_away_before_the_workers_began_hands_every_item_back() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = abandoned_processor(&script, &clock);
    let first = runtime();
    let tickets = {
        let _inside = first.enter();
        processor.start().unwrap();
        (0..10).map(|item| processor.try_add(item).unwrap()).collect()
    };
    drop(first);
    assert_abandoned(runtime().block_on(answers(tickets)));
    assert_eq!(script.calls(), 0);
    assert_books_balance(&processor);
}

#[test]
fn whoever_waits_for_room_gets_the_item_back_when_the_runtime_goes_away() {
    let (script, clock) = (Script::new(|_, _| Reaction::Hang), ManualClock::new());
    let processor = batcher(&script, &clock).max_items(1).capacity(1).concurrency(1).build().unwrap();
    let first = runtime();
    first.block_on(async {
        processor.start().unwrap();
        processor.send(0).await.unwrap();
        script.until_calls(1).await;
        processor.send(1).await.unwrap();
    });
    runtime().block_on(async {
        let adding = tokio::spawn({
            let processor = processor.clone();
            async move { processor.add(2).await.map(drop) }
        });
        idle().await;
        first.shutdown_background();
        let rejected = adding.await.unwrap().unwrap_err();
        assert_eq!((rejected.item, rejected.reason), (2, RejectReason::NotRunning));
    });
}

#[test]
fn handles_and_runtime_may_go_away_in_any_order() {
    for handle_first in [true, false] {
        let (script, clock) = (abandoned_script(), ManualClock::new());
        let processor = abandoned_processor(&script, &clock);
        let first = runtime();
        let tickets = first.block_on(async {
            processor.start().unwrap();
            let tickets = add_all(&processor, 0..10).await;
            script.until_calls(2).await;
            tickets
        });
        if handle_first {
            drop(processor);
            drop(first);
        } else {
            drop(first);
            drop(processor);
        }
        assert_abandoned(runtime().block_on(answers(tickets)));
    }
}

/// A handler whose first call blocks its thread until told to go on.
fn blocking(answer: Outcome) -> (mpsc::Sender<()>, Script) {
    let (go_on, told) = mpsc::channel();
    let told = Arc::new(Mutex::new(told));
    let first = Mutex::new(Some(Reaction::Block(told, answer)));
    let script = Script::new(move |batch, _| first.lock().unwrap().take().unwrap_or_else(|| all_done(batch)));
    (go_on, script)
}

/// Stops a processor whose handler is blocked: one second passes, then the grace.
async fn stop_while_blocked(
    clock: &ManualClock,
    processor: &Batcher,
) -> relaykit_batch_core::StopReport<u32, u32, Oops> {
    let stop = tokio::spawn({
        let processor = processor.clone();
        async move { processor.stop(SECOND).await }
    });
    clock.until_sleepers(1).await;
    clock.advance(SECOND);
    clock.until_sleepers(1).await;
    clock.advance(ABORT_GRACE);
    stop.await.unwrap()
}

fn for_blocking(script: &Script, clock: &ManualClock) -> relaykit_batch_core::Builder<u32, Script> {
    batcher(script, clock).max_items(2).capacity(4).concurrency(1).linger(Duration::MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_holds_a_stop_up_for_the_grace_only() {
    let (go_on, script) = blocking(BatchOutcome::Each(vec![Verdict::Done(70), Verdict::Dead(Oops::Bad)]));
    let clock = ManualClock::new();
    let processor = started(for_blocking(&script, &clock));
    let mut tickets = add_all(&processor, [0, 1]).await;
    script.until_calls(1).await;
    tickets.extend(add_all(&processor, [2, 3, 4]).await);
    let report = stop_while_blocked(&clock, &processor).await;
    assert_eq!((report.unreturned, report.unsent, report.in_doubt.len()), (2, vec![2, 3, 4], 0));
    go_on.send(()).unwrap();
    // The late answers still reach their tickets.
    let mut answers = answers(tickets).await.into_iter();
    assert_eq!(answers.next().unwrap().unwrap(), 70);
    assert!(answers.next().unwrap().unwrap_err().cause.is_dead());
    assert!(answers.all(|answer| matches!(answer.unwrap_err().cause, Cause::Stopped)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_run_does_not_mind_a_handler_still_blocked_since_the_last_one() {
    let (go_on, script) = blocking(BatchOutcome::Each(vec![Verdict::Done(70), Verdict::Done(71)]));
    let clock = ManualClock::new();
    let processor = started(for_blocking(&script, &clock));
    let late = add_all(&processor, [0, 1]).await;
    script.until_calls(1).await;
    assert_eq!(stop_while_blocked(&clock, &processor).await.unreturned, 2);
    for run in 0..3 {
        processor.start().unwrap();
        let tickets = add_all(&processor, [10, 11, 12]).await;
        processor.flush().await.unwrap();
        assert_eq!(outputs(answers(tickets).await), [10, 11, 12]);
        let before = processor.stats();
        assert_eq!((before.done, before.in_flight), (3 * (run + 1), 0));
        assert!(processor.stop(HOUR).await.is_clean());
    }
    processor.start().unwrap();
    go_on.send(()).unwrap();
    assert_eq!(outputs(answers(late).await), [70, 71]);
    assert!(processor.stop(HOUR).await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_blocked_handler_leaves_undone_after_a_stop_is_handed_back_and_not_lent_again() {
    for restart in [false, true] {
        let (go_on, script) = blocking(BatchOutcome::RetryBatch { after: None, error: Oops::Broken });
        let clock = ManualClock::new();
        let builder = for_blocking(&script, &clock).retry(Times { attempts: 9, delay: SECOND });
        let (processor, mut responses) = builder.build_with_responses(9, Overflow::Wait).unwrap();
        processor.start().unwrap();
        let ticket = processor.add(0).await.unwrap();
        processor.send(1).await.unwrap();
        script.until_calls(1).await;
        assert_eq!(stop_while_blocked(&clock, &processor).await.unreturned, 2);
        if restart {
            processor.start().unwrap();
        }
        go_on.send(()).unwrap();
        // No report holds the item any more, so the ticket does.
        let failed = ticket.await.unwrap_err();
        assert!(matches!(failed.cause, Cause::Stopped), "{}", failed.cause);
        assert_eq!((failed.item, failed.attempts), (Some(0), 1));
        let response = responses.recv().await.unwrap();
        assert!(matches!(response.result, Err(Cause::Stopped)), "{response:?}");
        assert_eq!(response.item, 1);
        assert!(processor.stop(HOUR).await.is_clean());
        assert_eq!(script.calls(), 1);
        // The worker that outlived its run ends then, and holds nothing back.
        drop(processor);
        assert!(responses.recv().await.is_none());
    }
}
