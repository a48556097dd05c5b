//! Many relays, many messages, and a long transaction.

use std::time::Duration;

use relaykit_outbox::conformance::{Call, TestSender};
use relaykit_outbox::postgres::PgOutboxStore;
use relaykit_outbox::{OutboxStore, Relay};
use relaykit_pipeline_traits::{Message, Rng};
use relaykit_retry::Backoff;
use tokio::sync::watch;

use crate::common::{Outbox, with_payload};

/// Four relays, of which one is stopped and one killed on the way, 100,000 messages of 1,000 keys, of which 5 % fail at first:
/// nothing is lost, nothing comes out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_relays_lose_and_reorder_nothing_while_one_is_stopped_and_one_killed() {
    let Some(o) = Outbox::for_relays().await else { return };
    let seed = Rng::from_entropy().next_u64();
    eprintln!("seed {seed}");
    let (mut rng, sender) = (Rng::seeded(seed), TestSender::new());
    let mut faults = rng.fork();
    sender.script(move |_| if faults.chance(0.05) { Call::Fail } else { Call::Take });
    let mut added: Vec<Message> = Vec::new();
    for part in 0..100 {
        let part: Vec<_> = (0..1_000)
            .map(|n| with_payload(&format!("k{}", rng.below(1_000)), &format!("{}", 1_000 * part + n)))
            .collect();
        o.add_all(&part).await;
        added.extend(part);
    }
    let (stop, _) = watch::channel(false);
    let start = |stopped: watch::Receiver<bool>| {
        let pool = o.db.pool().max_connections(3).build().unwrap();
        let retry = Backoff::fixed(Duration::from_millis(5)).unlimited_attempts();
        let relay = Relay::builder(PgOutboxStore::new(pool, &o.db.names("t")), sender.clone())
            .lease(Duration::from_secs(3))
            .send_timeout(Duration::from_secs(1))
            .settle_timeout(Duration::from_secs(1))
            .poll(Duration::from_millis(5), Duration::from_millis(50))
            .retry(retry.max_hint(Duration::from_millis(5)).build().unwrap())
            .build()
            .unwrap();
        let mut stopped = stopped;
        tokio::spawn(
            async move { relay.run(async move { drop(stopped.wait_for(|stop| *stop).await) }).await },
        )
    };
    let (stop_one, stopped) = watch::channel(false);
    let (one, killed) = (start(stopped), start(stop.subscribe()));
    let others = [start(stop.subscribe()), start(stop.subscribe())];
    let store = &o.store;
    let until = async |left: u64| {
        while store.depth().await.unwrap().pending > left {
            tokio::task::yield_now().await;
        }
    };
    until(80_000).await;
    stop_one.send_replace(true);
    let summary = one.await.unwrap();
    assert_eq!((summary.unfinished, summary.kept_shards), (0, 0));
    until(60_000).await;
    killed.abort();
    until(0).await;
    stop.send_replace(true);
    for other in others {
        other.await.unwrap();
    }
    sender.assert_complete_and_in_order(&added);
    o.clean().await;
}
