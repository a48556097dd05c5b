//! What is kept of what was sent, and what is dropped.

use std::collections::BTreeSet;
use std::time::Duration;

use relaykit_outbox::postgres::{PgArchive, PgOutboxStore, PgSchema};
use relaykit_outbox::{
    Archive, ArchiveFilter, Archived, DeadFilter, DeadReason, Dying, Maintained, OutboxStore, Retention,
    RetentionBuilder, Settlement, outbox_conformance,
};
use relaykit_pipeline_traits::{Message, Rng};
use relaykit_sql_store::postgres::{Guarded, TestPostgres};
use relaykit_sql_store::{Shards, Sql, StoreError};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::common::{HOUR, Outbox, id, key, keyed, schema, take_all, waiting};

/// Every promise again, with an archive.
mod promises {
    use super::*;

    async fn archiving() -> Option<Outbox> {
        with_archive(Outbox::for_relays().await?).await
    }

    outbox_conformance!(archiving());
}

/// Asks for an archive, on tables for relays.
async fn with_archive(o: Outbox) -> Option<Outbox> {
    let schema = PgSchema::new(o.db.names("t")).shards(Shards::new(16).unwrap()).archive(true);
    schema.migrate(&o.pool).await.unwrap();
    Some(o)
}

async fn archiving() -> Option<Outbox> {
    let o = Outbox::new().await?;
    schema(&o.db).archive(true).migrate(&o.pool).await.unwrap();
    Some(o)
}

fn keep(o: &Outbox) -> RetentionBuilder<PgArchive> {
    Retention::builder(PgArchive::new(o.pool.clone(), &o.db.names("t")))
}

async fn maintain(o: &Outbox) -> Maintained {
    keep(o).build().unwrap().run_once().await.unwrap()
}

async fn list(o: &Outbox, filter: ArchiveFilter) -> Vec<Archived> {
    PgArchive::new(o.pool.clone(), &o.db.names("t")).list(&filter, 100).await.unwrap()
}

async fn send(o: &Outbox, messages: &[Message]) {
    let mut done = Vec::new();
    for message in messages {
        done.push(o.row(message).await);
    }
    assert_eq!(o.settle(Settlement { done, ..o.settlement() }).await, messages.len() as u64);
}

/// Puts messages in the archive that were sent so many days ago.
async fn sent_ago(o: &Outbox, days: i64, count: i64) {
    let sql = Sql::with_numbers(
        &o.db.names("t"),
        &[("days", days), ("count", count)],
        &["insert into {archive} (seq, shard, message_id, kind, payload, headers, occurred_at, added_at, attempts, sent_at)
            select n, 0, gen_random_uuid(), 'old', '', '{}', now(), now(), 0, now() - interval '{#days} days'
            from generate_series(1, {#count}) as n"],
    );
    sqlx::raw_sql(sql).execute(&mut o.connection().await).await.unwrap();
}

/// Makes a partition of another name than those of ours, from and until so many days from today.
async fn partition(o: &Outbox, name: &str, from: i32, until: i32) {
    let (table, part) = (o.db.names("t").table("archive"), o.db.names("t").table(&format!("archive_{name}")));
    let sql = format!(
        "set timezone = 'UTC'; do $$ begin execute format('create table {part} partition of {table}
        for values from (%L) to (%L)', current_date::timestamptz + interval '{from} days',
        current_date::timestamptz + interval '{until} days'); end $$"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut o.connection().await).await.unwrap();
}

async fn partitions(o: &Outbox) -> BTreeSet<String> {
    let sql = Sql::new(
        &o.db.names("t"),
        &[
            "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = '{archive}'::regclass",
        ],
    );
    let names: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut o.connection().await).await.unwrap();
    names.into_iter().collect()
}

const DEFAULT: &str = "select count(*) from {archive_default}";

#[tokio::test]
async fn what_was_sent_is_kept_and_what_was_not_is_not() {
    let Some(o) = archiving().await else { return };
    let a = o.add_to("a", 3).await;
    o.retry(&a[0], 2, Duration::ZERO).await;
    send(&o, &a[..1]).await;
    o.retry(&a[1], 1, HOUR).await;
    o.kill(&a[2], DeadReason::Rejected).await;
    let kept = list(&o, ArchiveFilter::all()).await;
    let [sent] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!((sent.id, sent.message.as_ref(), sent.attempts), (a[0].id(), Some(&a[0]), 2));
    assert!(sent.added_at < sent.sent_at);
    assert_eq!(o.number("select count(*) from {messages}").await, 1);
    assert_eq!(o.number("select count(*) from {dead}").await, 1);
    o.clean().await;
}

#[tokio::test]
async fn a_settlement_under_a_stale_lease_archives_nothing() {
    let Some(o) = archiving().await else { return };
    let a = keyed("a");
    o.add(&a).await;
    let mut settlement = Settlement { done: vec![o.row(&a).await], ..o.settlement() };
    settlement.leases.iter_mut().for_each(|lease| lease.token -= 1);
    let settled = o.store.settle(&settlement).await.unwrap();
    assert_eq!((settled.written, settled.stale.len()), (0, 4));
    assert_eq!(list(&o, ArchiveFilter::all()).await, []);
    // Repeated, since the answer was lost: it is archived once.
    send(&o, std::slice::from_ref(&a)).await;
    let done = Settlement { done: settlement.done, ..o.settlement() };
    assert_eq!(o.store.settle(&done).await.unwrap().written, 0);
    assert_eq!(list(&o, ArchiveFilter::all()).await.len(), 1);
    o.clean().await;
}

#[tokio::test]
async fn without_an_archive_what_was_sent_is_gone_and_one_can_be_asked_for_later() {
    let Some(o) = Outbox::new().await else { return };
    let messages = o.add_to("a", 2).await;
    send(&o, &messages[..1]).await;
    let archive = PgArchive::new(o.pool.clone(), &o.db.names("t"));
    let missing = archive.list(&ArchiveFilter::all(), 1).await.unwrap_err();
    assert!(matches!(missing, StoreError::Schema { .. }), "{missing:?}");
    let older = schema(&o.db).archive(true).verify(&o.pool).await.unwrap_err();
    assert!(matches!(older, StoreError::Schema { .. }), "{older:?}");
    for _ in 0..2 {
        schema(&o.db).archive(true).migrate(&o.pool).await.unwrap();
    }
    assert_eq!(schema(&o.db).archive(true).verify(&o.pool).await.unwrap(), []);
    // The same store, on the same connections, archives now.
    send(&o, &messages[1..]).await;
    assert_eq!(
        list(&o, ArchiveFilter::all()).await.iter().map(|sent| sent.id).collect::<Vec<_>>(),
        [id(&messages[1])]
    );
    // Who does not ask for it is not refused, and it stays in use.
    schema(&o.db).migrate(&o.pool).await.unwrap();
    assert_eq!(schema(&o.db).verify(&o.pool).await.unwrap(), []);
    o.add(&messages[0]).await;
    send(&o, &messages[..1]).await;
    assert_eq!(list(&o, ArchiveFilter::all()).await.len(), 2);
    o.clean().await;
}

#[tokio::test]
async fn the_exported_sql_makes_the_archive_too_and_verify_sees_what_is_missing() {
    let Some(db) = TestPostgres::new().await else { return };
    let schema = schema(&db).archive(true);
    for _ in 0..2 {
        let sql = AssertSqlSafe(schema.migration_sql());
        sqlx::raw_sql(sql).execute(&mut db.connection().await).await.unwrap();
    }
    let pool = db.pool().build().unwrap();
    assert_eq!(schema.verify(&pool).await.unwrap(), []);
    assert_eq!(
        db.number("select count(*) from pg_attribute where attrelid = '{archive}'::regclass and attnum > 0")
            .await,
        12
    );
    db.execute("drop table {archive_default}; drop index {@schema}.{=archive_id}").await;
    let differences: Vec<_> = schema.verify(&pool).await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(differences.len(), 2, "{differences:?}");
    assert!(
        differences[0].contains("t_archive_id") && differences[1].contains("t_archive_default"),
        "{differences:?}"
    );
    pool.close().await;
    db.clean().await;
}

#[tokio::test]
async fn a_message_that_was_sent_can_be_added_again() {
    let Some(o) = archiving().await else { return };
    let a = keyed("a");
    for count in 1..=2 {
        o.add(&a).await;
        send(&o, std::slice::from_ref(&a)).await;
        assert_eq!(list(&o, ArchiveFilter::all().ids([a.id()])).await.len(), count);
    }
    o.clean().await;
}

#[tokio::test]
async fn a_settlement_goes_on_without_a_partition_and_its_rows_are_moved_when_there_is_one() {
    let Some(o) = archiving().await else { return };
    let messages = o.add_to("a", 3).await;
    send(&o, &messages[..2]).await;
    assert_eq!(o.number(DEFAULT).await, 2);
    let done = maintain(&o).await;
    assert_eq!((done.made, done.moved, done.in_default, done.postponed), (3, 2, 0, 0));
    assert_eq!(o.number(DEFAULT).await, 0);
    send(&o, &messages[2..]).await;
    assert_eq!(o.number(DEFAULT).await, 0, "today has a partition now");
    assert_eq!(
        list(&o, ArchiveFilter::all()).await.iter().map(|sent| sent.id).collect::<Vec<_>>(),
        messages.iter().map(id).collect::<Vec<_>>()
    );
    assert_eq!(maintain(&o).await, Maintained::default(), "there is nothing left to do");
    assert_eq!(partitions(&o).await.len(), 4);
    assert_eq!(schema(&o.db).archive(true).verify(&o.pool).await.unwrap(), []);
    o.clean().await;
}

#[tokio::test]
async fn a_day_with_too_many_rows_to_move_stays_in_the_default_partition_until_it_is_past() {
    let Some(o) = archiving().await else { return };
    sent_ago(&o, 0, 5_001).await;
    sent_ago(&o, 8, 2_500).await;
    sent_ago(&o, 7, 10).await;
    let done = maintain(&o).await;
    assert_eq!((done.made, done.moved, done.deleted, done.in_default), (2, 0, 2_500, 5_011));
    assert_eq!(o.number("select count(*) from {archive}").await, 5_011);
    o.clean().await;
}

#[tokio::test]
async fn only_partitions_wholly_past_are_dropped_whatever_they_are_called() {
    let Some(o) = archiving().await else { return };
    partition(&o, "oldest", -40, -10).await;
    partition(&o, "zz_past", -9, -8).await;
    partition(&o, "edge", -8, -7).await;
    partition(&o, "kept", -7, -6).await;
    partition(&o, "p19990101", -6, 2).await;
    sent_ago(&o, 20, 3).await;
    let done = maintain(&o).await;
    assert_eq!((done.made, done.dropped), (1, 3), "today and tomorrow are in a partition already");
    let left = partitions(&o).await;
    assert!(left.contains("t_archive_kept") && left.contains("t_archive_p19990101"), "{left:?}");
    assert_eq!(left.len(), 4, "{left:?}");
    assert_eq!(o.number("select count(*) from {archive}").await, 0);

    let done = keep(&o).days_kept(0).build().unwrap().run_once().await.unwrap();
    assert_eq!(done.dropped, 1);
    assert!(partitions(&o).await.contains("t_archive_p19990101"), "today is in it");
    o.clean().await;
}

/// The original took every table for a partition whose name is like `events_%`, and `_` is any character.
#[tokio::test]
async fn tables_of_similar_names_are_left_alone() {
    let Some(o) = archiving().await else { return };
    let beside = PgSchema::new(o.db.names("t_archive")).shards(Shards::new(4).unwrap()).archive(true);
    beside.migrate(&o.pool).await.unwrap();
    let elsewhere = TestPostgres::new().await.unwrap();
    let theirs = elsewhere.pool().build().unwrap();
    schema(&elsewhere).archive(true).migrate(&theirs).await.unwrap();
    let old =
        "create table {archive_old} partition of {archive} for values from ('2001-01-01') to ('2001-01-02')";
    elsewhere.execute(old).await;
    o.db.execute(old).await;
    o.db.execute(
        "create table {archive_pold} (id int); create table {@schema}.txarchive_p20010101 (id int);
         create table {archive_detached} partition of {archive} for values from ('2002-01-01') to ('2002-01-02');
         alter table {archive} detach partition {archive_detached};
         create table {archive_archive_old} partition of {archive_archive} for values from ('2001-01-01') to ('2001-01-02')",
    )
    .await;
    assert_eq!(maintain(&o).await.dropped, 1);
    for table in ["archive_pold", "archive_detached", "archive_archive_old", "archive_messages"] {
        let name = o.db.names("t").table(table);
        let count = format!("select count(*) from {name}");
        sqlx::query(AssertSqlSafe(count)).execute(&mut o.connection().await).await.unwrap();
    }
    o.db.execute("select from {@schema}.txarchive_p20010101").await;
    elsewhere.execute("select from {archive_old}").await;
    assert_eq!(beside.verify(&o.pool).await.unwrap(), []);
    theirs.close().await;
    elsewhere.clean().await;
    o.clean().await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_passed_over() {
    let Some(o) = archiving().await else { return };
    maintain(&o).await;
    let before = partitions(&o).await;
    for partition in before.iter().filter(|name| *name != "t_archive_default") {
        let schema = o.db.names("t").schema().unwrap().to_string();
        let sql = format!("alter table {schema}.t_archive detach partition {schema}.{partition}");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut o.connection().await).await.unwrap();
    }
    assert_eq!(maintain(&o).await.made, 3);
    assert!(
        partitions(&o)
            .await
            .is_disjoint(&before.into_iter().filter(|name| name != "t_archive_default").collect())
    );
    o.clean().await;
}

#[tokio::test]
async fn days_are_those_of_utc_whatever_the_session_says() {
    let Some(o) = archiving().await else { return };
    let options = o.db.options().options([("timezone", "Asia/Kolkata"), ("datestyle", "SQL, DMY")]);
    let pool = Guarded::connect(options, relaykit_pipeline_traits::SystemClock::new()).build().unwrap();
    let abroad = || Retention::builder(PgArchive::new(pool.clone(), &o.db.names("t"))).build().unwrap();
    partition(&o, "past", -9, -8).await;
    let done = abroad().run_once().await.unwrap();
    assert_eq!((done.made, done.dropped), (3, 1));
    assert_eq!(abroad().run_once().await.unwrap(), Maintained::default());
    assert_eq!(maintain(&o).await, Maintained::default());
    pool.close().await;
    o.clean().await;
}

#[tokio::test]
async fn maintainers_that_come_at_once_do_everything_once() {
    let Some(o) = archiving().await else { return };
    for (name, from) in [("a", -20), ("b", -19), ("c", -18)] {
        partition(&o, name, from, from + 1).await;
    }
    sent_ago(&o, 0, 100).await;
    sent_ago(&o, 30, 3_500).await;
    let all = (0..4).map(|_| {
        let retention = Retention::builder(PgArchive::new(o.db.pool().build().unwrap(), &o.db.names("t")));
        tokio::spawn(async move { retention.build().unwrap().run_once().await.unwrap() })
    });
    let mut sum = Maintained::default();
    for task in all.collect::<Vec<_>>() {
        let done = task.await.unwrap();
        assert_eq!(done.postponed, 0);
        sum.made += done.made;
        sum.dropped += done.dropped;
        sum.moved += done.moved;
        sum.deleted += done.deleted;
    }
    assert_eq!((sum.made, sum.dropped, sum.moved, sum.deleted), (3, 3, 100, 3_500));
    o.clean().await;
}

#[tokio::test]
async fn while_a_transaction_holds_the_archive_it_is_put_off_and_writers_go_on() {
    let Some(o) = archiving().await else { return };
    partition(&o, "past", -30, -29).await;
    let messages = o.add_to("a", 20).await;
    let mut conn = o.connection().await;
    let mut reading = conn.begin().await.unwrap();
    let count = Sql::new(&o.db.names("t"), &["select count(*) from {archive}"]);
    let _: i64 = sqlx::query_scalar(count).fetch_one(&mut *reading).await.unwrap();
    let retention = keep(&o).lock_timeout(Duration::from_millis(20)).build().unwrap();
    let maintaining = tokio::spawn(async move { retention.run_once().await.unwrap() });
    for message in &messages {
        send(&o, std::slice::from_ref(message)).await;
    }
    let done = maintaining.await.unwrap();
    assert_eq!((done.made, done.dropped, done.postponed), (0, 0, 4), "three to make, one to drop");
    assert_eq!(done.in_default, o.number(DEFAULT).await.unsigned_abs());
    reading.rollback().await.unwrap();
    let done = maintain(&o).await;
    assert_eq!((done.made, done.dropped, done.postponed, done.moved), (3, 1, 0, 20));
    o.clean().await;
}

#[tokio::test]
async fn the_archive_is_listed_by_everything_a_filter_says_and_page_by_page() {
    let Some(o) = archiving().await else { return };
    maintain(&o).await;
    let a = o.add_to("a", 3).await;
    let other = keyed("b");
    o.add(&other).await;
    send(&o, &a).await;
    send(&o, std::slice::from_ref(&other)).await;
    o.db.execute("update {archive} set kind = 'order.shipped' where ordering_key = 'b'").await;
    let ids = |found: Vec<Archived>| found.into_iter().map(|sent| sent.id).collect::<Vec<_>>();
    let all = list(&o, ArchiveFilter::all()).await;
    assert_eq!(ids(all.clone()), [id(&a[0]), id(&a[1]), id(&a[2]), id(&other)]);
    assert_eq!(ids(list(&o, ArchiveFilter::all().key(key("a"))).await).len(), 3);
    assert_eq!(ids(list(&o, ArchiveFilter::all().kind("order.shipped")).await), [id(&other)]);
    assert_eq!(
        ids(list(&o, ArchiveFilter::all().ids([id(&a[2]), id(&other)])).await),
        [id(&a[2]), id(&other)]
    );
    assert_eq!(ids(list(&o, ArchiveFilter::all().ids([])).await), []);
    let last = all[3].sent_at;
    assert_eq!(ids(list(&o, ArchiveFilter::all().from(last)).await), [id(&other)]);
    assert_eq!(ids(list(&o, ArchiveFilter::all().until(last)).await).len(), 3);
    // Those of one settlement were sent at one moment.
    let archive = PgArchive::new(o.pool.clone(), &o.db.names("t"));
    let (mut filter, mut pages) = (ArchiveFilter::all(), Vec::new());
    loop {
        let page = archive.list(&filter, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        filter = filter.after(last);
        pages.extend(ids(page));
    }
    assert_eq!(pages, ids(all));
    for limit in [0, 1_001] {
        assert!(matches!(archive.list(&filter, limit).await, Err(StoreError::Rejected { .. })));
    }
    o.db.execute("update {archive} set headers = '[]'").await;
    assert!(list(&o, ArchiveFilter::all()).await.iter().all(|sent| sent.message.is_none()));
    o.clean().await;
}

#[tokio::test]
async fn all_of_it_works_through_a_pooler() {
    let Some(o) = Outbox::behind_pooler().await else { return };
    let o = with_archive(o).await.unwrap().leased().await;
    let messages = o.add_to("a", 3).await;
    send(&o, &messages[..2]).await;
    o.db.execute(
        "create table {archive_old} partition of {archive} for values from ('2001-01-01') to ('2001-01-02')",
    )
    .await;
    let done = maintain(&o).await;
    assert_eq!((done.made, done.moved, done.dropped), (3, 2, 1));
    send(&o, &messages[2..]).await;
    assert_eq!(maintain(&o).await, Maintained::default());
    assert_eq!(list(&o, ArchiveFilter::all()).await.len(), 3);
    o.clean().await;
}

/// Runs SQL in which `{role}` is the name of a role that has only the rights that it is given.
async fn as_role(db: &TestPostgres, role: &str, sql: &'static str) {
    let sql = Sql::new(&db.names("t"), &[sql]);
    let sql = sql.as_str().replace(&db.names("t").table("role"), role);
    let mut conn: PgConnection = db.connection().await;
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
}

#[tokio::test]
async fn a_relay_goes_on_when_the_archive_is_made_and_only_its_owner_maintains_it() {
    let Some(o) = Outbox::new().await else { return };
    let name = format!("role_{:016x}", Rng::from_entropy().next_u64());
    as_role(
        &o.db,
        &name,
        "create role {role} login password 'test'; grant usage on schema {@schema} to {role};
        grant select, insert, update, delete on {messages}, {dead}, {members} to {role};
        grant select, update on {shards} to {role}",
    )
    .await;
    let options = o.db.options().username(&name).password("test");
    let pool = Guarded::connect(options, relaykit_pipeline_traits::SystemClock::new()).build().unwrap();
    let store = PgOutboxStore::new(pool.clone(), &o.db.names("t"));
    o.db.execute("update {shards} set owner = null, until = null").await;
    let leases = take_all(&store).await;
    schema(&o.db).archive(true).migrate(&o.pool).await.unwrap();
    let a = keyed("a");
    o.add(&a).await;
    let done = vec![o.row(&a).await];
    assert_eq!(store.settle(&Settlement { leases, done, ..Settlement::default() }).await.unwrap().written, 1);
    assert_eq!(list(&o, ArchiveFilter::all()).await.len(), 1);

    let archive = PgArchive::new(pool.clone(), &o.db.names("t"));
    assert!(matches!(archive.list(&ArchiveFilter::all(), 1).await, Err(StoreError::Denied { .. })));
    let denied = Retention::builder(archive).build().unwrap().run_once().await.unwrap_err();
    assert!(matches!(denied, StoreError::Denied { .. }), "{denied:?}");
    // A member of the role that owns the archive may, and what it makes is the owner's.
    as_role(&o.db, &name, "grant select on {archive} to {role}; create role {role}_owner; grant create, usage on schema {@schema} to {role}_owner, {role};
        alter table {archive} owner to {role}_owner; alter table {archive_default} owner to {role}_owner; grant {role}_owner to {role}").await;
    let archive = PgArchive::new(pool.clone(), &o.db.names("t"));
    let done = Retention::builder(archive).build().unwrap().run_once().await.unwrap();
    assert_eq!((done.made, done.moved), (3, 1));
    let others = "select count(*) from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = '{archive}'::regclass and c.relowner <> (select relowner from pg_class where oid = '{archive}'::regclass)";
    assert_eq!(o.number(others).await, 0);
    pool.close().await;
    as_role(&o.db, &name, "drop owned by {role}, {role}_owner; drop role {role}; drop role {role}_owner")
        .await;
    o.clean().await;
}

#[tokio::test]
async fn retention_at_any_moment_drops_nothing_that_is_pending_or_dead() {
    let Some(o) = archiving().await else { return };
    let seed = Rng::from_entropy().next_u64();
    println!("seed {seed}");
    let mut rng = Rng::seeded(seed);
    let (mut pending, mut dead) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..12 {
        for message in o.add_to("a", 4).await.into_iter().chain(o.add_to("b", 4).await) {
            let row = o.row(&message).await;
            let mut settlement = o.settlement();
            match rng.below(4) {
                0 => settlement.done.push(row),
                1 => settlement.retry.push(waiting(row, 1, HOUR)),
                2 => {
                    let (reason, error) = (DeadReason::Exhausted, "no".to_owned());
                    settlement.dead.push(Dying { row, attempts: 1, reason, error });
                    dead.insert(message.id());
                }
                _ => {}
            }
            if settlement.done.is_empty() && settlement.dead.is_empty() {
                pending.insert(message.id());
            }
            o.store.settle(&settlement).await.unwrap();
        }
        // Everything is older than anything that is kept, as often as not.
        if rng.chance(0.5) {
            o.db.execute(
                "update {messages} set added_at = added_at - interval '90 days', first_failed_at = first_failed_at - interval '90 days';
                 update {dead} set added_at = added_at - interval '90 days', died_at = died_at - interval '90 days'",
            )
            .await;
            sent_ago(&o, 90, 3).await;
        }
        let days = u16::try_from(rng.below(3)).unwrap();
        keep(&o).days_kept(days).chunk(2).build().unwrap().run_once().await.unwrap();
        let count = i64::try_from(pending.len()).unwrap();
        assert_eq!(o.number("select count(*) from {messages}").await, count, "seed {seed}");
        let letters = o.store.dead_letters(&DeadFilter::all(), 1_000).await.unwrap();
        assert_eq!(letters.iter().map(|letter| letter.id).collect::<BTreeSet<_>>(), dead, "seed {seed}");
        assert_eq!(o.number("select count(*) from {archive} where kind = 'old'").await, 0, "seed {seed}");
    }
    o.clean().await;
}
