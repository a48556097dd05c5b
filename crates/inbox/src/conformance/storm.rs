use std::collections::HashSet;
use std::time::Duration;

use relaykit_pipeline_traits::{Message, Rng};
use relaykit_retry::{Backoff, Jitter};

use super::harness::{Bench, Harness, handler, handlers, plain, scope, writer};
use super::test_handler::{Call, Script, TestHandler};
use crate::inbox::Inbox;
use crate::received::Received;
use crate::store::InboxStore;

/// Whatever the handlers do, whichever workers come, stop and die, and however often messages come again: every message is handled
/// by each handler, those of one key in order; and what a transactional handler wrote is there exactly once.
///
/// The seed is printed; set `RELAYKIT_SEED` to run the same storm again.
///
/// # Panics
///
/// The promise is broken.
#[expect(clippy::print_stderr, reason = "a random test says its seed")]
pub async fn nothing_is_lost_or_reordered_and_effects_are_exact_in_a_storm(harness: &impl Harness) {
    let seed = std::env::var("RELAYKIT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| Rng::from_entropy().next_u64());
    eprintln!("RELAYKIT_SEED={seed}");
    let (mut bench, test) = (Bench::seeded(harness, seed), TestHandler::new());
    let mut rng = Rng::seeded(seed);
    let storm = |mut faults: Rng| {
        move |_: &Message| match faults.below(100) {
            0..8 => Call::Fail,
            8..14 => Call::WorkAndFail,
            14..16 => Call::Leave,
            16 => Call::Panic,
            _ => Call::Done,
        }
    };
    test.script.set(storm(rng.fork()));
    let script = Script::new(storm(rng.fork()));
    let forever = Backoff::fixed(Duration::from_secs(1)).jitter(Jitter::Equal).unlimited_attempts();
    let forever = forever.build().expect("the settings are valid");
    let all = || {
        let list = [plain("p", &test).ordered().retry(forever), writer(harness, "w", &script).retry(forever)];
        handlers(list)
    };
    let inbox = Inbox::new(harness.store(), all().routes().clone());
    let mut stored: Vec<Message> = Vec::new();
    let mut workers = Vec::new();
    let (mut known, mut repeated) = (0, 0);
    for round in 0..40 {
        if round < 25 {
            let mut messages = Vec::new();
            for _ in 0..rng.below(12) {
                let key = format!("k{}", rng.below(8));
                let keyed = !rng.chance(0.2);
                let number = stored.len() + messages.len();
                messages.push(bench.message(keyed.then_some(key.as_str()), &format!("{number:06}")));
            }
            if rng.chance(0.1) {
                harness.receive_and_abort(&scope(), &messages, all().routes()).await;
            } else {
                bench.receive_all(all().routes(), &messages).await;
                stored.extend(messages);
            }
        }
        for message in &stored {
            if rng.chance(0.1) {
                repeated += 1;
                let again = inbox.receive(&scope(), message).await.expect("it is no conflict");
                known += u32::from(again == Received::AlreadyKnown);
            }
        }
        if workers.len() < 3 {
            workers.push(bench.worker(all()).build().expect("the settings are valid"));
        }
        for worker in &workers {
            worker.run_once().await.expect("the leases are renewed");
        }
        match rng.below(8) {
            0 => assert_eq!(workers.swap_remove(0).release().await, 0),
            // Killed: it gives nothing back.
            1 => drop(workers.swap_remove(0)),
            _ => {}
        }
        bench.pass(Duration::from_millis(rng.below(4_000))).await;
    }
    test.script.set(|_| Call::Done);
    script.set(|_| Call::Done);
    workers.push(bench.worker(all()).build().expect("the settings are valid"));
    for _ in 0..20 {
        for worker in &workers {
            worker.run_once().await.expect("the leases are renewed");
        }
        bench.pass(Duration::from_secs(5)).await;
    }
    assert_eq!(known, repeated, "seed {seed}");
    for name in ["p", "w"] {
        let depth = harness.store().depth(&handler(name)).await.expect("the store answers");
        assert_eq!((depth.pending, depth.dead), (0, 0), "seed {seed}");
    }
    let distinct: HashSet<_> = test.done().iter().map(Message::id).collect();
    assert_eq!(distinct.len(), stored.len(), "seed {seed}");
    test.assert_complete_and_in_order(&stored);
    let expected: Vec<String> = (0..stored.len()).map(|number| format!("{number:06}")).collect();
    assert_eq!(harness.effects().await, expected, "seed {seed}");
}
