use std::time::Duration;

use relaykit_pipeline_traits::MessageId;
use relaykit_sql_store::Shards;

use super::harness::{Bench, Harness, LEASE, once};
use super::sender::{Call, TestSender};
use crate::relay::{Relay, RelayBuilder};
use crate::store::{
    Dying, OpenTransactions, OutboxStore, ReadFrom, RowId, Seq, Settlement, Stored, Suspicion, Waiting,
};
use crate::{DeadFilter, DeadReason};

const SECOND: Duration = Duration::from_secs(1);

/// A message that kills whoever sends it is a dead letter once its attempts are spent. No other is, and all others are sent.
pub async fn a_message_that_kills_its_relay_is_a_dead_letter_in_the_end(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let mut added = bench.add("kills", 2).await;
    let killer = added.remove(0).id();
    for number in 0..9 {
        added.extend(bench.add(&format!("k{number}-"), 1).await);
    }
    sender.script(|message| if &message.payload()[..] == b"kills1" { Call::Hang } else { Call::Take });
    let mut crashes = 0;
    for _ in 0..20 {
        let relay = build(bench.relay(&sender));
        if dies_over(relay, &sender, killer).await {
            crashes += 1;
            bench.pass(LEASE + SECOND).await;
        } else {
            bench.pass(SECOND * 2).await;
        }
        if harness.store().depth().await.expect("the store answers").pending == 0 {
            break;
        }
    }
    // One of which nothing is known, one in company, and three attempts alone.
    assert_eq!(crashes, 5);
    sender.assert_complete_and_in_order(&added);
    let dead = harness.store().dead_letters(&DeadFilter::all(), 10).await.expect("the store answers");
    let [letter] = &dead[..] else { panic!("{dead:?}") };
    assert_eq!((letter.id, letter.reason, letter.attempts), (killer, DeadReason::Crashed, 3));
    assert!(letter.error.contains("died") && letter.first_failed_at.is_some(), "{letter:?}");
    let (mut alone, batches) = (Vec::new(), sender.batches());
    for (batch, attempt) in batches.iter().zip(sender.attempts()) {
        if *batch == [killer] {
            alone.push(attempt);
        } else {
            assert_eq!(attempt, 1, "no other message has spent an attempt");
        }
    }
    assert_eq!(alone, [1, 2, 3]);
    let by_reason = DeadFilter::all().reason(DeadReason::Crashed);
    assert_eq!(harness.store().dead_letters(&by_reason, 10).await.expect("the store answers").len(), 1);
}

/// What is sent is noted only after a relay died, or lost its leases; after a clean stop nothing is.
pub async fn what_is_sent_is_noted_only_after_a_crash(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let mut added = Vec::new();
    for key in ["a", "b", "c"] {
        added.extend(bench.add(key, 1).await);
    }
    let store = harness.store();
    let clear = |rows: &[Stored]| rows.iter().filter(|row| row.suspicion == Suspicion::Clear).count();
    sender.script(|_| Call::Hang);
    let first = bench.relay(&sender).batch_size(2).concurrency(1);
    assert!(dies(build(first), &sender).await);
    assert_eq!(clear(&rows(&store).await), 3, "nobody had died before");
    bench.pass(LEASE + SECOND).await;
    let second = bench.relay(&sender).batch_size(2).concurrency(1);
    assert!(dies(build(second), &sender).await);
    let lent = sender.batches().pop().unwrap_or_default();
    for row in rows(&store).await {
        let noted = if lent.contains(&row.message.id()) { Suspicion::Company } else { Suspicion::Clear };
        assert_eq!(row.suspicion, noted);
    }
    bench.pass(LEASE + SECOND).await;
    sender.take_all();
    let third = build(bench.relay(&sender));
    assert_eq!(once(&third).await.sent, 3);
    sender.assert_complete_and_in_order(&added);
    assert!(lent.iter().all(|id| sender.batches().contains(&vec![*id])), "each suspect alone");
    // It has seen its shards to their end, so it trusts itself.
    bench.add("d", 1).await;
    sender.script(|_| Call::Hang);
    assert!(dies_beside(&third, &sender).await);
    assert_eq!(clear(&rows(&store).await), 1);
    sender.take_all();
    bench.pass(LEASE + SECOND).await;
    let fourth = build(bench.relay(&sender));
    once(&fourth).await;
    assert_eq!(fourth.release().await, 0);
    bench.add("e", 1).await;
    sender.script(|_| Call::Hang);
    assert!(dies(build(bench.relay(&sender)), &sender).await);
    assert_eq!(clear(&rows(&store).await), 1, "the fourth has given its shards back");
}

/// A refusal takes back what was noted: it speaks against no message.
pub async fn a_refusal_takes_back_what_was_noted(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    bench.add("a", 1).await;
    sender.script(|_| Call::Hang);
    assert!(dies(build(bench.relay(&sender)), &sender).await);
    bench.pass(LEASE + SECOND).await;
    let second = build(bench.relay(&sender));
    sender.script(|_| Call::Refuse);
    assert_eq!(once(&second).await.pauses, 1);
    assert_eq!(rows(&harness.store()).await[0].suspicion, Suspicion::Clear);
    // The same for a suspect, which stays one.
    sender.script(|_| Call::Hang);
    bench.pass(SECOND * 2).await;
    assert!(dies(second, &sender).await);
    bench.pass(LEASE + SECOND).await;
    sender.script(|_| Call::Refuse);
    assert_eq!(once(&build(bench.relay(&sender))).await.pauses, 1);
    let row = &rows(&harness.store()).await[0];
    assert_eq!((row.suspicion, row.attempts), (Suspicion::Company, 0));
}

/// What is noted under a stale lease is not noted; what became of a row, or its replay, takes the note away.
pub async fn what_is_noted_stays_until_it_is_settled(harness: &impl Harness) {
    let mut bench = Bench::new(harness);
    for key in ["a", "b", "c"] {
        bench.add(key, 1).await;
    }
    let store = harness.store();
    let old = bench.lease_all().await;
    let ids: Vec<RowId> = rows(&store).await.iter().map(|row| row.row).collect();
    bench.pass(LEASE + SECOND).await;
    let new = bench.lease_all().await;
    let suspicions = async || rows(&store).await.iter().map(|row| row.suspicion).collect::<Vec<_>>();
    let stale = store.suspect(&old, &ids, Suspicion::Alone).await.expect("the store answers");
    assert_eq!((stale.written, stale.stale.len()), (0, old.len()));
    assert_eq!(suspicions().await, [Suspicion::Clear; 3]);
    for _ in 0..2 {
        let noted = store.suspect(&new, &ids, Suspicion::Alone).await.expect("the store answers");
        assert_eq!((noted.written, noted.stale.len()), (3, 0));
    }
    assert_eq!(suspicions().await, [Suspicion::Alone; 3]);
    let waiting = |row: RowId, suspect: bool| Waiting {
        row,
        attempts: 1,
        wait: Duration::ZERO,
        fresh: false,
        suspect,
        error: "e".to_owned(),
    };
    let dead = Dying { row: ids[2], attempts: 1, reason: DeadReason::Crashed, error: "e".to_owned() };
    let retry = vec![waiting(ids[0], true), waiting(ids[1], false)];
    let settlement = Settlement { leases: new, done: Vec::new(), retry, dead: vec![dead] };
    assert_eq!(store.settle(&settlement).await.expect("the store answers").written, 3);
    assert_eq!(store.replay(&DeadFilter::all(), 10).await.expect("the store answers").len(), 1);
    bench.pass(SECOND).await;
    assert_eq!(suspicions().await, [Suspicion::Company, Suspicion::Clear, Suspicion::Clear]);
}

fn build<S: OutboxStore>(relay: RelayBuilder<S, TestSender>) -> Relay<S, TestSender> {
    relay.build().expect("the settings are valid")
}

/// Lets a relay work until the sender has something, and kills it then. Returns `false` if it did not come to that.
async fn dies<S: OutboxStore>(relay: Relay<S, TestSender>, sender: &TestSender) -> bool {
    let died = dies_beside(&relay, sender).await;
    drop(relay);
    died
}

async fn dies_beside<S: OutboxStore>(relay: &Relay<S, TestSender>, sender: &TestSender) -> bool {
    let before = sender.batches().len();
    cut_off(relay, || sender.batches().len() > before).await
}

/// Lets a relay work until the sender has this message, and kills it then.
async fn dies_over<S: OutboxStore>(
    relay: Relay<S, TestSender>,
    sender: &TestSender,
    killer: MessageId,
) -> bool {
    let before = sender.batches().len();
    let died =
        cut_off(&relay, || sender.batches()[before..].iter().any(|batch| batch.contains(&killer))).await;
    if !died {
        assert_eq!(relay.release().await, 0);
    }
    died
}

async fn cut_off<S: OutboxStore>(relay: &Relay<S, TestSender>, at: impl Fn() -> bool) -> bool {
    let reached = async {
        while !at() {
            tokio::task::yield_now().await;
        }
    };
    let died = tokio::select! {
        biased;
        () = reached => true,
        summary = relay.run_once() => {
            assert_eq!(summary.expect("the leases are renewed").store_failures, 0);
            false
        }
    };
    // What it had begun goes with it.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    died
}

/// Reads every row that can be sent, by place.
async fn rows<S: OutboxStore>(store: &S) -> Vec<Stored> {
    let shards = Shards::new(16).expect("the count is within bounds");
    let from: Vec<_> = shards.all().map(|shard| ReadFrom { shard, after: Seq(0) }).collect();
    let mut rows =
        store.page(&from, &OpenTransactions::default(), 100).await.expect("the store answers").rows;
    rows.sort_unstable_by_key(|row| row.row.seq);
    rows
}
