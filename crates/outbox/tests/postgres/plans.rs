//! Pages are read by index, whatever else is in the table, and whatever the planner last knew of it.

use relaykit_outbox::postgres::PgOutboxStore;
use relaykit_outbox::{OpenTransactions, OutboxStore, Page, ReadFrom, RowId, Seq, Settlement, Suspicion};
use relaykit_sql_store::Sql;
use relaykit_sql_store::postgres::Guarded;

use crate::common::{HOUR, Outbox, keyed, shards, waiting};

/// How many blocks of the messages' table and its indexes were touched so far.
const TOUCHED: &str =
    "select heap_blks_read + heap_blks_hit + coalesce(idx_blks_read, 0) + coalesce(idx_blks_hit, 0)
     from pg_statio_user_tables where relid = '{messages}'::regclass";
const SCANNED: &str = "select seq_scan from pg_stat_user_tables where relid = '{messages}'::regclass";
const FLUSH: &str = "select coalesce(sum(case when pg_stat_force_next_flush() is null then 0 else 1 end), 0)";

/// Adds 100 000 messages of 10 000 keys.
const FILL: &str = "insert into {messages} (shard, message_id, kind, ordering_key, payload, occurred_at)
    select {shard_of}(convert_to('key-' || n % 10000, 'UTF8')), gen_random_uuid(), 'k', 'key-' || n % 10000, 'payload', now()
    from generate_series(1, 100000) as n; select pg_stat_force_next_flush()";
/// Makes the first rows of 1000 keys wait.
const BLOCK: &str =
    "update {messages} set retry_at = now() + interval '1 hour', attempts = 1 where seq <= 1000;
    select pg_stat_force_next_flush()";

/// Reads a page, and returns it with the blocks that it touched and the scans of the whole table.
async fn measured(o: &Outbox, from: &[ReadFrom], limit: u32) -> (Page, i64, i64) {
    let pool = o.db.pool().max_connections(1).build().unwrap();
    let store = PgOutboxStore::new(pool.clone(), &o.db.names("t"));
    let before = (o.number(TOUCHED).await, o.number(SCANNED).await);
    let page = store.page(from, &OpenTransactions::default(), limit).await.unwrap();
    flush(o, &pool).await;
    pool.close().await;
    let after = (o.number(TOUCHED).await, o.number(SCANNED).await);
    (page, after.0 - before.0, after.1 - before.1)
}

/// Has the one connection of a pool tell its statistics now; else they come late.
async fn flush(o: &Outbox, pool: &Guarded) {
    let flush = pool.statement(Sql::new(&o.db.names("t"), &[FLUSH]));
    pool.run("flush", move |conn| {
        let flush = flush.clone();
        Box::pin(async move { flush.query().execute(conn).await.map(drop) })
    })
    .await
    .unwrap();
}

async fn check(o: &Outbox, what: &str, blocked: bool) {
    let from: Vec<_> = shards().all().map(|shard| ReadFrom { shard, after: Seq(0) }).collect();
    let (page, touched, scans) = measured(o, &from, 25).await;
    assert_eq!((page.rows.len(), scans), (100, 0), "{what}");
    assert_eq!(page.next_due.is_some(), blocked, "{what}");
    // A row is its index entry, its block, and a look at who waits; those that wait come before.
    assert!(touched < if blocked { 20_000 } else { 3_000 }, "{what}: {touched} blocks");

    let end: Vec<_> = shards().all().map(|shard| ReadFrom { shard, after: Seq(99_900) }).collect();
    let (page, touched, scans) = measured(o, &end, 100).await;
    assert_eq!((page.rows.len(), scans), (100, 0), "{what}");
    assert!(touched < 3_000, "{what}: {touched} blocks");
}

#[tokio::test]
async fn a_page_of_a_large_backlog_is_read_by_index_with_and_without_blocked_keys() {
    let Some(o) = Outbox::new().await else { return };
    // The planner knows an empty table at first: the worst that it can know.
    o.db.execute("alter table {messages} set (autovacuum_enabled = false)").await;
    o.db.execute("vacuum analyze {messages}").await;
    o.db.execute(FILL).await;
    check(&o, "known as empty", false).await;
    o.db.execute("analyze {messages}; select pg_stat_force_next_flush()").await;
    check(&o, "known as it is", false).await;
    o.db.execute(BLOCK).await;
    check(&o, "with blocked keys, known as without", true).await;
    o.db.execute("analyze {messages}; select pg_stat_force_next_flush()").await;
    check(&o, "with blocked keys", true).await;
    o.clean().await;
}

/// 99 000 rows were sent, and are not vacuumed since a transaction pins them: the cursor keeps the relay off them.
#[tokio::test]
async fn what_was_sent_is_not_read_again() {
    let Some(o) = Outbox::new().await else { return };
    o.db.execute("alter table {messages} set (autovacuum_enabled = false)").await;
    o.db.execute(FILL).await;
    let mut pin = o.connection().await;
    let mut tx =
        sqlx::Connection::begin_with(&mut pin, "begin isolation level repeatable read").await.unwrap();
    sqlx::query("select pg_current_xact_id()").execute(&mut *tx).await.unwrap();
    o.db.execute("delete from {messages} where seq <= 99900; select pg_stat_force_next_flush()").await;
    let from: Vec<_> = shards().all().map(|shard| ReadFrom { shard, after: Seq(99_900) }).collect();
    let (page, touched, scans) = measured(&o, &from, 1000).await;
    assert_eq!((page.rows.len(), scans), (100, 0));
    assert!(touched < 3_000, "{touched} blocks");
    o.clean().await;
}

/// The statements of a relay and a producer that began on an empty table, and run long enough for their plans to be kept.
#[tokio::test]
async fn settling_and_adding_go_by_index_under_plans_made_when_the_table_was_empty() {
    let Some(o) = Outbox::new().await else { return };
    o.db.execute("alter table {messages} set (autovacuum_enabled = false)").await;
    o.db.execute("vacuum analyze {messages}").await;
    let pool = o.db.pool().max_connections(1).build().unwrap();
    let store = PgOutboxStore::new(pool.clone(), &o.db.names("t"));
    let mut conn = o.connection().await;
    let nowhere = vec![RowId { shard: shards().of(b""), seq: Seq(-1) }];
    for _ in 0..10 {
        let retry = vec![waiting(nowhere[0], 1, HOUR)];
        let settlement = Settlement { done: nowhere.clone(), retry, ..o.settlement() };
        assert_eq!(store.settle(&settlement).await.unwrap().written, 0);
        let mut tx = sqlx::Connection::begin(&mut conn).await.unwrap();
        let twice = [keyed("a"), keyed("b")];
        o.outbox.add_all(&mut tx, &twice).await.unwrap();
        o.outbox.add_all(&mut tx, &twice).await.unwrap();
        tx.rollback().await.unwrap();
    }
    flush(&o, &pool).await;
    o.db.execute(FILL).await;

    let rows: Vec<_> = o.page_of(50).await.rows.iter().map(|stored| stored.row).collect();
    let (done, retry) = rows.split_at(100);
    let settlement = Settlement {
        done: done.to_vec(),
        retry: retry.iter().map(|row| waiting(*row, 1, HOUR)).collect(),
        ..o.settlement()
    };
    // What the page read is told first.
    flush(&o, &o.pool).await;
    sqlx::query("select pg_stat_force_next_flush()").execute(&mut conn).await.unwrap();
    let before = (o.number(TOUCHED).await, o.number(SCANNED).await);
    assert_eq!(store.settle(&settlement).await.unwrap().written, 200);
    flush(&o, &pool).await;
    let settled = (o.number(TOUCHED).await, o.number(SCANNED).await);
    let messages: Vec<_> = (0..100).map(|n| keyed(&format!("new-{n}"))).collect();
    o.outbox.add_all(&mut conn, &messages).await.unwrap();
    // These are there by now: they are looked up.
    o.outbox.add_all(&mut conn, &messages).await.unwrap();
    sqlx::query("select pg_stat_force_next_flush()").execute(&mut conn).await.unwrap();
    let added = (o.number(TOUCHED).await, o.number(SCANNED).await);
    let (settle, add) = (settled.0 - before.0, added.0 - settled.0);
    assert_eq!((settled.1 - before.1, added.1 - settled.1), (0, 0));
    assert!(settle < 6_000 && add < 3_000, "{settle} and {add} blocks");
    assert_eq!(o.number("select count(*) from {messages}").await, 100_000);
    drop(conn);
    pool.close().await;
    o.clean().await;
}

/// The usual state of an outbox: what was sent has been vacuumed, the pages of the table stay, and one message was on its way. All
/// rows at once are thought to be hardly dearer than one then.
#[tokio::test]
async fn settling_and_noting_go_by_index_under_plans_made_when_one_row_was_left_of_many() {
    let Some(o) = Outbox::new().await else { return };
    o.db.execute("alter table {messages} set (autovacuum_enabled = false)").await;
    o.db.execute(FILL).await;
    o.db.execute("delete from {messages} where seq < (select max(seq) from {messages})").await;
    o.db.execute("vacuum (analyze, truncate false) {messages}").await;
    let pool = o.db.pool().max_connections(1).build().unwrap();
    let store = PgOutboxStore::new(pool.clone(), &o.db.names("t"));
    let nowhere = RowId { shard: shards().of(b""), seq: Seq(-1) };
    let leases = o.settlement().leases;
    for _ in 0..10 {
        let settlement =
            Settlement { done: vec![nowhere], retry: vec![waiting(nowhere, 1, HOUR)], ..o.settlement() };
        assert_eq!(store.settle(&settlement).await.unwrap().written, 0);
        assert_eq!(store.suspect(&leases, &[nowhere], Suspicion::Company).await.unwrap().written, 0);
    }
    // Enough rows that to read them all cannot be overlooked.
    o.db.execute(FILL).await;
    o.db.execute(FILL).await;

    let rows: Vec<_> = o.page_of(50).await.rows.iter().map(|stored| stored.row).collect();
    flush(&o, &pool).await;
    flush(&o, &o.pool).await;
    let before = (o.number(TOUCHED).await, o.number(SCANNED).await);
    assert_eq!(store.suspect(&leases, &rows, Suspicion::Company).await.unwrap().written, 200);
    flush(&o, &pool).await;
    let noted = (o.number(TOUCHED).await, o.number(SCANNED).await);
    let (done, retry) = rows.split_at(100);
    let settlement = Settlement {
        done: done.to_vec(),
        retry: retry.iter().map(|row| waiting(*row, 1, HOUR)).collect(),
        ..o.settlement()
    };
    assert_eq!(store.settle(&settlement).await.unwrap().written, 200);
    flush(&o, &pool).await;
    let settled = (o.number(TOUCHED).await, o.number(SCANNED).await);
    let (note, settle) = (noted.0 - before.0, settled.0 - noted.0);
    assert_eq!((noted.1 - before.1, settled.1 - noted.1), (0, 0));
    assert!(note < 6_000 && settle < 6_000, "{note} and {settle} blocks");
    pool.close().await;
    o.clean().await;
}
