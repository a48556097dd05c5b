use std::sync::{Arc, Barrier};
use std::task::Poll;

use relaykit_inbox::sqlite::rusqlite::{Connection, TransactionBehavior};
use relaykit_inbox::sqlite::{SqliteInbox, migration_sql};
use relaykit_inbox::{IdConflict, InboxStore as _, Limits, ReceiveError, Received, Scope, Snapshot};
use relaykit_pipeline_traits::{Classify as _, Message};
use relaykit_sql_store::{Names, Shards, StoreError};

use crate::common::{Harness, connect, crm, github, limits, mail, names};

fn with_payload(message: &Message, payload: &str) -> Message {
    Message::builder(message.id(), message.kind(), message.occurred_at())
        .payload(payload.to_owned())
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_message_is_stored_once_and_every_handler_of_its_kind_gets_it() {
    let mut h = Harness::new().await;
    let (push, star) = (h.message("push", "a", "1"), h.message("star", "", "2"));
    for wanted in [Received::Stored, Received::AlreadyKnown] {
        let received = h.receive_all(&[push.clone(), star.clone()]).await;
        assert_eq!(received, [Ok(wanted), Ok(wanted)]);
    }
    assert_eq!(h.ready(&crm()).await, ["1", "2"]);
    assert_eq!(h.ready(&mail()).await, ["1"]);
    let page = h.page(&mail()).await;
    assert_eq!(page.rows[0].message, push);
    assert_eq!(page.snapshot, Snapshot::default());
    assert_eq!(h.number("select count(*) from inbox_messages"), 2);
    assert_eq!(h.number("select count(*) from inbox_messages where handlers = '[\"crm\",\"mail\"]'"), 1);
}

#[tokio::test]
async fn another_message_of_a_known_id_is_a_conflict_and_keeps_no_other_from_being_stored() {
    let mut h = Harness::new().await;
    let known = h.receive("push", "a", "1").await;
    let (one, two) = (h.message("push", "a", "2"), h.message("push", "a", "3"));
    let list = [
        one.clone(),
        with_payload(&known, "other"),
        with_payload(&known, "1"),
        with_payload(&one, "other"),
        one.clone(),
        two,
    ];
    let conflict = |id| Err(IdConflict { scope: github(), id });
    let wanted = [
        Ok(Received::Stored),
        conflict(known.id()),
        Ok(Received::AlreadyKnown),
        conflict(one.id()),
        Ok(Received::AlreadyKnown),
        Ok(Received::Stored),
    ];
    assert_eq!(h.receive_all(&list).await, wanted);
    assert_eq!(h.ready(&crm()).await, ["1", "2", "3"]);
    let error = h.inbox().receive(&h.application, &github(), &with_payload(&known, "x")).unwrap_err();
    assert!(matches!(&error, ReceiveError::IdConflict(conflict) if conflict.id == known.id()), "{error}");
    assert!(!error.is_transient());
    assert!(h.application.is_autocommit());
}

#[tokio::test]
async fn an_id_is_one_of_its_scope() {
    let mut h = Harness::new().await;
    let message = h.receive("push", "a", "1").await;
    let other = Scope::new("stripe").unwrap();
    let received = h.store.receive(&other, &[with_payload(&message, "2")], &h.routes).await.unwrap();
    assert_eq!(received, [Ok(Received::Stored)]);
    assert_eq!(h.ready(&mail()).await, ["1", "2"]);
}

#[tokio::test]
async fn a_message_without_a_handler_is_kept() {
    let mut h = Harness::new().await;
    let fork = h.receive("fork", "a", "1").await;
    assert_eq!((h.ready(&crm()).await.len(), h.ready(&mail()).await.len()), (0, 0));
    let unrouted = h.store.unrouted(relaykit_inbox::Seq(0), 10).await.unwrap();
    assert_eq!((unrouted[0].id, unrouted[0].kind.as_str()), (fork.id(), "fork"));
    assert_eq!(h.receive_all(&[fork]).await, [Ok(Received::AlreadyKnown)]);
}

#[tokio::test]
async fn what_is_rolled_back_was_never_received_and_what_is_committed_is_seen_at_once() {
    let mut h = Harness::new().await;
    let message = h.message("push", "a", "1");
    let (inbox, mut other) = (h.inbox(), connect(&h.path()));
    for commit in [false, true] {
        let transaction = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        transaction.execute("insert into effects (what) values ('mine')", []).unwrap();
        assert_eq!(inbox.receive(&transaction, &github(), &message).unwrap(), Received::Stored);
        assert_eq!(h.ready(&crm()).await, [""; 0], "it is not committed yet");
        if commit { transaction.commit() } else { transaction.rollback() }.unwrap();
        for handler in [crm(), mail()] {
            assert_eq!(h.ready(&handler).await.len(), usize::from(commit));
        }
        assert_eq!(h.number("select count(*) from effects"), i64::from(commit));
    }
    assert_eq!(h.page(&crm()).await.rows[0].message, message);
}

#[tokio::test]
async fn a_refused_list_writes_nothing_and_leaves_the_callers_transaction_to_the_caller() {
    let mut h = Harness::new().await;
    let (one, two) = (h.message("star", "a", "1"), h.message("push", "a", "2"));
    h.application
        .execute_batch(
            "create trigger refuse before insert on inbox_deliveries when new.handler = 'mail'
             begin select raise(abort, 'refused'); end",
        )
        .unwrap();
    for transaction in [false, true] {
        if transaction {
            h.application
                .execute_batch("begin immediate; insert into effects (what) values ('mine')")
                .unwrap();
        }
        let list = [one.clone(), two.clone()];
        let error = h.inbox().receive_all(&h.application, &github(), &list).unwrap_err();
        assert!(matches!(error, ReceiveError::Store(StoreError::Rejected { .. })), "{error}");
        assert_eq!(h.application.is_autocommit(), !transaction);
        if transaction {
            h.application.execute_batch("commit").unwrap();
        }
        assert!(h.store.receive(&github(), &list, &h.routes).await.is_err());
        assert_eq!(h.number("select count(*) from inbox_messages"), 0);
        assert_eq!(h.number("select count(*) from inbox_deliveries"), 0);
    }
    assert_eq!(h.number("select count(*) from effects"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_receive_the_same_ids_at_once_store_each_once() {
    const COUNT: usize = 60;
    let mut h = Harness::new().await;
    let messages: Vec<_> = (0..COUNT).map(|number| h.message("push", "a", &number.to_string())).collect();
    let start = Arc::new(Barrier::new(2));
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (path, inbox, start, messages) = (h.path(), h.inbox(), Arc::clone(&start), messages.clone());
            std::thread::spawn(move || {
                let connection = connect(&path);
                start.wait();
                let receive = |message| inbox.receive(&connection, &github(), message).unwrap();
                messages.iter().map(receive).filter(|one| *one == Received::Stored).count()
            })
        })
        .collect();
    let mut stored = 0;
    for chunk in messages.chunks(7) {
        // The file may be busy for longer than this store waits.
        let received = loop {
            match h.store.receive(&github(), chunk, &h.routes).await {
                Ok(received) => break received,
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        };
        stored += received.iter().filter(|one| **one == Ok(Received::Stored)).count();
    }
    stored += threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>();
    assert_eq!(stored, COUNT);
    for handler in [crm(), mail()] {
        let mut ready = h.ready(&handler).await;
        ready.sort_by_key(|payload| payload.parse::<usize>().unwrap());
        assert_eq!(ready, (0..COUNT).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_anything_is_written() {
    let mut h = Harness::new().await;
    let (small, large) = (h.message("push", "a", "123"), h.message("push", "a", "1234"));
    let store = h.store.clone().limits(limits(3));
    let list = [small.clone(), large];
    let by_store = store.receive(&github(), &list, &h.routes).await.unwrap_err();
    let inbox = store.inbox(h.routes.clone());
    let by_inbox = inbox.receive_all(&h.application, &github(), &list).unwrap_err();
    for error in [by_store, by_inbox] {
        assert!(matches!(error, ReceiveError::TooLarge(_)), "{error}");
        assert!(!error.is_transient());
    }
    assert_eq!(h.number("select count(*) from inbox_messages"), 0);
    assert_eq!(inbox.receive(&h.application, &github(), &small).unwrap(), Received::Stored);
}

#[tokio::test]
async fn tables_of_another_number_of_shards_or_none_at_all_are_reported_as_such() {
    let mut h = Harness::with_shards(4).await;
    let message = h.message("push", "a", "1");
    let other = SqliteInbox::new(&names(), Shards::new(8).unwrap(), h.routes.clone(), Limits::default());
    let by_inbox = other.receive(&h.application, &github(), &message).unwrap_err();
    let store = relaykit_inbox::sqlite::SqliteInboxStore::new(
        crate::common::database(&h.path(), &h.clock),
        &names(),
        Shards::new(8).unwrap(),
    );
    let by_store = store.receive(&github(), std::slice::from_ref(&message), &h.routes).await.unwrap_err();
    for error in [by_inbox, by_store] {
        let ReceiveError::Store(StoreError::Rejected { source, .. }) = error else { panic!("{error}") };
        assert_eq!(source.to_string(), "shards is 8, but must be 4, as many as the tables have");
    }
    assert_eq!(h.number("select count(*) from inbox_messages"), 0);
    let empty = Connection::open_in_memory().unwrap();
    let error = h.inbox().receive(&empty, &github(), &message).unwrap_err();
    assert!(matches!(error, ReceiveError::Store(StoreError::Schema { .. })), "{error}");
    assert!(!error.is_transient() && empty.is_autocommit());
    empty.execute_batch(&migration_sql(&Names::new("inbox").unwrap(), h.shards)).unwrap();
    assert_eq!(h.inbox().receive(&empty, &github(), &message).unwrap(), Received::Stored);
}

#[tokio::test]
async fn an_application_that_finds_the_file_busy_learns_that_it_may_try_again() {
    let mut h = Harness::new().await;
    let (message, other, inbox) = (h.message("push", "a", "1"), connect(&h.path()), h.inbox());
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    h.application.execute_batch("begin immediate").unwrap();
    let error = inbox.receive(&other, &github(), &message).unwrap_err();
    assert!(matches!(error, ReceiveError::Store(StoreError::Conflict { .. })), "{error}");
    assert!(error.is_transient() && other.is_autocommit(), "no transaction was left open");
    h.application.execute_batch("commit").unwrap();
    assert_eq!(inbox.receive(&other, &github(), &message).unwrap(), Received::Stored);
}

#[tokio::test]
async fn a_message_is_in_the_shard_of_its_key_or_else_of_its_ids_text() {
    let mut h = Harness::with_shards(16).await;
    for number in 0..100 {
        let key = if number % 3 == 0 { String::new() } else { format!("ключ {number}") };
        h.receive("push", &key, "x").await;
    }
    for stored in h.page(&mail()).await.rows {
        let id = stored.message.id().as_uuid().hyphenated().to_string();
        let key = stored.message.ordering_key().map_or(id, ToString::to_string);
        assert_eq!(stored.row.shard, h.shards.of(key.as_bytes()), "{key}");
    }
}

#[tokio::test]
async fn a_dropped_call_stores_all_or_nothing() {
    let mut h = Harness::new().await;
    for round in 1..=20 {
        let messages: Vec<_> = (0..5).map(|_| h.message("push", "a", "x")).collect();
        let before = h.number("select count(*) from inbox_messages");
        let (store, scope) = (h.store.clone(), github());
        let mut call = Box::pin(store.receive(&scope, &messages, &h.routes));
        std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_ready())).await;
        drop(call);
        // The next write comes after it.
        h.retry(-1, 0, std::time::Duration::ZERO).await;
        let stored = h.number("select count(*) from inbox_messages") - before;
        assert!(stored == 0 || stored == 5, "round {round}: {stored}");
        let deliveries = h.number("select count(*) from inbox_deliveries");
        assert_eq!(deliveries, 2 * h.number("select count(*) from inbox_messages"));
    }
}
