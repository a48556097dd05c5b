use std::time::Duration;

use relaykit_batch_core::{Cause, Overflow, Recovery, RejectReason, Rejected, StartError};
use relaykit_pipeline_traits::{BatchOutcome, ManualClock, Verdict};

use crate::common::{
    HOUR, Oops, Reaction, SECOND, Script, Times, add_all, all_done, answers, assert_books_balance,
    assert_room, batcher, each, gate, idle, outputs, poll_once, run_out, started,
};

fn broken() -> Reaction {
    Reaction::Answer(BatchOutcome::RetryBatch { after: None, error: Oops::Broken })
}

#[tokio::test]
async fn a_graceful_stop_answers_everything_that_was_accepted() {
    // Among them: in flight, in a full batch, lingering, waiting for their key, waiting to be tried again, isolated.
    let script = Script::new(|batch, attempt| match (batch.len(), attempt) {
        (_, 1) if batch.contains(&0) => broken().later(),
        (2.., _) if batch.contains(&7) => Reaction::Answer(BatchOutcome::Split(Oops::Bad)).later(),
        _ => all_done(batch).later(),
    });
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(4).concurrency(2).linger(Duration::MAX);
    let processor =
        started(builder.retry(Times { attempts: 2, delay: SECOND }).order_by(|item| Some(item % 6)));
    let tickets = add_all(&processor, 0..30).await;
    script.until_calls(1).await;
    let report = run_out(&clock, processor.stop(HOUR)).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(outputs(answers(tickets).await), (0..30).collect::<Vec<_>>());
    assert_books_balance(&processor);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_lingering_batches() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).linger(HOUR));
    let ticket = processor.add(1).await.unwrap();
    assert!(processor.stop(SECOND).await.is_clean());
    assert_eq!(ticket.await.unwrap(), 1);
}

#[tokio::test]
async fn at_the_deadline_each_unanswered_item_is_returned_exactly_once() {
    let script = Script::new(|_, _| Reaction::Hang);
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(2).capacity(20).concurrency(2).timeout(HOUR);
    let processor = started(builder);
    let tickets = add_all(&processor, 0..11).await;
    script.until_calls(2).await;
    let report = run_out(&clock, processor.stop(SECOND)).await;
    let mut in_doubt = report.in_doubt;
    in_doubt.sort_unstable();
    assert_eq!(in_doubt, [0, 1, 2, 3]);
    assert_eq!(report.unsent, [4, 5, 6, 7, 8, 9, 10]);
    assert_eq!((report.unread.len(), report.unreturned), (0, 0));
    for answer in answers(tickets).await {
        let failed = answer.unwrap_err();
        assert!(failed.item.is_none() && matches!(failed.cause, Cause::Stopped), "{failed:?}");
    }
    assert_eq!(processor.stats().handed_back, 11);
    assert_books_balance(&processor);
    processor.start().unwrap();
    assert_room(&processor, 20);
}

#[tokio::test]
async fn a_stop_ends_at_its_deadline_if_the_handlers_let_go() {
    let script = Script::new(|_, _| Reaction::Hang);
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(1).concurrency(3).linger(Duration::ZERO).timeout(HOUR);
    let processor = started(builder);
    let _ticket = processor.add(0).await.unwrap();
    script.until_calls(1).await;
    let stop = tokio::spawn({
        let processor = processor.clone();
        async move { processor.stop(SECOND).await }
    });
    idle().await;
    clock.advance(SECOND);
    idle().await;
    // One worker was busy, two had nothing to do. No grace is needed for any of them.
    assert!(stop.is_finished());
    assert_eq!(stop.await.unwrap().in_doubt, [0]);
}

#[tokio::test]
async fn at_the_deadline_items_that_wait_for_their_key_are_returned_in_its_order() {
    let script = Script::new(|_, _| Reaction::Hang);
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).max_items(1).order_by(|_| Some(())).timeout(HOUR));
    let _tickets = add_all(&processor, 0..9).await;
    script.until_calls(1).await;
    let report = run_out(&clock, processor.stop(SECOND)).await;
    assert_eq!(report.in_doubt, [0]);
    assert_eq!(report.unsent, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn at_the_deadline_items_that_wait_to_be_tried_again_are_unsent() {
    let script = Script::new(|batch, _| {
        each(batch, |item| match item {
            0 => Verdict::Done(0),
            _ => Verdict::Retry { after: None, error: Oops::Broken },
        })
    });
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).retry(Times { attempts: 2, delay: HOUR }));
    let mut tickets = add_all(&processor, 0..3).await;
    let report = run_out(&clock, processor.stop(SECOND)).await;
    assert_eq!((report.unsent, report.in_doubt), (vec![1, 2], vec![]));
    assert_eq!(tickets.remove(0).await.unwrap(), 0);
    for answer in answers(tickets).await {
        let failed = answer.unwrap_err();
        assert!(matches!(failed.cause, Cause::Stopped) && failed.attempts == 1, "{failed:?}");
    }
    assert_eq!(script.calls(), 1);
    assert_books_balance(&processor);
}

#[tokio::test]
async fn a_stop_keeps_the_retry_policys_waits_within_its_deadline() {
    let script = Script::sequence([broken()]);
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).retry(Times { attempts: 2, delay: 10 * SECOND }));
    let ticket = processor.add(1).await.unwrap();
    let mut stop = Box::pin(processor.stop(HOUR));
    assert!(poll_once(stop.as_mut()).is_pending());
    script.until_calls(1).await;
    clock.until_sleepers(2).await;
    clock.advance(9 * SECOND);
    idle().await;
    assert_eq!(script.calls(), 1);
    clock.advance(SECOND);
    assert!(stop.await.is_clean());
    assert_eq!(ticket.await.unwrap(), 1);
}

#[tokio::test]
async fn at_the_deadline_parts_of_a_split_batch_are_returned_as_well() {
    for recovery in [Recovery::Bisect, Recovery::Individual { concurrency: 2 }] {
        let script = Script::new(|batch, _| match batch.len() {
            8 => Reaction::Answer(BatchOutcome::Split(Oops::Bad)),
            _ => Reaction::Hang,
        });
        let clock = ManualClock::new();
        let builder = batcher(&script, &clock).max_items(8).concurrency(1).recovery(recovery).timeout(HOUR);
        let processor = started(builder);
        let tickets = add_all(&processor, 0..8).await;
        script.until_calls(2).await;
        let report = run_out(&clock, processor.stop(SECOND)).await;
        let in_doubt = if recovery == Recovery::Bisect { 4 } else { 2 };
        assert_eq!(report.in_doubt.len(), in_doubt, "{recovery:?}");
        let mut all = [report.in_doubt, report.unsent].concat();
        all.sort_unstable();
        assert_eq!(all, (0..8).collect::<Vec<_>>(), "{recovery:?}");
        for answer in answers(tickets).await {
            assert!(matches!(answer.unwrap_err().cause, Cause::Stopped));
        }
        assert_books_balance(&processor);
    }
}

#[tokio::test]
async fn whoever_waits_for_room_gets_the_item_back_when_a_stop_begins() {
    let closed = gate();
    let script = {
        let closed = closed.clone();
        Script::new(move |batch, _| all_done(batch).behind(&closed))
    };
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).max_items(1).capacity(1).concurrency(1));
    processor.send(0).await.unwrap();
    script.until_calls(1).await;
    processor.send(1).await.unwrap();
    let add = tokio::spawn({
        let processor = processor.clone();
        async move { processor.add(10).await.map(drop) }
    });
    let send = tokio::spawn({
        let processor = processor.clone();
        async move { processor.send(11).await }
    });
    let timeout = tokio::spawn({
        let processor = processor.clone();
        async move { processor.add_timeout(12, HOUR).await.map(drop) }
    });
    let reserve = tokio::spawn({
        let processor = processor.clone();
        async move { processor.reserve().await.map(drop) }
    });
    idle().await;
    let stop = tokio::spawn({
        let processor = processor.clone();
        async move { processor.stop(HOUR).await }
    });
    // They do not wait for the stop to end.
    for (item, adding) in [(10, add), (11, send), (12, timeout)] {
        let rejected = adding.await.unwrap().unwrap_err();
        assert_eq!((rejected.item, rejected.reason), (item, RejectReason::NotRunning));
    }
    assert!(reserve.await.unwrap().is_err());
    assert!(!stop.is_finished());
    closed.add_permits(2);
    assert!(stop.await.unwrap().is_clean());
    assert_eq!(script.lent(), [[0], [1]]);
}

#[tokio::test]
async fn a_stopping_processor_takes_no_more() {
    let script = Script::new(|_, _| Reaction::Hang);
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).timeout(HOUR * 9));
    processor.send(0).await.unwrap();
    let mut stop = Box::pin(processor.stop(HOUR));
    assert!(poll_once(stop.as_mut()).is_pending());
    for Rejected { item, reason } in [
        processor.add(1).await.map(drop).unwrap_err(),
        processor.try_add(1).map(drop).unwrap_err(),
        processor.add_timeout(1, HOUR).await.map(drop).unwrap_err(),
        processor.send(1).await.unwrap_err(),
        processor.try_send(1).unwrap_err(),
    ] {
        assert_eq!((item, reason), (1, RejectReason::NotRunning));
    }
    assert!(processor.reserve().await.is_err());
    assert_eq!(processor.start(), Err(StartError::Stopping));
    assert_eq!(run_out(&clock, stop).await.in_doubt, [0]);
}

#[tokio::test]
async fn a_stop_returns_the_responses_that_nobody_read() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let builder = batcher(&script, &clock).max_items(10).concurrency(1);
    let (processor, mut responses) = builder.build_with_responses(3, Overflow::Wait).unwrap();
    processor.start().unwrap();
    for item in 0..10 {
        processor.send(item).await.unwrap();
    }
    let ticket = processor.add(10).await.unwrap();
    let report = run_out(&clock, processor.stop(SECOND)).await;
    let unread: Vec<_> = report.unread.iter().map(|response| response.item).collect();
    assert_eq!(unread, [3, 4, 5, 6, 7, 8, 9]);
    assert!(report.unread.iter().all(|response| response.result.is_ok()));
    // They were answered, so they are not unsent; the added one never got its turn.
    assert_eq!((report.unsent, report.in_doubt.len(), report.unreturned), (vec![10], 0, 0));
    assert!(matches!(ticket.await.unwrap_err().cause, Cause::Stopped));
    for item in 0..3 {
        assert_eq!(responses.try_recv().unwrap().item, item);
    }
    assert!(responses.try_recv().is_none());
    assert_eq!(processor.stats().done, 10);
    assert_books_balance(&processor);
}

#[tokio::test]
async fn of_two_stops_at_once_one_gets_what_is_left() {
    let script = Script::new(|_, _| Reaction::Hang);
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).max_items(1).concurrency(1));
    let _tickets = add_all(&processor, 0..5).await;
    script.until_calls(1).await;
    let both = async { tokio::join!(processor.stop(SECOND), processor.stop(HOUR)) };
    let (first, second) = run_out(&clock, both).await;
    let (left, other) = if first.is_clean() { (second, first) } else { (first, second) };
    assert_eq!((left.in_doubt, left.unsent), (vec![0], vec![1, 2, 3, 4]));
    assert!(other.is_clean());
    assert_books_balance(&processor);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stops_and_starts_from_many_threads_keep_the_books() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = batcher(&script, &clock).max_items(2).concurrency(2).build().unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let processor = processor.clone();
            tokio::spawn(async move {
                let mut tickets = Vec::new();
                for turn in 0..200 {
                    // Whatever another task does at the time is fine, as long as it adds up.
                    let _ = processor.start();
                    tickets.extend(processor.add(task * 1000 + turn).await.ok());
                    tickets.extend(processor.try_add(task * 1000 + turn + 500).ok());
                    assert!(processor.stop(HOUR).await.is_clean());
                }
                let accepted = tickets.len();
                for ticket in tickets {
                    ticket.await.expect("every stop is graceful");
                }
                accepted as u64
            })
        })
        .collect();
    let mut accepted = 0;
    for task in tasks {
        accepted += task.await.unwrap();
    }
    assert!(processor.stop(HOUR).await.is_clean());
    assert_eq!(processor.stats().accepted, accepted);
    assert_eq!(processor.stats().done, accepted);
    assert_books_balance(&processor);
}

#[tokio::test]
async fn stopping_what_never_started_returns_an_empty_report() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = batcher(&script, &clock).build().unwrap();
    assert!(processor.stop(Duration::ZERO).await.is_clean());
    assert_eq!(clock.sleepers(), 0);
}

#[tokio::test]
async fn a_processor_can_be_restarted_any_number_of_times() {
    let script = Script::new(|batch, _| if batch.contains(&13) { Reaction::Hang } else { all_done(batch) });
    let clock = ManualClock::new();
    let processor = batcher(&script, &clock).max_items(4).capacity(8).concurrency(3).build().unwrap();
    for run in 0..50 {
        processor.start().unwrap();
        let tickets = add_all(&processor, 0..7).await;
        if run % 3 == 0 {
            // A run that ends badly leaves the next one alone.
            let _hanging = processor.add(13).await.unwrap();
            script.until_calls(script.calls()).await;
            let report = run_out(&clock, processor.stop(SECOND)).await;
            assert!(report.in_doubt.contains(&13), "run {run}: {report:?}");
            drop(tickets);
        } else {
            assert!(processor.stop(HOUR).await.is_clean(), "run {run}");
            assert_eq!(outputs(answers(tickets).await), [0, 1, 2, 3, 4, 5, 6]);
        }
        assert_books_balance(&processor);
        assert_eq!(clock.sleepers(), 0, "run {run} leaves a timer behind");
    }
    processor.start().unwrap();
    assert_room(&processor, 8);
}

#[tokio::test]
async fn the_linger_of_a_new_run_is_its_own() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = batcher(&script, &clock).linger(5 * SECOND).build().unwrap();
    for run in 0..5 {
        processor.start().unwrap();
        let ticket = processor.add(run).await.unwrap();
        clock.until_sleepers(1).await;
        clock.advance(5 * SECOND);
        assert_eq!(ticket.await.unwrap(), run);
        let _lingering = processor.add(run).await.unwrap();
        clock.until_sleepers(1).await;
        clock.advance(3 * SECOND);
        assert!(processor.stop(HOUR).await.is_clean());
    }
}

#[test]
fn a_start_outside_a_runtime_is_refused() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = batcher(&script, &clock).build().unwrap();
    assert_eq!(processor.start(), Err(StartError::NoRuntime));
    let Rejected { item, reason } = processor.try_add(1).unwrap_err();
    assert_eq!((item, reason), (1, RejectReason::NotRunning));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _inside = runtime.enter();
    assert_eq!(processor.start(), Ok(()));
}

#[tokio::test]
async fn a_stop_without_any_time_still_keeps_the_books() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).max_items(2));
    let tickets = add_all(&processor, 0..5).await;
    let report = run_out(&clock, processor.stop(Duration::ZERO)).await;
    let done = answers(tickets).await.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(done + report.unsent.len() + report.in_doubt.len(), 5);
    assert_books_balance(&processor);
}
