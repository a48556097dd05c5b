use std::time::Duration;

use relaykit_inbox::{HandlerError, Handlers, InboxStore, Registration, Routes, Seq, Worker};
use relaykit_pipeline_traits::{BatchContext, Clock as _, Handler, ManualClock, Message, Verdict};
use relaykit_sql_store::StoreError;
use sqlx::Connection;

use crate::common::{Inbox, WAITS, handler, ids, keyed, message, route, scope};

fn fork(key: &str) -> Message {
    message("fork").ordering_key(key).payload("{}").build().unwrap()
}

fn fork_routes() -> Routes {
    let mut routes = Routes::new();
    routes.add("fork", route("crm", true)).unwrap();
    routes.add("fork", route("audit", false)).unwrap();
    routes
}

#[tokio::test]
async fn unrouted_messages_are_led_to_handlers_that_appear_the_oldest_first() {
    let Some(i) = Inbox::new().await else { return };
    let forks: Vec<_> = (0..5).map(|_| fork("k")).collect();
    i.receive(&forks).await;
    i.receive(&[message("watch").build().unwrap(), keyed("k")]).await;
    assert_eq!(i.store.route(&Routes::new(), 10).await.unwrap(), 0);
    assert_eq!(i.store.route(&fork_routes(), 2).await.unwrap(), 2);
    assert_eq!(i.ids("audit").await, ids(&forks[..2]));
    assert_eq!(i.store.route(&fork_routes(), 10).await.unwrap(), 3);
    assert_eq!(i.store.route(&fork_routes(), 10).await.unwrap(), 0);
    assert_eq!(i.ids("audit").await, ids(&forks));
    assert_eq!(i.ids("crm").await.len(), 6);
    assert_eq!(i.store.unrouted(Seq(0), 10).await.unwrap().len(), 1);
    // Ordered is ordered, whenever it was routed.
    i.retry("crm", &forks[0], 1, crate::common::HOUR).await;
    i.retry("audit", &forks[0], 1, crate::common::HOUR).await;
    assert!(!i.ids("crm").await.contains(&forks[1].id()));
    assert_eq!(i.ids("audit").await, ids(&forks[1..]));
    i.clean().await;
}

/// Another routes the same messages, and has not committed yet.
#[tokio::test]
async fn two_that_route_or_catch_up_at_once_make_one_delivery_in_order() {
    let Some(i) = Inbox::new().await else { return };
    let forks: Vec<_> = (0..10).map(|_| fork("k")).collect();
    i.receive(&forks).await;
    let mut conn = i.connection().await;
    let mut tx = conn.begin().await.unwrap();
    let lock = relaykit_sql_store::Sql::new(&i.db.names("t"), &["select from {messages} for update"]);
    sqlx::query(lock).execute(&mut *tx).await.unwrap();
    let both = [(); 2].map(|()| {
        let store = i.store.clone();
        tokio::spawn(async move { store.route(&fork_routes(), 6).await.unwrap() })
    });
    while i.number(WAITS).await < 2 {}
    tx.commit().await.unwrap();
    let mut routed = 0;
    for one in both {
        routed += one.await.unwrap();
    }
    // Whoever comes second may find fewer than it asked for, and comes again.
    routed += i.store.route(&fork_routes(), 10).await.unwrap();
    assert_eq!(routed, 10);
    assert_eq!(i.ids("crm").await, ids(&forks));
    assert_eq!(i.number("select count(*) from {deliveries}").await, 20);

    let mut tx = conn.begin().await.unwrap();
    let lock = relaykit_sql_store::Sql::new(&i.db.names("t"), &["select from {messages} for update"]);
    sqlx::query(lock).execute(&mut *tx).await.unwrap();
    let both = [(); 2].map(|()| {
        let store = i.store.clone();
        tokio::spawn(async move { store.catch_up("fork", &route("late", true), Seq(0), 100).await.unwrap() })
    });
    while i.number(WAITS).await < 2 {}
    tx.commit().await.unwrap();
    let mut caught = 0;
    for one in both {
        caught += one.await.unwrap().unwrap().1;
    }
    assert_eq!(caught, 10);
    assert_eq!(i.ids("late").await, ids(&forks));
    i.clean().await;
}

#[tokio::test]
async fn a_new_handler_catches_up_on_what_is_stored_but_not_on_what_it_was_led_to_or_what_is_erased() {
    let Some(i) = Inbox::new().await else { return };
    let old = i.receive_of("k", 4).await;
    i.receive(&[message("star").build().unwrap()]).await;
    let unrouted = fork("k");
    i.receive(std::slice::from_ref(&unrouted)).await;
    i.finish("mail", &old[0]).await;
    i.db.execute("update {messages} set payload = null where seq = 2").await;
    let mut routes = Routes::new();
    routes.add("push", route("late", false)).unwrap();
    let new = keyed("k");
    i.store.receive(&scope(), std::slice::from_ref(&new), &routes).await.unwrap();

    let late = route("late", false);
    let (first, count) = i.store.catch_up("push", &late, Seq(0), 2).await.unwrap().unwrap();
    assert_eq!(count, 2);
    let mut after = first;
    let mut caught = count;
    while let Some((last, count)) = i.store.catch_up("push", &late, after, 2).await.unwrap() {
        assert!(last > after);
        (after, caught) = (last, caught + count);
    }
    assert_eq!(caught, 3);
    let mut got = i.ids("late").await;
    got.sort();
    let mut expected = ids([&old[0], &old[2], &old[3], &new]);
    expected.sort();
    assert_eq!(got, expected);
    // What a handler has done already, it does not get again.
    let mail = i.store.catch_up("push", &route("mail", false), Seq(0), 10).await.unwrap().unwrap();
    assert_eq!(mail.1, 1, "the new one alone");
    assert!(!i.ids("mail").await.contains(&old[0].id()));
    // One that nobody wanted is wanted now.
    assert_eq!(i.store.catch_up("fork", &late, Seq(0), 10).await.unwrap().unwrap().1, 1);
    assert_eq!(i.store.unrouted(Seq(0), 10).await.unwrap(), []);
    assert_eq!(i.store.depth(&handler("late")).await.unwrap().pending, 5);
    i.clean().await;
}

struct NoOp;

impl Handler<Message> for NoOp {
    type Output = ();
    type Error = HandlerError;

    async fn handle(&self, _: &Message, _: &BatchContext) -> Verdict<(), HandlerError> {
        Verdict::Done(())
    }
}

/// Two are receiving when it begins, whose places lie before one that is stored: one commits, the other does not. A third, which
/// begins later, is not waited for.
#[tokio::test]
async fn a_handler_that_catches_up_gets_what_commits_late() {
    let Some(i) = Inbox::new().await else { return };
    let mut handlers = Handlers::new();
    handlers.register(Registration::new(handler("new"), NoOp).on("push")).unwrap();
    let clock = ManualClock::new();
    let worker = Worker::builder(i.store.clone(), handlers).clock(clock.clone()).build().unwrap();
    let [late, taken_back, early, other] = [(); 4].map(|()| keyed("k"));
    let (mut one, mut two, mut three) = (i.connection().await, i.connection().await, i.connection().await);
    let (mut one, mut two, mut three) =
        (one.begin().await.unwrap(), two.begin().await.unwrap(), three.begin().await.unwrap());
    i.inbox.receive(&mut one, &scope(), &late).await.unwrap();
    i.inbox.receive(&mut two, &scope(), &taken_back).await.unwrap();
    i.receive(std::slice::from_ref(&early)).await;
    let steps = async {
        while i.ids("new").await.is_empty() {
            tokio::task::yield_now().await;
        }
        i.inbox.receive(&mut three, &scope(), &other).await.unwrap();
        two.rollback().await.unwrap();
        for _ in 0..3 {
            clock.advance(Duration::from_secs(1));
            assert_eq!(i.ids("new").await, [early.id()], "it waits for the other");
        }
        one.commit().await.unwrap();
        loop {
            clock.until_sleepers(1).await;
            clock.advance(Duration::from_secs(1));
        }
    };
    let new = handler("new");
    tokio::select! {
        given = worker.catch_up(&new) => assert_eq!(given.unwrap(), 2),
        () = steps => unreachable!(),
    }
    assert_eq!(i.ids("new").await, ids([&early, &late]));
    three.rollback().await.unwrap();
    // Nobody writes: nothing is waited for.
    assert_eq!(worker.catch_up(&new).await.unwrap(), 0);
    i.clean().await;
}

#[tokio::test]
async fn a_handler_that_catches_up_waits_a_minute_at_most_for_who_is_receiving() {
    let Some(i) = Inbox::new().await else { return };
    let mut handlers = Handlers::new();
    handlers.register(Registration::new(handler("new"), NoOp).on("push")).unwrap();
    let clock = ManualClock::new();
    let worker = Worker::builder(i.store.clone(), handlers).clock(clock.clone()).build().unwrap();
    let [idle, there] = [(); 2].map(|()| keyed("k"));
    let mut connection = i.connection().await;
    let mut open = connection.begin().await.unwrap();
    i.inbox.receive(&mut open, &scope(), &idle).await.unwrap();
    i.receive(std::slice::from_ref(&there)).await;
    let new = handler("new");
    let begun = clock.monotonic();
    let time = async {
        loop {
            clock.until_sleepers(1).await;
            clock.advance(Duration::from_secs(1));
        }
    };
    tokio::select! {
        given = worker.catch_up(&new) => assert!(matches!(given, Err(StoreError::Timeout { .. })), "{given:?}"),
        () = time => unreachable!(),
    }
    assert_eq!(clock.monotonic().since(begun), Duration::from_secs(60));
    assert_eq!(i.ids("new").await, [there.id()]);
    open.commit().await.unwrap();
    assert_eq!(worker.catch_up(&new).await.unwrap(), 1);
    i.clean().await;
}
