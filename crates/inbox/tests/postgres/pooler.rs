//! The same through `PgBouncer` in transaction mode, where a session is another's after each transaction.

use std::convert::Infallible;
use std::time::Duration;

use relaykit_inbox::postgres::{PgTransactional, TransactionalHandler};
use relaykit_inbox::{
    Committed, DeadFilter, DeadReason, Delivery, InboxStore, Received, Retention, Routes, Seq,
};
use relaykit_pipeline_traits::{BatchContext, Message, Verdict};
use relaykit_sql_store::postgres::TestPostgres;
use sqlx::{Connection, PgConnection};

use crate::common::{HOUR, Inbox, handler, ids, keyed, message, other, route, scope};
use crate::harness::TEST_PGBOUNCER;

struct Nothing;

impl TransactionalHandler for Nothing {
    type Error = Infallible;

    async fn handle(&self, _: &mut PgConnection, _: &Message, _: &BatchContext) -> Verdict<(), Infallible> {
        Verdict::Done(())
    }
}

#[tokio::test]
async fn all_of_it_works_through_a_pooler() {
    let Some(db) = TestPostgres::on(TEST_PGBOUNCER).await else { return };
    let pool = db.pool().max_connections(4).behind_pooler(true).build().unwrap();
    let i = Inbox::on(db, pool, true).await;
    // More than once, since the session of the second may know the statements of the first.
    for round in 0..3 {
        let a = i.receive_of("a", 3).await;
        let own = keyed("a");
        let mut conn = i.connection().await;
        let mut tx = conn.begin().await.unwrap();
        assert_eq!(i.inbox.receive(&mut tx, &scope(), &own).await.unwrap(), Received::Stored);
        assert_eq!(i.inbox.receive(&mut tx, &scope(), &a[0]).await.unwrap(), Received::AlreadyKnown);
        tx.commit().await.unwrap();
        assert!(i.receive(&[other(&own)]).await[0].is_err(), "round {round}");
        i.retry("crm", &a[0], 1, HOUR).await;
        assert_eq!(i.ids("crm").await, []);
        i.kill("crm", &a[0], DeadReason::Rejected).await;
        assert_eq!(i.store.dead_letters(None, &DeadFilter::all(), 10).await.unwrap().len(), 1);
        assert_eq!(i.store.replay(None, &DeadFilter::all(), 10).await.unwrap(), [a[0].id()]);
        i.kill("crm", &a[0], DeadReason::Rejected).await;
        assert_eq!(i.store.purge(None, &DeadFilter::all(), 10).await.unwrap(), 1);
        let row = i.row("crm", &a[1]).await;
        let lease = *i.leases.iter().find(|lease| lease.shard == row.shard).unwrap();
        let delivery = Delivery { row, lease, handler: handler("crm"), message: a[1].clone() };
        let nothing: PgTransactional = Nothing.into();
        let handled =
            i.store.handle(&nothing, &delivery, &BatchContext::new(1), Duration::from_secs(9)).await;
        assert!(matches!(handled.unwrap(), Committed::Done));
        assert_eq!(i.ids("crm").await, ids([&a[2], &own]));
        for message in [&a[2], &own] {
            i.finish("crm", message).await;
        }
        for message in a.iter().chain([&own]) {
            i.finish("mail", message).await;
        }
        let fork = message("fork").build().unwrap();
        i.receive(std::slice::from_ref(&fork)).await;
        assert_eq!(i.store.unrouted(Seq(0), 10).await.unwrap().len(), 1);
        let mut routes = Routes::new();
        routes.add("fork", route("crm", true)).unwrap();
        assert_eq!(i.store.route(&routes, 10).await.unwrap(), 1);
        assert!(i.store.catch_up("fork", &route("mail", false), Seq(0), 10).await.unwrap().is_some());
        i.finish("crm", &fork).await;
        i.finish("mail", &fork).await;
        let all = Retention::off().payloads(Some(Duration::ZERO)).ids(Some(Duration::ZERO));
        assert_eq!(i.store.erase(&all, 10).await.unwrap().payloads, 5);
        assert_eq!(i.store.erase(&all, 10).await.unwrap().ids, 5);
        assert_eq!(i.store.depth(&handler("crm")).await.unwrap().pending, 0);
    }
    i.clean().await;
}
