//! What an operator sees.

use std::time::Duration;

use relaykit_pipeline_traits::{BatchOutcome, ManualClock, MemoryRecorder, Verdict};

use crate::common::{
    Oops, Reaction, SECOND, Script, Times, add_all, all_done, answers, batcher, each, gate, idle, started,
};

#[tokio::test]
async fn items_are_counted_by_how_they_were_answered_and_batches_by_why_they_were_closed() {
    let (clock, recorder) = (ManualClock::new(), MemoryRecorder::new());
    let script = Script::new(|batch, _| {
        each(batch, |item| if item == 3 { Verdict::Dead(Oops::Bad) } else { Verdict::Done(item) })
    });
    let processor = started(batcher(&script, &clock).max_items(3).name("mail").recorder(recorder.clone()));
    let tickets = add_all(&processor, 1..=4).await;
    processor.flush().await.unwrap();
    let lingering = processor.add(5).await.unwrap();
    clock.until_sleepers(1).await;
    clock.advance(5 * SECOND);
    lingering.await.unwrap();
    answers(tickets).await;
    let value = |name, labels: &[&str]| recorder.value(name, labels);
    assert_eq!(value("batch_items_total", &["mail", "done"]), Some(4.0));
    assert_eq!(value("batch_items_total", &["mail", "dead"]), Some(1.0));
    for reason in ["items", "asked", "linger"] {
        assert_eq!(value("batch_batches_total", &["mail", reason]), Some(1.0), "{reason}");
    }
    assert_eq!(
        (recorder.times("batch_size_items", &["mail"]), value("batch_size_items", &["mail"])),
        (3, Some(5.0))
    );
    assert_eq!(value("batch_buffer_wait_seconds", &["mail"]), Some(5.0));
    assert_eq!(recorder.times("batch_handler_seconds", &["mail", "answered"]), 3);
}

#[tokio::test]
async fn retries_breakdowns_and_what_a_stop_hands_back_are_counted() {
    let (clock, recorder) = (ManualClock::new(), MemoryRecorder::new());
    let script = Script::sequence([
        Reaction::Answer(BatchOutcome::RetryBatch { after: None, error: Oops::Broken }),
        Reaction::Panic("no"),
        Reaction::Answer(BatchOutcome::Each(Vec::new())),
        Reaction::Hang,
    ]);
    let builder = batcher(&script, &clock).linger(Duration::ZERO).concurrency(1).timeout(9 * SECOND);
    let processor =
        started(builder.retry(Times { attempts: 4, delay: Duration::ZERO }).recorder(recorder.clone()));
    let hung = processor.add(1).await.unwrap();
    clock.until_sleepers(1).await;
    clock.advance(9 * SECOND);
    assert!(hung.await.is_err());
    for outcome in ["retry_batch", "panicked", "wrong_verdicts", "timed_out"] {
        assert_eq!(recorder.times("batch_handler_seconds", &["default", outcome]), 1, "{outcome}");
    }
    assert_eq!(recorder.value("batch_handler_seconds", &["default", "timed_out"]), Some(9.0));
    assert_eq!(recorder.value("batch_items_retried_total", &["default"]), Some(3.0));
    assert_eq!(recorder.value("batch_items_total", &["default", "timed_out"]), Some(1.0));

    let endless = Script::new(|_, _| Reaction::Hang);
    let recorder = MemoryRecorder::new();
    let processor = started(batcher(&endless, &clock).recorder(recorder.clone()));
    let _tickets = add_all(&processor, 1..=2).await;
    let _ = processor.stop(Duration::ZERO).await;
    assert_eq!(recorder.value("batch_items_total", &["default", "handed_back"]), Some(2.0));
}

#[tokio::test]
async fn the_gauges_show_what_waits_and_for_how_long() {
    let (clock, recorder) = (ManualClock::new(), MemoryRecorder::new());
    let gate = gate();
    let script = {
        let gate = gate.clone();
        Script::new(move |batch, _| all_done(batch).behind(&gate))
    };
    let processor = started(batcher(&script, &clock).max_items(2).concurrency(1).recorder(recorder.clone()));
    let tickets = add_all(&processor, 1..=3).await;
    idle().await;
    clock.advance(3 * SECOND);
    let more = add_all(&processor, 4..=6).await; // two full batches wait behind the one in flight
    let level = |name| recorder.value(name, &["default"]);
    assert_eq!(level("batch_items_waiting"), Some(4.0));
    assert_eq!(level("batch_items_in_flight"), Some(2.0));
    assert_eq!(level("batch_oldest_wait_seconds"), Some(3.0));
    gate.add_permits(3);
    answers(tickets).await;
    answers(more).await;
    idle().await;
    assert_eq!(level("batch_items_waiting"), Some(0.0));
    assert_eq!(level("batch_items_in_flight"), Some(0.0));
    assert_eq!(level("batch_oldest_wait_seconds"), Some(0.0));
}

#[tokio::test]
async fn the_gauges_show_nothing_after_a_stop_that_hands_back() {
    let (clock, recorder) = (ManualClock::new(), MemoryRecorder::new());
    let endless = Script::new(|_, _| Reaction::Hang);
    let processor = started(batcher(&endless, &clock).max_items(2).concurrency(1).recorder(recorder.clone()));
    let _tickets = add_all(&processor, 1..=4).await;
    idle().await;
    let level = |name| recorder.value(name, &["default"]);
    assert_eq!((level("batch_items_waiting"), level("batch_items_in_flight")), (Some(2.0), Some(2.0)));
    let left = processor.stop(Duration::ZERO).await;
    assert_eq!((left.unsent.len(), left.in_doubt.len()), (2, 2));
    for gauge in ["batch_items_waiting", "batch_items_in_flight", "batch_oldest_wait_seconds"] {
        assert_eq!(level(gauge), Some(0.0), "{gauge}");
    }
}

#[test]
fn the_gauges_show_nothing_after_the_runtime_went_away() {
    let (clock, recorder) = (ManualClock::new(), MemoryRecorder::new());
    let endless = Script::new(|_, _| Reaction::Hang);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let processor = runtime.block_on(async {
        let processor =
            started(batcher(&endless, &clock).max_items(2).concurrency(1).recorder(recorder.clone()));
        let _tickets = add_all(&processor, 1..=4).await;
        idle().await;
        processor
    });
    let level = |name| recorder.value(name, &["default"]);
    assert_eq!((level("batch_items_waiting"), level("batch_items_in_flight")), (Some(2.0), Some(2.0)));
    drop(runtime);
    drop(processor);
    for gauge in ["batch_items_waiting", "batch_items_in_flight", "batch_oldest_wait_seconds"] {
        assert_eq!(level(gauge), Some(0.0), "{gauge}");
    }
    assert_eq!(recorder.value("batch_items_total", &["default", "abandoned"]), Some(4.0));
}
