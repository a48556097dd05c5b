//! Pushing, flushing and closing: nothing accepted is lost, nothing refused is kept.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::{Bench, SECOND, Script, until};
use relaykit_persistent_queue::{METRICS, Queue, RejectReason, WhenFull};
use relaykit_pipeline_traits::{BatchOutcome, Codec, CodecError, Merging, Metric, Recorder, handler_fn};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_items_of_each_producer_keep_their_order() {
    let bench = Bench::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let handler = handler_fn(move |batch: &[(u32, u32)], _cx| {
        sink.lock().unwrap().extend_from_slice(batch);
        let done = BatchOutcome::<(), std::convert::Infallible>::all_done(batch.len());
        Box::pin(async move { done })
    });
    let queue =
        Queue::builder(bench.path(), handler).max_items(7).linger(Duration::from_millis(1)).open().unwrap();
    let producers: Vec<_> = (0..4)
        .map(|producer| {
            let queue = queue.clone();
            tokio::spawn(async move {
                for number in 0..5_000 {
                    queue.push((producer, number)).await.unwrap();
                }
            })
        })
        .collect();
    for producer in producers {
        producer.await.unwrap();
    }
    until(|| queue.stats().processed == 20_000).await;
    let mut next = HashMap::new();
    for (producer, number) in seen.lock().unwrap().iter() {
        let expected = next.entry(*producer).or_insert(0);
        assert_eq!(number, expected, "of producer {producer}");
        *expected += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_push_that_meets_a_close_is_either_stored_or_handed_back() {
    for round in 0..20 {
        let bench = Bench::new();
        let queue = bench.builder(&Script::done()).max_items(3).open().unwrap();
        queue.pause();
        let producers: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move {
                    let mut accepted = 0;
                    loop {
                        match queue.push(accepted).await {
                            Ok(()) => accepted += 1,
                            Err(refused) => {
                                assert_eq!((refused.item, refused.reason), (accepted, RejectReason::Closed));
                                return u64::from(accepted);
                            }
                        }
                    }
                })
            })
            .collect();
        for _ in 0..round * 10 {
            tokio::task::yield_now().await;
        }
        let report = queue.close(SECOND).await;
        let mut accepted = 0;
        for producer in producers {
            accepted += producer.await.unwrap();
        }
        assert_eq!(report.stored_items, accepted);
        assert!(report.unsaved.is_empty() && report.file_closed);
    }
}

/// Holds the writer's thread after a commit, as a slow disk would, until it is let go.
#[derive(Debug, Clone, Default)]
struct SlowDisk {
    held: Arc<(Mutex<bool>, Condvar)>,
}

impl SlowDisk {
    fn hold(&self, held: bool) {
        *self.held.0.lock().unwrap() = held;
        self.held.1.notify_all();
    }
}

impl Recorder for SlowDisk {
    fn observe(&self, metric: &'static Metric, _labels: &[&str], _value: f64) {
        if metric.name == "queue_commit_seconds" {
            let held = self.held.0.lock().unwrap();
            drop(self.held.1.wait_while(held, |held| *held).unwrap());
        }
    }
}

#[tokio::test]
async fn what_the_disk_has_not_taken_is_bounded_and_pushes_wait() {
    let bench = Bench::new();
    let disk = SlowDisk::default();
    let builder = bench.builder(&Script::done()).max_items(2).buffer_bounds(4, 1 << 20);
    let queue = builder.recorder(disk.clone()).open().unwrap();
    queue.pause();
    disk.hold(true);
    queue.push_all(0..4).await.unwrap();
    let refused = queue.try_push(4).unwrap_err();
    assert_eq!((refused.item, refused.reason), (4, RejectReason::Busy));
    let mut waits = Box::pin(queue.push(5));
    assert!(poll_once(&mut waits).is_none());
    assert_eq!(queue.stats().buffered_items, 4);
    disk.hold(false);
    waits.await.unwrap();
    let report = queue.close(SECOND).await;
    assert_eq!(report.stored_items, 5);
}

#[tokio::test]
async fn a_close_does_not_wait_for_ever_for_a_disk_that_hangs() {
    let bench = Bench::new();
    let disk = SlowDisk::default();
    let queue = bench.builder(&Script::done()).recorder(disk.clone()).open().unwrap();
    disk.hold(true);
    queue.push(1).await.unwrap();
    let clock = bench.clock.clone();
    let closing = tokio::spawn(async move { queue.close(SECOND).await });
    while !closing.is_finished() {
        clock.advance(SECOND);
        tokio::task::yield_now().await;
    }
    assert!(!closing.await.unwrap().file_closed);
    disk.hold(false);
}

#[tokio::test]
async fn a_waiting_push_goes_on_when_there_is_room_and_is_refused_by_a_close() {
    let bench = Bench::new();
    let queue =
        bench.builder(&Script::done()).max_items(2).bounds(4, 1 << 30, WhenFull::Block).open().unwrap();
    queue.pause();
    queue.push_all(0..4).await.unwrap();
    let mut waits = Box::pin(queue.push(4));
    assert!(poll_once(&mut waits).is_none());
    queue.resume();
    waits.await.unwrap();
    until(|| queue.stats().processed == 4).await;
    queue.pause();
    queue.push_all(5..8).await.unwrap();
    let other = queue.clone();
    let waits = tokio::spawn(async move { other.push(9).await });
    tokio::task::yield_now().await;
    let _ = queue.close(SECOND).await;
    assert_eq!(waits.await.unwrap().unwrap_err().item, 9);
}

#[tokio::test]
async fn durable_pushes_that_wait_together_share_a_batch() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).open().unwrap();
    queue.pause();
    let pushes = (0..16).map(|item| {
        let queue = queue.clone();
        tokio::spawn(async move { queue.push_durable(item).await })
    });
    for push in pushes.collect::<Vec<_>>() {
        push.await.unwrap().unwrap();
    }
    let stats = queue.stats();
    assert_eq!(stats.stored_items, 16);
    assert!(stats.stored_batches <= 3, "{} batches", stats.stored_batches);
}

#[tokio::test]
async fn a_durable_push_does_not_wait_for_the_linger() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).linger(HOUR).open().unwrap();
    queue.push(1).await.unwrap();
    queue.push_durable(2).await.unwrap();
    assert_eq!(queue.stats().flushed, 2);
}

fn poll_once<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Option<F::Output> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Polls a future so many times, each time after everything else had its turn, and drops it. Returns whether it ended.
async fn drop_at(mut future: Pin<Box<dyn Future<Output = ()> + '_>>, polls: usize) -> bool {
    for _ in 0..polls {
        if poll_once(&mut future).is_some() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

#[tokio::test]
async fn a_future_that_is_dropped_at_any_poll_loses_nothing_and_blocks_nobody() {
    let mut every_end = [false; 4];
    for polls in 0..8 {
        for (kind, every_end) in every_end.iter_mut().enumerate() {
            let bench = Bench::new();
            let queue = bench.builder(&Script::done()).max_items(2).open().unwrap();
            queue.pause();
            queue.push(0).await.unwrap();
            let future: Pin<Box<dyn Future<Output = ()> + '_>> = match kind {
                0 => Box::pin(async { queue.push(1).await.unwrap() }),
                1 => Box::pin(async { queue.push_durable(1).await.unwrap() }),
                2 => Box::pin(async { queue.push_after(1, SECOND).await.unwrap() }),
                _ => Box::pin(async { queue.flush().await.unwrap() }),
            };
            let ended = drop_at(future, polls).await;
            *every_end |= ended;
            queue.push(2).await.unwrap();
            queue.flush().await.unwrap();
            let pushed = queue.stats().pushed;
            let report = queue.close(SECOND).await;
            // Whatever was accepted is stored, and a push that ended was accepted.
            assert_eq!(report.stored_items, pushed, "kind {kind} dropped at poll {polls}");
            let least = if kind == 3 || !ended { 2 } else { 3 };
            assert!(pushed >= least, "kind {kind} dropped at poll {polls}: {pushed} pushed");
        }
    }
    assert!(every_end[0], "a push with room ends at its first poll");
}

#[tokio::test]
async fn a_durable_push_that_nobody_waits_for_any_more_is_stored_all_the_same() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).open().unwrap();
    queue.pause();
    let mut push = Box::pin(queue.push_durable(1));
    assert!(poll_once(&mut push).is_none());
    drop(push);
    assert_eq!(queue.close(SECOND).await.stored_items, 1);
}

/// Refuses odd numbers, and breaks on 13.
struct Even;

impl Codec<u32> for Even {
    fn tag(&self) -> &'static str {
        "even"
    }

    fn encode(&self, item: &u32, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(&item.to_le_bytes());
        assert!(*item != 13, "a codec that breaks");
        if item % 2 == 1 {
            out.truncate(out.len() - 4);
            return Err(CodecError::Encode { tag: "even", source: "odd".into() });
        }
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<u32, CodecError> {
        let failed = |_| CodecError::Decode { tag: "even", len: bytes.len(), source: "length".into() };
        bytes.try_into().map(u32::from_le_bytes).map_err(failed)
    }
}

#[tokio::test]
async fn an_item_that_cannot_be_encoded_is_refused_alone() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).codec(Even).open().unwrap();
    queue.pause();
    queue.push(2).await.unwrap();
    let refused = queue.push(3).await.unwrap_err();
    assert!(matches!(refused.reason, RejectReason::Unencodable { .. }));
    assert_eq!(refused.item, 3);
    let other = queue.clone();
    assert!(tokio::spawn(async move { other.push(13).await }).await.unwrap_err().is_panic());
    queue.push(4).await.unwrap();
    let _ = queue.close(SECOND).await;
    let script = Script::done();
    let queue = bench.builder(&script).codec(Even).open().unwrap();
    until(|| queue.stats().processed == 2).await;
    assert_eq!(script.items(), [2, 4]);
}

#[tokio::test]
async fn an_item_larger_than_a_batch_is_refused_and_a_batch_never_exceeds_its_bytes() {
    let bench = Bench::new();
    let lengths = Arc::new(Mutex::new(Vec::new()));
    let sees = Arc::clone(&lengths);
    let handler = handler_fn(move |batch: &[String], _cx| {
        sees.lock().unwrap().push(batch.iter().map(String::len).sum::<usize>());
        let done = BatchOutcome::<(), std::convert::Infallible>::all_done(batch.len());
        Box::pin(async move { done })
    });
    let queue = Queue::builder(bench.path(), handler).max_bytes(100).ballast_bytes(0).open().unwrap();
    let refused = queue.push("x".repeat(99)).await.unwrap_err();
    assert_eq!(refused.reason, RejectReason::TooLarge { bytes: 101, max: 100 });
    for _ in 0..10 {
        queue.push("y".repeat(30)).await.unwrap();
    }
    queue.flush().await.unwrap();
    until(|| queue.stats().processed == 10).await;
    assert_eq!(*lengths.lock().unwrap(), [90, 90, 90, 30]);
}

#[tokio::test]
async fn items_are_merged_before_the_disk_and_across_the_batches_of_a_call() {
    let bench = Bench::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let handler = handler_fn(move |batch: &[(String, u32)], _cx| {
        sink.lock().unwrap().push(batch.to_vec());
        let done = BatchOutcome::<(), std::convert::Infallible>::all_done(batch.len());
        Box::pin(async move { done })
    });
    let queue = Queue::builder(bench.path(), handler)
        .buffer(|| Merging::new(|item: &(String, u32)| item.0.clone(), |sum, item| sum.1 += item.1))
        .max_items(2)
        .max_pushes(4)
        .batches(10)
        .ballast_bytes(0)
        .open()
        .unwrap();
    queue.pause();
    for (key, count) in [("a", 1), ("a", 2), ("b", 3), ("a", 4), ("a", 5), ("a", 6), ("a", 7), ("a", 8)] {
        queue.push((key.to_owned(), count)).await.unwrap();
    }
    queue.flush().await.unwrap();
    let stats = queue.stats();
    assert_eq!((stats.pushed, stats.flushed), (8, 4), "a and b of three pushes, a of four, a of one");
    queue.resume();
    until(|| queue.stats().processed == 4).await;
    assert_eq!(*seen.lock().unwrap(), [[("a".to_owned(), 33), ("b".to_owned(), 3)]]);
}

#[tokio::test]
async fn settings_out_of_bounds_are_refused_by_name() {
    let bench = Bench::new();
    let script = Script::done();
    let field = |builder: relaykit_persistent_queue::Builder<u32, _>| builder.open().unwrap_err().to_string();
    let builder = || bench.builder(&script);
    for (built, named) in [
        (builder().max_items(0), "max_items is 0, but must be at least 1"),
        (builder().workers(0), "workers is 0, but must be from 1 to 1000"),
        (builder().batches(0), "batches is 0, but must be from 1 to 10000"),
        (builder().timeout(Duration::ZERO), "timeout is 0 s, but must be more than zero"),
        (builder().order_keys(0), "order_keys is 0, but must be from 1 to 18446744073709551615"),
        (builder().max_pushes(0), "max_pushes is 0, but must be at least 1"),
    ] {
        assert_eq!(field(built), named);
    }
    let empty = Queue::<u32>::builder("", script.clone()).open().unwrap_err().to_string();
    assert_eq!(empty, "path is empty, but must be the path of a file");
    assert!(!bench.path().exists(), "nothing is made before the settings are checked");
}

#[test]
fn a_thread_without_a_runtime_uses_the_blocking_handle() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bench = Bench::new();
    let script = Script::done();
    let builder = Queue::<u32>::builder(bench.path(), script.clone()).ballast_bytes(0);
    let queue =
        builder.runtime(runtime.handle().clone()).max_items(2).buffer_bounds(2, 1 << 20).open().unwrap();
    let blocking = queue.blocking();
    blocking.push_all(0..10).unwrap();
    blocking.push_durable(10).unwrap();
    for item in 11..20 {
        blocking.push(item).unwrap();
    }
    blocking.flush().unwrap();
    while blocking.stats().processed < 20 {
        std::thread::yield_now();
    }
    assert_eq!(script.items(), (0..20).collect::<Vec<_>>());
    assert!(blocking.close(SECOND).file_closed);
    assert_eq!(blocking.push(1).unwrap_err().reason, RejectReason::Closed);
}

#[test]
fn what_was_accepted_is_stored_even_if_the_runtime_is_gone() {
    let bench = Bench::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let queue = {
        let _entered = runtime.enter();
        bench.builder(&Script::done()).open().unwrap()
    };
    queue.pause();
    queue.try_push(1).unwrap();
    drop(runtime);
    queue.try_push(2).unwrap();
    drop(queue);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let script = Script::done();
        let queue = loop {
            // The writer's thread closes the file when it has stored them.
            match bench.builder(&script).open() {
                Ok(queue) => break queue,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        until(|| queue.stats().processed == 2).await;
        assert_eq!(script.items(), [1, 2]);
    });
}

#[derive(Debug, Default, Clone)]
struct Numbers(Arc<Mutex<HashMap<String, u64>>>, Arc<AtomicU64>);

impl Recorder for Numbers {
    fn add(&self, metric: &'static Metric, labels: &[&str], by: u64) {
        assert!(METRICS.contains(&metric), "{} is declared", metric.name);
        assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
        *self.0.lock().unwrap().entry(name(metric, labels)).or_default() += by;
    }

    fn set(&self, metric: &'static Metric, labels: &[&str], _value: f64) {
        assert!(METRICS.contains(&metric), "{} is declared", metric.name);
        assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
    }

    fn observe(&self, metric: &'static Metric, labels: &[&str], _value: f64) {
        assert!(METRICS.contains(&metric), "{} is declared", metric.name);
        *self.0.lock().unwrap().entry(name(metric, labels)).or_default() += 1;
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

fn name(metric: &Metric, labels: &[&str]) -> String {
    format!("{} {}", metric.name, labels.join(" ")).trim().to_owned()
}

#[tokio::test]
async fn an_operator_sees_what_goes_in_and_out() {
    let bench = Bench::new();
    let numbers = Numbers::default();
    let script = Script::new(|batch, _| {
        common::each(batch, |item| {
            if item == 7 {
                relaykit_pipeline_traits::Verdict::Dead(common::Oops::Bad)
            } else {
                relaykit_pipeline_traits::Verdict::Done(())
            }
        })
    });
    let queue = bench.builder(&script).max_items(4).name("mail").recorder(numbers.clone()).open().unwrap();
    queue.push_all(0..10).await.unwrap();
    queue.flush().await.unwrap();
    until(|| queue.stats().processed == 9).await;
    let _ = queue.close(SECOND).await;
    let seen = numbers.0.lock().unwrap();
    let get = |name: &str| seen.get(name).copied().unwrap_or_default();
    assert_eq!(get("queue_items_pushed_total mail"), 10);
    assert_eq!(get("queue_items_flushed_total mail items"), 8);
    assert_eq!(get("queue_items_flushed_total mail asked"), 2);
    assert_eq!(get("queue_items_processed_total mail"), 9);
    assert_eq!(get("queue_items_dead_total mail rejected"), 1);
    assert_eq!(get("queue_process_seconds mail"), 3);
    assert!(get("queue_commit_seconds") >= 1);
}
