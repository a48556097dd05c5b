use relaykit_outbox::postgres::PgOutbox;
use relaykit_outbox::{AddError, Added, Limits, OutboxStore};
use relaykit_pipeline_traits::uuid::Uuid;
use relaykit_pipeline_traits::{Classify, Message, MessageId, Rng, Timestamp};
use relaykit_sql_store::postgres::PgUuid;
use relaykit_sql_store::{OpenTransactions, Sql};
use sqlx::{Connection, PgConnection};

use crate::common::{Outbox, from_the_beginning, keyed, message, shards};

#[tokio::test]
async fn what_is_rolled_back_is_never_seen() {
    let Some(o) = Outbox::new().await else { return };
    let mut conn = o.connection().await;
    let mut tx = conn.begin().await.unwrap();
    o.outbox.add(&mut tx, &keyed("a")).await.unwrap();
    o.outbox.add_all(&mut tx, &[keyed("a"), keyed("b")]).await.unwrap();
    assert_eq!(o.page().await.rows, []);
    tx.rollback().await.unwrap();
    assert_eq!(o.page().await.rows, []);
    assert_eq!(o.number("select count(*) from {messages}").await, 0);
    o.clean().await;
}

#[tokio::test]
async fn what_is_committed_is_seen_whole() {
    let Some(o) = Outbox::new().await else { return };
    let all = message()
        .ordering_key("ключ-漢-🦀")
        .payload((0..=255).collect::<Vec<u8>>())
        .header("content-type", "application/json")
        .header("x-note", "\"quoted\\\" ü\t")
        .build()
        .unwrap();
    let bare = message().build().unwrap();
    let long_ago = Timestamp::from_micros(-62_135_596_800_000_001);
    let old = Message::builder(message().build().unwrap().id(), "k", long_ago).build().unwrap();
    for message in [&all, &bare, &old] {
        o.add(message).await;
    }
    let page = o.page().await;
    for message in [&all, &bare, &old] {
        let stored = page.rows.iter().find(|stored| stored.message.id() == message.id()).unwrap();
        assert_eq!(&stored.message, message);
        let key =
            message.ordering_key().map_or_else(|| message.id().to_string(), |key| key.as_str().to_owned());
        assert_eq!(stored.row.shard, shards().of(key.as_bytes()));
        assert_eq!((stored.attempts, stored.failing_for, stored.waited), (0, None, false));
        assert!(stored.age < std::time::Duration::from_secs(60));
    }
    assert_eq!(page.unreadable, []);
    o.clean().await;
}

#[tokio::test]
async fn the_same_message_is_added_once_and_another_of_its_id_is_refused() {
    let Some(o) = Outbox::new().await else { return };
    let mut conn = o.connection().await;
    let original = message().ordering_key("k").payload("1").header("h", "v").build().unwrap();
    assert_eq!(o.outbox.add(&mut conn, &original).await.unwrap(), Added::Added);
    assert_eq!(o.outbox.add(&mut conn, &original).await.unwrap(), Added::AlreadyAdded);
    let like = |kind: &str, at| Message::builder(original.id(), kind, at);
    let at = original.occurred_at();
    // The time alone makes no other message: whoever tries again may ask its clock again.
    let later = Timestamp::from_millis(1);
    let same = like("order.paid", later).ordering_key("k").payload("1").header("h", "v").build().unwrap();
    assert_eq!(o.outbox.add(&mut conn, &same).await.unwrap(), Added::AlreadyAdded);
    let others = [
        like("other", at).ordering_key("k").payload("1").header("h", "v"),
        like("order.paid", at).ordering_key("l").payload("1").header("h", "v"),
        like("order.paid", at).payload("1").header("h", "v"),
        like("order.paid", at).ordering_key("k").payload("2").header("h", "v"),
        like("order.paid", at).ordering_key("k").payload("1").header("h", "w"),
        like("order.paid", at).ordering_key("k").payload("1"),
    ];
    for other in others {
        let mut tx = conn.begin().await.unwrap();
        let error = o.outbox.add(&mut tx, &other.build().unwrap()).await.unwrap_err();
        assert!(matches!(error, AddError::IdConflict { id } if id == original.id()), "{error:?}");
        assert!(!error.is_transient());
        // The transaction is still good.
        o.outbox.add(&mut tx, &message().build().unwrap()).await.unwrap();
        tx.rollback().await.unwrap();
    }
    assert_eq!(o.page().await.rows[0].message, original);
    o.clean().await;
}

#[tokio::test]
async fn a_list_answers_each_message_and_writes_nothing_if_one_is_another() {
    let Some(o) = Outbox::new().await else { return };
    let mut conn = o.connection().await;
    let [a, b, c] = ["a", "b", "c"].map(keyed);
    assert_eq!(o.outbox.add_all(&mut conn, &[]).await.unwrap(), []);
    o.outbox.add(&mut conn, &b).await.unwrap();
    let list = [a.clone(), b.clone(), c.clone(), a.clone()];
    let answers = o.outbox.add_all(&mut conn, &list).await.unwrap();
    assert_eq!(answers, [Added::Added, Added::AlreadyAdded, Added::Added, Added::AlreadyAdded]);

    let new = keyed("new");
    let other = Message::builder(c.id(), "other", c.occurred_at()).build().unwrap();
    for list in [vec![new.clone(), other.clone()], vec![c.clone(), new.clone(), other]] {
        let error = o.outbox.add_all(&mut conn, &list).await.unwrap_err();
        assert!(matches!(error, AddError::IdConflict { id } if id == c.id()), "{error:?}");
        assert_eq!(o.number("select count(*) from {messages}").await, 3);
    }
    o.clean().await;
}

#[tokio::test]
async fn a_transaction_goes_on_as_if_a_refused_list_had_never_been() {
    let Some(o) = Outbox::new().await else { return };
    let mut conn = o.connection().await;
    let [before, known, new, after] = ["k"; 4].map(keyed);
    o.add(&known).await;
    let other = Message::builder(known.id(), "other", known.occurred_at()).build().unwrap();
    let mut tx = conn.begin().await.unwrap();
    o.outbox.add(&mut tx, &before).await.unwrap();
    let refused = o.outbox.add_all(&mut tx, &[new, other]).await.unwrap_err();
    assert!(matches!(refused, AddError::IdConflict { id } if id == known.id()), "{refused:?}");
    o.outbox.add_all(&mut tx, &[after.clone(), known.clone()]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(o.ids().await, [known.id(), before.id(), after.id()]);
    o.clean().await;
}

#[tokio::test]
async fn a_list_keeps_its_order() {
    let Some(o) = Outbox::new().await else { return };
    let messages = o.add_to("k", 2000).await;
    let ids: Vec<_> = messages.iter().map(Message::id).collect();
    let mut told = Vec::new();
    let mut from = from_the_beginning();
    loop {
        let page = o.store.page(&from, &OpenTransactions::default(), 300).await.unwrap();
        let Some(last) = page.rows.last() else { break };
        assert!(page.rows.len() <= 300);
        from = vec![relaykit_outbox::ReadFrom { shard: last.row.shard, after: last.row.seq }];
        told.extend(page.rows.iter().map(|stored| stored.message.id()));
    }
    assert_eq!(told, ids);
    o.clean().await;
}

/// How many of the test's connections wait for a lock.
const WAITING: &str = "select count(*) from pg_stat_activity
    where wait_event_type = 'Lock' and application_name = trim('\"' from '{@schema}')";

/// The first of two transactions that add one id is still open when the second comes.
#[tokio::test]
async fn two_that_add_the_same_id_at_once_agree() {
    let Some(o) = Outbox::new().await else { return };
    for (commit, same) in [(true, true), (true, false), (false, true)] {
        let (mut one, mut two) = (o.connection().await, o.connection().await);
        let first = keyed("k");
        let second = if same {
            first.clone()
        } else {
            Message::builder(first.id(), "other", first.occurred_at()).build().unwrap()
        };
        let mut tx = one.begin().await.unwrap();
        o.outbox.add(&mut tx, &first).await.unwrap();
        let outbox = o.outbox.clone();
        let waiting = tokio::spawn(async move { outbox.add(&mut two, &second).await });
        while o.number(WAITING).await == 0 {
            assert!(!waiting.is_finished(), "it did not wait for the first");
        }
        if commit {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        let answer = waiting.await.unwrap();
        match (commit, same) {
            (true, true) => assert_eq!(answer.unwrap(), Added::AlreadyAdded),
            (true, false) => assert!(matches!(answer, Err(AddError::IdConflict { .. })), "{answer:?}"),
            (false, _) => assert_eq!(answer.unwrap(), Added::Added),
        }
    }
    o.clean().await;
}

/// The list waits for a transaction that is adding the last of its ids.
#[tokio::test]
async fn a_list_that_meets_another_one_is_added_whole_or_not_at_all() {
    let Some(o) = Outbox::new().await else { return };
    for same in [true, false] {
        let (mut one, mut two) = (o.connection().await, o.connection().await);
        let list = [keyed("k"), keyed("k"), keyed("k")];
        let third = list[2].clone();
        let met = if same {
            third.clone()
        } else {
            Message::builder(third.id(), "other", third.occurred_at()).build().unwrap()
        };
        let mut tx = one.begin().await.unwrap();
        o.outbox.add(&mut tx, &met).await.unwrap();
        let outbox = o.outbox.clone();
        let waiting = tokio::spawn(async move { outbox.add_all(&mut two, &list).await });
        while o.number(WAITING).await == 0 {
            assert!(!waiting.is_finished(), "it did not wait for the other");
        }
        tx.commit().await.unwrap();
        let answer = waiting.await.unwrap();
        let pending = o.number("select count(*) from {messages}").await;
        if same {
            assert_eq!(answer.unwrap(), [Added::Added, Added::Added, Added::AlreadyAdded]);
            assert_eq!(pending, 3);
        } else {
            assert!(matches!(answer, Err(AddError::IdConflict { id }) if id == third.id()), "{answer:?}");
            assert_eq!(pending, 1);
        }
        o.db.execute("delete from {messages}").await;
    }
    o.clean().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_any_sql() {
    let Some(o) = Outbox::new().await else { return };
    let outbox = PgOutbox::new(&o.db.names("nowhere"), Limits::default().payload(3).unwrap());
    let large = message().payload("1234").build().unwrap();
    let mut conn = o.connection().await;
    let mut tx = conn.begin().await.unwrap();
    assert!(matches!(outbox.add(&mut tx, &large).await, Err(AddError::TooLarge(_))));
    let many = vec![message().build().unwrap(); relaykit_outbox::MAX_ADDED + 1];
    assert!(matches!(outbox.add_all(&mut tx, &many).await, Err(AddError::TooLarge(_))));
    assert!(outbox.statement(&[large]).is_err());
    // No statement ran: one on tables that are not there would have spoiled the transaction.
    sqlx::query("select 1").execute(&mut *tx).await.unwrap();
    let missing = outbox.add(&mut tx, &message().build().unwrap()).await.unwrap_err();
    assert!(matches!(missing, AddError::Store(relaykit_sql_store::StoreError::Schema { .. })), "{missing:?}");
    o.clean().await;
}

#[tokio::test]
async fn a_message_of_16_mib_passes_in_every_way() {
    let Some(o) = Outbox::new().await else { return };
    let limits = Limits::default().payload(relaykit_outbox::MAX_PAYLOAD_BYTES).unwrap();
    let outbox = PgOutbox::new(&o.db.names("t"), limits);
    let mut conn = o.connection().await;
    let large = || message().payload(vec![0xa5; relaykit_outbox::MAX_PAYLOAD_BYTES]).build().unwrap();
    outbox.add(&mut conn, &large()).await.unwrap();
    run_statement(&mut conn, &outbox, &[large()]).await;
    let rows = o.page().await.rows;
    assert_eq!(rows.len(), 2);
    assert!(
        rows.iter().all(|stored| *stored.message.payload() == vec![0xa5; relaykit_outbox::MAX_PAYLOAD_BYTES])
    );
    o.clean().await;
}

async fn run_statement(conn: &mut PgConnection, outbox: &PgOutbox, messages: &[Message]) -> Vec<MessageId> {
    let add = outbox.statement(messages).unwrap();
    let sql = sqlx::AssertSqlSafe(add.sql);
    let ids: Vec<String> = sqlx::query_scalar(sql).bind(add.parameter).fetch_all(conn).await.unwrap();
    ids.iter().map(|id| id.parse().unwrap()).collect()
}

async fn run_function(conn: &mut PgConnection, o: &Outbox, message: &Message) -> Result<bool, sqlx::Error> {
    let headers: std::collections::BTreeMap<_, _> = message.headers().iter().collect();
    let at = relaykit_sql_store::postgres::PgTimestamp(message.occurred_at());
    sqlx::query_scalar(Sql::new(&o.db.names("t"), &["select {add}($1, $2, $3, $4, $5::jsonb, $6)"]))
        .bind(PgUuid(message.id().as_uuid()))
        .bind(message.kind())
        .bind(message.ordering_key().map(relaykit_pipeline_traits::OrderingKey::as_str))
        .bind(&message.payload()[..])
        .bind(relaykit_sql_store::postgres::PgJson(serde_json::to_string(&headers).unwrap()))
        .bind(at)
        .fetch_one(conn)
        .await
}

fn random_message(rng: &mut Rng) -> Message {
    const LETTERS: [char; 12] = ['a', 'Z', '0', '-', '\'', '"', '\\', 'ü', 'ß', '漢', '🦀', '\u{feff}'];
    let text = |rng: &mut Rng, least: u64| -> String {
        (0..least + rng.below(40)).map(|_| LETTERS[usize::try_from(rng.below(12)).unwrap()]).collect()
    };
    let micros = i64::try_from(rng.below(1 << 55)).unwrap() - (1 << 54);
    let mut id = [0; 16];
    rng.fill(&mut id);
    let id = MessageId::from_uuid(Uuid::from_bytes(id));
    let mut builder = Message::builder(id, text(rng, 1), Timestamp::from_micros(micros))
        .payload(text(rng, 0).into_bytes())
        .header("h", text(rng, 0));
    if rng.below(4) > 0 {
        builder = builder.ordering_key(text(rng, 1));
    }
    builder.build().unwrap()
}

#[tokio::test]
async fn rust_the_function_and_the_statement_write_the_same_row() {
    let Some(o) = Outbox::new().await else { return };
    let mut conn = o.connection().await;
    let seed = 4;
    let mut rng = Rng::seeded(seed);
    let messages: Vec<_> = (0..1000).map(|_| random_message(&mut rng)).collect();
    let sent_by = |o: &Outbox| {
        let (store, mut expected) = (o.store.clone(), messages.clone());
        expected.sort_by_key(Message::id);
        async move {
            let page = store.page(&from_the_beginning(), &OpenTransactions::default(), 1000).await.unwrap();
            assert_eq!(page.unreadable, [], "seed {seed}");
            for stored in &page.rows {
                let message = &stored.message;
                let key = message
                    .ordering_key()
                    .map_or_else(|| message.id().to_string(), |key| key.as_str().to_owned());
                assert_eq!(stored.row.shard, shards().of(key.as_bytes()), "seed {seed}: {key:?}");
            }
            let mut found: Vec<_> = page.rows.into_iter().map(|stored| stored.message).collect();
            found.sort_by_key(Message::id);
            assert_eq!(found, expected, "seed {seed}");
        }
    };

    o.outbox.add_all(&mut conn, &messages).await.unwrap();
    sent_by(&o).await;
    // Whoever comes second, by whatever way, finds them.
    assert_eq!(run_statement(&mut conn, &o.outbox, &messages).await, []);
    let mut tx = conn.begin().await.unwrap();
    for message in &messages {
        assert!(!run_function(&mut tx, &o, message).await.unwrap());
    }
    tx.rollback().await.unwrap();

    o.db.execute("delete from {messages}").await;
    let ids: Vec<_> = messages.iter().map(Message::id).collect();
    assert_eq!(run_statement(&mut conn, &o.outbox, &messages).await, ids);
    sent_by(&o).await;

    o.db.execute("delete from {messages}").await;
    let mut tx = conn.begin().await.unwrap();
    for message in &messages {
        assert!(run_function(&mut tx, &o, message).await.unwrap());
    }
    tx.commit().await.unwrap();
    sent_by(&o).await;
    let answers = o.outbox.add_all(&mut conn, &messages).await.unwrap();
    assert!(answers.iter().all(|answer| *answer == Added::AlreadyAdded));
    o.clean().await;
}

#[tokio::test]
async fn the_statement_passes_over_known_ids_and_tells_which_it_added() {
    let Some(o) = Outbox::new().await else { return };
    let mut conn = o.connection().await;
    let (known, new) = (keyed("k"), keyed("k"));
    o.add(&known).await;
    let other = Message::builder(known.id(), "other", known.occurred_at()).build().unwrap();
    assert_eq!(run_statement(&mut conn, &o.outbox, &[other, new.clone()]).await, [new.id()]);
    assert_eq!(o.ids().await, [known.id(), new.id()]);
    o.clean().await;
}

#[tokio::test]
async fn the_function_refuses_what_is_no_message_and_another_of_a_known_id() {
    let Some(o) = Outbox::new().await else { return };
    let mut conn = o.connection().await;
    let known = keyed("k");
    o.add(&known).await;
    let other = Message::builder(known.id(), "other", known.occurred_at()).build().unwrap();
    let error = run_function(&mut conn, &o, &other).await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "23505");
    for bad in [
        "select {add}(gen_random_uuid(), '', null, '')",
        "select {add}(gen_random_uuid(), null, null, '')",
        "select {add}(gen_random_uuid(), repeat('x', 256), null, '')",
        "select {add}(gen_random_uuid(), E'a\\nb', null, '')",
        "select {add}(gen_random_uuid(), 'k', '', '')",
        "select {add}(gen_random_uuid(), 'k', repeat('x', 513), '')",
        "select {add}(gen_random_uuid(), 'k', U&'a\\0085', '')",
        "select {add}(gen_random_uuid(), 'k', null, '', '[]')",
        "select {add}(gen_random_uuid(), 'k', null, '', '{\"a\": 1}')",
    ] {
        let error = sqlx::query(Sql::new(&o.db.names("t"), &[bad])).execute(&mut conn).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().unwrap(), "22023", "{bad}");
    }
    let later = "select {add}(gen_random_uuid(), 'k', 'key', '', delay => interval '1 hour')::int";
    assert_eq!(o.number(later).await, 1);
    assert_eq!(o.ids().await, [known.id()]);
    o.clean().await;
}
