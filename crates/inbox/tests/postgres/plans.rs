//! Rows are read by index, whatever else is in the tables, and whatever the planner last knew of them.

use std::convert::Infallible;
use std::time::Duration;

use relaykit_inbox::postgres::{PgInboxStore, PgTransactional, TransactionalHandler};
use relaykit_inbox::{
    Committed, Delivery, InboxStore, OpenTransactions, Page, ReadFrom, Received, RowId, Seq, Settlement,
};
use relaykit_pipeline_traits::{BatchContext, Message, Verdict};
use relaykit_sql_store::Sql;
use relaykit_sql_store::postgres::{Guarded, TestPostgres};
use sqlx::PgConnection;

use crate::common::{HOUR, Inbox, handler, keyed, routes, scope, shards, waiting};

/// How many blocks of the tables and their indexes were touched so far.
const TOUCHED: &str =
    "select sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read, 0) + coalesce(idx_blks_hit, 0))
     from pg_statio_user_tables where relid in ('{messages}'::regclass, '{deliveries}'::regclass)";
const SCANNED: &str = "select sum(seq_scan) from pg_stat_user_tables
     where relid in ('{messages}'::regclass, '{deliveries}'::regclass)";
const FLUSH: &str = "select coalesce(sum(case when pg_stat_force_next_flush() is null then 0 else 1 end), 0)";

/// Adds 100 000 messages of 10 000 keys, each with a delivery to an ordered handler, `crm`, and to `mail`.
const FILL: &str = "insert into {messages}
      (shard, scope, message_id, kind, ordering_key, payload, headers, occurred_at, digest, handlers)
    select {shard_of}(convert_to('key-' || n % 10000, 'UTF8')), 'github', gen_random_uuid(), 'push', 'key-' || n % 10000,
      'payload', '{}', now(), '\\x00', '{crm,mail}'
    from generate_series(1, 100000) as n;
    insert into {deliveries} (shard, handler, message_seq, ordering_key)
    select m.shard, 'crm', m.seq, m.ordering_key from {messages} m order by m.seq;
    insert into {deliveries} (shard, handler, message_seq) select m.shard, 'mail', m.seq from {messages} m order by m.seq;
    select pg_stat_force_next_flush()";
/// Makes the first rows of 1000 keys wait.
const BLOCK: &str =
    "update {deliveries} set retry_at = now() + interval '1 hour', attempts = 1 where seq <= 1000;
    select pg_stat_force_next_flush()";
const ANALYZE: &str = "analyze {messages}; analyze {deliveries}; select pg_stat_force_next_flush()";

/// Makes an inbox whose pool has one connection, and has it tell what it did so far. The planner knows empty tables at first: the
/// worst that it can know.
async fn known_as_empty() -> Option<Inbox> {
    let db = TestPostgres::new().await?;
    let pool = db.pool().max_connections(1).build().unwrap();
    let i = Inbox::on(db, pool, false).await;
    flush(&i, &i.pool).await;
    i.db.execute(
        "alter table {messages} set (autovacuum_enabled = false); alter table {deliveries} set (autovacuum_enabled = false)",
    )
    .await;
    i.db.execute("vacuum analyze {messages}").await;
    i.db.execute("vacuum analyze {deliveries}").await;
    Some(i)
}

/// Has the one connection of a pool tell its statistics now; else they come late.
async fn flush(i: &Inbox, pool: &Guarded) {
    let flush = pool.statement(Sql::new(&i.db.names("t"), &[FLUSH]));
    pool.run("flush", move |conn| {
        let flush = flush.clone();
        Box::pin(async move { flush.query().execute(conn).await.map(drop) })
    })
    .await
    .unwrap();
}

async fn told(i: &Inbox, pool: &Guarded) -> (i64, i64) {
    flush(i, pool).await;
    (i.number(TOUCHED).await, i.number(SCANNED).await)
}

/// Reads a page, and returns it with the blocks that it touched and the scans of whole tables.
async fn measured(i: &Inbox, key: &str, from: &[ReadFrom], limit: u32) -> (Page, i64, i64) {
    let pool = i.db.pool().max_connections(1).build().unwrap();
    let store = PgInboxStore::new(pool.clone(), &i.db.names("t"));
    let before = told(i, &pool).await;
    let page = store.page(&handler(key), from, &OpenTransactions::default(), limit).await.unwrap();
    let after = told(i, &pool).await;
    pool.close().await;
    (page, after.0 - before.0, after.1 - before.1)
}

async fn check(i: &Inbox, what: &str, blocked: bool) {
    let from =
        |after| shards().all().map(move |shard| ReadFrom { shard, after: Seq(after) }).collect::<Vec<_>>();
    let (page, touched, scans) = measured(i, "crm", &from(0), 25).await;
    assert_eq!((page.rows.len(), scans), (100, 0), "{what}");
    assert_eq!(page.next_due.is_some(), blocked, "{what}");
    // A row is its index entry, its block, a look at who waits, and its message; those that wait come before.
    assert!(touched < if blocked { 20_000 } else { 4_000 }, "{what}: {touched} blocks");
    for (key, last) in [("crm", 99_900), ("mail", 199_900)] {
        let (page, touched, scans) = measured(i, key, &from(last), 100).await;
        assert_eq!((page.rows.len(), scans), (100, 0), "{what}: {key}");
        assert!(touched < 4_000, "{what}: {key}: {touched} blocks");
    }
    // Behind the last of its deliveries, a handler reads nothing of another's.
    let (page, touched, scans) = measured(i, "crm", &from(100_000), 100).await;
    assert_eq!((page.rows.len(), scans), (0, 0), "{what}");
    // What waits may be looked at all the same, where the planner does not know of any.
    assert!(touched < if blocked { 3_000 } else { 500 }, "{what}: {touched} blocks");
}

#[tokio::test]
async fn a_page_of_a_large_backlog_is_read_by_index_with_and_without_blocked_keys() {
    let Some(i) = known_as_empty().await else { return };
    i.db.execute(FILL).await;
    check(&i, "known as empty", false).await;
    i.db.execute(ANALYZE).await;
    check(&i, "known as it is", false).await;
    i.db.execute(BLOCK).await;
    check(&i, "with blocked keys, known as without", true).await;
    i.db.execute(ANALYZE).await;
    check(&i, "with blocked keys", true).await;
    i.clean().await;
}

struct Nothing;

impl TransactionalHandler for Nothing {
    type Error = Infallible;

    async fn handle(&self, _: &mut PgConnection, _: &Message, _: &BatchContext) -> Verdict<(), Infallible> {
        Verdict::Done(())
    }
}

/// The statements of a worker and a receiver that began on empty tables, and run long enough for their plans to be kept.
#[tokio::test]
async fn settling_finishing_and_receiving_go_by_index_under_plans_made_when_the_tables_were_empty() {
    let Some(i) = known_as_empty().await else { return };
    let pool = i.db.pool().max_connections(1).build().unwrap();
    let store = PgInboxStore::new(pool.clone(), &i.db.names("t"));
    let nowhere = RowId { shard: i.leases[0].shard, seq: Seq(-1) };
    let nothing: PgTransactional = Nothing.into();
    let delivery = |row: RowId, message: &Message| Delivery {
        row,
        lease: *i.leases.iter().find(|lease| lease.shard == row.shard).unwrap(),
        handler: handler("crm"),
        message: message.clone(),
    };
    let context = BatchContext::new(1);
    let known = [keyed("a"), keyed("b")];
    for _ in 0..10 {
        let settlement =
            Settlement { done: vec![nowhere], retry: vec![waiting(nowhere, 1, HOUR)], ..i.settlement() };
        assert_eq!(store.settle(&settlement).await.unwrap().written, 0);
        store
            .handle(&nothing, &delivery(nowhere, &known[0]), &context, Duration::from_secs(9))
            .await
            .unwrap();
        store.receive(&scope(), &known, &routes()).await.unwrap();
        store.receive(&scope(), &known[..1], &routes()).await.unwrap();
    }
    i.db.execute("delete from {deliveries}; select pg_stat_force_next_flush()").await;
    i.db.execute("select setval('{deliveries_seq}', 1, false)").await;
    i.db.execute(FILL).await;

    let from: Vec<_> = shards().all().map(|shard| ReadFrom { shard, after: Seq(0) }).collect();
    let rows = store.page(&handler("crm"), &from, &OpenTransactions::default(), 51).await.unwrap().rows;
    // What the page read is told first.
    let begun = told(&i, &pool).await;
    let settlement = Settlement {
        done: rows[..50].iter().map(|row| row.row).collect(),
        retry: rows[50..100].iter().map(|row| waiting(row.row, 1, HOUR)).collect(),
        ..i.settlement()
    };
    assert_eq!(store.settle(&settlement).await.unwrap().written, 100);
    let settled = told(&i, &pool).await;
    let single = &rows[203];
    let handled = store
        .handle(&nothing, &delivery(single.row, &single.message), &context, Duration::from_secs(9))
        .await;
    assert!(matches!(handled.unwrap(), Committed::Done));
    let finished = told(&i, &pool).await;
    let mut list: Vec<_> = (0..100).map(|n| keyed(&format!("new-{n}"))).collect();
    list.extend(known.clone());
    let answers = store.receive(&scope(), &list, &routes()).await.unwrap();
    assert_eq!(answers.iter().filter(|answer| **answer == Ok(Received::Stored)).count(), 100);
    assert_eq!(store.receive(&scope(), &known[..1], &routes()).await.unwrap(), [Ok(Received::AlreadyKnown)]);
    let received = told(&i, &pool).await;

    assert_eq!(received.1 - begun.1, 0, "nothing was scanned");
    let blocks = (settled.0 - begun.0, finished.0 - settled.0, received.0 - finished.0);
    assert!(blocks.0 < 4_000 && blocks.1 < 100 && blocks.2 < 8_000, "{blocks:?} blocks");
    i.clean().await;
}
