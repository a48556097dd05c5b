use std::collections::HashSet;
use std::time::Duration;

use relaykit_pipeline_traits::{BatchContext, Message, MessageId};
use relaykit_sql_store::{
    DEFAULT_MAX_PAYLOAD_BYTES, DeadFilter, DeadReason, Dying, MAX_LISTED, Seq, Settlement, Waiting,
};

use super::harness::{Bench, Harness, KIND, LEASE, handler, handlers, key, once, plain, scope, writer};
use super::test_handler::{Call, Script, TestHandler};
use crate::handler::Registration;
use crate::inbox::Inbox;
use crate::name::Scope;
use crate::received::{ReceiveError, Received};
use crate::retention::Retention;
use crate::routes::{Route, Routes};
use crate::store::{Committed, Delivery, InboxStore};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A message is stored once, whoever brings it and however often, before it is handled and after.
pub async fn a_message_is_stored_once_however_often_it_comes(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let handlers = handlers([plain("h", &test)]);
    let inbox = Inbox::new(harness.store(), handlers.routes().clone());
    let one = bench.message(Some("k"), "1");
    let receive = async || inbox.receive(&scope(), &one).await.expect("it is no conflict");
    assert_eq!(receive().await, Received::Stored);
    assert_eq!(receive().await, Received::AlreadyKnown);
    let two = bench.message(None, "2");
    let both = inbox.receive_all(&scope(), &[two.clone(), one.clone(), two]).await.expect("it is stored");
    assert_eq!(both, [Ok(Received::Stored), Ok(Received::AlreadyKnown), Ok(Received::AlreadyKnown)]);
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    assert_eq!(once(&worker).await.handled(), 2);
    assert_eq!(receive().await, Received::AlreadyKnown, "its id is remembered");
    assert_eq!(once(&worker).await.handled(), 0);
    assert_eq!(test.done().len(), 2);
}

/// A message of a known id with another kind or payload is a typed conflict; it is left out, and others of its call are stored.
/// What else comes with a repetition may differ.
pub async fn another_message_under_a_known_id_is_a_conflict_and_keeps_no_other_out(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let handlers = handlers([plain("h", &test)]);
    let inbox = Inbox::new(harness.store(), handlers.routes().clone());
    let one = bench.message(Some("k"), "1");
    let at = one.occurred_at();
    let other = |kind: &str, payload: &str, header: &str| {
        let builder = Message::builder(one.id(), kind, at).ordering_key("k").payload(payload.to_owned());
        builder.header("content-type", header).build().expect("its parts are valid")
    };
    bench.receive_all(handlers.routes(), std::slice::from_ref(&one)).await;
    for (number, other) in
        [other(KIND, "2", "text/plain"), other("other", "1", "text/plain")].iter().enumerate()
    {
        let beside = bench.message(Some("k"), &format!("beside{number}"));
        let answers = inbox.receive_all(&scope(), &[other.clone(), beside]).await.expect("the store answers");
        let [Err(conflict), Ok(Received::Stored)] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((conflict.id, conflict.scope.clone()), (one.id(), scope()));
        let refused = inbox.receive(&scope(), other).await;
        assert!(matches!(refused, Err(ReceiveError::IdConflict(_))), "{refused:?}");
    }
    let again = inbox.receive(&scope(), &other(KIND, "1", "text/html")).await.expect("it is a repetition");
    assert_eq!(again, Received::AlreadyKnown);
    once(&bench.worker(handlers).build().expect("the settings are valid")).await;
    let mut payloads = test.payloads();
    payloads.sort_unstable();
    assert_eq!(payloads, ["1", "beside0", "beside1"]);
}

/// Ids are unique within a scope: no sender can mask another's message.
pub async fn an_id_of_another_scope_is_another_message(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let handlers = handlers([plain("h", &test)]);
    let inbox = Inbox::new(harness.store(), handlers.routes().clone());
    let one = bench.message(None, "1");
    let other =
        Message::builder(one.id(), KIND, one.occurred_at()).payload("2").build().expect("it is valid");
    let elsewhere = Scope::new("elsewhere").expect("it is a scope");
    for received in [Received::Stored, Received::AlreadyKnown] {
        assert_eq!(inbox.receive(&scope(), &one).await.expect("it is no conflict"), received);
        assert_eq!(inbox.receive(&elsewhere, &other).await.expect("it is no conflict"), received);
    }
    once(&bench.worker(handlers).build().expect("the settings are valid")).await;
    assert_eq!(test.done().len(), 2);
}

/// A message received in a transaction that is rolled back is not there: the next time it comes it is new.
pub async fn a_message_of_an_aborted_transaction_is_not_there(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let handlers = handlers([plain("h", &test)]);
    let one = bench.message(Some("k"), "1");
    harness.receive_and_abort(&scope(), std::slice::from_ref(&one), handlers.routes()).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    assert_eq!(once(&worker).await.handled(), 0);
    let mut routes = Routes::new();
    routes.add(KIND, Route { handler: handler("h"), ordered: false }).expect("it is a route");
    bench.receive_all(&routes, &[one]).await;
    assert_eq!(once(&worker).await.handled(), 1);
}

/// A message beyond the limits is refused by an error that names field, size and bound; nothing of its call is written.
pub async fn a_message_beyond_the_limits_is_refused_before_anything_is_written(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let handlers = handlers([plain::<crate::memory::MemoryInbox>("h", &test)]);
    let inbox = Inbox::new(harness.store(), handlers.routes().clone());
    let fits = bench.message(None, &"x".repeat(DEFAULT_MAX_PAYLOAD_BYTES));
    let too_large = bench.message(None, &"x".repeat(DEFAULT_MAX_PAYLOAD_BYTES + 1));
    let refused = inbox.receive_all(&scope(), &[fits.clone(), too_large]).await;
    let Err(ReceiveError::TooLarge(error)) = refused else { panic!("{refused:?}") };
    assert_eq!((error.field, error.bytes, error.max), ("payload", 262_145, 262_144));
    let depth = harness.store().depth(&handler("h")).await.expect("the store answers");
    assert_eq!(depth.pending, 0);
    assert_eq!(inbox.receive(&scope(), &fits).await.expect("it fits"), Received::Stored);
}

/// What the check of signatures refuses is not stored, nor anything that came with it.
pub async fn a_message_that_is_refused_is_not_stored(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let handlers = handlers([plain::<crate::memory::MemoryInbox>("h", &test)]);
    let inbox = Inbox::new(harness.store(), handlers.routes().clone()).verify(|message: &Message| {
        if message.payload().starts_with(b"good") { Ok(()) } else { Err("the signature is wrong".to_owned()) }
    });
    let (good, bad) = (bench.message(None, "good"), bench.message(None, "bad"));
    let refused = inbox.receive_all(&scope(), &[good.clone(), bad]).await;
    assert!(
        matches!(&refused, Err(ReceiveError::Refused { reason }) if reason == "the signature is wrong"),
        "{refused:?}"
    );
    assert_eq!(inbox.receive(&scope(), &good).await.expect("it is good"), Received::Stored);
}

/// Each handler of a kind gets each message of that kind, as it came.
pub async fn each_handler_of_a_kind_gets_each_message_with_all_its_parts(harness: &impl Harness) {
    let mut bench = Bench::new(harness);
    let (one, two, other) = (TestHandler::new(), TestHandler::new(), TestHandler::new());
    let list = [
        plain("one", &one),
        plain("two", &two).ordered(),
        Registration::new(handler("other"), other.clone()).on("other"),
    ];
    let handlers = handlers(list);
    let messages =
        [bench.message(Some("k\u{e9}y \u{1f511}"), "payload"), bench.message_of("other", None, "")];
    bench.receive_all(handlers.routes(), &messages).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    assert_eq!(once(&worker).await.handled(), 3);
    assert_eq!(one.done(), messages[..1]);
    assert_eq!(two.done(), messages[..1]);
    assert_eq!(other.done(), messages[1..]);
    assert_eq!(one.calls(), [(messages[0].id(), 1)]);
}

/// A handler that fails, with a message or with all, holds up no other handler.
pub async fn a_handler_that_fails_holds_up_no_other(harness: &impl Harness) {
    let (mut bench, bad, good) = (Bench::new(harness), TestHandler::new(), TestHandler::new());
    bad.script.set(|_| Call::Fail);
    let handlers = handlers([plain("bad", &bad).ordered(), plain("good", &good).ordered()]);
    let stored = bench.receive(handlers.routes(), "k", 5).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    let summary = once(&worker).await;
    assert_eq!((summary.handled(), summary.retried()), (5, 1));
    good.assert_complete_and_in_order(&stored);
    assert_eq!(bad.calls().len(), 1);
}

/// A failed message is handled again when its wait is over, and not before.
pub async fn a_failed_message_is_handled_again_when_its_wait_is_over(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    test.script.set(|_| Call::Fail);
    let handlers = handlers([plain("h", &test)]);
    let stored = bench.receive(handlers.routes(), "k", 1).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    assert_eq!(once(&worker).await.retried(), 1);
    test.script.set(|_| Call::Done);
    assert_eq!(once(&worker).await.handled(), 0);
    bench.pass(SECOND * 2).await;
    assert_eq!(once(&worker).await.handled(), 1);
    assert_eq!(test.calls(), [(stored[0].id(), 1), (stored[0].id(), 2)]);
}

/// Attempts are counted across workers.
pub async fn attempts_are_remembered_by_the_store(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    test.script.set(|_| Call::Fail);
    let routes = handlers([plain::<crate::memory::MemoryInbox>("h", &test)]).routes().clone();
    bench.receive(&routes, "k", 1).await;
    for _ in 0..2 {
        let worker = bench.worker(handlers([plain("h", &test)])).build().expect("the settings are valid");
        assert_eq!(once(&worker).await.retried(), 1);
        assert_eq!(worker.release().await, 0);
        bench.pass(SECOND * 2).await;
    }
    let worker = bench.worker(handlers([plain("h", &test)])).build().expect("the settings are valid");
    assert_eq!(once(&worker).await.dead(), 1);
    assert_eq!(test.calls().iter().map(|(_, attempt)| *attempt).collect::<Vec<_>>(), [1, 2, 3]);
}

/// Since when a message fails is remembered from one failure to the next, and forgotten when its attempts begin anew.
pub async fn since_when_a_message_fails_is_remembered(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let routes = handlers([plain::<crate::memory::MemoryInbox>("h", &test)]).routes().clone();
    bench.receive(&routes, "a", 1).await;
    let (leases, own) = (bench.lease_all().await, handler("h"));
    let row = bench.page(&own, &leases).await[0].row;
    let fail = async |attempts, fresh| {
        let waiting = Waiting {
            row,
            attempts,
            wait: Duration::ZERO,
            fresh,
            suspect: false,
            error: "failed".to_owned(),
        };
        let settlement = Settlement { leases: leases.clone(), retry: vec![waiting], ..Settlement::default() };
        assert_eq!(harness.store().settle(&settlement).await.expect("the store answers").written, 1);
    };
    for attempts in 1..=3 {
        fail(attempts, false).await;
        bench.pass(SECOND * 4).await;
    }
    let failing = bench.page(&own, &leases).await[0].failing_for.expect("it failed");
    assert!(failing >= SECOND * 12, "{failing:?}");
    fail(0, true).await;
    bench.pass(SECOND).await;
    let failing = bench.page(&own, &leases).await[0].failing_for.expect("it failed");
    assert!((SECOND..SECOND * 12).contains(&failing), "{failing:?}");
}

/// An ordered handler gets the messages of one key in the order in which they were stored, however many there are.
pub async fn an_ordered_handler_gets_the_messages_of_a_key_in_order(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let handlers = handlers([plain("h", &test).ordered().concurrency(50)]);
    let mut stored = Vec::new();
    for number in 0..400 {
        let name = if number % 3 == 0 { format!("k{}", number % 7) } else { "hot".to_owned() };
        stored.push(bench.message(Some(&name), &number.to_string()));
    }
    for part in stored.chunks(97) {
        bench.receive_all(handlers.routes(), part).await;
    }
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    assert_eq!(once(&worker).await.handled(), 400);
    test.assert_complete_and_in_order(&stored);
}

/// While a failed message waits, later ones of its key wait for the same ordered handler, and for no other.
pub async fn a_failed_message_holds_its_key_for_its_ordered_handler_alone(harness: &impl Harness) {
    let (mut bench, held, free) = (Bench::new(harness), TestHandler::new(), TestHandler::new());
    held.script.set(|message| if message.payload() == "a1" { Call::Fail } else { Call::Done });
    let handlers = handlers([plain("held", &held).ordered(), plain("free", &free).ordered()]);
    let routes = handlers.routes().clone();
    let mut stored = bench.receive(&routes, "a", 3).await;
    stored.extend(bench.receive(&routes, "b", 2).await);
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    once(&worker).await;
    let mut done = held.payloads();
    done.sort_unstable();
    assert_eq!(done, ["b1", "b2"]);
    assert_eq!(free.done().len(), 5);
    held.script.set(|_| Call::Done);
    bench.pass(SECOND * 2).await;
    once(&worker).await;
    held.assert_complete_and_in_order(&stored);
}

/// A message that waits holds those behind it of its key for whoever works next, too; but for no other handler, be it ordered or not.
pub async fn a_failed_message_holds_its_key_for_the_next_worker_too(harness: &impl Harness) {
    let (mut bench, test, other) = (Bench::new(harness), TestHandler::new(), TestHandler::new());
    let free = TestHandler::new();
    let all =
        || handlers([plain("h", &test).ordered(), plain("other", &other).ordered(), plain("free", &free)]);
    let routes = all().routes().clone();
    let [first, second, third] = ["a1", "a2", "a3"].map(|payload| bench.message(Some("a"), payload));
    bench.receive_all(&routes, &[first]).await;
    for handler in [&test, &free] {
        handler.script.set(|_| Call::Fail);
    }
    let worker = bench.worker(handlers([plain("h", &test).ordered(), plain("free", &free)])).build();
    let worker = worker.expect("the settings are valid");
    once(&worker).await;
    assert_eq!(worker.release().await, 0);
    // One by one, since a store may have another way for many.
    bench.receive_all(&routes, &[second]).await;
    bench.receive_all(&routes, &[third]).await;
    for handler in [&test, &free] {
        handler.script.set(|_| Call::Done);
    }
    let next = bench.worker(all()).build().expect("the settings are valid");
    once(&next).await;
    let done = |handler: &TestHandler| {
        let mut done = handler.payloads();
        done.sort_unstable();
        done
    };
    assert_eq!((done(&test), done(&other)), (vec![], vec!["a1".to_owned(), "a2".into(), "a3".into()]));
    assert_eq!(done(&free), ["a2", "a3"]);
    bench.pass(SECOND).await;
    once(&next).await;
    assert_eq!((test.payloads(), done(&free)), (done(&other), done(&other)));
}

/// A handler without order goes on with the later messages of a key.
pub async fn an_unordered_handler_is_not_held(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    test.script.set(|message| if message.payload() == "a1" { Call::Fail } else { Call::Done });
    let handlers = handlers([plain("h", &test)]);
    bench.receive(handlers.routes(), "a", 3).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    let summary = once(&worker).await;
    assert_eq!((summary.handled(), summary.retried()), (2, 1));
}

/// A message that one handler rejects is a dead letter of that handler, with its error; others get it all the same.
pub async fn a_rejected_message_is_a_dead_letter_of_its_handler_alone(harness: &impl Harness) {
    let (mut bench, bad, good) = (Bench::new(harness), TestHandler::new(), TestHandler::new());
    bad.script.set(|message| if message.payload() == "a1" { Call::Reject } else { Call::Done });
    let handlers = handlers([plain("bad", &bad).ordered(), plain("good", &good)]);
    let stored = bench.receive(handlers.routes(), "a", 2).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    let summary = once(&worker).await;
    assert_eq!((summary.handled(), summary.dead()), (3, 1));
    assert_eq!(bad.payloads(), ["a2"], "its key goes on");
    let dead = harness.store().dead_letters(None, &DeadFilter::all(), 10).await.expect("the store answers");
    let [letter] = &dead[..] else { panic!("{dead:?}") };
    assert_eq!((letter.handler.as_str(), letter.reason), ("bad", DeadReason::Rejected));
    assert_eq!((letter.attempts, letter.error.as_str()), (1, "rejected"));
    assert_eq!((letter.message.as_ref(), &letter.scope), (Some(&stored[0]), &scope()));
}

/// A message that failed as often as the policy allows is a dead letter of its handler.
pub async fn a_message_whose_attempts_are_spent_is_a_dead_letter(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    test.script.set(|_| Call::Fail);
    let handlers = handlers([plain("h", &test)]);
    bench.receive(handlers.routes(), "a", 1).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    for _ in 0..3 {
        once(&worker).await;
        bench.pass(SECOND * 2).await;
    }
    let dead = harness.store().dead_letters(None, &DeadFilter::all(), 10).await.expect("the store answers");
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].reason, dead[0].attempts), (DeadReason::Exhausted, 3));
    assert!(dead[0].first_failed_at.is_some_and(|first| first < dead[0].died_at));
}

/// A handler that panics over a message spends an attempt of that message alone.
pub async fn a_handler_that_panics_loses_nothing(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let mut panics = 1;
    test.script.set(move |message| {
        if message.payload() == "a1" && panics > 0 {
            panics -= 1;
            return Call::Panic;
        }
        Call::Done
    });
    let handlers = handlers([plain("h", &test)]);
    let stored = bench.receive(handlers.routes(), "a", 3).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    let summary = once(&worker).await;
    assert_eq!((summary.handled(), summary.retried()), (2, 1));
    bench.pass(SECOND * 2).await;
    assert_eq!(once(&worker).await.handled(), 1);
    assert_eq!(test.calls().iter().filter(|(id, _)| *id == stored[0].id()).count(), 2);
    assert_eq!(test.done().len(), 3);
}

/// A handler that never ends with a message is given up after its time; those beside it are done.
pub async fn a_handler_that_hangs_is_given_up_and_its_neighbours_are_done(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    test.script.set(|message| if message.payload() == "a1" { Call::Hang } else { Call::Done });
    let handlers = handlers([plain("h", &test).timeout(SECOND)]);
    let stored = bench.receive(handlers.routes(), "a", 3).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    let summary = {
        let mut run = std::pin::pin!(worker.run_once());
        // Once the call has begun, its time passes, but not that of the wait after it.
        let time = async {
            while test.calls().iter().all(|(id, _)| *id != stored[0].id()) {
                tokio::task::yield_now().await;
            }
            harness.clock().until_sleepers(1).await;
            harness.clock().advance(SECOND * 3 / 2);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            summary = &mut run => summary.expect("the leases are renewed"),
            () = time => unreachable!(),
        }
    };
    assert_eq!((summary.handled(), summary.retried(), summary.dead()), (2, 1, 0), "{summary:?}");
    assert_eq!(test.done().len(), 2);
}

/// A message that its handler leaves untried waits, and spends no attempt.
pub async fn what_is_left_untried_spends_no_attempt(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    test.script.set(|_| Call::Leave);
    let handlers = handlers([plain("h", &test)]);
    bench.receive(handlers.routes(), "a", 1).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    for _ in 0..5 {
        assert_eq!(once(&worker).await.dead(), 0);
        bench.pass(Duration::from_secs(120)).await;
    }
    test.script.set(|_| Call::Done);
    assert_eq!(once(&worker).await.handled(), 1);
    assert!(test.calls().iter().all(|(_, attempt)| *attempt == 1), "{:?}", test.calls());
}

/// What a worker had that was killed is handled by another as soon as its lease has run out, and no earlier.
pub async fn what_a_killed_worker_had_is_handled_after_its_lease(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let handlers = handlers([plain("h", &test)]);
    bench.receive(handlers.routes(), "a", 3).await;
    assert!(!bench.lease_all().await.is_empty());
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    assert_eq!(once(&worker).await.handled(), 0);
    bench.pass(LEASE.saturating_sub(SECOND)).await;
    assert_eq!(once(&worker).await.handled(), 0);
    bench.pass(SECOND * 2).await;
    let mut handled = 0;
    for _ in 0..4 {
        handled += once(&worker).await.handled();
    }
    assert_eq!(handled, 3);
}

/// What a worker had that was stopped is handled by another at once, with no attempt spent.
pub async fn what_a_stopped_worker_had_is_handled_at_once(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let stopped = bench.worker(handlers([plain("h", &test)])).build().expect("the settings are valid");
    once(&stopped).await;
    assert_eq!(stopped.release().await, 0);
    let handlers = handlers([plain("h", &test)]);
    bench.receive(handlers.routes(), "a", 3).await;
    assert_eq!(once(&bench.worker(handlers).build().expect("the settings are valid")).await.handled(), 3);
    assert!(test.calls().iter().all(|(_, attempt)| *attempt == 1));
}

/// Whoever lost a lease writes nothing under it, and learns so.
pub async fn what_is_settled_under_a_stale_lease_settles_nothing(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let handlers = handlers([plain::<crate::memory::MemoryInbox>("h", &test)]);
    let routes = handlers.routes().clone();
    for name in ["a", "b", "c"] {
        bench.receive(&routes, name, 1).await;
    }
    let (store, own) = (harness.store(), handler("h"));
    let old = bench.lease_all().await;
    let rows: Vec<_> = bench.page(&own, &old).await.iter().map(|stored| stored.row).collect();
    let [one, two, three] = rows[..] else { panic!("{rows:?}") };
    bench.pass(LEASE + SECOND).await;
    let new = bench.lease_all().await;
    assert_eq!(new.len(), old.len(), "all have run out");
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
    assert_eq!((settled.written, settled.stale.len()), (0, old.len()));
    let depth = store.depth(&own).await.expect("the store answers");
    assert_eq!((depth.pending, depth.dead), (3, 0));
    let settled = store.settle(&settlement(&new)).await.expect("the store answers");
    assert_eq!((settled.written, settled.stale.len()), (3, 0));
    let again = store.settle(&settlement(&new)).await.expect("the store answers");
    assert_eq!(again.stale, []);
    let depth = store.depth(&own).await.expect("the store answers");
    assert_eq!((depth.pending, depth.dead), (1, 1));
}

/// What a transactional handler writes is committed with the end of the message, once for each message and handler.
pub async fn a_transactional_handler_takes_effect_once(harness: &impl Harness) {
    let (mut bench, plainly) = (Bench::new(harness), TestHandler::new());
    let handlers =
        handlers([writer(harness, "w", &Script::done()).ordered(), plain("p", &plainly).ordered()]);
    let routes = handlers.routes().clone();
    let stored = bench.receive(&routes, "a", 5).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    assert_eq!(once(&worker).await.handled(), 10);
    assert_eq!(once(&worker).await.handled(), 0);
    assert_eq!(harness.effects().await, ["a1", "a2", "a3", "a4", "a5"]);
    plainly.assert_complete_and_in_order(&stored);
    assert_eq!(harness.store().depth(&handler("w")).await.expect("the store answers").pending, 0);
}

/// Whatever a transactional handler wrote before it failed, rejected, left or panicked is rolled back.
pub async fn what_a_transactional_handler_wrote_is_gone_unless_it_is_done(harness: &impl Harness) {
    let mut bench = Bench::new(harness);
    let script = Script::new(|message| match &message.payload()[..] {
        b"a1" => Call::Fail,
        b"a2" => Call::Reject,
        b"a3" => Call::Panic,
        // The last: what is left alone is taken for a refusal, after which nothing is begun for a while.
        b"a5" => Call::Leave,
        _ => Call::Done,
    });
    // All are lent at once: whoever leaves one untried gets no others in this pass.
    let handlers = handlers([writer(harness, "w", &script).concurrency(8)]);
    bench.receive(handlers.routes(), "a", 5).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    let summary = once(&worker).await;
    assert_eq!((summary.handled(), summary.dead()), (1, 1));
    assert_eq!(harness.effects().await, ["a4"]);
    script.set(|_| Call::Done);
    for _ in 0..3 {
        bench.pass(Duration::from_secs(120)).await;
        once(&worker).await;
    }
    assert_eq!(harness.effects().await, ["a1", "a3", "a4", "a5"]);
}

/// What a transactional handler wrote under a lease that is another's by then is rolled back.
pub async fn what_a_transactional_handler_wrote_under_a_stale_lease_is_gone(harness: &impl Harness) {
    let (mut bench, own) = (Bench::new(harness), handler("w"));
    let routes = handlers([writer(harness, "w", &Script::done())]).routes().clone();
    bench.receive(&routes, "a", 1).await;
    let old = bench.lease_all().await;
    let stored = bench.page(&own, &old).await.remove(0);
    bench.pass(LEASE + SECOND).await;
    let new = bench.lease_all().await;
    let (store, writes) = (harness.store(), harness.writer(Script::done()));
    let delivery = |leases: &[relaykit_sql_store::Lease]| Delivery {
        row: stored.row,
        lease: *leases.iter().find(|lease| lease.shard == stored.row.shard).expect("it is leased"),
        handler: own.clone(),
        message: stored.message.clone(),
    };
    let context = BatchContext::new(1);
    let handle = async |leases: &[relaykit_sql_store::Lease]| {
        store.handle(&writes, &delivery(leases), &context, SECOND * 10).await.expect("the store answers")
    };
    assert!(matches!(handle(&old).await, Committed::Stale));
    assert_eq!(harness.effects().await, Vec::<String>::new());
    assert_eq!(store.depth(&own).await.expect("the store answers").pending, 1);
    assert!(matches!(handle(&new).await, Committed::Done));
    assert_eq!(harness.effects().await, ["a1"]);
    assert_eq!(store.depth(&own).await.expect("the store answers").pending, 0);
}

/// A transactional handler that is called again for a message that is done, since the answer was lost, takes no second effect.
pub async fn a_transactional_handler_that_is_called_again_takes_effect_once(harness: &impl Harness) {
    let (mut bench, own) = (Bench::new(harness), handler("w"));
    let routes = handlers([writer(harness, "w", &Script::done())]).routes().clone();
    bench.receive(&routes, "a", 1).await;
    let leases = bench.lease_all().await;
    let stored = bench.page(&own, &leases).await.remove(0);
    let lease = *leases.iter().find(|lease| lease.shard == stored.row.shard).expect("it is leased");
    let delivery = Delivery { row: stored.row, lease, handler: own, message: stored.message };
    let (store, writes) = (harness.store(), harness.writer(Script::done()));
    for _ in 0..2 {
        let end = store.handle(&writes, &delivery, &BatchContext::new(1), SECOND * 10).await;
        assert!(matches!(end, Ok(Committed::Done)), "{end:?}");
    }
    assert_eq!(harness.effects().await, ["a1"]);
}

/// A message for which there is no handler is stored, counted as unrouted and listed, and a repetition of it is known.
pub async fn a_message_without_a_handler_is_kept_and_listed(harness: &impl Harness) {
    let mut bench = Bench::new(harness);
    let inbox = Inbox::new(harness.store(), Routes::new());
    let (one, two) = (bench.message(None, "1"), bench.message_of("other", None, "2"));
    assert_eq!(inbox.receive(&scope(), &one).await.expect("it is stored"), Received::Stored);
    assert_eq!(inbox.receive(&scope(), &two).await.expect("it is stored"), Received::Stored);
    assert_eq!(inbox.receive(&scope(), &one).await.expect("it is known"), Received::AlreadyKnown);
    let list = async |after, limit| harness.store().unrouted(after, limit).await.expect("the store answers");
    let all = list(Seq(0), 10).await;
    assert_eq!(
        all.iter().map(|unrouted| (unrouted.id, unrouted.kind.as_str())).collect::<Vec<_>>(),
        [(one.id(), KIND), (two.id(), "other")]
    );
    assert_eq!(list(Seq(0), 1).await.len(), 1);
    assert_eq!(list(all[0].seq, 10).await[0].id, two.id());
    assert!(harness.store().unrouted(Seq(0), MAX_LISTED + 1).await.is_err());
}

/// A message that had no handler when it came is handled once a worker has one for its kind.
pub async fn an_unrouted_message_is_handled_once_a_handler_is_there(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let messages =
        [bench.message(Some("k"), "1"), bench.message_of("other", None, "2"), bench.message(Some("k"), "3")];
    bench.receive_all(&Routes::new(), &messages).await;
    let worker =
        bench.worker(handlers([plain("h", &test).ordered()])).build().expect("the settings are valid");
    let summary = once(&worker).await;
    assert_eq!((summary.routed, summary.handled()), (2, 2));
    assert_eq!(test.payloads(), ["1", "3"]);
    let summary = once(&worker).await;
    assert_eq!((summary.routed, summary.handled()), (0, 0));
    assert_eq!(harness.store().unrouted(Seq(0), 10).await.expect("the store answers").len(), 1);
}

/// A handler that is new gets, when it is asked to, what was stored before it was there: each message once, and nobody else gets any again.
pub async fn a_new_handler_catches_up_with_what_is_stored(harness: &impl Harness) {
    let (mut bench, old, new) = (Bench::new(harness), TestHandler::new(), TestHandler::new());
    let before = handlers([plain("old", &old)]);
    let stored = bench.receive(before.routes(), "a", 3).await;
    once(&bench.worker(before).build().expect("the settings are valid")).await;
    bench.pass(LEASE * 2).await;
    let both = handlers([plain("old", &old), plain("new", &new).ordered()]);
    let routes = both.routes().clone();
    let worker = bench.worker(both).build().expect("the settings are valid");
    let later = bench.receive(&routes, "b", 1).await;
    assert_eq!(worker.catch_up(&handler("new")).await.expect("the store answers"), 3);
    assert_eq!(worker.catch_up(&handler("new")).await.expect("the store answers"), 0);
    for _ in 0..3 {
        once(&worker).await;
    }
    assert_eq!(old.done().len(), 4);
    let ids: HashSet<MessageId> = new.done().iter().map(Message::id).collect();
    assert_eq!(ids, stored.iter().chain(&later).map(Message::id).collect());
    assert_eq!(new.done().len(), 4);
    assert_eq!(worker.catch_up(&handler("new")).await.expect("the store answers"), 0, "nor what it handled");
}

/// A handler that catches up gets more than one call to the store leads to it, and of all its kinds.
pub async fn a_new_handler_catches_up_with_more_than_a_page(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let before = handlers([plain::<crate::memory::MemoryInbox>("old", &test).on("other")]).routes().clone();
    let page = MAX_LISTED as usize;
    let messages: Vec<_> = (0..page * 2 + 5)
        .map(|number| {
            bench.message_of(if number < page + 3 { KIND } else { "other" }, None, &number.to_string())
        })
        .collect();
    bench.receive_all(&before, &messages).await;
    let new = handlers([plain("new", &test).on("other")]);
    let worker = bench.worker(new).build().expect("the settings are valid");
    let caught_up = worker.catch_up(&handler("new")).await.expect("the store answers");
    assert_eq!(caught_up, messages.len() as u64);
    let depth = harness.store().depth(&handler("new")).await.expect("the store answers");
    assert_eq!(depth.pending, messages.len() as u64);
}

/// Dead letters are listed in their order, by handler, id, kind, key and reason, page by page.
pub async fn dead_letters_are_listed_by_handler_filter_and_page(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    test.script.set(|_| Call::Reject);
    let list = [plain("one", &test), plain("two", &test).on("other")];
    let handlers = handlers(list);
    let messages = [bench.message(Some("a"), "1"), bench.message_of("other", Some("b"), "2")];
    bench.receive_all(handlers.routes(), &messages).await;
    once(&bench.worker(handlers).build().expect("the settings are valid")).await;
    let (one, two) = (handler("one"), handler("two"));
    let count = async |handler, filter: DeadFilter| {
        harness.store().dead_letters(handler, &filter, 10).await.expect("the store answers").len()
    };
    assert_eq!(count(None, DeadFilter::all()).await, 3);
    assert_eq!(count(Some(&one), DeadFilter::all()).await, 1);
    assert_eq!(count(Some(&two), DeadFilter::all()).await, 2);
    assert_eq!(count(None, DeadFilter::all().kind("other")).await, 1);
    assert_eq!(count(None, DeadFilter::all().key(key("a"))).await, 2);
    assert_eq!(count(None, DeadFilter::all().ids([messages[0].id()])).await, 2);
    assert_eq!(count(None, DeadFilter::all().reason(DeadReason::Exhausted)).await, 0);
    let first = harness.store().dead_letters(None, &DeadFilter::all(), 1).await.expect("the store answers");
    assert_eq!(count(None, DeadFilter::all().after(first[0].seq)).await, 2);
    assert!(harness.store().dead_letters(None, &DeadFilter::all(), 0).await.is_err());
}

/// A replayed dead letter goes to the handler whose it is, as if it had never failed, before its key's later messages.
pub async fn a_replayed_message_goes_to_its_handler_alone_and_before_its_successors(harness: &impl Harness) {
    let (mut bench, bad, good) = (Bench::new(harness), TestHandler::new(), TestHandler::new());
    bad.script.set(|message| if message.payload() == "a1" { Call::Reject } else { Call::Fail });
    let handlers = handlers([plain("bad", &bad).ordered(), plain("good", &good)]);
    let stored = bench.receive(handlers.routes(), "a", 3).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    once(&worker).await;
    let back = harness.store().replay(Some(&handler("good")), &DeadFilter::all(), 10).await;
    assert_eq!(back.expect("the store answers"), []);
    let back = harness.store().replay(Some(&handler("bad")), &DeadFilter::all(), 10).await;
    assert_eq!(back.expect("the store answers"), [stored[0].id()]);
    bad.script.set(|_| Call::Done);
    for _ in 0..3 {
        bench.pass(SECOND * 2).await;
        once(&worker).await;
    }
    bad.assert_complete_and_in_order(&stored);
    assert_eq!(bad.payloads(), ["a1", "a2", "a3"]);
    assert_eq!(good.done().len(), 3);
    let attempts: Vec<u32> =
        bad.calls().iter().filter(|(id, _)| *id == stored[0].id()).map(|(_, attempt)| *attempt).collect();
    assert_eq!(attempts, [1, 1]);
}

/// What is purged is gone, and nothing else.
pub async fn purged_dead_letters_are_gone(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    test.script.set(|_| Call::Reject);
    let handlers = handlers([plain("one", &test), plain("two", &test)]);
    bench.receive(handlers.routes(), "a", 3).await;
    once(&bench.worker(handlers).build().expect("the settings are valid")).await;
    let store = harness.store();
    let purged = store.purge(Some(&handler("one")), &DeadFilter::all(), 2).await.expect("the store answers");
    assert_eq!(purged, 2);
    assert_eq!(store.depth(&handler("one")).await.expect("the store answers").dead, 1);
    assert_eq!(store.depth(&handler("two")).await.expect("the store answers").dead, 3);
}

/// The payload of a finished message is erased after its time, and its id is remembered longer: until then a repetition is known, and
/// another message a conflict.
pub async fn payloads_are_erased_after_their_time_and_ids_are_remembered_longer(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let handlers = handlers([plain("h", &test)]);
    let routes = handlers.routes().clone();
    let stored = bench.receive(&routes, "a", 3).await;
    once(&bench.worker(handlers).build().expect("the settings are valid")).await;
    let retention = Retention::default().payloads(Some(HOUR)).ids(Some(HOUR * 3));
    let store = harness.store();
    let erase = async || store.erase(&retention, 10).await.expect("the store answers");
    assert_eq!(erase().await.most(), 0);
    bench.pass(HOUR + SECOND).await;
    let one = store.erase(&retention, 1).await.expect("the store answers");
    assert_eq!((one.payloads, one.ids), (1, 0), "as many as are asked for");
    assert_eq!(erase().await.payloads, 2);
    assert_eq!(erase().await.most(), 0);
    let inbox = Inbox::new(harness.store(), routes);
    let again = inbox.receive(&scope(), &stored[0]).await.expect("it is a repetition");
    assert_eq!(again, Received::AlreadyKnown);
    let other = Message::builder(stored[1].id(), KIND, stored[1].occurred_at()).payload("other").build();
    let conflict = inbox.receive(&scope(), &other.expect("it is valid")).await;
    assert!(matches!(conflict, Err(ReceiveError::IdConflict(_))), "{conflict:?}");
    bench.pass(HOUR * 2).await;
    assert_eq!(erase().await.ids, 3);
    assert_eq!(inbox.receive(&scope(), &stored[0]).await.expect("it is new"), Received::Stored);
    assert_eq!(store.erase(&Retention::off(), 10).await.expect("the store answers").most(), 0);
}

/// However old: what waits for a handler, is a dead letter, or has no handler is not erased.
pub async fn nothing_unfinished_is_ever_erased(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    test.script.set(|message| match &message.payload()[..] {
        b"a1" => Call::Fail,
        b"a2" => Call::Reject,
        _ => Call::Done,
    });
    let handlers = handlers([plain("h", &test)]);
    let routes = handlers.routes().clone();
    let stored = bench.receive(&routes, "a", 3).await;
    let unrouted = bench.message_of("other", None, "unrouted");
    bench.receive_all(&routes, &[unrouted]).await;
    let worker = bench.worker(handlers).build().expect("the settings are valid");
    once(&worker).await;
    let fresh = bench.receive(&routes, "b", 1).await;
    bench.pass(HOUR * 24 * 365).await;
    let retention = Retention::default();
    let store = harness.store();
    let first = store.erase(&retention, 10).await.expect("the store answers");
    assert_eq!((first.payloads, first.dead, first.ids), (1, 0, 0), "the one that is done");
    let second = store.erase(&retention, 10).await.expect("the store answers");
    assert_eq!((second.payloads, second.dead, second.ids), (0, 0, 1));
    test.script.set(|_| Call::Done);
    assert_eq!(
        store.replay(None, &DeadFilter::all(), 10).await.expect("the store answers"),
        [stored[1].id()]
    );
    let mut handled = 0;
    for _ in 0..3 {
        handled += once(&worker).await.handled();
    }
    assert_eq!(handled, 3);
    let payloads: HashSet<String> = test.payloads().into_iter().collect();
    assert!(payloads.contains("a1") && payloads.contains("a2"), "{payloads:?}");
    assert!(test.done().iter().any(|message| message.id() == fresh[0].id()));
    assert_eq!(store.unrouted(Seq(0), 10).await.expect("the store answers").len(), 1);
    // A dead letter that has had its time makes its message finished.
    test.script.set(|_| Call::Reject);
    bench.receive(&routes, "c", 1).await;
    once(&worker).await;
    bench.pass(HOUR * 24 * 365).await;
    let dead = retention.dead(Some(HOUR));
    assert_eq!(store.erase(&dead, 10).await.expect("the store answers").dead, 1);
}

/// What waits and what is dead is counted for each handler.
pub async fn what_waits_is_counted(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    test.script.set(|message| match &message.payload()[..] {
        b"a1" => Call::Reject,
        b"a2" => Call::Fail,
        _ => Call::Done,
    });
    let handlers = handlers([plain("h", &test)]);
    let routes = handlers.routes().clone();
    let (store, own) = (harness.store(), handler("h"));
    assert_eq!(store.depth(&own).await.expect("the store answers"), relaykit_sql_store::Depth::default());
    bench.receive(&routes, "a", 3).await;
    bench.pass(SECOND * 5).await;
    bench.receive(&routes, "b", 1).await;
    let depth = store.depth(&own).await.expect("the store answers");
    assert_eq!((depth.pending, depth.dead), (4, 0));
    assert!(depth.oldest.is_some_and(|age| age >= SECOND * 5), "{depth:?}");
    once(&bench.worker(handlers).build().expect("the settings are valid")).await;
    let depth = store.depth(&own).await.expect("the store answers");
    assert_eq!((depth.pending, depth.dead), (1, 1));
    assert_eq!(store.depth(&handler("nobody")).await.expect("the store answers").pending, 0);
}

/// Workers share the shards about equally, and together handle everything in order.
pub async fn workers_share_the_shards(harness: &impl Harness) {
    let (mut bench, test) = (Bench::new(harness), TestHandler::new());
    let mut workers = Vec::new();
    for _ in 0..3 {
        let handlers = handlers([plain("h", &test).ordered()]);
        workers.push(bench.worker(handlers).build().expect("the settings are valid"));
    }
    // They learn of each other, give back what exceeds their share, and take what others gave back.
    for _ in 0..3 {
        for worker in &workers {
            once(worker).await;
        }
    }
    let routes = handlers([plain::<crate::memory::MemoryInbox>("h", &test).ordered()]).routes().clone();
    let mut stored = Vec::new();
    for number in 0..40 {
        stored.extend(bench.receive(&routes, &format!("k{number}-"), 3).await);
    }
    let mut handled = Vec::new();
    for worker in &workers {
        handled.push(once(worker).await.handled());
    }
    assert_eq!(handled.iter().sum::<u64>(), 120);
    assert!(handled.iter().all(|handled| *handled > 0), "{handled:?}");
    test.assert_complete_and_in_order(&stored);
}
