use relaykit_outbox::OutboxStore as _;
use relaykit_outbox::sqlite::rusqlite::{Connection, TransactionBehavior};
use relaykit_outbox::sqlite::{SqliteOutbox, migration_sql};
use relaykit_outbox::{AddError, Added, Limits, OpenTransactions, ReadFrom, Seq, Snapshot};
use relaykit_pipeline_traits::{Classify as _, Message};
use relaykit_sql_store::{Shards, StoreError};

use crate::common::{Harness, SECOND, connect, names};

#[tokio::test]
async fn what_is_rolled_back_is_never_sent_and_what_is_committed_is_seen_at_once() {
    let mut h = Harness::new().await;
    let message = h.message("a", "1");
    let mut other = connect(&h.path());
    for commit in [false, true] {
        let transaction = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        transaction.execute("insert into orders values (1)", []).unwrap();
        assert_eq!(h.outbox.add(&transaction, &message).unwrap(), Added::Added);
        assert_eq!(h.ready().await, [""; 0], "it is not committed yet");
        if commit { transaction.commit() } else { transaction.rollback() }.unwrap();
        assert_eq!(h.ready().await.len(), usize::from(commit));
        assert_eq!(h.number("select count(*) from orders"), i64::from(commit));
    }
    let page = h.page().await;
    assert_eq!(page.rows[0].message, message);
    assert_eq!(page.snapshot, Snapshot::default());
}

#[tokio::test]
async fn the_same_message_is_added_once_and_another_of_its_id_is_refused() {
    let mut h = Harness::new().await;
    let message = h.message("a", "1");
    assert_eq!(h.outbox.add(&h.application, &message).unwrap(), Added::Added);
    assert_eq!(h.outbox.add(&h.application, &message).unwrap(), Added::AlreadyAdded);
    let others = [
        Message::builder(message.id(), "other", message.occurred_at())
            .ordering_key("a")
            .payload("1")
            .header("a", "1"),
        Message::builder(message.id(), "order.paid", message.occurred_at())
            .ordering_key("b")
            .payload("1")
            .header("a", "1"),
        Message::builder(message.id(), "order.paid", message.occurred_at()).payload("1").header("a", "1"),
        Message::builder(message.id(), "order.paid", message.occurred_at())
            .ordering_key("a")
            .payload("2")
            .header("a", "1"),
        Message::builder(message.id(), "order.paid", message.occurred_at()).ordering_key("a").payload("1"),
    ];
    for other in others {
        let error = h.outbox.add(&h.application, &other.build().unwrap()).unwrap_err();
        assert!(matches!(error, AddError::IdConflict { id } if id == message.id()), "{error}");
    }
    assert_eq!(h.page().await.rows.len(), 1);
    assert_eq!(h.page().await.rows[0].message, message);
}

#[tokio::test]
async fn of_many_all_are_added_or_none() {
    let mut h = Harness::new().await;
    let (one, two, three) = (h.message("a", "1"), h.message("b", "2"), h.message("", "3"));
    let other = Message::builder(two.id(), "other", two.occurred_at()).build().unwrap();
    h.outbox.add(&h.application, &two).unwrap();
    for transaction in [false, true] {
        if transaction {
            h.application.execute_batch("begin immediate; insert into orders values (1)").unwrap();
        }
        let error = h.outbox.add_all(&h.application, &[one.clone(), other.clone()]).unwrap_err();
        assert!(matches!(error, AddError::IdConflict { id } if id == two.id()), "{error}");
        assert_eq!(
            h.application.is_autocommit(),
            !transaction,
            "the caller's transaction is left to the caller"
        );
        if transaction {
            h.application.execute_batch("commit").unwrap();
        }
        assert_eq!(h.ready().await, ["2"]);
    }
    assert_eq!(h.number("select count(*) from orders"), 1);
    let added = h.outbox.add_all(&h.application, &[one.clone(), two, three, one]).unwrap();
    assert_eq!(added, [Added::Added, Added::AlreadyAdded, Added::Added, Added::AlreadyAdded]);
    assert_eq!(h.ready().await, ["2", "1", "3"]);
    assert!(h.application.is_autocommit());
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_anything_is_written() {
    let mut h = Harness::new().await;
    let limits = Limits::default().payload(3).unwrap();
    let outbox = SqliteOutbox::new(&names(), h.shards, limits).clock(h.clock.clone());
    let (small, large) = (h.message("a", "123"), h.message("a", "1234"));
    let error = outbox.add_all(&h.application, &[small.clone(), large.clone()]).unwrap_err();
    assert!(matches!(error, AddError::TooLarge(_)), "{error}");
    assert!(outbox.statement(std::slice::from_ref(&large)).is_err());
    assert!(outbox.add_after(&h.application, &large, SECOND).is_err());
    assert_eq!(h.ready().await, [""; 0]);
    outbox.add(&h.application, &small).unwrap();
    assert_eq!(h.ready().await, ["123"]);
}

#[tokio::test]
async fn a_message_is_in_the_shard_of_its_key_or_else_of_its_ids_text() {
    let mut h = Harness::with_shards(16).await;
    let default = Shards::new(16).unwrap();
    for number in 0..300 {
        let key = if number % 3 == 0 { String::new() } else { format!("ключ {number}") };
        let message = h.message(&key, "x");
        if number % 2 == 0 {
            h.outbox.add(&h.application, &message).unwrap();
        } else {
            add_by_statement(&h, &h.application, &[message]).unwrap();
        }
    }
    let page = h.page().await;
    assert_eq!(page.rows.len(), 300);
    for stored in page.rows {
        let id = stored.message.id().as_uuid().hyphenated().to_string();
        let key = stored.message.ordering_key().map_or(id, ToString::to_string);
        assert_eq!(stored.row.shard, default.of(key.as_bytes()), "{key}");
    }
}

fn add_by_statement(
    h: &Harness,
    connection: &Connection,
    messages: &[Message],
) -> relaykit_outbox::sqlite::rusqlite::Result<Vec<[u8; 16]>> {
    let statement = h.outbox.statement(messages).unwrap();
    let mut insert = connection.prepare(&statement.sql)?;
    insert.query_map([&statement.parameter], |row| row.get(0))?.collect()
}

#[tokio::test]
async fn the_statement_writes_the_same_rows() {
    let mut h = Harness::with_shards(4).await;
    let at = h.message("", "").occurred_at();
    let odd = Message::builder(h.message("", "").id(), "kind \"quoted\" ✓", at)
        .ordering_key("it's {a} 'key' \\ ?1")
        .payload(vec![0_u8, 255, 39, 34])
        .header("x", "tab\tand \"quotes\" and ü")
        .build()
        .unwrap();
    let messages = [odd, h.message("", ""), h.message("b", "2")];
    let ids: Vec<_> = messages.iter().map(|message| *message.id().as_bytes()).collect();
    let columns = "select seq, shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at, retry_at, attempts, hex(payload) from outbox_messages order by seq";
    let rows = |h: &Harness| -> Vec<String> {
        let mut select = h.application.prepare(columns).unwrap();
        let rows = select.query_map([], |row| {
            Ok(format!("{:?}", (1..12).map(|column| row.get_ref(column)).collect::<Vec<_>>()))
        });
        rows.unwrap().map(Result::unwrap).collect()
    };
    h.outbox.add_all(&h.application, &messages).unwrap();
    let (by_add, page) = (rows(&h), h.page().await.rows);
    h.application.execute_batch("delete from outbox_messages").unwrap();
    assert_eq!(add_by_statement(&h, &h.application, &messages).unwrap(), ids);
    assert_eq!(rows(&h), by_add);
    let messages_of = |rows: Vec<relaykit_outbox::Stored>| -> Vec<_> {
        rows.into_iter().map(|row| (row.row.shard, row.message)).collect()
    };
    assert_eq!(messages_of(h.page().await.rows), messages_of(page));
    assert_eq!(add_by_statement(&h, &h.application, &messages).unwrap().len(), 0, "they are there");
}

#[tokio::test]
async fn another_number_of_shards_than_the_tables_have_is_refused() {
    let mut h = Harness::with_shards(4).await;
    let outbox = SqliteOutbox::new(&names(), Shards::new(8).unwrap(), Limits::default());
    let message = h.message("a", "1");
    let error = outbox.add(&h.application, &message).unwrap_err();
    let AddError::Store(StoreError::Rejected { source, .. }) = error else { panic!("{error}") };
    assert_eq!(source.to_string(), "shards is 8, but must be 4, as many as the tables have");
    let statement = outbox.statement(&[message]).unwrap();
    assert!(h.application.execute(&statement.sql, [&statement.parameter]).is_err());
    assert_eq!(h.ready().await, [""; 0]);
}

#[tokio::test]
async fn a_place_is_never_given_twice() {
    let mut h = Harness::new().await;
    h.add("a", "1");
    h.add("a", "2");
    h.done(&[1, 2]).await;
    h.add("a", "3");
    assert_eq!(h.page().await.rows[0].row.seq, Seq(3));
}

#[tokio::test]
async fn tables_that_are_missing_are_reported_as_such() {
    let h = &mut Harness::new().await;
    let message = h.message("a", "1");
    let empty = Connection::open_in_memory().unwrap();
    let error = h.outbox.add(&empty, &message).unwrap_err();
    assert!(matches!(error, AddError::Store(StoreError::Schema { .. })), "{error}");
    assert!(!error.is_transient());
    empty.execute_batch(&migration_sql(&names(), h.shards)).unwrap();
    h.outbox.add(&empty, &message).unwrap();
}

#[tokio::test]
async fn pages_name_the_shards_they_were_asked_for_only() {
    let mut h = Harness::with_shards(4).await;
    for number in 0..40 {
        h.add(&format!("k{number}"), "x");
    }
    let shard = h.page().await.rows[0].row.shard;
    let page =
        h.store.page(&[ReadFrom { shard, after: Seq(0) }], &OpenTransactions::default(), 100).await.unwrap();
    assert!(!page.rows.is_empty() && page.rows.iter().all(|stored| stored.row.shard == shard));
}
