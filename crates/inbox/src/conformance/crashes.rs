use std::time::Duration;

use relaykit_pipeline_traits::MessageId;
use relaykit_sql_store::{DeadFilter, DeadReason, Suspicion};

use super::harness::{Bench, Harness, LEASE, handler, handlers, once, plain};
use super::test_handler::{Call, TestHandler};
use crate::store::InboxStore;
use crate::worker::Worker;

const SECOND: Duration = Duration::from_secs(1);

/// A message that kills whoever handles it is a dead letter once its attempts are spent. No other is, and all others are handled.
pub async fn a_message_that_kills_its_worker_is_a_dead_letter_in_the_end(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let routes = handlers([plain::<crate::memory::MemoryInbox>("h", &test).ordered()]).routes().clone();
    let mut stored = bench.receive(&routes, "kills", 2).await;
    let killer = stored.remove(0).id();
    for number in 0..9 {
        stored.extend(bench.receive(&routes, &format!("k{number}-"), 1).await);
    }
    test.script.set(|message| if message.payload() == "kills1" { Call::Hang } else { Call::Done });
    let mut crashes = 0;
    for _ in 0..20 {
        let worker = bench.worker(handlers([plain("h", &test).ordered()])).build();
        if dies_over(worker.expect("the settings are valid"), &test, killer).await {
            crashes += 1;
            bench.pass(LEASE + SECOND).await;
        } else {
            bench.pass(SECOND * 2).await;
        }
        if harness.store().depth(&handler("h")).await.expect("the store answers").pending == 0 {
            break;
        }
    }
    // One of which nothing is known, one in company, and three attempts alone.
    assert_eq!(crashes, 5);
    test.assert_complete_and_in_order(&stored);
    let dead = harness.store().dead_letters(None, &DeadFilter::all(), 10).await.expect("the store answers");
    let [letter] = &dead[..] else { panic!("{dead:?}") };
    assert_eq!((letter.id, letter.reason, letter.attempts), (killer, DeadReason::Crashed, 3));
}

/// What is noted under a stale lease is not noted, and what is noted is read again.
pub async fn what_is_noted_under_a_stale_lease_is_not_noted(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let handlers = handlers([plain::<crate::memory::MemoryInbox>("h", &test)]);
    bench.receive(handlers.routes(), "a", 2).await;
    let (store, own) = (harness.store(), handler("h"));
    let old = bench.lease_all().await;
    let rows: Vec<_> = bench.page(&own, &old).await.iter().map(|stored| stored.row).collect();
    bench.pass(LEASE + SECOND).await;
    let new = bench.lease_all().await;
    let stale = store.suspect(&old, &rows, Suspicion::Alone).await.expect("the store answers");
    assert_eq!((stale.written, stale.stale.len()), (0, old.len()));
    let noted = store.suspect(&new, &rows[..1], Suspicion::Alone).await.expect("the store answers");
    assert_eq!((noted.written, noted.stale.len()), (1, 0));
    let read: Vec<_> = bench.page(&own, &new).await.iter().map(|stored| stored.suspicion).collect();
    assert_eq!(read, [Suspicion::Alone, Suspicion::Clear]);
}

/// Lets a worker work until its handler has this message, and kills it then.
async fn dies_over<S: InboxStore>(worker: Worker<S>, test: &TestHandler, killer: MessageId) -> bool {
    let before = test.calls().len();
    let reached = async {
        while !test.calls()[before..].iter().any(|(id, _)| *id == killer) {
            tokio::task::yield_now().await;
        }
    };
    let died = tokio::select! {
        biased;
        () = reached => true,
        _ = once(&worker) => false,
    };
    // What it had begun goes with it.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    if !died {
        assert_eq!(worker.release().await, 0);
    }
    died
}
