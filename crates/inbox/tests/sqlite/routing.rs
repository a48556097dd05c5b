use relaykit_inbox::{InboxStore as _, Retention, Routes, Seq};

use crate::common::{Harness, SECOND, crm, mail, route};

fn forks() -> Routes {
    let mut routes = Routes::new();
    routes.add("fork", crm()).unwrap();
    routes.add("fork", mail()).unwrap();
    routes.add("watch", mail()).unwrap();
    routes
}

#[tokio::test]
async fn unrouted_messages_are_listed_in_order_with_their_age() {
    let mut h = Harness::new().await;
    for (kind, payload) in [("fork", "1"), ("push", "2"), ("watch", "3"), ("fork", "4")] {
        h.receive(kind, "a", payload).await;
    }
    h.clock.advance(SECOND);
    let list = h.store.unrouted(Seq(0), 2).await.unwrap();
    let listed: Vec<_> = list.iter().map(|one| (one.seq.0, one.kind.as_str(), one.age)).collect();
    assert_eq!(listed, [(1, "fork", SECOND), (3, "watch", SECOND)]);
    assert_eq!(list[0].scope, crate::common::github());
    assert_eq!(h.store.unrouted(Seq(3), 2).await.unwrap().len(), 1);
    assert!(h.store.unrouted(Seq(4), 2).await.unwrap().is_empty());
}

#[tokio::test]
async fn unrouted_messages_are_led_to_handlers_that_appear_the_oldest_first_and_once() {
    let mut h = Harness::new().await;
    for (kind, payload) in [("fork", "1"), ("other", "2"), ("watch", "3"), ("fork", "4")] {
        h.receive(kind, "a", payload).await;
    }
    assert_eq!(h.store.route(&h.routes, 10).await.unwrap(), 0);
    assert_eq!(h.store.route(&forks(), 2).await.unwrap(), 2);
    assert_eq!(
        (h.ready(&crm()).await, h.ready(&mail()).await),
        (vec!["1".to_owned()], vec!["1".into(), "3".into()])
    );
    assert_eq!(h.store.route(&forks(), 2).await.unwrap(), 1);
    assert_eq!(h.store.route(&forks(), 2).await.unwrap(), 0);
    assert_eq!(h.ready(&crm()).await, ["1", "4"]);
    assert_eq!(h.ready(&mail()).await, ["1", "3", "4"]);
    assert_eq!(h.number("select count(*) from inbox_messages where handlers = '[\"crm\",\"mail\"]'"), 2);
    assert_eq!(h.store.unrouted(Seq(0), 10).await.unwrap().len(), 1);
    h.retry(1, 1, SECOND).await;
    assert_eq!(h.ready(&crm()).await, [""; 0], "the order of a key is kept");
}

#[tokio::test]
async fn a_handler_that_came_later_gets_what_is_stored_once() {
    let mut h = Harness::new().await;
    for (kind, payload) in [("push", "1"), ("star", "2"), ("push", "3"), ("fork", "4"), ("push", "5")] {
        h.receive(kind, "a", payload).await;
    }
    let late = route("audit", true);
    assert_eq!(h.store.catch_up("push", &late, Seq(0), 2).await.unwrap(), Some((Seq(3), 2)));
    assert_eq!(h.ready(&late).await, ["1", "3"]);
    assert_eq!(h.store.catch_up("push", &late, Seq(3), 2).await.unwrap(), Some((Seq(5), 1)));
    assert_eq!(h.store.catch_up("push", &late, Seq(5), 2).await.unwrap(), None);
    assert_eq!(h.store.catch_up("push", &late, Seq(0), 2).await.unwrap(), None, "they were led to it");
    assert_eq!(h.store.catch_up("push", &crm(), Seq(0), 2).await.unwrap(), None);
    assert_eq!(h.ready(&late).await, ["1", "3", "5"]);
    assert_eq!(h.store.catch_up("fork", &late, Seq(0), 2).await.unwrap(), Some((Seq(4), 1)));
    assert!(h.store.unrouted(Seq(0), 10).await.unwrap().is_empty(), "it has a handler now");
}

#[tokio::test]
async fn what_ended_is_not_led_to_its_handler_again() {
    let mut h = Harness::new().await;
    h.receive("star", "a", "1").await;
    h.done(&[1]).await;
    assert_eq!(h.store.catch_up("star", &crm(), Seq(0), 10).await.unwrap(), None);
    assert_eq!(h.ready(&crm()).await, [""; 0]);
}

#[tokio::test]
async fn what_was_erased_is_passed_over() {
    let mut h = Harness::new().await;
    h.receive("star", "a", "1").await;
    h.done(&[1]).await;
    h.clock.advance(2 * SECOND);
    let erased = h.store.erase(&Retention::off().payloads(Some(SECOND)), 10).await.unwrap();
    assert_eq!(erased.payloads, 1);
    assert_eq!(h.store.catch_up("star", &mail(), Seq(0), 10).await.unwrap(), None);
}

#[tokio::test]
async fn a_step_of_catching_up_is_bounded_and_says_how_far_it_got() {
    let mut h = Harness::new().await;
    h.receive("star", "a", "1").await;
    h.application
        .execute_batch("update sqlite_sequence set seq = 25000 where name = 'inbox_messages'")
        .unwrap();
    h.receive("fork", "a", "2").await;
    h.receive("push", "a", "3").await;
    let (late, mut after, mut steps, mut given) = (route("audit", false), Seq(0), 0, 0);
    while let Some((place, count)) = h.store.catch_up("push", &late, after, 10).await.unwrap() {
        assert!(place > after, "it gets on");
        (after, steps, given) = (place, steps + 1, given + count);
    }
    assert_eq!((after, steps, given), (Seq(25_002), 3, 1));
    assert_eq!(h.ready(&late).await, ["3"]);
}

#[tokio::test]
async fn callers_at_once_give_one_delivery() {
    let mut h = Harness::new().await;
    for number in 0..30 {
        h.receive("fork", "a", &number.to_string()).await;
    }
    let other = relaykit_inbox::sqlite::SqliteInboxStore::new(
        crate::common::database(&h.path(), &h.clock),
        &crate::common::names(),
        h.shards,
    );
    let (routes, late) = (forks(), route("audit", false));
    let both = futures_util::future::join(h.store.route(&routes, 20), other.route(&routes, 20)).await;
    assert_eq!(both.0.unwrap() + both.1.unwrap(), 30);
    let caught = futures_util::future::join(
        h.store.catch_up("fork", &late, Seq(0), 30),
        other.catch_up("fork", &late, Seq(0), 30),
    );
    let caught = caught.await;
    let given = |caught: Option<(Seq, u64)>| caught.map_or(0, |(_, given)| given);
    assert_eq!(given(caught.0.unwrap()) + given(caught.1.unwrap()), 30);
    for handler in [crm(), mail(), late] {
        assert_eq!(h.ready(&handler).await.len(), 30);
    }
}
