//! What becomes of items by what the handler says: per item, through retries, splits, crashes of the handler and restarts.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Bench, Oops, Reaction, SECOND, Script, broken, done, each, until};
use relaykit_persistent_queue::{DeadReason, Queue, QueueContext, QueueFault, QueueHandler, RejectReason};
use relaykit_pipeline_traits::{BatchOutcome, Clock, Codec, CodecError, Merging, Timestamp, Verdict};
use relaykit_retry::{Backoff, Jitter, Policy};

fn every(wait: Duration, attempts: u32) -> Policy {
    Backoff::fixed(wait).jitter(Jitter::None).max_attempts(attempts).build().unwrap()
}

/// Moves the clock on, a second at a time, until the condition holds. Returns how many seconds that took.
async fn advance_until<T: Send + Sync>(bench: &Bench, queue: &Queue<T>, condition: impl Fn() -> bool) -> u32 {
    let mut seconds = 0;
    loop {
        // What can happen without time passing has happened when the writer is through and nobody has work left.
        for _ in 0..4 {
            queue.list(0, 0).await.unwrap();
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
        if condition() {
            return seconds;
        }
        bench.clock.advance(SECOND);
        seconds += 1;
        assert!(seconds < 100_000, "nothing happens");
    }
}

#[tokio::test]
async fn out_of_attempts_an_item_is_a_dead_letter_that_can_be_replayed_or_purged() {
    let bench = Bench::new();
    let bad = Arc::new(AtomicU32::new(1));
    let is_bad = Arc::clone(&bad);
    let script =
        Script::new(move |batch, _| if is_bad.load(Ordering::SeqCst) > 0 { broken() } else { done(batch) });
    let queue = bench.builder(&script).retry(every(SECOND, 3)).max_items(2).open().unwrap();
    queue.push_all([1, 2, 3, 4]).await.unwrap();
    advance_until(&bench, &queue, || queue.stats().died == 4).await;
    let dead = queue.dead_letters(0, 10).await.unwrap();
    assert_eq!(dead.len(), 2);
    assert_eq!((dead[0].reason, dead[0].attempts, dead[0].items), (DeadReason::Exhausted, 3, 2));
    assert_eq!(dead[0].error, "broken for now");
    assert!(dead[0].first_failed_at.unwrap() < dead[0].died_at);
    assert_eq!((queue.stats().stored_items, queue.stats().dead_items), (0, 4));
    assert_eq!(queue.purge(&[dead[0].id]).await.unwrap(), 2);
    bad.store(0, Ordering::SeqCst);
    assert_eq!(queue.replay(&[dead[0].id, dead[1].id, 99]).await.unwrap(), 2, "what is gone counts nothing");
    until(|| queue.stats().processed == 2).await;
    assert_eq!(script.lent().last().unwrap(), &[3, 4]);
    assert_eq!(script.attempts().last(), Some(&1), "as if it was never tried");
    assert!(queue.dead_letters(0, 10).await.unwrap().is_empty());
    assert_eq!(queue.stats().dead_items, 0);
}

#[tokio::test]
async fn after_giving_up_a_cooldown_begins_anew() {
    let bench = Bench::new();
    let script = Script::sequence([broken(), broken(), broken()]);
    let policy =
        Backoff::fixed(SECOND).jitter(Jitter::None).max_attempts(2).cooldown(60 * SECOND).build().unwrap();
    let queue = bench.builder(&script).retry(policy).linger(Duration::ZERO).open().unwrap();
    queue.push(1).await.unwrap();
    let seconds = advance_until(&bench, &queue, || queue.stats().processed == 1).await;
    assert_eq!(script.attempts(), [1, 2, 1, 2]);
    assert_eq!(seconds, 1 + 60 + 1);
}

#[tokio::test]
async fn attempts_and_waits_survive_a_restart() {
    let bench = Bench::new();
    let policy = || Backoff::exponential(10 * SECOND).jitter(Jitter::None).max_attempts(9).build().unwrap();
    let script = Script::new(|_, _| broken());
    let queue = bench.builder(&script).retry(policy()).linger(Duration::ZERO).open().unwrap();
    queue.push(1).await.unwrap();
    advance_until(&bench, &queue, || queue.stats().calls == 3).await;
    let _ = queue.close(SECOND).await;
    let queue = bench.builder(&script).retry(policy()).linger(Duration::ZERO).open().unwrap();
    let listed = queue.list(0, 10).await.unwrap();
    assert_eq!((listed.len(), listed[0].attempts), (1, 3));
    assert_eq!(listed[0].due, Some(bench.clock.now() + 40 * SECOND));
    let seconds = advance_until(&bench, &queue, || queue.stats().calls == 1).await;
    assert_eq!(seconds, 40);
    assert_eq!(script.attempts(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn no_step_of_the_wall_clock_makes_a_wait_longer_or_changes_the_order() {
    let bench = Bench::new();
    let script = Script::sequence([broken()]);
    let queue = bench.builder(&script).retry(every(10 * SECOND, 9)).linger(Duration::ZERO).open().unwrap();
    queue.push(1).await.unwrap();
    until(|| queue.stats().calls == 1).await;
    // While it is open: an hour back.
    bench.clock.set_wall(bench.clock.now() - Duration::from_secs(3600));
    assert_eq!(advance_until(&bench, &queue, || queue.stats().processed == 1).await, 10);
    let _ = queue.close(SECOND).await;
    // Between two openings: a year back.
    let script = Script::sequence([broken()]);
    let queue = bench.builder(&script).retry(every(10 * SECOND, 9)).linger(Duration::ZERO).open().unwrap();
    queue.push(2).await.unwrap();
    until(|| queue.stats().calls == 1).await;
    let _ = queue.close(SECOND).await;
    bench.clock.set_wall(Timestamp::from_millis(0));
    let queue = bench.builder(&script).retry(every(10 * SECOND, 9)).linger(Duration::ZERO).open().unwrap();
    queue.push(3).await.unwrap();
    until(|| queue.stats().processed == 1).await;
    assert_eq!(advance_until(&bench, &queue, || queue.stats().processed == 2).await, 10);
    assert_eq!(script.items(), [2, 3, 2]);
}

#[tokio::test]
async fn a_batch_whose_wait_is_over_is_lent_though_another_worker_is_busy() {
    let bench = Bench::new();
    let script = Script::new(|batch, attempt| match (batch[0], attempt) {
        (1, 1) => broken(),
        (2, _) => Reaction::Hang,
        _ => done(batch),
    });
    let builder = bench.builder(&script).workers(2).retry(every(SECOND, 9)).linger(Duration::ZERO);
    let queue = builder.timeout(Duration::from_secs(1_000_000)).open().unwrap();
    queue.push(1).await.unwrap();
    until(|| queue.stats().calls == 1).await;
    queue.push(2).await.unwrap();
    script.calls(2).await;
    assert_eq!(advance_until(&bench, &queue, || queue.stats().processed == 1).await, 1);
    let _ = queue.close(Duration::ZERO).await;
}

#[tokio::test]
async fn being_throttled_spends_no_attempt_until_there_were_too_many_free_rounds() {
    let bench = Bench::new();
    let script = Script::new(|_, _| {
        Reaction::Answer(BatchOutcome::RetryBatch { after: None, error: Oops::Throttled })
    });
    let queue = bench.builder(&script).retry(every(SECOND, 3)).linger(Duration::ZERO).open().unwrap();
    queue.push(1).await.unwrap();
    advance_until(&bench, &queue, || queue.stats().died == 1).await;
    let attempts = script.attempts();
    assert_eq!(attempts.len(), 67, "64 free rounds and three attempts: {attempts:?}");
    assert!(attempts[..65].iter().all(|attempt| *attempt == 1));
}

#[tokio::test]
async fn a_refusal_makes_no_dead_letter_however_often_it_comes() {
    let bench = Bench::new();
    let script = Script::new(|_, _| Reaction::Answer(BatchOutcome::Refused(Oops::Bad)));
    let queue = bench.builder(&script).retry(every(SECOND, 2)).linger(Duration::ZERO).open().unwrap();
    queue.push(1).await.unwrap();
    advance_until(&bench, &queue, || queue.stats().calls == 200).await;
    assert_eq!((queue.stats().died, queue.stats().stored_items), (0, 1));
    assert!(script.attempts().iter().all(|attempt| *attempt == 1));
}

#[tokio::test]
async fn what_a_handler_left_untried_after_some_progress_is_lent_again_at_once() {
    let bench = Bench::new();
    let script = Script::new(|batch, _| {
        let first = batch[0];
        each(batch, |item| if item == first { Verdict::Done(()) } else { Verdict::Untried })
    });
    let queue = bench.builder(&script).max_items(100).open().unwrap();
    queue.push_all(0..100).await.unwrap();
    until(|| queue.stats().processed == 100).await;
    assert!(script.attempts().iter().all(|attempt| *attempt == 1));
}

#[tokio::test]
async fn untried_items_do_not_pay_for_those_that_failed() {
    let bench = Bench::new();
    // The handler always fails at 1 and never comes to 2, until 1 is gone.
    let script = Script::new(|batch, _| {
        if batch.contains(&1) {
            each(batch, |item| {
                if item == 1 { Verdict::Retry { after: None, error: Oops::Broken } } else { Verdict::Untried }
            })
        } else {
            broken()
        }
    });
    let queue = bench.builder(&script).retry(every(SECOND, 3)).open().unwrap();
    queue.push_all([1, 2]).await.unwrap();
    queue.flush().await.unwrap();
    advance_until(&bench, &queue, || queue.stats().died == 2).await;
    let alone = script.lent().iter().zip(script.attempts()).filter(|(batch, _)| **batch == [2]).count();
    assert_eq!(alone, 3, "{:?}", script.lent());
}

#[tokio::test]
async fn a_failed_group_of_batches_stays_as_it_is_and_comes_back_together() {
    let bench = Bench::new();
    let script = Script::sequence([broken()]);
    let queue = bench.builder(&script).max_items(2).batches(3).retry(every(SECOND, 9)).open().unwrap();
    queue.pause();
    queue.push_all(0..6).await.unwrap();
    queue.flush().await.unwrap();
    queue.resume();
    until(|| queue.stats().calls == 1).await;
    let listed = queue.list(0, 10).await.unwrap();
    assert_eq!(listed.iter().map(|batch| (batch.items, batch.attempts)).collect::<Vec<_>>(), [(2, 1); 3]);
    advance_until(&bench, &queue, || queue.stats().processed == 6).await;
    assert_eq!(script.lent(), [[0, 1, 2, 3, 4, 5]; 2]);
}

#[tokio::test]
async fn a_partly_done_group_keeps_each_rest_in_its_own_batch() {
    let bench = Bench::new();
    let script = Script::new(|batch, attempt| {
        each(batch, |item| {
            if item % 2 == 1 && attempt == 1 {
                Verdict::Retry { after: None, error: Oops::Broken }
            } else {
                Verdict::Done(())
            }
        })
    });
    let queue = bench.builder(&script).max_items(4).batches(2).retry(every(SECOND, 9)).open().unwrap();
    queue.pause();
    queue.push_all([1, 2, 3, 4, 6, 8, 10, 12]).await.unwrap();
    queue.flush().await.unwrap();
    queue.resume();
    until(|| queue.stats().calls == 1).await;
    let listed = queue.list(0, 10).await.unwrap();
    assert_eq!(listed.iter().map(|batch| (batch.id, batch.items)).collect::<Vec<_>>(), [(1, 2)]);
    assert_eq!(queue.peek(10).await.unwrap(), [1, 3]);
    assert_eq!(queue.stats().stored_items, 2);
    assert_eq!(queue.stats().stored_bytes, listed[0].bytes);
    advance_until(&bench, &queue, || queue.stats().processed == 8).await;
    assert_eq!((queue.stats().stored_items, queue.stats().stored_bytes), (0, 0));
}

#[tokio::test]
async fn merged_items_that_fail_stay_and_nothing_is_counted_twice() {
    let bench = Bench::new();
    let lent = Arc::new(Mutex::new(Vec::new()));
    let sees = Arc::clone(&lent);
    let script = relaykit_pipeline_traits::handler_fn(move |batch: &[(u8, u32)], cx| {
        sees.lock().unwrap().push(batch.to_vec());
        let attempt = cx.attempt();
        let said = batch.iter().map(|(key, _)| {
            if *key == 2 && attempt == 1 {
                Verdict::Retry { after: None, error: Oops::Broken }
            } else {
                Verdict::Done(())
            }
        });
        let outcome = BatchOutcome::Each(said.collect());
        Box::pin(async move { outcome })
    });
    let queue = Queue::builder(bench.path(), script)
        .buffer(|| Merging::new(|item: &(u8, u32)| item.0, |sum: &mut (u8, u32), item| sum.1 += item.1))
        .max_items(2)
        .batches(2)
        .clock(bench.clock.clone())
        .retry(every(SECOND, 9))
        .ballast_bytes(0)
        .open()
        .unwrap();
    queue.pause();
    for item in [(1, 1), (2, 10), (1, 2), (2, 20)] {
        queue.push(item).await.unwrap();
    }
    queue.flush().await.unwrap();
    queue.resume();
    advance_until(&bench, &queue, || queue.stats().processed == 2 && queue.stats().stored_items == 0).await;
    assert_eq!(*lent.lock().unwrap(), [vec![(1, 3), (2, 30)], vec![(2, 30)]]);
}

#[tokio::test]
async fn a_close_in_the_middle_of_a_split_keeps_what_was_decided() {
    let bench = Bench::new();
    let script = Script::new(|batch, _| match batch {
        [1, 2, 3, 4] => Reaction::Answer(BatchOutcome::Split(Oops::Bad)),
        [1, 2] => done(batch),
        _ => Reaction::Hang,
    });
    let queue = bench.builder(&script).open().unwrap();
    queue.push_all(1..=4).await.unwrap();
    queue.flush().await.unwrap();
    script.calls(3).await;
    let report = queue.close(Duration::ZERO).await;
    assert_eq!((report.stored_items, report.interrupted_items), (2, 2));
    let script = Script::done();
    let queue = bench.builder(&script).open().unwrap();
    advance_until(&bench, &queue, || queue.stats().processed == 2).await;
    assert_eq!((script.lent(), script.attempts()), (vec![vec![3, 4]], vec![1]));
}

#[tokio::test]
async fn a_panic_takes_only_the_item_along_that_causes_it() {
    let bench = Bench::new();
    let script = Script::new(|batch, _| if batch.contains(&5) { Reaction::Panic } else { done(batch) });
    let queue = bench.builder(&script).max_items(8).retry(every(SECOND, 2)).open().unwrap();
    queue.push_all(0..8).await.unwrap();
    advance_until(&bench, &queue, || queue.stats().died == 1).await;
    assert_eq!(queue.stats().processed, 7);
    let dead = queue.dead_letters(0, 10).await.unwrap();
    assert_eq!((dead[0].reason, dead[0].attempts), (DeadReason::Exhausted, 2));
    assert_eq!(dead[0].error, "the handler panicked: as the script says");
}

#[tokio::test]
async fn a_wrong_number_of_verdicts_loses_nothing() {
    let bench = Bench::new();
    let script = Script::sequence([
        Reaction::Answer(BatchOutcome::Each(vec![Verdict::Done(())])),
        Reaction::Answer(BatchOutcome::Each(Vec::new())),
    ]);
    let queue = bench.builder(&script).retry(every(SECOND, 9)).open().unwrap();
    queue.push_all([1, 2]).await.unwrap();
    queue.flush().await.unwrap();
    advance_until(&bench, &queue, || queue.stats().processed == 2).await;
    assert_eq!(script.lent()[0], [1, 2]);
}

/// Pushes 10 back for each item, and then fails as often as it is told to.
struct PushesBack {
    failures: AtomicU32,
    refused: Mutex<Vec<RejectReason>>,
}

impl QueueHandler<u32> for PushesBack {
    type Error = Oops;

    async fn handle(&self, batch: &[u32], cx: &QueueContext<u32>) -> BatchOutcome<(), Oops> {
        assert!(!cx.batches().is_empty());
        for item in batch.iter().filter(|item| **item < 10) {
            if let Err(refused) = cx.push_back(item * 10) {
                self.refused.lock().unwrap().push(refused.reason);
            }
        }
        let failing = |left: u32| left.checked_sub(1);
        if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, failing).is_ok() {
            return BatchOutcome::RetryBatch { after: None, error: Oops::Broken };
        }
        if batch.iter().any(|item| *item >= 10) {
            // Left for the next start.
            return BatchOutcome::RetryBatch { after: Some(Duration::from_secs(3600)), error: Oops::Broken };
        }
        BatchOutcome::all_done(batch.len())
    }
}

#[tokio::test]
async fn what_is_pushed_back_is_stored_with_the_removal_and_an_error_duplicates_nothing() {
    let bench = Bench::new();
    let handler = Arc::new(PushesBack { failures: AtomicU32::new(3), refused: Mutex::default() });
    let queue = Queue::builder_with(bench.path(), Arc::clone(&handler))
        .clock(bench.clock.clone())
        .retry(every(SECOND, 9))
        .ballast_bytes(0)
        .open()
        .unwrap();
    queue.push_all(1..=3).await.unwrap();
    queue.flush().await.unwrap();
    advance_until(&bench, &queue, || queue.stats().processed == 3).await;
    assert_eq!(queue.peek(10).await.unwrap(), [10, 20, 30]);
    let _ = queue.close(SECOND).await;
    let script = Script::done();
    let queue = bench.builder(&script).open().unwrap();
    advance_until(&bench, &queue, || queue.stats().processed == 3).await;
    assert_eq!(script.items(), [10, 20, 30]);
}

#[derive(Debug)]
struct Fussy;

impl Codec<u32> for Fussy {
    fn tag(&self) -> &'static str {
        "fussy"
    }

    fn encode(&self, item: &u32, out: &mut Vec<u8>) -> Result<(), CodecError> {
        if *item == 20 {
            return Err(CodecError::Encode { tag: "fussy", source: "20".into() });
        }
        out.extend_from_slice(&item.to_le_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<u32, CodecError> {
        let item = bytes.try_into().map(u32::from_le_bytes).unwrap_or_default();
        assert!(item != 7, "a codec that breaks");
        Ok(item)
    }
}

#[tokio::test]
async fn an_item_pushed_back_that_cannot_be_encoded_is_refused_alone() {
    let bench = Bench::new();
    let handler = Arc::new(PushesBack { failures: AtomicU32::new(0), refused: Mutex::default() });
    let queue = Queue::builder_with(bench.path(), Arc::clone(&handler))
        .codec(Fussy)
        .clock(bench.clock.clone())
        .ballast_bytes(0)
        .open()
        .unwrap();
    queue.push_all(1..=3).await.unwrap();
    queue.flush().await.unwrap();
    until(|| queue.stats().processed == 3).await;
    assert_eq!(queue.peek(10).await.unwrap(), [10, 30]);
    assert!(matches!(handler.refused.lock().unwrap()[..], [RejectReason::Unencodable { .. }]));
}

#[tokio::test]
async fn a_codec_that_panics_sets_its_batch_aside_and_the_queue_goes_on() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).codec(Fussy).max_items(1).open().unwrap();
    queue.pause();
    queue.push_all([6, 7, 8]).await.unwrap();
    let _ = queue.close(SECOND).await;
    let script = Script::done();
    let queue = bench.builder(&script).codec(Fussy).max_items(1).open().unwrap();
    until(|| queue.stats().processed == 2 && queue.stats().died == 1).await;
    assert_eq!(script.items(), [6, 8]);
    assert_eq!(queue.dead_letters(0, 9).await.unwrap()[0].reason, DeadReason::Undecodable);
}

#[tokio::test]
async fn faults_are_told_and_whoever_is_told_may_panic() {
    let bench = Bench::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tells = Arc::clone(&told);
    let script = Script::sequence([broken()]);
    let builder = bench.builder(&script).retry(every(SECOND, 1)).linger(Duration::ZERO);
    let queue = builder
        .on_fault(move |fault| {
            tells.lock().unwrap().push(fault.clone());
            panic!("on purpose");
        })
        .open()
        .unwrap();
    queue.push(1).await.unwrap();
    let count = || told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).len();
    until(|| count() == 2).await;
    queue.push(2).await.unwrap();
    until(|| queue.stats().processed == 1).await;
    let told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    assert!(
        matches!(&told[0], QueueFault::Process { outcome: "retry_batch", error, .. } if error == "broken for now")
    );
    assert!(matches!(&told[1], QueueFault::Dead { items: 1, reason: DeadReason::Exhausted, .. }));
}

#[tokio::test]
async fn a_paused_queue_lends_nothing_and_shows_what_it_holds() {
    let bench = Bench::new();
    let script = Script::done();
    let queue = bench.builder(&script).max_items(3).open().unwrap();
    queue.pause();
    queue.push_all(0..7).await.unwrap();
    queue.flush().await.unwrap();
    bench.clock.advance(60 * SECOND);
    let listed = queue.list(0, 2).await.unwrap();
    assert_eq!(listed.iter().map(|batch| (batch.id, batch.items)).collect::<Vec<_>>(), [(1, 3), (2, 3)]);
    assert_eq!(queue.list(2, 10).await.unwrap().len(), 1);
    assert_eq!(queue.peek(4).await.unwrap(), [0, 1, 2, 3]);
    let stats = queue.stats();
    assert_eq!((stats.stored_items, stats.stored_batches, stats.processed), (7, 3, 0));
    assert_eq!(stats.oldest_age, 60 * SECOND);
    queue.resume();
    until(|| queue.stats().processed == 7).await;
    assert_eq!(queue.stats().oldest_age, Duration::ZERO);
}

#[tokio::test]
async fn the_age_of_the_oldest_batch_is_that_of_the_oldest_that_is_left() {
    let bench = Bench::new();
    let script = Script::new(|batch, _| if batch == [2] { Reaction::Hang } else { done(batch) });
    let builder = bench.builder(&script).linger(Duration::ZERO).timeout(Duration::from_secs(1_000_000));
    let queue = builder.open().unwrap();
    queue.pause();
    queue.push_durable(1).await.unwrap();
    bench.clock.advance(50 * SECOND);
    queue.push_durable(2).await.unwrap();
    queue.push_durable(3).await.unwrap();
    bench.clock.advance(10 * SECOND);
    queue.resume();
    script.calls(2).await;
    until(|| queue.stats().processed == 1).await;
    until(|| bench.clock.sleepers() > 0).await;
    advance_until(&bench, &queue, || queue.stats().oldest_age < 40 * SECOND).await;
    assert!(queue.stats().oldest_age >= 10 * SECOND);
    let _ = queue.close(Duration::ZERO).await;
}

#[tokio::test]
async fn a_delayed_item_is_lent_when_its_time_has_come_also_after_a_restart() {
    let bench = Bench::new();
    let script = Script::done();
    let queue = bench.builder(&script).linger(Duration::ZERO).open().unwrap();
    queue.push_after(1, 30 * SECOND).await.unwrap();
    queue.push(2).await.unwrap();
    until(|| queue.stats().processed == 1).await;
    bench.clock.advance(10 * SECOND);
    let _ = queue.close(SECOND).await;
    let queue = bench.builder(&script).open().unwrap();
    assert_eq!(advance_until(&bench, &queue, || queue.stats().processed == 1).await, 20);
    assert_eq!(script.items(), [2, 1]);
    assert_eq!(script.attempts(), [1, 1]);
}

#[tokio::test]
async fn a_queue_in_memory_behaves_the_same() {
    let bench = Bench::new();
    let script = Script::sequence([broken()]);
    let queue = Queue::<u32>::in_memory(script.clone())
        .clock(bench.clock.clone())
        .retry(every(SECOND, 9))
        .max_items(2)
        .open()
        .unwrap();
    queue.push_all(0..4).await.unwrap();
    advance_until(&bench, &queue, || queue.stats().processed == 4).await;
    assert_eq!(script.lent(), [[0, 1], [2, 3], [0, 1]]);
    assert!(queue.close(SECOND).await.file_closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn as_many_calls_run_at_once_as_there_are_workers() {
    let bench = Bench::new();
    let script = Script::new(|_, _| Reaction::Hang);
    let builder = bench.builder(&script).workers(5).linger(Duration::ZERO);
    let queue = builder.timeout(Duration::from_secs(1_000_000)).open().unwrap();
    queue.push_all(0..20).await.unwrap();
    script.calls(5).await;
    until(|| queue.stats().stored_items == 20).await;
    assert_eq!(script.lent().len(), 5);
    assert_eq!(queue.close(Duration::ZERO).await.stored_items, 20);
}

#[tokio::test]
async fn a_handler_without_errors_plugs_in() {
    let bench = Bench::new();
    let handler = relaykit_pipeline_traits::handler_fn(|batch: &[u32], _cx| {
        let done = BatchOutcome::<(), Infallible>::all_done(batch.len());
        Box::pin(async move { done })
    });
    let queue = Queue::builder(bench.path(), handler).ballast_bytes(0).open().unwrap();
    queue.push_durable(1).await.unwrap();
    until(|| queue.stats().processed == 1).await;
}
