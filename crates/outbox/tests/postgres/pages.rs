use std::time::Duration;

use relaykit_outbox::{OpenTransactions, OutboxStore, ReadFrom, Seq};
use sqlx::Connection;

use crate::common::{HOUR, Outbox, id, ids, key, keyed, message, shards};

#[tokio::test]
async fn a_row_that_waits_holds_the_later_ones_of_its_key_alone() {
    let Some(o) = Outbox::new().await else { return };
    let a = o.add_to("a", 3).await;
    let b = o.add_to("b", 1).await;
    let bare: Vec<_> = [(); 2].map(|()| message().build().unwrap()).into();
    o.outbox.add_all(&mut o.connection().await, &bare).await.unwrap();
    o.retry(&a[1], 1, HOUR).await;
    o.retry(&bare[0], 1, HOUR).await;
    let mut ids = o.ids().await;
    ids.sort();
    let mut expected = [id(&a[0]), id(&b[0]), id(&bare[1])];
    expected.sort();
    assert_eq!(ids, expected);

    o.let_time_pass().await;
    let page = o.page().await;
    assert_eq!(page.rows.len(), 6);
    let retried = page.rows.iter().find(|stored| stored.message.id() == a[1].id()).unwrap();
    assert_eq!((retried.attempts, retried.waited), (1, true));
    assert!(retried.failing_for.is_some());
    o.clean().await;
}

#[tokio::test]
async fn due_is_the_first_row_of_a_shard_whose_wait_is_over_and_that_nobody_holds() {
    let Some(o) = Outbox::new().await else { return };
    let page = o.page().await;
    assert_eq!((page.due, page.next_due), (vec![], None));
    let a = o.add_to("a", 4).await;
    let in_a = o.row(&a[0]).await.shard;
    let other =
        (0..100).map(|n| format!("other-{n}")).find(|key| shards().of(key.as_bytes()) != in_a).unwrap();
    let b = o.add_to(&other, 2).await;
    // The first waits long, so the second, whose wait is over, is held.
    o.retry(&a[0], 1, HOUR).await;
    o.retry(&a[1], 1, Duration::ZERO).await;
    let page = o.page().await;
    assert_eq!(page.due, []);
    let next = page.next_due.unwrap();
    assert!(next > HOUR / 2 && next <= HOUR, "{next:?}");

    o.retry(&b[1], 1, Duration::ZERO).await;
    assert_eq!(o.page().await.due, [o.row(&b[1]).await]);
    o.let_time_pass().await;
    let mut due = vec![o.row(&a[0]).await, o.row(&b[1]).await];
    due.sort();
    let page = o.page().await;
    assert_eq!((page.due, page.next_due), (due, None));

    // Whatever was read already, it is due; but only shards that were asked for count.
    let far = ReadFrom { shard: in_a, after: Seq(i64::MAX) };
    let page = o.store.page(&[far], &OpenTransactions::default(), 10).await.unwrap();
    assert_eq!((page.rows.len(), page.due), (0, vec![o.row(&a[0]).await]));
    o.clean().await;
}

#[tokio::test]
async fn a_delayed_message_is_not_seen_before_its_time_and_next_due_says_when() {
    let Some(o) = Outbox::new().await else { return };
    let (later, parked) = (keyed("later"), keyed("parked"));
    o.add_after(&later, HOUR).await;
    o.add(&parked).await;
    assert_eq!(o.store.park(&key("parked")).await.unwrap(), Some(parked.id()));
    let page = o.page().await;
    assert_eq!((page.rows.len(), page.due.len()), (0, 0));
    assert!(page.next_due.unwrap() <= HOUR);
    o.let_time_pass().await;
    let page = o.page().await;
    assert_eq!(page.due, [o.row(&later).await]);
    // Nobody waits for one that is parked.
    assert_eq!(page.next_due, None);
    // A delay without end is a long one.
    o.add_after(&keyed("never"), Duration::MAX).await;
    assert!(o.page().await.next_due.unwrap() > 24 * 365 * HOUR);
    o.clean().await;
}

#[tokio::test]
async fn a_page_reads_each_shard_behind_its_place_up_to_its_limit() {
    let Some(o) = Outbox::new().await else { return };
    let messages: Vec<_> = (0..200).map(|n| keyed(&format!("key-{n}"))).collect();
    o.outbox.add_all(&mut o.connection().await, &messages).await.unwrap();
    let all = o.page().await.rows;
    let rows: Vec<_> = all.iter().map(|stored| stored.row).collect();
    assert_eq!(rows.len(), 200);
    assert!(rows.is_sorted());
    let page = o.page_of(7).await;
    for shard in shards().all() {
        let of_shard: Vec<_> = rows.iter().filter(|row| row.shard == shard).copied().collect();
        let told: Vec<_> =
            page.rows.iter().map(|stored| stored.row).filter(|row| row.shard == shard).collect();
        assert_eq!(told, of_shard[..7]);
        let page = o
            .store
            .page(&[ReadFrom { shard, after: of_shard[6].seq }], &OpenTransactions::default(), 7)
            .await
            .unwrap();
        assert_eq!(page.rows.iter().map(|stored| stored.row).collect::<Vec<_>>(), of_shard[7..14]);
    }
    assert_eq!(o.store.page(&[], &OpenTransactions::default(), 7).await.unwrap().rows, []);
    o.clean().await;
}

/// A transaction that draws a lower place commits after one with a higher place was read.
#[tokio::test]
async fn a_row_that_comes_late_is_on_the_next_page_wherever_that_begins() {
    let Some(o) = Outbox::new().await else { return };
    let (mut early, mut late) = (o.connection().await, o.connection().await);
    let (first, second, third) = (keyed("k"), keyed("k"), keyed("k"));
    let mut tx = early.begin().await.unwrap();
    o.outbox.add(&mut tx, &first).await.unwrap();
    o.outbox.add(&mut late, &second).await.unwrap();

    let mut open = OpenTransactions::default();
    let page = o.page_behind(Seq(0), &mut open).await;
    assert_eq!(ids(&page), [second.id()]);
    let seen = page.rows[0].row.seq;
    assert!(!ids(&o.page_behind(seen, &mut open).await).contains(&first.id()));
    tx.commit().await.unwrap();
    o.add(&third).await;
    let page = o.page_behind(seen, &mut open).await;
    assert!(page.snapshot.from.is_some_and(|from| from < seen), "{page:?}");
    assert_eq!(ids(&page), [first.id(), second.id(), third.id()]);
    assert!(page.rows[0].row.seq < seen);
    o.clean().await;
}

/// The transaction with the higher number (xid) has the lower place, and outlives the other: no snapshot lists it as running, since
/// none with a higher number has ended.
#[tokio::test]
async fn a_row_that_comes_late_from_a_younger_transaction_is_on_the_next_page_too() {
    let Some(o) = Outbox::new().await else { return };
    let (mut old, mut young) = (o.connection().await, o.connection().await);
    let (first, second) = (keyed("k"), keyed("k"));
    let mut older = old.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()").execute(&mut *older).await.unwrap();
    let mut younger = young.begin().await.unwrap();
    o.outbox.add(&mut younger, &first).await.unwrap();
    o.outbox.add(&mut older, &second).await.unwrap();
    older.commit().await.unwrap();

    let mut open = OpenTransactions::default();
    let page = o.page_behind(Seq(0), &mut open).await;
    assert_eq!(ids(&page), [second.id()]);
    younger.commit().await.unwrap();
    assert_eq!(ids(&o.page_behind(page.rows[0].row.seq, &mut open).await)[0], first.id());
    o.clean().await;
}

/// What a transaction adds that began after a page was read lies behind all places given until then: when it ends, nothing before
/// them is read again.
#[tokio::test]
async fn a_transaction_that_began_later_has_no_row_before_what_was_read() {
    let Some(o) = Outbox::new().await else { return };
    o.add_to("k", 3).await;
    let mut open = OpenTransactions::default();
    let last = o.page_behind(Seq(0), &mut open).await.rows[2].row.seq;
    let mut conn = o.connection().await;
    let mut tx = conn.begin().await.unwrap();
    o.outbox.add(&mut tx, &keyed("other")).await.unwrap();
    o.page_behind(Seq(0), &mut open).await;
    let sql = "select pg_current_xact_id()::text::bigint";
    let number = sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *tx).await.unwrap().cast_unsigned();
    let place = open.running().find(|(running, _)| *running == number).or(open.next());
    assert!(place.is_some_and(|(_, place)| place >= last), "{number} of {open:?} adds behind {last}");
    tx.rollback().await.unwrap();
    o.clean().await;
}

/// Whoever has a place has a number, from the moment it draws the place: seen in a default that fails right after.
#[tokio::test]
async fn a_place_is_drawn_after_the_transaction_has_its_number() {
    let Some(o) = Outbox::new().await else { return };
    o.db.execute(
        "create function {watch}() returns bigint language plpgsql as $$
         begin
           if pg_current_xact_id_if_assigned() is null then raise 'a place without a number'; end if;
           return nextval('{messages_seq}');
         end $$",
    )
    .await;
    // The default is the table's own, with `nextval` replaced by one that looks.
    o.db.execute(
        "do $do$ begin
           execute (
             select format('alter table {messages} alter seq set default %s',
               replace(pg_get_expr(d.adbin, d.adrelid), substring(pg_get_expr(d.adbin, d.adrelid) from 'nextval\\(.*?\\)'), '{watch}()'))
             from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
             where d.adrelid = '{messages}'::regclass and a.attname = 'seq'
           );
         end $do$",
    )
    .await;
    assert_eq!(o.number("select count(*) from pg_attrdef where adrelid = '{messages}'::regclass and pg_get_expr(adbin, adrelid) like '%watch%'").await, 1);
    o.add(&keyed("k")).await;
    o.outbox.add(&mut o.connection().await, &keyed("k")).await.unwrap();
    assert_eq!(o.number("select count(*) from {messages}").await, 2);
    o.clean().await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named_and_holds_up_no_other() {
    let Some(o) = Outbox::new().await else { return };
    let good = keyed("k");
    o.db.execute(
        "insert into {messages} (shard, message_id, kind, ordering_key, payload, headers, occurred_at) values
           (0, gen_random_uuid(), 'k', 'one', '', 'no json', now()),
           (0, gen_random_uuid(), 'k', 'two', '', '{\"a\": {}}', now()),
           (0, gen_random_uuid(), 'k', null, '', '{\"bad name\": \"x\"}', now()),
           (0, gen_random_uuid(), '', 'three', '', '{}', now()),
           (0, gen_random_uuid(), 'k', '', '', '{}', 'infinity'),
           (1, gen_random_uuid(), 'k', repeat('x', 600), '', '{}', '-infinity')",
    )
    .await;
    o.add(&good).await;
    let page = o.page().await;
    assert_eq!(page.rows.iter().map(|stored| id(&stored.message)).collect::<Vec<_>>(), [good.id()]);
    let keys: Vec<_> = page
        .unreadable
        .iter()
        .map(|row| row.key.as_ref().map(relaykit_pipeline_traits::OrderingKey::as_str))
        .collect();
    assert_eq!(keys, [Some("one"), Some("two"), None, Some("three"), None, None]);
    assert!(page.unreadable.iter().all(|row| !row.error.is_empty()));
    o.clean().await;
}
