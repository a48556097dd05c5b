use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, ManualClock, SystemClock};
use relaykit_sql_store::postgres::{Listener, Notifier, TestPostgres, channel};
use relaykit_sql_store::{Poller, Wake, Woken};
use tokio::sync::oneshot;

use crate::common::poll_once;

/// A listener that runs, and a poller that its hints wake; no poll comes by itself.
async fn listening(db: &TestPostgres) -> (Poller, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let (wake, hour) = (Wake::new(), Duration::from_secs(3600));
    let mut poller = wake.poller(SystemClock::new()).min(hour).max(hour).build().unwrap();
    let listener = Listener::new(db.options(), &db.names("t"), wake, SystemClock::new());
    let (stop, stopped) = oneshot::channel();
    let run = tokio::spawn(async move { listener.run(async { drop(stopped.await) }).await });
    assert_eq!(poller.wait().await, Woken::Nudge, "a listener that has connected asks for a look");
    (poller, stop, run)
}

#[tokio::test]
async fn a_hint_wakes_another_process() {
    let Some(db) = TestPostgres::new().await else { return };
    let (mut poller, stop, run) = listening(&db).await;
    let pool = db.pool().build().unwrap();
    let notifier = Notifier::new(pool, &db.names("t"), Duration::from_millis(1));
    assert!(notifier.notify().await.unwrap());
    assert_eq!(poller.wait().await, Woken::Nudge);
    drop(stop);
    run.await.unwrap();
    db.clean().await;
}

#[tokio::test]
async fn a_listener_that_lost_its_connection_asks_for_a_look_when_it_is_back() {
    let Some(db) = TestPostgres::new().await else { return };
    let (mut poller, stop, run) = listening(&db).await;
    let killed: i64 = sqlx::query_scalar(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where query like '%' || $1 || '%' and pid <> pg_backend_pid()",
    )
    .bind(channel(&db.names("t")))
    .fetch_one(&mut db.connection().await)
    .await
    .unwrap();
    assert_eq!(killed, 1);
    assert_eq!(poller.wait().await, Woken::Nudge);
    drop(stop);
    run.await.unwrap();
    db.clean().await;
}

#[tokio::test]
async fn many_hints_within_an_interval_are_one() {
    let Some(db) = TestPostgres::new().await else { return };
    let clock = ManualClock::new();
    let pool = db.pool_on(clock.clone()).build().unwrap();
    let every = Duration::from_secs(1);
    let notifier = Arc::new(Notifier::new(pool, &db.names("t"), every));
    assert!(notifier.notify().await.unwrap());
    let second = tokio::spawn({
        let notifier = Arc::clone(&notifier);
        async move { notifier.notify().await }
    });
    clock.until_sleepers(1).await;
    for _ in 0..10 {
        assert!(!poll_once(notifier.notify()).unwrap().unwrap(), "the second one sends for these");
    }
    clock.advance(every);
    assert!(second.await.unwrap().unwrap());
    assert!(clock.monotonic().since_origin() == every);
    db.clean().await;
}
