use relaykit_inbox::postgres::{PgInbox, PgInboxStore};
use relaykit_inbox::{IdConflict, InboxStore, Limits, MAX_ADDED, ReceiveError, Received, Scope, Seq};
use relaykit_pipeline_traits::{Message, Timestamp};
use relaykit_sql_store::{OpenTransactions, StoreError};
use sqlx::Connection;

use crate::common::{Inbox, WAITS, ids, keyed, message, other, routes, scope, shards};

fn conflict(message: &Message) -> Result<Received, IdConflict> {
    Err(IdConflict { scope: scope(), id: message.id() })
}

#[tokio::test]
async fn a_message_is_stored_once_and_led_to_each_of_its_handlers() {
    let Some(i) = Inbox::new().await else { return };
    let long_ago = Timestamp::from_micros(-62_135_596_800_000_001);
    let full = Message::builder(message("push").build().unwrap().id(), "push", long_ago)
        .ordering_key("ключ-漢-🦀")
        .payload((0..=255).collect::<Vec<u8>>())
        .header("x-note", "\"quoted\\\" ü\t")
        .build()
        .unwrap();
    let bare = message("push").build().unwrap();
    let star = message("star").build().unwrap();
    for (received, list) in [(1, vec![full.clone()]), (2, vec![bare.clone(), star.clone()])] {
        assert_eq!(i.receive(&list).await, vec![Ok(Received::Stored); received]);
        assert_eq!(i.receive(&list).await, vec![Ok(Received::AlreadyKnown); received]);
    }
    let (crm, mail) = (i.page("crm").await, i.page("mail").await);
    assert_eq!((crm.rows.len(), mail.rows.len()), (3, 2));
    assert_eq!((&crm.unreadable[..], &mail.unreadable[..]), (&[][..], &[][..]));
    for stored in crm.rows.iter().chain(&mail.rows) {
        let sent = [&full, &bare, &star].into_iter().find(|sent| sent.id() == stored.message.id()).unwrap();
        assert_eq!(&stored.message, sent);
        let key = sent.ordering_key().map_or_else(|| sent.id().to_string(), |key| key.as_str().to_owned());
        assert_eq!(stored.row.shard, shards().of(key.as_bytes()));
        assert_eq!((stored.attempts, stored.failing_for, stored.waited), (0, None, false));
        assert!(stored.age < std::time::Duration::from_secs(60));
    }
    assert_eq!(i.number("select count(*) from {messages}").await, 3);
    i.clean().await;
}

#[tokio::test]
async fn an_id_is_known_by_its_scope_and_by_what_tells_messages_apart() {
    let Some(i) = Inbox::new().await else { return };
    let known = message("push").ordering_key("k").payload("1").header("h", "v").build().unwrap();
    i.receive(std::slice::from_ref(&known)).await;
    let like = |kind, payload: &str| {
        Message::builder(known.id(), kind, Timestamp::from_millis(1))
            .payload(payload.to_owned())
            .build()
            .unwrap()
    };
    // Key, headers and time may differ from one delivery to the next.
    assert_eq!(i.receive(&[like("push", "1")]).await, [Ok(Received::AlreadyKnown)]);
    assert_eq!(i.receive(&[like("push", "2")]).await, [conflict(&known)]);
    assert_eq!(i.receive(&[like("star", "1")]).await, [conflict(&known)]);
    let elsewhere = Scope::new("gitlab").unwrap();
    assert_eq!(
        i.store.receive(&elsewhere, &[like("push", "2")], &routes()).await.unwrap(),
        [Ok(Received::Stored)]
    );
    assert_eq!(i.page("crm").await.rows.iter().filter(|row| row.message == known).count(), 1);
    i.clean().await;
}

#[tokio::test]
async fn a_list_is_answered_position_by_position_and_keeps_its_order() {
    let Some(i) = Inbox::new().await else { return };
    assert_eq!(i.receive(&[]).await, []);
    let [known, a, b, c] = [(); 4].map(|()| keyed("k"));
    i.receive(std::slice::from_ref(&known)).await;
    let list = [
        a.clone(),
        other(&known),
        known.clone(),
        b.clone(),
        a.clone(),
        other(&a),
        other(&known),
        c.clone(),
        b.clone(),
    ];
    let (stored, again) = (Ok(Received::Stored), Ok(Received::AlreadyKnown));
    let expected = [
        stored.clone(),
        conflict(&known),
        again.clone(),
        stored.clone(),
        again.clone(),
        conflict(&a),
        conflict(&known),
        stored,
        again,
    ];
    assert_eq!(i.receive(&list).await, expected);
    assert_eq!(i.ids("crm").await, ids([&known, &a, &b, &c]));
    let many: Vec<_> = (0..2_000).map(|_| keyed("many")).collect();
    i.receive(&many).await;
    let stored = i
        .store
        .page(
            &crate::common::handler("crm"),
            &crate::common::from_the_beginning(),
            &OpenTransactions::default(),
            3_000,
        )
        .await;
    let told: Vec<_> = stored.unwrap().rows.iter().map(|row| row.message.id()).collect();
    assert_eq!(told.into_iter().filter(|id| ids(&many).contains(id)).collect::<Vec<_>>(), ids(&many));
    i.clean().await;
}

#[tokio::test]
async fn a_kind_without_a_handler_is_kept_and_listed() {
    let Some(i) = Inbox::new().await else { return };
    let forks: Vec<_> = (0..3).map(|_| message("fork").build().unwrap()).collect();
    i.receive(&forks[..1]).await;
    i.receive(&forks[1..]).await;
    i.receive(&[keyed("k")]).await;
    let listed = i.store.unrouted(Seq(0), 10).await.unwrap();
    assert_eq!(listed.iter().map(|unrouted| unrouted.id).collect::<Vec<_>>(), ids(&forks));
    assert!(listed.iter().all(|unrouted| unrouted.kind == "fork" && unrouted.scope == scope()));
    let behind = i.store.unrouted(listed[0].seq, 1).await.unwrap();
    assert_eq!(behind.iter().map(|unrouted| unrouted.seq).collect::<Vec<_>>(), [listed[1].seq]);
    assert!(i.store.unrouted(Seq(0), 0).await.is_err() && i.store.unrouted(Seq(0), 1001).await.is_err());
    i.clean().await;
}

#[tokio::test]
async fn what_is_rolled_back_was_never_received() {
    let Some(i) = Inbox::new().await else { return };
    let (one, list) = (keyed("a"), [keyed("a"), keyed("b")]);
    let mut conn = i.connection().await;
    let mut tx = conn.begin().await.unwrap();
    assert_eq!(i.inbox.receive(&mut tx, &scope(), &one).await.unwrap(), Received::Stored);
    assert_eq!(i.inbox.receive_all(&mut tx, &scope(), &list).await.unwrap(), vec![Ok(Received::Stored); 2]);
    assert_eq!(i.inbox.receive(&mut tx, &scope(), &list[1]).await.unwrap(), Received::AlreadyKnown);
    // The transaction goes on after a conflict.
    let error = i.inbox.receive(&mut tx, &scope(), &other(&one)).await.unwrap_err();
    assert!(matches!(&error, ReceiveError::IdConflict(conflict) if conflict.id == one.id()), "{error:?}");
    sqlx::query("select 1").execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(i.number("select count(*) from {messages}").await, 0);
    assert_eq!(i.number("select count(*) from {deliveries}").await, 0);
    assert_eq!(i.inbox.receive(&mut conn, &scope(), &one).await.unwrap(), Received::Stored);
    assert_eq!(i.ids("mail").await, [one.id()]);
    i.clean().await;
}

/// The first of two transactions that receive one id is still open when the second comes.
#[tokio::test]
async fn two_that_receive_the_same_id_at_once_agree() {
    let Some(i) = Inbox::new().await else { return };
    for (commit, same) in [(true, true), (true, false), (false, true)] {
        let (mut one, mut two) = (i.connection().await, i.connection().await);
        let first = keyed("k");
        let second = if same { first.clone() } else { other(&first) };
        let mut tx = one.begin().await.unwrap();
        i.inbox.receive(&mut tx, &scope(), &first).await.unwrap();
        let inbox = i.inbox.clone();
        let waiting = tokio::spawn(async move { inbox.receive(&mut two, &scope(), &second).await });
        while i.number(WAITS).await == 0 {
            assert!(!waiting.is_finished(), "it did not wait for the first");
        }
        if commit {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        let answer = waiting.await.unwrap();
        match (commit, same) {
            (true, true) => assert_eq!(answer.unwrap(), Received::AlreadyKnown),
            (true, false) => assert!(matches!(answer, Err(ReceiveError::IdConflict(_))), "{answer:?}"),
            (false, _) => assert_eq!(answer.unwrap(), Received::Stored),
        }
        let deliveries = i.page("crm").await.rows.into_iter().filter(|row| row.message.id() == first.id());
        assert_eq!(deliveries.count(), 1);
    }
    i.clean().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_any_sql_and_missing_tables_are_named() {
    let Some(i) = Inbox::new().await else { return };
    let limits = Limits::default().payload(3).unwrap();
    let inbox = PgInbox::new(&i.db.names("nowhere"), routes(), limits);
    let store = PgInboxStore::new(i.pool.clone(), &i.db.names("nowhere")).limits(limits);
    let large = message("push").payload("1234").build().unwrap();
    let many = vec![message("push").build().unwrap(); MAX_ADDED + 1];
    let mut conn = i.connection().await;
    let mut tx = conn.begin().await.unwrap();
    assert!(matches!(inbox.receive(&mut tx, &scope(), &large).await, Err(ReceiveError::TooLarge(_))));
    assert!(matches!(inbox.receive_all(&mut tx, &scope(), &many).await, Err(ReceiveError::TooLarge(_))));
    assert!(matches!(store.receive(&scope(), &[large], &routes()).await, Err(ReceiveError::TooLarge(_))));
    // No statement ran: one on tables that are not there would have spoiled the transaction.
    sqlx::query("select 1").execute(&mut *tx).await.unwrap();
    let missing = inbox.receive(&mut tx, &scope(), &many[0]).await.unwrap_err();
    assert!(matches!(missing, ReceiveError::Store(StoreError::Schema { .. })), "{missing:?}");
    let missing = store.receive(&scope(), &many[..1], &routes()).await.unwrap_err();
    assert!(matches!(missing, ReceiveError::Store(StoreError::Schema { .. })), "{missing:?}");
    i.clean().await;
}
