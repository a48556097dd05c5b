use std::time::Duration;

use relaykit_inbox::sqlite::SqliteInboxStore;
use relaykit_inbox::{Depth, InboxStore as _, OpenTransactions, Page, ReadFrom, Seq};
use relaykit_sql_store::{Difference, SchemaError, Shards, StoreError};

use crate::common::{Harness, SECOND, crm, database, key, mail, names, row};

fn due(page: &Page) -> Vec<i64> {
    page.due.iter().map(|row| row.seq.0).collect()
}

#[tokio::test]
async fn a_page_has_the_first_rows_of_its_handler_behind_a_place() {
    let mut h = Harness::new().await;
    for payload in ["1", "2", "3", "4"] {
        h.receive("push", "a", payload).await;
    }
    h.clock.advance(5 * SECOND);
    let page = h.page_after(&crm(), 1, 2).await;
    assert_eq!(page.rows.iter().map(|stored| stored.row).collect::<Vec<_>>(), [row(3), row(5)]);
    let stored = &page.rows[0];
    assert_eq!(
        (stored.attempts, stored.age, stored.failing_for, stored.waited),
        (0, 5 * SECOND, None, false)
    );
    assert_eq!((due(&page), page.next_due), (vec![], None));
    assert_eq!(h.page(&crate::common::route("other", true)).await, Page::default());
}

#[tokio::test]
async fn a_row_that_waits_holds_the_later_ones_of_its_key_and_handler_and_no_others() {
    let mut h = Harness::new().await;
    // The places are odd for the one handler, and even for the other.
    for (key, payload) in [("a", "a1"), ("b", "b1"), ("a", "a2"), ("", "none 1"), ("", "none 2")] {
        h.receive("push", key, payload).await;
    }
    h.retry(1, 1, 10 * SECOND).await;
    h.retry(7, 1, 20 * SECOND).await;
    assert_eq!(h.ready(&crm()).await, ["b1", "none 2"]);
    assert_eq!(h.ready(&mail()).await, ["a1", "b1", "a2", "none 1", "none 2"]);
    let page = h.page(&crm()).await;
    assert_eq!((due(&page), page.next_due), (vec![], Some(10 * SECOND)));
    let page = h.page(&mail()).await;
    assert_eq!(
        (due(&page), page.next_due),
        (vec![], None),
        "the waits of other handlers are none of its own"
    );
    h.clock.advance(9_999 * Duration::from_millis(1));
    assert_eq!(h.page(&crm()).await.next_due, Some(Duration::from_millis(1)));
    h.clock.advance(Duration::from_millis(1));
    assert_eq!(h.ready(&crm()).await, ["a1", "b1", "a2", "none 2"]);
    let page = h.page_after(&crm(), 6, 100).await;
    assert_eq!((due(&page), page.next_due), (vec![1], Some(10 * SECOND)), "whatever lies before the page");
    let held = h.page_after(&crm(), 1, 100).await;
    assert_eq!(held.rows.len(), 2, "a2 must not pass a1, which is not on this page");
    let stored = &h.page(&crm()).await.rows[0];
    assert_eq!((stored.attempts, stored.failing_for, stored.waited), (1, Some(10 * SECOND), true));
}

#[tokio::test]
async fn a_handler_without_order_is_not_held() {
    let mut h = Harness::new().await;
    for payload in ["1", "2", "3"] {
        h.receive("push", "a", payload).await;
    }
    h.retry(2, 1, 10 * SECOND).await;
    assert_eq!(h.ready(&mail()).await, ["2", "3"]);
    assert_eq!(h.ready(&crm()).await, ["1", "2", "3"]);
    h.clock.advance(10 * SECOND);
    assert_eq!(due(&h.page(&mail()).await), [2]);
    assert_eq!(due(&h.page(&crm()).await), [0; 0]);
    assert_eq!(h.page_after(&mail(), 2, 10).await.rows.len(), 2);
}

#[tokio::test]
async fn a_row_whose_wait_is_over_is_not_due_behind_one_that_still_waits() {
    let mut h = Harness::new().await;
    for payload in ["a1", "a2", "a3"] {
        h.receive("star", "a", payload).await;
    }
    h.retry(3, 1, SECOND).await;
    h.retry(1, 1, 10 * SECOND).await;
    h.clock.advance(5 * SECOND);
    assert_eq!(due(&h.page(&crm()).await), [0; 0]);
    assert_eq!(h.ready(&crm()).await, [""; 0]);
    h.clock.advance(5 * SECOND);
    assert_eq!(due(&h.page(&crm()).await), [1], "the first of the shard");
    assert_eq!(h.ready(&crm()).await, ["a1", "a2", "a3"]);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_leaves_the_page_whole() {
    let mut h = Harness::new().await;
    for payload in ["1", "2", "3", "4", "5"] {
        h.receive("star", &format!("k{payload}"), payload).await;
    }
    let break_rows = "update inbox_messages set headers = 'nonsense' where seq = 1;
        update inbox_messages set payload = null where seq = 2;
        update inbox_messages set kind = cast(x'ff' as text) where seq = 3;
        update inbox_messages set ordering_key = 'a' || char(10) where seq = 4";
    h.application.execute_batch(break_rows).unwrap();
    assert_eq!(h.ready(&crm()).await, ["5"]);
    let page = h.page(&crm()).await;
    let found: Vec<_> =
        page.unreadable.iter().map(|one| (one.row.seq.0, one.key.clone(), one.error.as_str())).collect();
    let wanted = [
        (1, Some(key("k1")), "headers are no JSON object of texts"),
        (2, Some(key("k2")), "payload was erased"),
        (3, Some(key("k3")), "kind is no UTF-8"),
        (4, None, "ordering_key must not hold control characters"),
    ];
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn pages_name_the_shards_they_were_asked_for_only() {
    let mut h = Harness::with_shards(4).await;
    for number in 0..40 {
        h.receive("push", &format!("k{number}"), "x").await;
    }
    let shard = h.page(&crm()).await.rows[0].row.shard;
    let page = h
        .store
        .page(&crm().handler, &[ReadFrom { shard, after: Seq(0) }], &OpenTransactions::default(), 100)
        .await
        .unwrap();
    assert!(!page.rows.is_empty() && page.rows.len() < 40);
    assert!(page.rows.iter().all(|stored| stored.row.shard == shard));
}

#[tokio::test]
async fn pages_are_read_by_index_however_many_rows_wait() {
    let mut h = Harness::with_shards(4).await;
    let messages: Vec<_> =
        (0..1_500).map(|number| h.message("push", &format!("k{}", number % 300), "x")).collect();
    h.receive_all(&messages).await;
    for analyze in ["", "analyze", "update inbox_deliveries set retry_at = 1 where seq % 3 = 0; analyze"] {
        h.application.execute_batch(analyze).unwrap();
        for (name, sql) in relaykit_inbox::sqlite::page_queries(&names()) {
            let mut explain = h.application.prepare(&format!("explain query plan {}", sql.as_str())).unwrap();
            let steps =
                explain.raw_query().mapped(|row| row.get::<_, String>(3)).collect::<Result<Vec<_>, _>>();
            let plan = steps.unwrap().join("; ");
            for bad in ["SCAN d", "SCAN m", "SCAN b", "SCAN inbox", "TEMP B-TREE"] {
                assert!(!plan.contains(bad), "{name}: {plan}");
            }
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
    let other = SqliteInboxStore::new(database(&h.path(), &h.clock), &names(), Shards::default());
    for result in [other.migrate().await.map(drop), other.verify().await.map(drop)] {
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
    }
    h.application.execute_batch("drop index inbox_deliveries_due").unwrap();
    let differences = h.store.verify().await.unwrap();
    assert!(matches!(&differences[..], [Difference::Index { index, .. }] if index == "inbox_deliveries_due"));
    h.application.execute_batch("insert into inbox_schema values (2, 'later', 0)").unwrap();
    for result in [h.store.migrate().await.map(drop), h.store.verify().await.map(drop)] {
        let newer = matches!(
            result,
            Err(StoreError::Schema { source: SchemaError::Newer { found: 2, known: 1 }, .. })
        );
        assert!(newer, "{result:?}");
    }
}

#[tokio::test]
async fn what_waits_for_a_handler_is_counted() {
    let mut h = Harness::new().await;
    assert_eq!(h.store.depth(&crm().handler).await.unwrap(), Depth::default());
    h.receive("push", "a", "1").await;
    h.clock.advance(SECOND);
    h.receive("star", "a", "2").await;
    h.receive("fork", "a", "3").await;
    h.kill(2, relaykit_inbox::DeadReason::Rejected).await;
    h.clock.advance(SECOND);
    let depth = |handler| h.store.depth(handler);
    let (crm, mail) = (depth(&crm().handler).await.unwrap(), depth(&mail().handler).await.unwrap());
    assert_eq!((crm.pending, crm.oldest, crm.dead), (2, Some(2 * SECOND), 0));
    assert_eq!((mail.pending, mail.oldest, mail.dead), (0, None, 1));
}
