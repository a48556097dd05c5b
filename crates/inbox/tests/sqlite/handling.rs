use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use relaykit_inbox::sqlite::rusqlite::{Connection, params};
use relaykit_inbox::sqlite::{SqliteError, SqliteTransactional};
use relaykit_inbox::{Committed, Delivery, HandlerError, InboxStore as _};
use relaykit_pipeline_traits::{BatchContext, BatchOutcome, Classify as _, ErrorClass, Message, Verdict};
use relaykit_sql_store::StoreError;
use relaykit_sql_store::judge::Called;

use crate::common::{Harness, SECOND, crm, mail};

const LIMIT: Duration = Duration::from_secs(10);

const EFFECTS: &str = "select count(*) from effects";
const OPEN: &str = "select count(*) from inbox_deliveries";

fn write(tx: &Connection, message: &Message) -> Verdict<(), SqliteError> {
    let what = std::str::from_utf8(message.payload()).unwrap();
    match tx.execute("insert into effects (what) values (?1)", params![what]) {
        Ok(_) => Verdict::Done(()),
        Err(error) => Verdict::Retry { after: None, error: SqliteError::of(error) },
    }
}

/// A handler that writes its effect and then says what it is told to.
fn saying(verdict: impl Fn() -> Verdict<(), HandlerError> + Send + Sync + 'static) -> SqliteTransactional {
    let handler = move |tx: &Connection, message: &Message, _: &BatchContext| {
        assert!(write(tx, message).is_done());
        verdict()
    };
    handler.into()
}

fn done() -> SqliteTransactional {
    saying(|| Verdict::Done(()))
}

type Say = fn() -> Verdict<(), HandlerError>;

fn error() -> HandlerError {
    HandlerError::new("not now", ErrorClass::Transient)
}

async fn handle(
    h: &Harness,
    handler: &SqliteTransactional,
    delivery: &Delivery,
) -> Result<Committed, StoreError> {
    h.store.handle(handler, delivery, &BatchContext::new(1), LIMIT).await
}

/// What a handler said that was alone.
fn said(committed: Committed) -> Verdict<(), HandlerError> {
    let Committed::Not(Called::Outcome(BatchOutcome::Each(mut verdicts))) = committed else {
        panic!("{committed:?}")
    };
    assert_eq!(verdicts.len(), 1);
    verdicts.remove(0)
}

async fn one() -> (Harness, Delivery) {
    let mut h = Harness::new().await;
    h.receive("star", "a", "1").await;
    let delivery = h.delivery(&crm()).await;
    (h, delivery)
}

#[tokio::test]
async fn what_the_handler_wrote_and_the_end_of_the_message_are_committed_together() {
    let mut h = Harness::new().await;
    h.receive("push", "a", "1").await;
    let delivery = h.delivery(&crm()).await;
    let seen = Arc::new(AtomicU32::new(0));
    let handler = {
        let seen = Arc::clone(&seen);
        move |tx: &Connection, message: &Message, cx: &BatchContext| {
            seen.fetch_add(cx.attempt(), Ordering::SeqCst);
            write(tx, message)
        }
    };
    let context = BatchContext::new(3);
    let committed = h.store.handle(&handler.into(), &delivery, &context, LIMIT).await.unwrap();
    assert!(matches!(committed, Committed::Done), "{committed:?}");
    assert_eq!(seen.load(Ordering::SeqCst), 3, "it is told the attempt");
    assert_eq!((h.number(EFFECTS), h.ready(&crm()).await.len()), (1, 0));
    assert_eq!(h.ready(&mail()).await, ["1"], "the other handler's share is its own");
}

#[tokio::test]
async fn a_message_that_has_ended_is_not_handled_again() {
    let (h, delivery) = one().await;
    for _ in 0..2 {
        // The second time as after an answer that was lost.
        let committed = handle(&h, &done(), &delivery).await.unwrap();
        assert!(matches!(committed, Committed::Done), "{committed:?}");
        assert_eq!((h.number(EFFECTS), h.number(OPEN)), (1, 0));
    }
}

#[tokio::test]
async fn whatever_is_not_done_leaves_nothing() {
    let (h, delivery) = one().await;
    let verdicts: [Say; 4] = [
        || Verdict::Retry { after: Some(SECOND), error: error() },
        || Verdict::Dead(error()),
        || Verdict::Isolate(error()),
        || Verdict::Untried,
    ];
    for verdict in verdicts {
        let committed = handle(&h, &saying(verdict), &delivery).await.unwrap();
        assert_eq!(said(committed), verdict());
        assert_eq!((h.number(EFFECTS), h.number(OPEN)), (0, 1));
    }
    assert!(matches!(handle(&h, &done(), &delivery).await.unwrap(), Committed::Done));
    assert_eq!((h.number(EFFECTS), h.number(OPEN)), (1, 0));
}

#[tokio::test]
async fn a_panic_leaves_nothing_and_the_next_one_is_handled() {
    let (h, delivery) = one().await;
    let committed = handle(&h, &saying(|| panic!("out of luck")), &delivery).await.unwrap();
    assert!(
        matches!(&committed, Committed::Not(Called::Panicked(text)) if text == "out of luck"),
        "{committed:?}"
    );
    assert_eq!((h.number(EFFECTS), h.number(OPEN)), (0, 1));
    assert!(matches!(handle(&h, &done(), &delivery).await.unwrap(), Committed::Done));
    assert_eq!((h.number(EFFECTS), h.number(OPEN)), (1, 0));
}

#[tokio::test]
async fn under_a_lost_lease_nothing_is_handled() {
    let (mut h, delivery) = one().await;
    let fresh = h.lose_leases().await;
    let committed = handle(&h, &saying(|| unreachable!("it is another's")), &delivery).await.unwrap();
    assert!(matches!(committed, Committed::Stale), "{committed:?}");
    assert_eq!((h.number(EFFECTS), h.number(OPEN)), (0, 1));
    let mine = Delivery { lease: fresh[0], ..delivery };
    assert!(matches!(handle(&h, &done(), &mine).await.unwrap(), Committed::Done));
}

#[tokio::test]
async fn a_handler_that_took_too_long_is_not_committed() {
    let (h, delivery) = one().await;
    let clock = h.clock.clone();
    let slow = saying(move || {
        clock.advance(LIMIT);
        Verdict::Done(())
    });
    let committed = handle(&h, &slow, &delivery).await.unwrap();
    assert!(matches!(committed, Committed::Not(Called::TimedOut(LIMIT))), "{committed:?}");
    assert_eq!((h.number(EFFECTS), h.number(OPEN)), (0, 1));
    assert!(matches!(handle(&h, &done(), &delivery).await.unwrap(), Committed::Done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_takes_too_long_is_interrupted() {
    let for_ever = [
        // What only reads leaves the transaction open when it is interrupted, and what writes ends it.
        "with recursive n(n) as (select 1 union all select n + 1 from n) select count(*) from n",
        "with recursive n(n) as (select 1 union all select n + 1 from n)
         insert into effects (id) select 1 from n where n < 0",
    ];
    for sql in for_ever {
        let (h, delivery) = one().await;
        let (tell, told) = mpsc::channel();
        let hang = move |tx: &Connection, message: &Message, _: &BatchContext| {
            assert!(write(tx, message).is_done());
            let mut statement = tx.prepare(sql).unwrap();
            tell.send(()).unwrap();
            let ran = statement.raw_execute_or_query();
            // Whatever it says now: it took too long.
            assert!(ran.is_err());
            Verdict::<(), SqliteError>::Done(())
        };
        let (store, clock) = (h.store.clone(), h.clock.clone());
        let late = delivery.clone();
        let call =
            tokio::spawn(
                async move { store.handle(&hang.into(), &late, &BatchContext::new(1), LIMIT).await },
            );
        tokio::task::spawn_blocking(move || told.recv().unwrap()).await.unwrap();
        while !call.is_finished() {
            clock.advance(LIMIT);
            tokio::task::yield_now().await;
        }
        // The statement may not have begun when it was interrupted first; and past the call's own limit nobody waits for it.
        match call.await.unwrap() {
            Ok(Committed::Not(Called::TimedOut(LIMIT))) | Err(StoreError::Timeout { .. }) => {}
            other => panic!("{other:?}"),
        }
        // In any case the next one gets its turn.
        until_free(&h).await;
        assert!(matches!(handle(&h, &done(), &delivery).await.unwrap(), Committed::Done));
        assert_eq!((h.number(EFFECTS), h.number(OPEN)), (1, 0));
    }
}

/// Waits, while time passes, until the file can be written.
async fn until_free(h: &Harness) {
    loop {
        let (store, settlement) = (h.store.clone(), h.settlement());
        let write = tokio::spawn(async move { store.settle(&settlement).await });
        while !write.is_finished() {
            h.clock.advance(SECOND / 10);
            tokio::task::yield_now().await;
        }
        if write.await.unwrap().is_ok() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_for_which_nobody_waits_any_more_is_interrupted() {
    let (h, delivery) = one().await;
    let (tell, told) = mpsc::channel();
    let hang = move |tx: &Connection, message: &Message, _: &BatchContext| {
        assert!(write(tx, message).is_done());
        tell.send(()).unwrap();
        let for_ever =
            "with recursive n(n) as (select 1 union all select n + 1 from n) select count(*) from n";
        tx.query_row(for_ever, [], |_| Ok(())).unwrap_err();
        Verdict::<(), SqliteError>::Done(())
    };
    let (store, late) = (h.store.clone(), delivery.clone());
    let call =
        tokio::spawn(async move { store.handle(&hang.into(), &late, &BatchContext::new(1), LIMIT).await });
    tokio::task::spawn_blocking(move || told.recv().unwrap()).await.unwrap();
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    until_free(&h).await;
    // It went on for less than it may, and says that it is done.
    let ended = h.number(EFFECTS) + h.number(OPEN);
    assert_eq!(ended, 1);
    assert!(matches!(handle(&h, &done(), &delivery).await.unwrap(), Committed::Done));
    assert_eq!((h.number(EFFECTS), h.number(OPEN)), (1, 0));
}

trait ExecuteOrQuery {
    fn raw_execute_or_query(&mut self) -> relaykit_inbox::sqlite::rusqlite::Result<()>;
}

impl ExecuteOrQuery for relaykit_inbox::sqlite::rusqlite::Statement<'_> {
    fn raw_execute_or_query(&mut self) -> relaykit_inbox::sqlite::rusqlite::Result<()> {
        let mut rows = self.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    }
}

#[tokio::test]
async fn an_error_that_ended_the_transaction_is_a_failure_though_the_handler_says_nothing_of_it() {
    let (h, delivery) = one().await;
    h.application.execute_batch("create table unique_effects (id integer unique on conflict rollback); insert into unique_effects values (1)").unwrap();
    for swallow in [true, false] {
        let handler = move |tx: &Connection, message: &Message, _: &BatchContext| {
            assert!(write(tx, message).is_done());
            let ended = tx.execute("insert into unique_effects values (1)", []).unwrap_err();
            assert!(tx.is_autocommit());
            // What is written now is in no transaction. It is not kept apart, but it does not pass for handled either.
            if swallow { Verdict::Done(()) } else { Verdict::Dead(SqliteError::of(ended)) }
        };
        match said(handle(&h, &handler.into(), &delivery).await.unwrap()) {
            Verdict::Retry { error, .. } if swallow => {
                assert_eq!(
                    error.to_string(),
                    "an error ended the transaction, though the handler said that it is done"
                );
                assert!(error.is_transient());
            }
            Verdict::Dead(_) if !swallow => {}
            other => panic!("{other:?}"),
        }
        assert_eq!((h.number(EFFECTS), h.number(OPEN)), (0, 1));
    }
    assert!(matches!(handle(&h, &done(), &delivery).await.unwrap(), Committed::Done));
}

#[tokio::test]
async fn what_the_commit_refuses_is_the_handlers_failure() {
    let (h, delivery) = one().await;
    h.application
        .execute_batch(
            "create table child (parent integer references effects (id) deferrable initially deferred)",
        )
        .unwrap();
    let orphan = |tx: &Connection, _: &Message, _: &BatchContext| {
        tx.execute("insert into child values (99)", []).unwrap();
        Verdict::<(), SqliteError>::Done(())
    };
    let Verdict::Retry { error, .. } = said(handle(&h, &orphan.into(), &delivery).await.unwrap()) else {
        panic!("it was not committed")
    };
    assert!(error.to_string().contains("FOREIGN KEY"), "{error}");
    assert_eq!((h.number("select count(*) from child"), h.number(OPEN)), (0, 1));
}

#[tokio::test]
async fn a_handler_may_have_savepoints_of_its_own() {
    let (h, delivery) = one().await;
    let careful = |tx: &Connection, message: &Message, _: &BatchContext| {
        tx.execute_batch("savepoint mine; insert into effects (what) values ('no'); rollback to mine; release mine; savepoint left").unwrap();
        write(tx, message)
    };
    assert!(matches!(handle(&h, &careful.into(), &delivery).await.unwrap(), Committed::Done));
    assert_eq!((h.number(EFFECTS), h.number(OPEN)), (1, 0));
}

#[tokio::test]
async fn handlers_that_wait_together_succeed_and_fail_each_for_itself() {
    const COUNT: usize = 40;
    let mut h = Harness::new().await;
    let messages: Vec<_> = (0..COUNT).map(|number| h.message("push", "", &number.to_string())).collect();
    h.receive_all(&messages).await;
    let rows = h.page(&mail()).await.rows;
    let handler = |tx: &Connection, message: &Message, _: &BatchContext| {
        let number: u32 = std::str::from_utf8(message.payload()).unwrap().parse().unwrap();
        let verdict = write(tx, message);
        assert!(!number.is_multiple_of(5), "bad luck");
        if number.is_multiple_of(7) { Verdict::Untried } else { verdict }
    };
    let handler: SqliteTransactional = handler.into();
    let deliveries: Vec<_> = rows
        .into_iter()
        .map(|stored| Delivery {
            row: stored.row,
            lease: h.leases[0],
            handler: mail().handler,
            message: stored.message,
        })
        .collect();
    let calls = deliveries.iter().map(|delivery| handle(&h, &handler, delivery));
    let committed = futures_util::future::join_all(calls).await;
    let mut done = 0;
    for (number, committed) in committed.into_iter().enumerate() {
        match committed.unwrap() {
            Committed::Not(Called::Panicked(_)) if number % 5 == 0 => {}
            Committed::Not(Called::Outcome(_)) if number % 7 == 0 => {}
            Committed::Done if number % 5 != 0 && number % 7 != 0 => done += 1,
            other => panic!("{number}: {other:?}"),
        }
    }
    assert_eq!(h.number(EFFECTS), done);
    assert_eq!(h.ready(&mail()).await.len(), COUNT - usize::try_from(done).unwrap());
}

#[tokio::test]
async fn a_dropped_call_is_committed_as_a_whole_or_not_at_all() {
    let mut h = Harness::new().await;
    for round in 1..=20 {
        h.receive("star", "", "x").await;
        let delivery = h.delivery(&crm()).await;
        let (handler, context, store) = (done(), BatchContext::new(1), h.store.clone());
        let mut call = Box::pin(store.handle(&handler, &delivery, &context, LIMIT));
        std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_ready())).await;
        drop(call);
        // The next write comes after it.
        h.retry(-1, 0, Duration::ZERO).await;
        assert_eq!(h.number(EFFECTS) + h.number(OPEN), round);
    }
}

#[tokio::test]
async fn a_file_that_somebody_writes_is_busy_for_a_while() {
    let (h, delivery) = one().await;
    h.application.execute_batch("begin immediate").unwrap();
    let error = handle(&h, &done(), &delivery).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }) && !error.is_in_doubt(), "{error}");
    h.application.execute_batch("commit").unwrap();
    assert_eq!((h.number(EFFECTS), h.number(OPEN)), (0, 1));
    assert!(matches!(handle(&h, &done(), &delivery).await.unwrap(), Committed::Done));
}
