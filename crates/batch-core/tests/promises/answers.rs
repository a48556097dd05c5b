use std::error::Error as _;

use relaykit_batch_core::{Cause, Overflow, Responses};
use relaykit_pipeline_traits::{ManualClock, Verdict};

use crate::common::{
    HOUR, Oops, Reaction, Script, Times, add_all, all_done, answers, assert_books_balance, batcher, each,
    gate, idle, run_out, started,
};

/// Every third item is dead, every third is never delivered, the others are done.
fn thirds(batch: &[u32], _attempt: u32) -> Reaction {
    each(batch, |item| match item % 3 {
        0 => Verdict::Dead(Oops::Bad),
        1 => Verdict::Retry { after: None, error: Oops::Broken },
        _ => Verdict::Done(item),
    })
}

fn is_of_third(item: u32, result: &Result<u32, Cause<Oops>>) -> bool {
    match item % 3 {
        0 => matches!(result, Err(Cause::Dead(_))),
        1 => matches!(result, Err(Cause::Exhausted(_))),
        _ => matches!(result, Ok(output) if *output == item),
    }
}

#[tokio::test]
async fn every_added_item_gets_its_own_answer_through_its_ticket() {
    let (script, clock) = (Script::new(thirds), ManualClock::new());
    let processor = started(batcher(&script, &clock).max_items(7).retry(Times { attempts: 3, delay: HOUR }));
    let tickets = add_all(&processor, 0..250).await;
    let report = run_out(&clock, processor.stop(HOUR * 24)).await;
    assert!(report.is_clean());
    for (item, answer) in (0..).zip(answers(tickets).await) {
        let result = match answer {
            Ok(output) => Ok(output),
            Err(failed) => {
                assert_eq!(failed.item, Some(item));
                Err(failed.cause)
            }
        };
        assert!(is_of_third(item, &result), "{item}: {result:?}");
    }
    assert_books_balance(&processor);
    assert_eq!((processor.stats().done, processor.stats().failed), (83, 167));
}

#[tokio::test]
async fn every_sent_item_gets_exactly_one_response() {
    let (script, clock) = (Script::new(thirds), ManualClock::new());
    let builder = batcher(&script, &clock).max_items(7).retry(Times { attempts: 3, delay: HOUR });
    let (processor, mut responses) = builder.build_with_responses(3, Overflow::Wait).unwrap();
    processor.start().unwrap();
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Some(response) = responses.recv().await {
            assert!(is_of_third(response.item, &response.result), "{response:?}");
            seen.push(response.item);
        }
        seen
    });
    for item in 0..250 {
        processor.send(item).await.unwrap();
    }
    assert!(run_out(&clock, processor.stop(HOUR * 24)).await.is_clean());
    drop(processor);
    let mut seen = reader.await.unwrap();
    seen.sort_unstable();
    assert_eq!(seen, (0..250).collect::<Vec<_>>());
}

#[tokio::test]
async fn added_items_do_not_appear_in_the_response_stream() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let (processor, mut responses) =
        batcher(&script, &clock).build_with_responses(9, Overflow::Wait).unwrap();
    processor.start().unwrap();
    let ticket = processor.add(1).await.unwrap();
    processor.send(2).await.unwrap();
    processor.flush().await.unwrap();
    assert_eq!(ticket.await.unwrap(), 1);
    assert_eq!(responses.try_recv().unwrap().item, 2);
    assert!(responses.try_recv().is_none());
}

#[tokio::test]
async fn a_dropped_ticket_gives_up_the_answer_and_not_the_item() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock));
    drop(processor.add(1).await.unwrap());
    processor.flush().await.unwrap();
    assert_eq!(script.lent(), [[1]]);
    assert_books_balance(&processor);
}

#[tokio::test]
async fn an_item_sent_without_a_stream_is_handled_all_the_same() {
    let (script, clock) = (Script::new(thirds), ManualClock::new());
    let processor = started(batcher(&script, &clock));
    for item in 0..3 {
        processor.send(item).await.unwrap();
    }
    processor.flush().await.unwrap();
    assert_eq!(script.lent(), [[0, 1, 2]]);
    assert_eq!((processor.stats().done, processor.stats().failed), (1, 2));
}

#[tokio::test]
async fn a_full_stream_holds_the_worker_until_somebody_reads() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let builder = batcher(&script, &clock).max_items(2).concurrency(1);
    let (processor, mut responses) = builder.build_with_responses(1, Overflow::Wait).unwrap();
    processor.start().unwrap();
    for item in 0..4 {
        processor.send(item).await.unwrap();
    }
    idle().await;
    assert_eq!(script.calls(), 1);
    for item in 0..4 {
        assert_eq!(responses.recv().await.unwrap().item, item);
    }
    assert_eq!(script.calls(), 2);
    assert_eq!(processor.stats().responses_dropped, 0);
}

#[tokio::test]
async fn responses_that_a_full_stream_drops_are_counted() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let builder = batcher(&script, &clock).max_items(10);
    let (processor, mut responses) = builder.build_with_responses(4, Overflow::DropNewest).unwrap();
    processor.start().unwrap();
    for item in 0..10 {
        processor.send(item).await.unwrap();
    }
    processor.flush().await.unwrap();
    let mut read = Vec::new();
    while let Some(response) = responses.try_recv() {
        read.push(response.item);
    }
    assert_eq!(read, [0, 1, 2, 3]);
    assert_eq!(processor.stats().responses_dropped, 6);
    assert_eq!(processor.stats().done, 10);
}

#[tokio::test]
async fn a_dropped_stream_blocks_nobody() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let (processor, responses) = batcher(&script, &clock).build_with_responses(1, Overflow::Wait).unwrap();
    drop::<Responses<u32, u32, Oops>>(responses);
    processor.start().unwrap();
    for item in 0..5 {
        processor.send(item).await.unwrap();
    }
    processor.flush().await.unwrap();
    assert_eq!(processor.stats().done, 5);
}

#[tokio::test]
async fn the_stream_is_a_stream() {
    use futures_util::StreamExt as _;

    let (script, clock) = (Script::done(), ManualClock::new());
    let (processor, responses) = batcher(&script, &clock).build_with_responses(9, Overflow::Wait).unwrap();
    processor.start().unwrap();
    for item in 0..3 {
        processor.send(item).await.unwrap();
    }
    processor.flush().await.unwrap();
    drop(processor);
    let items: Vec<u32> = responses.map(|response| response.item).collect().await;
    assert_eq!(items, [0, 1, 2]);
}

#[tokio::test]
async fn the_handlers_error_is_the_source_of_the_failure() {
    let clock = ManualClock::new();
    let script = Script::new(|batch, _| each(batch, |_| Verdict::Dead(Oops::Bad)));
    let processor = started(batcher(&script, &clock));
    let ticket = processor.add(1).await.unwrap();
    processor.flush().await.unwrap();
    let failed = ticket.await.unwrap_err();
    assert_eq!(failed.source().unwrap().to_string(), "bad item");
    assert_eq!(failed.cause.error(), Some(&Oops::Bad));
}

#[tokio::test]
async fn an_answer_does_not_wait_for_other_batches() {
    let closed = gate();
    let (script, clock) = (
        {
            let closed = closed.clone();
            Script::new(
                move |batch, _| if batch == [1] { all_done(batch).behind(&closed) } else { all_done(batch) },
            )
        },
        ManualClock::new(),
    );
    let processor = started(batcher(&script, &clock).max_items(1).concurrency(2));
    let slow = processor.add(1).await.unwrap();
    let quick = processor.add(2).await.unwrap();
    assert_eq!(quick.await.unwrap(), 2);
    assert_eq!(processor.stats().in_flight, 1);
    closed.add_permits(1);
    assert_eq!(slow.await.unwrap(), 1);
}

#[tokio::test]
async fn neither_answers_nor_reports_show_items_in_debug() {
    let clock = ManualClock::new();
    let script = Script::new(|batch, _| each(batch, |_| Verdict::Dead(Oops::Bad)));
    let builder = batcher(&script, &clock);
    let (processor, mut responses) = builder.build_with_responses(9, Overflow::Wait).unwrap();
    let rejected = format!("{:?}", processor.add(987_654).await.unwrap_err());
    processor.start().unwrap();
    processor.send(987_654).await.unwrap();
    let ticket = processor.add(987_654).await.unwrap();
    processor.flush().await.unwrap();
    let failed = format!("{:?}", ticket.await.unwrap_err());
    let response = format!("{:?}", responses.recv().await.unwrap());
    processor.send(987_654).await.unwrap();
    let report = format!("{:?}", processor.stop(HOUR).await);
    for shown in [rejected, failed, response, report, format!("{processor:?}")] {
        assert!(!shown.contains("987"), "{shown}");
    }
}
