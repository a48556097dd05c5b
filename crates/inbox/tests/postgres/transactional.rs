use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use relaykit_inbox::postgres::{PgTransactional, TransactionalHandler};
use relaykit_inbox::{Committed, Delivery, HandlerError, InboxStore};
use relaykit_pipeline_traits::{
    BatchContext, BatchOutcome, Classify, ErrorClass, ManualClock, Message, Verdict,
};
use relaykit_sql_store::judge::Called;
use relaykit_sql_store::postgres::TestPostgres;
use relaykit_sql_store::{Names, Sql, StoreError};
use sqlx::{Connection, PgConnection};
use tokio::sync::Notify;

use crate::common::{Inbox, handler, take_all};

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("busy")
    }
}

impl Classify for Busy {
    fn class(&self) -> ErrorClass {
        ErrorClass::Transient
    }
}

/// What the handler does once it has written its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Retry,
    Dead,
    Isolate,
    Untried,
    Panic,
    Hang,
    /// Waits in a statement.
    HangInStatement,
    /// Passes over an error of the database.
    Swallow,
    /// Passes over one behind a savepoint.
    SwallowNested,
    /// Writes what a constraint forbids that is looked at in the end.
    Deferred,
    /// Leaves a savepoint open.
    LeaveOpen,
}

/// Writes an effect for each message.
struct Effects {
    names: Names,
    end: End,
    begun: Arc<Notify>,
}

impl TransactionalHandler for Effects {
    type Error = Busy;

    async fn handle(&self, tx: &mut PgConnection, message: &Message, _: &BatchContext) -> Verdict<(), Busy> {
        let sql = |text| Sql::new(&self.names, &[text]);
        let insert = sql("insert into {effects} (id, kind) values ($1, $2)");
        let id = message.id().to_string();
        sqlx::query(insert).bind(&id).bind(message.kind()).execute(&mut *tx).await.unwrap();
        let fails = sql("select 1 / 0");
        match self.end {
            End::Done => Verdict::Done(()),
            End::Retry => Verdict::Retry { after: Some(Duration::from_secs(7)), error: Busy },
            End::Dead => Verdict::Dead(Busy),
            End::Isolate => Verdict::Isolate(Busy),
            End::Untried => Verdict::Untried,
            End::Panic => panic!("on purpose"),
            End::Hang => {
                self.begun.notify_one();
                std::future::pending().await
            }
            End::HangInStatement => {
                self.begun.notify_one();
                let lock = sql("select pg_advisory_xact_lock(hashtext('{@schema}'))");
                sqlx::query(lock).execute(tx).await.unwrap();
                Verdict::Done(())
            }
            End::Swallow => {
                sqlx::query(fails).execute(tx).await.unwrap_err();
                Verdict::Done(())
            }
            End::SwallowNested => {
                let mut nested = tx.begin().await.unwrap();
                sqlx::query(fails).execute(&mut *nested).await.unwrap_err();
                nested.rollback().await.unwrap();
                Verdict::Done(())
            }
            End::Deferred => {
                let insert = sql("insert into {effects} (id, kind) values ($1, 'twice')");
                sqlx::query(insert).bind(&id).execute(tx).await.unwrap();
                Verdict::Done(())
            }
            End::LeaveOpen => {
                std::mem::forget(tx.begin().await.unwrap());
                Verdict::Done(())
            }
        }
    }
}

struct Case {
    i: Inbox,
    delivery: Delivery,
    begun: Arc<Notify>,
}

impl Case {
    async fn new() -> Option<Self> {
        let db = TestPostgres::new().await?;
        let pool = db.pool().max_connections(1).build().unwrap();
        Some(Self::on(Inbox::on(db, pool, false).await).await)
    }

    async fn on(i: Inbox) -> Self {
        i.db.execute(
            "create table {effects} (id text, kind text, constraint once unique (id) deferrable initially deferred)",
        )
        .await;
        let message = i.receive_of("a", 1).await.remove(0);
        let row = i.row("crm", &message).await;
        let lease = *i.leases.iter().find(|lease| lease.shard == row.shard).unwrap();
        let delivery = Delivery { row, lease, handler: handler("crm"), message };
        Self { i, delivery, begun: Arc::default() }
    }

    async fn handle(&self, end: End) -> Result<Committed, StoreError> {
        let handler: PgTransactional =
            Effects { names: self.i.db.names("t"), end, begun: Arc::clone(&self.begun) }.into();
        self.i.store.handle(&handler, &self.delivery, &BatchContext::new(1), LIMIT).await
    }

    /// Asserts how many effects there are, and how many deliveries are left.
    async fn assert(&self, effects: i64, deliveries: usize, what: End) {
        assert_eq!(self.i.number("select count(*) from {effects}").await, effects, "{what:?}");
        assert_eq!(self.i.ids("crm").await.len(), deliveries, "{what:?}");
    }
}

fn verdict(committed: Committed) -> Verdict<(), HandlerError> {
    match committed {
        Committed::Not(Called::Outcome(BatchOutcome::Each(mut verdicts))) if verdicts.len() == 1 => {
            verdicts.remove(0)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_effect_and_the_end_of_its_delivery_are_committed_together_and_once() {
    let Some(case) = Case::new().await else { return };
    assert!(matches!(case.handle(End::Done).await.unwrap(), Committed::Done));
    case.assert(1, 0, End::Done).await;
    // The answer was lost, and the worker tries again: nothing happens twice.
    assert!(matches!(case.handle(End::Done).await.unwrap(), Committed::Done));
    case.assert(1, 0, End::Done).await;
    assert_eq!(case.i.ids("mail").await.len(), 1, "the other handler has its own delivery");
    case.i.clean().await;
}

#[tokio::test]
async fn any_verdict_but_done_rolls_back_and_is_passed_on() {
    let Some(case) = Case::new().await else { return };
    let error = HandlerError::of(&Busy);
    for (end, expected) in [
        (End::Retry, Verdict::Retry { after: Some(Duration::from_secs(7)), error: error.clone() }),
        (End::Dead, Verdict::Dead(error.clone())),
        (End::Isolate, Verdict::Isolate(error)),
        (End::Untried, Verdict::Untried),
    ] {
        assert_eq!(verdict(case.handle(end).await.unwrap()), expected);
        case.assert(0, 1, end).await;
    }
    assert!(matches!(case.handle(End::Done).await.unwrap(), Committed::Done));
    case.i.clean().await;
}

#[tokio::test]
async fn a_panic_rolls_back_and_leaves_no_connection_in_its_transaction() {
    let Some(case) = Case::new().await else { return };
    let committed = case.handle(End::Panic).await.unwrap();
    assert!(
        matches!(&committed, Committed::Not(Called::Panicked(text)) if text == "on purpose"),
        "{committed:?}"
    );
    // The pool's only connection is good for what comes next, and that is committed.
    case.assert(0, 1, End::Panic).await;
    assert!(matches!(case.handle(End::Done).await.unwrap(), Committed::Done));
    case.assert(1, 0, End::Done).await;
    case.i.clean().await;
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_dropped_rolled_back_and_its_connection_closed() {
    let Some(db) = TestPostgres::new().await else { return };
    let clock = ManualClock::new();
    let pool = db.pool_on(clock.clone()).max_connections(1).build().unwrap();
    let case = Case::on(Inbox::on(db, pool, false).await).await;
    let mut conn = case.i.connection().await;
    let mut blocker = conn.begin().await.unwrap();
    let lock = Sql::new(&case.i.db.names("t"), &["select pg_advisory_xact_lock(hashtext('{@schema}'))"]);
    sqlx::query(lock).execute(&mut *blocker).await.unwrap();
    for end in [End::Hang, End::HangInStatement] {
        let late = async {
            case.begun.notified().await;
            // Others look after it is seen to wait.
            while end == End::HangInStatement && case.i.number(crate::common::WAITS).await == 0 {}
            clock.advance(LIMIT);
        };
        let (committed, ()) = tokio::join!(case.handle(end), late);
        let committed = committed.unwrap();
        assert!(matches!(committed, Committed::Not(Called::TimedOut(LIMIT))), "{committed:?}");
        case.assert(0, 1, end).await;
    }
    drop(blocker);
    conn.close().await.unwrap();
    assert!(matches!(case.handle(End::Done).await.unwrap(), Committed::Done));
    case.assert(1, 0, End::Done).await;
    case.i.clean().await;
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_any_more_commits_nothing() {
    let Some(case) = Case::new().await else { return };
    let mut conn = case.i.connection().await;
    let mut blocker = conn.begin().await.unwrap();
    let lock = Sql::new(&case.i.db.names("t"), &["select pg_advisory_xact_lock(hashtext('{@schema}'))"]);
    sqlx::query(lock).execute(&mut *blocker).await.unwrap();
    tokio::select! {
        biased;
        committed = case.handle(End::HangInStatement) => panic!("{committed:?}"),
        () = case.begun.notified() => {}
    }
    blocker.rollback().await.unwrap();
    // There is one connection: whoever reads waits until the call has ended.
    assert_eq!(case.i.ids("crm").await.len(), 1);
    case.assert(0, 1, End::HangInStatement).await;
    conn.close().await.unwrap();
    case.i.clean().await;
}

#[tokio::test]
async fn under_a_lost_lease_nothing_is_committed() {
    let Some(case) = Case::new().await else { return };
    case.i.db.execute("update {shards} set until = now() - interval '1 second'").await;
    let theirs = take_all(&case.i.store).await;
    assert!(matches!(case.handle(End::Done).await.unwrap(), Committed::Stale));
    case.assert(0, 1, End::Done).await;
    let lease = *theirs.iter().find(|lease| lease.shard == case.delivery.row.shard).unwrap();
    let case = Case { delivery: Delivery { lease, ..case.delivery }, ..case };
    assert!(matches!(case.handle(End::Done).await.unwrap(), Committed::Done));
    case.assert(1, 0, End::Done).await;
    // Stale it stays, also once the delivery is gone.
    let lease = relaykit_sql_store::Lease { token: lease.token - 1, ..lease };
    let case = Case { delivery: Delivery { lease, ..case.delivery }, ..case };
    assert!(matches!(case.handle(End::Done).await.unwrap(), Committed::Stale));
    case.assert(1, 0, End::Done).await;
    case.i.clean().await;
}

#[tokio::test]
async fn an_error_of_the_database_that_is_passed_over_is_a_failure() {
    let Some(case) = Case::new().await else { return };
    let failed = verdict(case.handle(End::Swallow).await.unwrap());
    assert!(
        matches!(&failed, Verdict::Retry { error, .. } if error.to_string().contains("aborted")),
        "{failed:?}"
    );
    case.assert(0, 1, End::Swallow).await;
    // Behind a savepoint it is the handler's own matter.
    assert!(matches!(case.handle(End::SwallowNested).await.unwrap(), Committed::Done));
    case.assert(1, 0, End::SwallowNested).await;
    case.i.clean().await;
}

#[tokio::test]
async fn what_cannot_commit_is_a_failure_of_the_handler() {
    let Some(case) = Case::new().await else { return };
    let failed = verdict(case.handle(End::Deferred).await.unwrap());
    assert!(
        matches!(&failed, Verdict::Retry { error, .. } if error.to_string().contains("commit")),
        "{failed:?}"
    );
    case.assert(0, 1, End::Deferred).await;
    case.i.clean().await;
}

#[tokio::test]
async fn a_nested_transaction_that_is_left_open_never_counts_as_done() {
    let Some(case) = Case::new().await else { return };
    let error = case.handle(End::LeaveOpen).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    case.assert(0, 1, End::LeaveOpen).await;
    assert!(matches!(case.handle(End::Done).await.unwrap(), Committed::Done));
    case.assert(1, 0, End::Done).await;
    case.i.clean().await;
}
