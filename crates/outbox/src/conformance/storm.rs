use std::collections::HashSet;
use std::time::Duration;

use relaykit_pipeline_traits::{Message, Rng};
use relaykit_retry::{Backoff, Jitter};

use super::harness::{Bench, Harness};
use super::sender::{Call, TestSender};
use crate::store::OutboxStore;

/// Whatever the sender does, and whichever relays come, stop and die: every message is taken, those of one key in order.
///
/// The seed is printed; set `RELAYKIT_SEED` to run the same storm again.
///
/// # Panics
///
/// The promise is broken.
#[expect(clippy::print_stderr, reason = "a random test says its seed")]
pub async fn nothing_is_lost_or_reordered_in_a_storm(harness: &impl Harness) {
    let seed = std::env::var("RELAYKIT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| Rng::from_entropy().next_u64());
    eprintln!("RELAYKIT_SEED={seed}");
    let (mut bench, sender) = (Bench::seeded(harness, seed), TestSender::new());
    let mut rng = Rng::seeded(seed);
    let mut faults = rng.fork();
    sender.script(move |_| match faults.below(100) {
        0..8 => Call::Fail,
        8..14 => Call::TakeAndFail,
        14..17 => Call::Leave,
        17 => Call::Panic,
        18 => Call::Refuse,
        19 => Call::Miscount,
        _ => Call::Take,
    });
    let forever = Backoff::fixed(Duration::from_secs(1)).jitter(Jitter::Equal).unlimited_attempts();
    let forever = forever.build().expect("the settings are valid");
    let mut added: Vec<Message> = Vec::new();
    let mut relays = Vec::new();
    for round in 0..60 {
        if round < 40 {
            let mut messages = Vec::new();
            for _ in 0..rng.below(20) {
                let key = format!("k{}", rng.below(12));
                let keyed = !rng.chance(0.2);
                messages.push(bench.message(keyed.then_some(key.as_str()), "x"));
            }
            if rng.chance(0.1) {
                harness.add_and_abort(&messages).await;
            } else {
                bench.add_all(&messages).await;
                added.extend(messages);
            }
        }
        if relays.len() < 3 {
            let size = 1 + usize::try_from(rng.below(12)).unwrap_or(1);
            let relay = bench.relay(&sender).batch_size(size).retry(forever).build();
            relays.push(relay.expect("the settings are valid"));
        }
        for relay in &relays {
            relay.run_once().await.expect("the leases are renewed");
        }
        match rng.below(8) {
            0 => {
                let stopped = relays.swap_remove(0);
                assert_eq!(stopped.release().await, 0);
            }
            // Killed: it gives nothing back.
            1 => drop(relays.swap_remove(0)),
            _ => {}
        }
        bench.pass(Duration::from_millis(rng.below(4_000))).await;
    }
    sender.take_all();
    for _ in 0..8 {
        for relay in &relays {
            relay.run_once().await.expect("the leases are renewed");
        }
        bench.pass(Duration::from_secs(5)).await;
    }
    let depth = harness.store().depth().await.expect("the store answers");
    assert_eq!((depth.pending, depth.dead), (0, 0), "seed {seed}");
    let distinct: HashSet<_> = sender.taken().iter().map(Message::id).collect();
    assert_eq!(distinct.len(), added.len(), "seed {seed}");
    sender.assert_complete_and_in_order(&added);
}
