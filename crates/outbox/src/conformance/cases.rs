use std::collections::HashSet;
use std::time::Duration;

use relaykit_pipeline_traits::{Message, MessageId};

use super::harness::{Bench, Harness, LEASE, key, once};
use super::sender::{Call, TestSender};
use crate::store::{Dying, OpenTransactions, OutboxStore, ReadFrom, RowId, Seq, Settlement, Stored, Waiting};
use crate::{AddError, Added, DEFAULT_MAX_PAYLOAD_BYTES, DeadFilter, DeadReason, MAX_LISTED};

const SECOND: Duration = Duration::from_secs(1);

/// A message whose transaction has committed is sent, with all its parts.
pub async fn a_committed_message_is_sent(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let keyed = bench.message(Some("k\u{e9}y \u{1f511}"), "one");
    let alone = bench.message(None, "");
    bench.add_all(&[keyed.clone(), alone.clone()]).await;
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    assert_eq!(once(&relay).await.sent, 2);
    let taken: HashSet<MessageId> = sender.taken().iter().map(Message::id).collect();
    assert_eq!(taken, HashSet::from([keyed.id(), alone.id()]));
    assert!(sender.taken().contains(&keyed) && sender.taken().contains(&alone), "with all parts");
    assert_eq!(once(&relay).await.sent, 0, "once");
    assert_eq!(relay.store().depth().await.expect("the store answers").pending, 0);
}

/// A message whose transaction was rolled back is never sent.
pub async fn an_aborted_message_is_never_sent(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let (aborted, kept) = (bench.message(Some("k"), "aborted"), bench.message(Some("k"), "kept"));
    harness.add_and_abort(std::slice::from_ref(&aborted)).await;
    bench.add_all(std::slice::from_ref(&kept)).await;
    once(&bench.relay(&sender).build().expect("the settings are valid")).await;
    assert_eq!(sender.payloads(), ["kept"]);
    // Its id is free.
    assert_eq!(harness.add(&[aborted], None).await.expect("it is added"), [Added::Added]);
}

/// The same message added again, before it was sent, is one message.
pub async fn a_message_added_twice_is_sent_once(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let (one, two) = (bench.message(Some("k"), "1"), bench.message(Some("k"), "2"));
    let add = async |messages: &[Message]| harness.add(messages, None).await.expect("it is no conflict");
    assert_eq!(add(std::slice::from_ref(&one)).await, [Added::Added]);
    assert_eq!(add(std::slice::from_ref(&one)).await, [Added::AlreadyAdded]);
    assert_eq!(add(&[two.clone(), one.clone()]).await, [Added::Added, Added::AlreadyAdded]);
    once(&bench.relay(&sender).build().expect("the settings are valid")).await;
    assert_eq!(sender.payloads(), ["1", "2"]);
}

/// A message of a known id with other content is refused by a typed error, and nothing of its call is written.
pub async fn another_message_under_a_known_id_is_refused(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let one = bench.message(Some("k"), "1");
    let at = one.occurred_at();
    let other = |kind: &str, key: &str, payload: &str, header: &str| {
        let builder = Message::builder(one.id(), kind, at).ordering_key(key).payload(payload.to_owned());
        builder.header("content-type", header).build().expect("its parts are valid")
    };
    bench.add_all(std::slice::from_ref(&one)).await;
    for other in [
        other("case", "k", "2", "text/plain"),
        other("other", "k", "1", "text/plain"),
        other("case", "other", "1", "text/plain"),
        other("case", "k", "1", "text/html"),
    ] {
        let beside = bench.message(Some("k"), "beside");
        let refused = harness.add(&[beside, other], None).await;
        assert!(matches!(refused, Err(AddError::IdConflict { id }) if id == one.id()), "{refused:?}");
    }
    once(&bench.relay(&sender).build().expect("the settings are valid")).await;
    assert_eq!(sender.payloads(), ["1"]);
}

/// A message beyond the limits is refused by an error that names field, size and bound; nothing of its call is written.
pub async fn a_message_beyond_the_limits_is_refused_before_anything_is_written(harness: &impl Harness) {
    let mut bench = Bench::new(harness);
    let fits = bench.message(None, &"x".repeat(DEFAULT_MAX_PAYLOAD_BYTES));
    let too_large = bench.message(None, &"x".repeat(DEFAULT_MAX_PAYLOAD_BYTES + 1));
    let refused = harness.add(&[fits.clone(), too_large], None).await;
    let Err(AddError::TooLarge(error)) = refused else { panic!("{refused:?}") };
    assert_eq!((error.field, error.bytes, error.max), ("payload", 262_145, 262_144));
    assert_eq!(harness.store().depth().await.expect("the store answers").pending, 0);
    assert_eq!(harness.add(&[fits], None).await.expect("it fits"), [Added::Added]);
}

/// Messages of one key are sent in the order in which they were added, however many there are.
pub async fn messages_of_one_key_are_sent_in_the_order_they_were_added(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let mut added = Vec::new();
    for number in 0..600 {
        // One key has most of them, more than a relay holds of one.
        let name = if number % 3 == 0 { format!("k{}", number % 7) } else { "hot".to_owned() };
        added.push(bench.message(Some(&name), &number.to_string()));
    }
    for part in added.chunks(97) {
        bench.add_all(part).await;
    }
    let summary = once(&bench.relay(&sender).batch_size(50).build().expect("the settings are valid")).await;
    assert_eq!(summary.sent, 600);
    sender.assert_complete_and_in_order(&added);
}

/// The sender is never lent two messages of one key at a time, so none can overtake another.
pub async fn a_batch_has_one_message_of_a_key(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let one = bench.add("a", 3).await;
    bench.add("b", 3).await;
    once(&bench.relay(&sender).build().expect("the settings are valid")).await;
    let of_one: HashSet<MessageId> = one.iter().map(Message::id).collect();
    for batch in sender.batches() {
        assert!(batch.iter().filter(|id| of_one.contains(id)).count() <= 1, "{batch:?}");
    }
    assert_eq!(sender.taken().len(), 6);
}

/// While a failed message waits, later ones of its key wait, and those of other keys and of none do not.
pub async fn a_failed_message_holds_its_key_and_no_other(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    bench.add("a", 3).await;
    bench.add("b", 3).await;
    let alone = [bench.message(None, "fails"), bench.message(None, "goes")];
    bench.add_all(&alone).await;
    sender.script(|message| match &message.payload()[..] {
        b"a1" | b"fails" => Call::Fail,
        _ => Call::Take,
    });
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    let summary = once(&relay).await;
    assert_eq!((summary.sent, summary.retried), (4, 2));
    let mut taken = sender.payloads();
    taken.sort_unstable();
    assert_eq!(taken, ["b1", "b2", "b3", "goes"]);
    // What comes later waits, too, also for another relay.
    let late = bench.message(Some("a"), "a4");
    bench.add_all(&[late]).await;
    assert_eq!(once(&relay).await.sent, 0);
    assert_eq!(relay.release().await, 0);
    assert_eq!(once(&bench.relay(&sender).build().expect("the settings are valid")).await.sent, 0);
}

/// A failed message is tried again when its wait is over, before the later ones of its key.
pub async fn a_failed_message_is_sent_again_when_its_wait_is_over(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let added = bench.add("a", 3).await;
    let mut failures = 1;
    sender.script(move |_| {
        failures -= 1;
        if failures >= 0 { Call::Fail } else { Call::Take }
    });
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    once(&relay).await;
    bench.pass(SECOND / 2).await;
    assert_eq!(once(&relay).await.sent, 0, "half a second is not enough");
    bench.pass(SECOND).await;
    assert_eq!(once(&relay).await.sent, 3);
    assert_eq!(sender.payloads(), ["a1", "a2", "a3"]);
    assert_eq!(sender.attempts()[..2], [1, 2]);
    sender.assert_complete_and_in_order(&added);
}

/// A row whose wait is over holds the later ones of its key on every page that does not begin before it, so that none can
/// overtake it.
pub async fn a_message_that_is_due_holds_its_key_until_it_is_read(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    bench.add("a", 2).await;
    sender.script(|_| Call::Fail);
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    once(&relay).await;
    let store = relay.store();
    let shard = |rows: Vec<Stored>| rows.first().map(|stored| stored.row).expect("there is a row");
    let everywhere = |after: Seq| -> Vec<ReadFrom> {
        let shards = relaykit_sql_store::Shards::new(16).expect("the count is within bounds");
        shards.all().map(|shard| ReadFrom { shard, after }).collect()
    };
    let page = async |after: Seq| {
        store.page(&everywhere(after), &OpenTransactions::default(), 10).await.expect("the store answers")
    };
    assert_eq!(page(Seq(0)).await.rows, [], "the first waits, and holds the second");
    assert!(page(Seq(0)).await.next_due.is_some_and(|due| due <= SECOND));
    bench.pass(SECOND * 2).await;
    let first = page(Seq(0)).await;
    assert_eq!(first.rows.len(), 2, "both, in one page");
    assert!(first.rows[0].waited && first.rows[0].attempts == 1 && !first.rows[1].waited);
    let head = shard(first.rows);
    assert_eq!(first.due, [head]);
    assert_eq!(page(head.seq).await.rows, [], "the first is not on this page, so the second is not either");
}

/// Attempts are counted in the store: another relay goes on counting.
pub async fn attempts_are_remembered_by_the_store(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    bench.add("a", 1).await;
    sender.script(|_| Call::Fail);
    for attempt in 1..=3 {
        let relay = bench.relay(&sender).build().expect("the settings are valid");
        let summary = once(&relay).await;
        assert_eq!(summary.retried + summary.dead, 1, "attempt {attempt}");
        assert_eq!(relay.release().await, 0);
        bench.pass(SECOND * 2).await;
    }
    assert_eq!(sender.attempts(), [1, 2, 3]);
    assert_eq!(harness.store().depth().await.expect("the store answers").dead, 1);
}

/// A delayed message is sent no earlier than its delay after it was added, and later ones of its key wait for it.
pub async fn a_delayed_message_waits_for_its_time_and_holds_its_key(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let (before, delayed) = (bench.message(Some("k"), "before"), bench.message(Some("k"), "delayed"));
    let (behind, other) = (bench.message(Some("k"), "behind"), bench.message(Some("o"), "other"));
    bench.add_all(&[before]).await;
    harness.add(&[delayed], Some(SECOND * 10)).await.expect("it is added");
    bench.add_all(&[behind, other]).await;
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    once(&relay).await;
    let mut taken = sender.payloads();
    taken.sort_unstable();
    assert_eq!(taken, ["before", "other"]);
    bench.pass(SECOND * 9).await;
    assert_eq!(once(&relay).await.sent, 0);
    bench.pass(SECOND * 2).await;
    assert_eq!(once(&relay).await.sent, 2);
    assert_eq!(sender.payloads()[2..], ["delayed", "behind"]);
}

/// A message that the sender rejects is a dead letter with its error, and its key goes on at once.
pub async fn a_rejected_message_is_a_dead_letter_and_its_key_goes_on(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let added = bench.add("a", 3).await;
    sender.script(|message| if &message.payload()[..] == b"a2" { Call::Reject } else { Call::Take });
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    let summary = once(&relay).await;
    assert_eq!((summary.sent, summary.dead), (2, 1));
    let dead = relay.store().dead_letters(&DeadFilter::all(), 10).await.expect("the store answers");
    let [letter] = &dead[..] else { panic!("{dead:?}") };
    assert_eq!(letter.message.as_ref(), Some(&added[1]));
    assert_eq!((letter.id, letter.reason, letter.attempts), (added[1].id(), DeadReason::Rejected, 1));
    assert_eq!(letter.error, "rejected");
    assert!(letter.first_failed_at.is_some_and(|first| first <= letter.died_at && first >= letter.added_at));
}

/// A message whose attempts are spent is a dead letter.
pub async fn a_message_whose_attempts_are_spent_is_a_dead_letter(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    bench.add("a", 2).await;
    sender.script(|message| if &message.payload()[..] == b"a1" { Call::Fail } else { Call::Take });
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    for _ in 0..3 {
        once(&relay).await;
        bench.pass(SECOND * 2).await;
    }
    let dead = relay.store().dead_letters(&DeadFilter::all(), 10).await.expect("the store answers");
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].reason, dead[0].attempts), (DeadReason::Exhausted, 3));
    assert!(dead[0].first_failed_at.is_some_and(|first| first < dead[0].died_at));
    assert_eq!(sender.payloads(), ["a2"]);
}

/// When the other side refuses everything, no attempt is spent, nothing is written, and nothing is sent for a while.
pub async fn a_refusal_spends_no_attempt_and_writes_nothing(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let added = bench.add("a", 2).await;
    sender.script(|_| Call::Refuse);
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    for _ in 0..5 {
        assert_eq!(once(&relay).await.pauses, 1);
        bench.pass(SECOND * 2).await;
    }
    assert_eq!(sender.batches().len(), 5);
    assert_eq!(relay.store().blocked(10).await.expect("the store answers"), [], "no row waits");
    sender.take_all();
    assert_eq!(once(&relay).await.sent, 2);
    assert!(sender.attempts().iter().all(|attempt| *attempt == 1), "{:?}", sender.attempts());
    sender.assert_complete_and_in_order(&added);
}

/// A message that the sender leaves untried spends no attempt, and comes again.
pub async fn what_is_left_untried_spends_no_attempt(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    for name in ["a", "b"] {
        bench.add(name, 1).await;
    }
    let mut leave = true;
    sender.script(move |message| match &message.payload()[..] {
        b"b1" if std::mem::take(&mut leave) => Call::Leave,
        _ => Call::Take,
    });
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    assert_eq!(once(&relay).await.sent, 2);
    assert!(sender.attempts().iter().all(|attempt| *attempt == 1));
}

/// A sender that panics over one message of a batch gets the others again without it, and the relay lives.
pub async fn a_sender_that_panics_over_one_message_loses_no_other(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let mut added = Vec::new();
    for number in 0..10 {
        added.extend(bench.add(&format!("k{number}-"), 1).await);
    }
    sender.script(|message| if &message.payload()[..] == b"k3-1" { Call::Panic } else { Call::Take });
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    let summary = once(&relay).await;
    assert_eq!((summary.sent, summary.retried), (9, 1));
    for _ in 0..3 {
        bench.pass(SECOND * 2).await;
        once(&relay).await;
    }
    let dead = relay.store().dead_letters(&DeadFilter::all(), 10).await.expect("the store answers");
    assert_eq!(dead.iter().map(|letter| letter.id).collect::<Vec<_>>(), [added[3].id()]);
    assert!(dead[0].error.contains("panicked"), "{}", dead[0].error);
}

/// A sender that gives too few verdicts is not believed: everything is sent again, nothing is lost.
pub async fn a_sender_with_too_few_verdicts_loses_nothing(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let mut added = bench.add("a", 2).await;
    added.extend(bench.add("b", 2).await);
    let mut wrong = 1;
    sender.script(move |_| {
        wrong -= 1;
        if wrong >= 0 { Call::Miscount } else { Call::Take }
    });
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    once(&relay).await;
    bench.pass(SECOND * 2).await;
    once(&relay).await;
    sender.assert_complete_and_in_order(&added);
    assert_eq!(relay.store().depth().await.expect("the store answers").pending, 0);
}

/// A sender that never answers is given up after its time; what it had is sent again, as a further attempt.
pub async fn a_sender_that_hangs_is_given_up_and_its_batch_sent_again(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let added = bench.add("a", 2).await;
    let mut hang = true;
    sender.script(move |_| if std::mem::take(&mut hang) { Call::Hang } else { Call::Take });
    let relay = bench.relay(&sender).send_timeout(SECOND).build().expect("the settings are valid");
    let summary = {
        let mut run = std::pin::pin!(relay.run_once());
        // Once the call has begun, its time passes.
        let called = async {
            while sender.batches().is_empty() {
                tokio::task::yield_now().await;
            }
            harness.clock().until_sleepers(1).await;
            loop {
                harness.clock().advance(SECOND);
                for _ in 0..1_000 {
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::select! {
            summary = &mut run => summary.expect("the leases are renewed"),
            () = called => unreachable!(),
        }
    };
    // Time went on while a slow store wrote that down, so the wait may be over already.
    assert_eq!(summary.retried, 1);
    bench.pass(SECOND * 2).await;
    once(&relay).await;
    sender.assert_complete_and_in_order(&added);
    assert_eq!(sender.attempts()[..2], [1, 2]);
}

/// What a relay had that was killed is sent by another as soon as its lease has run out, and no earlier.
pub async fn what_a_killed_relay_had_is_sent_after_its_lease(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let added = bench.add("a", 3).await;
    let dead = bench.lease_all().await;
    assert!(!dead.is_empty());
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    assert_eq!(once(&relay).await.sent, 0);
    bench.pass(LEASE.saturating_sub(SECOND)).await;
    assert_eq!(once(&relay).await.sent, 0);
    bench.pass(SECOND * 2).await;
    assert_eq!(once(&relay).await.sent, 3);
    sender.assert_complete_and_in_order(&added);
}

/// What a relay had that was stopped is sent by another at once.
pub async fn what_a_stopped_relay_had_is_sent_at_once(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let stopped = bench.relay(&sender).build().expect("the settings are valid");
    once(&stopped).await;
    assert_eq!(stopped.release().await, 0);
    let added = bench.add("a", 3).await;
    assert_eq!(once(&bench.relay(&sender).build().expect("the settings are valid")).await.sent, 3);
    sender.assert_complete_and_in_order(&added);
}

/// Whoever lost a lease writes nothing under it, and learns so.
pub async fn what_is_settled_under_a_stale_lease_settles_nothing(harness: &impl Harness) {
    let mut bench = Bench::new(harness);
    bench.add("a", 1).await;
    bench.add("b", 1).await;
    bench.add("c", 1).await;
    let store = harness.store();
    let old = bench.lease_all().await;
    let from: Vec<_> = old.iter().map(|lease| ReadFrom { shard: lease.shard, after: Seq(0) }).collect();
    let rows: Vec<RowId> = store
        .page(&from, &OpenTransactions::default(), 10)
        .await
        .expect("the store answers")
        .rows
        .iter()
        .map(|row| row.row)
        .collect();
    let [one, two, three] = rows[..] else { panic!("{rows:?}") };
    bench.pass(LEASE + SECOND).await;
    let new = bench.lease_all().await;
    assert_eq!(new.len(), old.len(), "all have run out");
    assert!(new.iter().zip(&old).all(|(new, old)| new.shard == old.shard && new.token > old.token));
    let settlement = |leases: &[relaykit_sql_store::Lease]| Settlement {
        leases: leases.to_vec(),
        done: vec![one],
        retry: vec![Waiting {
            row: two,
            attempts: 1,
            wait: SECOND,
            fresh: false,
            suspect: false,
            error: "e".to_owned(),
        }],
        dead: vec![Dying { row: three, attempts: 1, reason: DeadReason::Rejected, error: "e".to_owned() }],
    };
    let settled = store.settle(&settlement(&old)).await.expect("the store answers");
    assert_eq!(settled.written, 0);
    let mut stale = settled.stale;
    stale.sort_unstable();
    assert_eq!(stale, old.iter().map(|lease| lease.shard).collect::<Vec<_>>());
    let depth = store.depth().await.expect("the store answers");
    assert_eq!((depth.pending, depth.dead), (3, 0));
    assert_eq!(store.blocked(10).await.expect("the store answers"), []);
    let settled = store.settle(&settlement(&new)).await.expect("the store answers");
    assert_eq!((settled.written, settled.stale.len()), (3, 0));
    let depth = store.depth().await.expect("the store answers");
    assert_eq!((depth.pending, depth.dead), (1, 1));
}

/// A settlement whose answer was lost can be repeated: what is written stays written.
pub async fn a_settlement_can_be_repeated(harness: &impl Harness) {
    let mut bench = Bench::new(harness);
    bench.add("a", 1).await;
    bench.add("b", 1).await;
    let store = harness.store();
    let leases = bench.lease_all().await;
    let from: Vec<_> = leases.iter().map(|lease| ReadFrom { shard: lease.shard, after: Seq(0) }).collect();
    let rows = store.page(&from, &OpenTransactions::default(), 10).await.expect("the store answers").rows;
    let dead = Dying { row: rows[1].row, attempts: 1, reason: DeadReason::Exhausted, error: String::new() };
    let settlement = Settlement { leases, done: vec![rows[0].row], retry: Vec::new(), dead: vec![dead] };
    assert_eq!(store.settle(&settlement).await.expect("the store answers").written, 2);
    assert_eq!(store.settle(&settlement).await.expect("the store answers").written, 0);
    let depth = store.depth().await.expect("the store answers");
    assert_eq!((depth.pending, depth.dead), (0, 1));
}

/// A settlement tells which of the rows that leave waited, also those that somebody else made wait after they were read: what lay behind
/// those was hidden meanwhile.
pub async fn a_settlement_tells_what_waited(harness: &impl Harness) {
    let mut bench = Bench::new(harness);
    for name in ["a", "b", "c", "d"] {
        bench.add(name, 2).await;
    }
    let store = harness.store();
    let leases = bench.lease_all().await;
    let from: Vec<_> = leases.iter().map(|lease| ReadFrom { shard: lease.shard, after: Seq(0) }).collect();
    let rows = store.page(&from, &OpenTransactions::default(), 10).await.expect("the store answers").rows;
    let first = |name: &str| {
        let of_key = |row: &&Stored| row.message.ordering_key() == Some(&key(name));
        rows.iter().find(of_key).expect("it is on the page").row
    };
    store.park(&key("a")).await.expect("the store answers");
    store.resume(&key("b")).await.expect("the store answers");
    store.park(&key("d")).await.expect("the store answers");
    let dead = Dying { row: first("d"), attempts: 1, reason: DeadReason::Rejected, error: String::new() };
    let done = vec![first("a"), first("b"), first("c")];
    let settlement = Settlement { leases, done, retry: Vec::new(), dead: vec![dead] };
    let mut settled = store.settle(&settlement).await.expect("the store answers");
    let mut waited = vec![first("a"), first("b"), first("d")];
    settled.waited.sort_unstable();
    waited.sort_unstable();
    assert_eq!((settled.written, settled.waited), (4, waited));
    let again = store.settle(&settlement).await.expect("the store answers");
    assert_eq!((again.written, again.waited), (0, vec![]));
}

/// Relays share the shards about equally, and together send everything in order.
pub async fn relays_share_the_shards(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let relays: Vec<_> =
        (0..3).map(|_| bench.relay(&sender).build().expect("the settings are valid")).collect();
    // They learn of each other, give back what exceeds their share, and take what others gave back.
    for _ in 0..3 {
        for relay in &relays {
            once(relay).await;
        }
    }
    let mut added = Vec::new();
    for number in 0..40 {
        added.extend(bench.add(&format!("k{number}-"), 3).await);
    }
    let mut sent = Vec::new();
    for relay in &relays {
        sent.push(once(relay).await.sent);
    }
    assert_eq!(sent.iter().sum::<u64>(), 120);
    assert!(sent.iter().all(|sent| *sent > 0), "{sent:?}");
    sender.assert_complete_and_in_order(&added);
}

/// Dead letters are listed in their order, by id, kind, key and reason, page by page.
pub async fn dead_letters_are_listed_by_filter_and_page(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let added = bench.add("a", 3).await;
    let others = bench.add("b", 2).await;
    sender.script(|_| Call::Reject);
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    assert_eq!(once(&relay).await.dead, 5);
    let store = relay.store();
    let list = async |filter: DeadFilter, limit: u32| -> Vec<MessageId> {
        let letters = store.dead_letters(&filter, limit).await.expect("the store answers");
        letters.iter().map(|letter| letter.id).collect()
    };
    let ids: Vec<_> = added.iter().chain(&others).map(Message::id).collect();
    assert_eq!(list(DeadFilter::all(), 10).await, ids);
    assert_eq!(list(DeadFilter::all().key(key("b")), 10).await, ids[3..]);
    assert_eq!(list(DeadFilter::all().kind("case").reason(DeadReason::Rejected), 10).await, ids);
    assert!(list(DeadFilter::all().kind("other"), 10).await.is_empty());
    assert!(list(DeadFilter::all().reason(DeadReason::Exhausted), 10).await.is_empty());
    assert_eq!(list(DeadFilter::all().ids([ids[4], ids[0]]), 10).await, [ids[0], ids[4]]);
    for limit in [0, MAX_LISTED + 1] {
        assert!(store.dead_letters(&DeadFilter::all(), limit).await.is_err(), "{limit}");
    }
    let first = store.dead_letters(&DeadFilter::all(), 2).await.expect("the store answers");
    assert_eq!(list(DeadFilter::all().after(first[1].seq), 2).await, ids[2..4]);
}

/// A dead letter that is replayed goes before the later messages of its key, with all attempts before it.
pub async fn a_replayed_message_goes_before_its_successors(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let added = bench.add("a", 2).await;
    sender.script(|_| Call::Reject);
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    once(&relay).await;
    sender.take_all();
    // There are others by now, not yet sent.
    let late = bench.message(Some("a"), "a3");
    bench.add_all(&[late]).await;
    let one = DeadFilter::all().ids([added[0].id()]);
    assert_eq!(relay.store().replay(&one, 10).await.expect("the store answers"), [added[0].id()]);
    assert_eq!(relay.store().replay(&one, 10).await.expect("the store answers"), []);
    once(&relay).await;
    assert_eq!(sender.payloads(), ["a1", "a3"]);
    assert_eq!(sender.attempts().last(), Some(&1));
    assert_eq!(relay.store().replay(&DeadFilter::all(), 10).await.expect("the store answers").len(), 1);
    once(&relay).await;
    assert_eq!(sender.payloads(), ["a1", "a3", "a2"]);
}

/// Dead letters that are purged are gone, no more than asked for.
pub async fn purged_dead_letters_are_gone(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let added = bench.add("a", 4).await;
    sender.script(|_| Call::Reject);
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    once(&relay).await;
    let store = relay.store();
    assert_eq!(store.purge(&DeadFilter::all().kind("other"), 10).await.expect("the store answers"), 0);
    assert_eq!(store.purge(&DeadFilter::all(), 3).await.expect("the store answers"), 3);
    let left = store.dead_letters(&DeadFilter::all(), 10).await.expect("the store answers");
    assert_eq!(left.iter().map(|letter| letter.id).collect::<Vec<_>>(), [added[3].id()]);
}

/// The head of a key that is skipped is a dead letter, and the next one goes at once.
pub async fn a_skipped_message_lets_its_key_go_on(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let added = bench.add("a", 3).await;
    sender.script(|message| if &message.payload()[..] == b"a1" { Call::Fail } else { Call::Take });
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    once(&relay).await;
    let store = relay.store();
    assert_eq!(store.skip(&key("a")).await.expect("the store answers"), Some(added[0].id()));
    assert_eq!(store.skip(&key("nobody")).await.expect("the store answers"), None);
    once(&relay).await;
    assert_eq!(sender.payloads(), ["a2", "a3"]);
    let dead = store.dead_letters(&DeadFilter::all(), 10).await.expect("the store answers");
    assert_eq!((dead[0].id, dead[0].reason), (added[0].id(), DeadReason::Skipped));
}

/// A parked key waits, however long, until it is resumed; then it goes on in order.
pub async fn a_parked_key_waits_until_it_is_resumed(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let added = bench.add("a", 2).await;
    bench.add("b", 1).await;
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    let store = relay.store();
    assert_eq!(store.park(&key("a")).await.expect("the store answers"), Some(added[0].id()));
    assert_eq!(once(&relay).await.sent, 1);
    bench.pass(LEASE * 1_000).await;
    assert_eq!(once(&relay).await.sent, 0);
    assert_eq!(store.resume(&key("a")).await.expect("the store answers"), Some(added[0].id()));
    assert_eq!(once(&relay).await.sent, 2);
    assert_eq!(sender.payloads(), ["b1", "a1", "a2"]);
}

/// Blocked keys are listed with their head, its age, its error, and when it is due.
pub async fn blocked_keys_are_listed_with_head_and_age(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let failing = bench.add("a", 2).await;
    let parked = bench.add("b", 2).await;
    bench.add("c", 1).await;
    sender.script(|message| if message.payload()[0] == b'a' { Call::Fail } else { Call::Take });
    let relay = bench.relay(&sender).build().expect("the settings are valid");
    let store = relay.store();
    store.park(&key("b")).await.expect("the store answers");
    once(&relay).await;
    bench.pass(SECOND / 2).await;
    let blocked = store.blocked(10).await.expect("the store answers");
    let [one, two] = &blocked[..] else { panic!("{blocked:?}") };
    assert_eq!((one.key.clone(), one.head), (Some(key("a")), failing[0].id()));
    assert_eq!((one.attempts, one.error.as_deref()), (1, Some("failed")));
    assert!(one.age >= SECOND / 2 && one.due_in.is_some_and(|due| due <= SECOND / 2), "{one:?}");
    assert_eq!((two.key.clone(), two.head, two.due_in), (Some(key("b")), parked[0].id(), None));
    assert_eq!(store.blocked(1).await.expect("the store answers").len(), 1);
}

/// What waits is counted, with the age of the oldest.
pub async fn what_waits_is_counted(harness: &impl Harness) {
    let (mut bench, sender) = (Bench::new(harness), TestSender::new());
    let store = harness.store();
    let empty = store.depth().await.expect("the store answers");
    assert_eq!((empty.pending, empty.oldest, empty.dead), (0, None, 0));
    bench.add("a", 2).await;
    bench.pass(SECOND * 5).await;
    bench.add("b", 1).await;
    let depth = store.depth().await.expect("the store answers");
    assert_eq!(depth.pending, 3);
    assert!(depth.oldest.is_some_and(|oldest| oldest >= SECOND * 5), "{depth:?}");
    once(&bench.relay(&sender).build().expect("the settings are valid")).await;
    assert_eq!(store.depth().await.expect("the store answers").pending, 0);
}
