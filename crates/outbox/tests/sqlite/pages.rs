use std::time::Duration;

use relaykit_outbox::sqlite::SqliteOutboxStore;
use relaykit_outbox::{OutboxStore as _, Page, Seq};
use relaykit_sql_store::{Difference, SchemaError, Shards, StoreError};

use crate::common::{Harness, SECOND, database, key, names, row};

fn due(page: &Page) -> Vec<i64> {
    page.due.iter().map(|row| row.seq.0).collect()
}

#[tokio::test]
async fn a_page_has_the_first_rows_behind_a_place() {
    let mut h = Harness::new().await;
    for payload in ["1", "2", "3", "4"] {
        h.add("a", payload);
    }
    h.clock.advance(5 * SECOND);
    let page = h.page_after(1, 2).await;
    assert_eq!(page.rows.iter().map(|stored| stored.row).collect::<Vec<_>>(), [row(2), row(3)]);
    let stored = &page.rows[0];
    assert_eq!(
        (stored.attempts, stored.age, stored.failing_for, stored.waited),
        (0, 5 * SECOND, None, false)
    );
    assert_eq!((due(&page), page.next_due), (vec![], None));
}

#[tokio::test]
async fn a_row_that_waits_holds_the_later_ones_of_its_key_and_no_others() {
    let mut h = Harness::new().await;
    for (key, payload) in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("", "none 1"), ("a", "a3"), ("", "none 2")]
    {
        h.add(key, payload);
    }
    h.retry(1, 1, 10 * SECOND).await;
    h.retry(4, 1, 20 * SECOND).await;
    assert_eq!(h.ready().await, ["b1", "none 2"]);
    let page = h.page().await;
    assert_eq!((due(&page), page.next_due), (vec![], Some(10 * SECOND)));
    h.clock.advance(9_999 * Duration::from_millis(1));
    assert_eq!(h.page().await.next_due, Some(Duration::from_millis(1)));
    h.clock.advance(Duration::from_millis(1));
    assert_eq!(h.ready().await, ["a1", "b1", "a2", "a3", "none 2"]);
    let page = h.page_after(5, 100).await;
    assert_eq!((due(&page), page.next_due), (vec![1], Some(10 * SECOND)), "whatever lies before the page");
    let stored = &h.page().await.rows[0];
    assert_eq!((stored.attempts, stored.failing_for, stored.waited), (1, Some(10 * SECOND), true));
}

#[tokio::test]
async fn a_row_whose_wait_is_over_is_not_due_behind_one_that_still_waits() {
    let mut h = Harness::new().await;
    for payload in ["a1", "a2", "a3"] {
        h.add("a", payload);
    }
    h.retry(3, 1, SECOND).await;
    h.retry(1, 1, 10 * SECOND).await;
    h.clock.advance(5 * SECOND);
    assert_eq!(due(&h.page().await), [0; 0]);
    assert_eq!(h.ready().await, [""; 0]);
    h.clock.advance(5 * SECOND);
    assert_eq!(due(&h.page().await), [1], "the first of the shard");
    assert_eq!(h.ready().await, ["a1", "a2", "a3"]);
}

#[tokio::test]
async fn a_delayed_message_comes_when_its_time_has_come_and_holds_its_key_until_then() {
    let mut h = Harness::new().await;
    h.add("a", "1");
    h.add_after("a", "2", 60 * SECOND);
    h.add("a", "3");
    h.add_after("", "none", 30 * SECOND);
    h.add_after("", "never", Duration::MAX);
    assert_eq!(h.ready().await, ["1"]);
    assert_eq!(h.page().await.next_due, Some(30 * SECOND));
    h.clock.advance(30 * SECOND);
    assert_eq!((h.ready().await, due(&h.page().await)), (vec!["1".into(), "none".to_owned()], vec![4]));
    h.clock.advance(30 * SECOND);
    assert_eq!(h.ready().await, ["1", "2", "3", "none"]);
    assert_eq!(h.page().await.rows[1].attempts, 0);
}

#[tokio::test]
async fn a_parked_row_is_never_due() {
    let mut h = Harness::new().await;
    let first = h.add("a", "1");
    h.add("a", "2");
    assert_eq!(h.store.park(&key("a")).await.unwrap(), Some(first));
    let page = h.page().await;
    assert_eq!((page.rows.len(), page.due.len(), page.next_due), (0, 0, None));
    h.clock.advance(1_000_000 * SECOND);
    assert_eq!(h.ready().await, [""; 0]);
    assert_eq!(h.store.resume(&key("a")).await.unwrap(), Some(first));
    assert_eq!((h.ready().await, due(&h.page().await)), (vec!["1".to_owned(), "2".to_owned()], vec![1]));
}

#[tokio::test]
async fn a_row_that_cannot_be_read_leaves_the_page_whole() {
    let mut h = Harness::new().await;
    for payload in ["1", "2", "3", "4", "5", "6"] {
        h.add(&format!("k{payload}"), payload);
    }
    let break_rows = "update outbox_messages set headers = '{\"a\": 1}' where seq = 1;
        update outbox_messages set headers = 'nonsense' where seq = 2;
        update outbox_messages set kind = '' where seq = 3;
        update outbox_messages set ordering_key = 'a' || char(10) where seq = 4;
        update outbox_messages set kind = cast(x'ff' as text) where seq = 5";
    h.application.execute_batch(break_rows).unwrap();
    let page = h.page().await;
    assert_eq!(h.ready().await, ["6"]);
    let found: Vec<_> =
        page.unreadable.iter().map(|one| (one.row.seq.0, one.key.clone(), one.error.as_str())).collect();
    let wanted = [
        (1, Some(key("k1")), "headers are no JSON object of texts"),
        (2, Some(key("k2")), "headers are no JSON object of texts"),
        (3, Some(key("k3")), "kind must not be empty"),
        (4, None, "ordering_key must not hold control characters"),
        (5, Some(key("k5")), "kind is no UTF-8"),
    ];
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn pages_are_read_by_index_however_many_rows_wait() {
    let mut h = Harness::with_shards(4).await;
    let messages: Vec<_> = (0..2_000).map(|number| h.message(&format!("k{}", number % 300), "x")).collect();
    h.outbox.add_all(&h.application, &messages).unwrap();
    for analyze in ["", "analyze", "update outbox_messages set retry_at = 1 where seq % 3 = 0; analyze"] {
        h.application.execute_batch(analyze).unwrap();
        for (name, sql) in relaykit_outbox::sqlite::page_queries(&names()) {
            let mut explain = h.application.prepare(&format!("explain query plan {}", sql.as_str())).unwrap();
            let steps =
                explain.raw_query().mapped(|row| row.get::<_, String>(3)).collect::<Result<Vec<_>, _>>();
            let plan = steps.unwrap().join("; ");
            assert!(
                !plan.contains("SCAN m") && !plan.contains("SCAN b") && !plan.contains("TEMP B-TREE"),
                "{name}: {plan}"
            );
            println!("{name}: {plan}");
        }
    }
}

#[tokio::test]
async fn the_tables_are_as_they_must_be_and_a_second_migration_does_nothing() {
    let h = Harness::with_shards(4).await;
    assert_eq!(h.store.verify().await.unwrap(), []);
    let again = h.store.migrate().await.unwrap();
    assert_eq!((again.from, again.to), (1, 1));
    let other = SqliteOutboxStore::new(database(&h.path(), &h.clock), &names(), Shards::default());
    for result in [other.migrate().await.map(drop), other.verify().await.map(drop)] {
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
    }
    h.application.execute_batch("drop index outbox_messages_due").unwrap();
    let differences = h.store.verify().await.unwrap();
    assert!(matches!(&differences[..], [Difference::Index { index, .. }] if index == "outbox_messages_due"));
    h.application.execute_batch("insert into outbox_schema values (2, 'later', 0)").unwrap();
    for result in [h.store.migrate().await.map(drop), h.store.verify().await.map(drop)] {
        let newer = matches!(
            result,
            Err(StoreError::Schema { source: SchemaError::Newer { found: 2, known: 1 }, .. })
        );
        assert!(newer, "{result:?}");
    }
}

#[tokio::test]
async fn what_waits_is_counted() {
    let mut h = Harness::new().await;
    assert_eq!(h.store.depth().await.unwrap(), relaykit_outbox::Depth::default());
    h.add("a", "1");
    h.clock.advance(SECOND);
    h.add("a", "2");
    h.add("b", "3");
    h.kill(2, relaykit_outbox::DeadReason::Rejected).await;
    h.clock.advance(SECOND);
    let depth = h.store.depth().await.unwrap();
    assert_eq!((depth.pending, depth.oldest, depth.dead), (2, Some(2 * SECOND), 1));
    assert_eq!(h.page_after(2, 1).await.rows[0].row.seq, Seq(3));
}
