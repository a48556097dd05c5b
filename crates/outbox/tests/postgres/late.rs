//! What a relay does about rows that come in sight late, or cannot be read.

use relaykit_outbox::OutboxStore;
use sqlx::Connection;

use crate::common::{Outbox, with_payload};

#[tokio::test]
async fn a_relay_sends_a_row_that_comes_in_sight_late() {
    let Some(o) = Outbox::for_relays().await else { return };
    let sender = relaykit_outbox::conformance::TestSender::new();
    let mut bench = relaykit_outbox::conformance::Bench::new(&o);
    let relay = bench.relay(&sender).build().unwrap();
    let mut slow = o.db.connection().await;
    let mut slow = slow.begin().await.unwrap();
    o.outbox.add(&mut slow, &with_payload("a", "late")).await.unwrap();
    o.add(&with_payload("b", "early")).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let work = relay.run(async {
        let _ = stopped.await;
    });
    let clock = o.clock.clone();
    let steps = async {
        while sender.payloads() != ["early"] {
            tokio::task::yield_now().await;
            clock.advance(std::time::Duration::from_millis(1));
        }
        slow.commit().await.unwrap();
        while sender.payloads() != ["early", "late"] {
            tokio::task::yield_now().await;
            clock.advance(std::time::Duration::from_millis(1));
        }
        drop(stop);
        // The stop waits for nothing but what is on its way.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        summary = work => assert_eq!(summary.sent, 2),
        () = steps => unreachable!(),
    }
    o.clean().await;
}

/// While a transaction was open, others were sent that lie behind its message. When it has ended, the next message of its key is added
/// and found at once.
#[tokio::test]
async fn a_key_is_in_order_also_if_a_transaction_commits_late() {
    let Some(o) = Outbox::for_relays().await else { return };
    let sender = relaykit_outbox::conformance::TestSender::new();
    let mut bench = relaykit_outbox::conformance::Bench::new(&o);
    let relay = bench.relay(&sender).build().unwrap();
    let mut slow = o.db.connection().await;
    let mut slow = slow.begin().await.unwrap();
    o.outbox.add(&mut slow, &with_payload("a", "first")).await.unwrap();
    // Many keys, so that some lie in the shard of `a`.
    let others: Vec<_> = (0..100).map(|n| with_payload(&format!("b{n}"), "other")).collect();
    o.add_all(&others).await;
    let (wake, clock) = (relay.wake(), o.clock.clone());
    let steps = async {
        while sender.payloads().len() < others.len() {
            tokio::task::yield_now().await;
            clock.advance(std::time::Duration::from_millis(1));
        }
        slow.commit().await.unwrap();
        // The clock stands still: nothing but the nudge makes the relay look.
        o.add(&with_payload("a", "second")).await;
        wake.nudge();
        while !sender.payloads().contains(&"second".to_owned()) {
            tokio::task::yield_now().await;
        }
    };
    relay.run(steps).await;
    assert_eq!(sender.payloads()[others.len()..], ["first", "second"]);
    o.clean().await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_set_aside_and_its_key_goes_on() {
    let Some(o) = Outbox::for_relays().await else { return };
    let sender = relaykit_outbox::conformance::TestSender::new();
    let mut bench = relaykit_outbox::conformance::Bench::new(&o);
    let messages = ["one", "two"].map(|payload| with_payload("k", payload));
    o.add_all(&messages).await;
    o.db.execute("update {messages} set headers = '{\"a\": 1}' where payload = 'one'").await;
    let relay = bench.relay(&sender).build().unwrap();
    let summary = relay.run_once().await.unwrap();
    assert_eq!((summary.sent, summary.dead), (1, 1));
    assert_eq!(sender.payloads(), ["two"]);
    let dead = relay.store().dead_letters(&relaykit_outbox::DeadFilter::all(), 10).await.unwrap();
    assert_eq!(dead[0].reason, relaykit_outbox::DeadReason::Unreadable);
    assert_eq!((dead[0].id, &dead[0].message), (messages[0].id(), &None));
    assert!(dead[0].error.contains("headers"), "{}", dead[0].error);
    // It is kept, also from a replay, until somebody purges it.
    let all = relaykit_outbox::DeadFilter::all();
    assert!(relay.store().replay(&all, 10).await.unwrap().is_empty());
    assert_eq!(relay.store().purge(&all, 10).await.unwrap(), 1);
    o.clean().await;
}
