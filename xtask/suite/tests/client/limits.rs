use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_iterable_handlers::testing::{Limits, Reply, StandIn};
use relaykit_iterable_handlers::wire::{IterableCode, TrackRequest};
use relaykit_iterable_handlers::{ApiError, ApiKey, Client, Endpoint, Rate};
use relaykit_pipeline_traits::{Classify, ErrorClass, ManualClock, Metric, Recorder};
use serde_json::json;

use crate::{KEY, client, until};

const SECOND: Duration = Duration::from_secs(1);

fn event() -> TrackRequest {
    TrackRequest {
        email: Some("ada@example.com".to_owned()),
        event_name: "login".to_owned(),
        ..TrackRequest::default()
    }
}

fn throttled() -> Reply {
    Reply::json(429, json!({"msg": "Exceeded rate limit", "code": "RateLimitExceeded", "params": {}}))
}

#[tokio::test]
async fn clones_together_keep_the_published_rate() {
    let clock = ManualClock::new();
    let published = StandIn::builder().limits(Limits::published()).clock(clock.clone());
    let api = relaykit_suite::api!(published);
    let client = Client::builder(ApiKey::new(KEY).unwrap())
        .base_url(api.base_url())
        .clock(clock.clone())
        .build()
        .unwrap();
    let calls: Vec<_> = (0..25)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.events().track_bulk(&[event()]).await })
        })
        .collect();
    for sent in [10, 20, 25] {
        until("the second's requests are answered", || {
            calls.iter().filter(|call| call.is_finished()).count() == sent
        })
        .await;
        assert_eq!(api.request_count(), sent as u64);
        clock.advance(SECOND);
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(api.throttled(), 0);
    api.finish().await;
}

#[tokio::test]
async fn a_429_pauses_its_endpoint_for_every_clone_as_long_as_it_says() {
    let api = relaykit_suite::api!();
    let clock = ManualClock::new();
    let client = client(&api).clock(clock.clone()).build().unwrap();
    api.script(throttled().header("retry-after", "20"));
    let error = client.events().track_bulk(&[event()]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Throttled);
    assert_eq!(error.code(), Some(&IterableCode::RateLimitExceeded));
    assert_eq!(error.retry_after(), Some(SECOND * 20));

    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.events().track_bulk(&[event()]).await }
    });
    clock.until_sleepers(1).await;
    client.lists().all().await.unwrap();
    assert_eq!(api.request_count(), 2);
    clock.advance(SECOND * 19);
    tokio::task::yield_now().await;
    assert_eq!((waiting.is_finished(), api.request_count()), (false, 2));
    clock.advance(SECOND);
    waiting.await.unwrap().unwrap();
    assert_eq!(api.request_count(), 3);
    api.finish().await;
}

#[tokio::test]
async fn a_429_without_time_pauses_for_a_second() {
    let api = relaykit_suite::api!();
    let clock = ManualClock::new();
    let client = client(&api).clock(clock.clone()).build().unwrap();
    api.script(Reply::text(429, "Too Many Requests"));
    let error = client.events().track_bulk(&[event()]).await.unwrap_err();
    // How long to leave the item alone is the retry policy's decision.
    assert_eq!((error.class(), error.retry_after()), (ErrorClass::Throttled, None));
    let waiting = tokio::spawn(async move { client.events().track_bulk(&[event()]).await });
    clock.until_sleepers(1).await;
    assert_eq!(clock.advance_to_next_sleeper(), Some(SECOND));
    waiting.await.unwrap().unwrap();
    api.finish().await;
}

#[tokio::test]
async fn a_429_may_name_a_date() {
    let api = relaykit_suite::api!();
    // Sun, 06 Nov 1994 08:49:37 GMT.
    let clock = ManualClock::at(relaykit_pipeline_traits::Timestamp::from_millis(784_111_777_000));
    let client = client(&api).clock(clock).build().unwrap();
    api.script(throttled().header("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT"));
    let error = client.events().track_bulk(&[event()]).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(SECOND * 60));
    api.finish().await;
}

#[tokio::test]
async fn a_turn_that_comes_too_late_sends_nothing() {
    let api = relaykit_suite::api!();
    let clock = ManualClock::new();
    let client = client(&api).clock(clock.clone()).timeout(SECOND * 30).build().unwrap();
    api.script(throttled().header("retry-after", "3600"));
    let error = client.events().track_bulk(&[event()]).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(SECOND * 600), "no more than ten minutes are believed");
    let error = client.events().track_bulk(&[event()]).await.unwrap_err();
    assert!(
        matches!(error, ApiError::RateLimited { wait, max_wait, .. } if wait == SECOND * 600 && max_wait == SECOND * 30),
        "{error:?}"
    );
    assert_eq!((error.class(), error.retry_after()), (ErrorClass::Throttled, Some(SECOND * 600)));
    assert!(!error.may_have_taken_effect());
    assert_eq!(api.request_count(), 1);
    api.finish().await;
}

#[tokio::test]
async fn sizes_of_lists_are_asked_for_five_times_a_minute() {
    let api = relaykit_suite::api!();
    let clock = ManualClock::new();
    let client = Client::builder(ApiKey::new(KEY).unwrap())
        .base_url(api.base_url())
        .clock(clock.clone())
        .build()
        .unwrap();
    let reply = || api.script(Reply::text(200, "3"));
    for _ in 0..5 {
        reply();
        assert_eq!(client.lists().size(1).await.unwrap(), 3);
    }
    let error = client.lists().size(1).await.unwrap_err();
    assert!(matches!(error, ApiError::RateLimited { wait, .. } if wait == SECOND * 60), "{error:?}");
    clock.advance(SECOND * 60);
    reply();
    client.lists().size(1).await.unwrap();
    assert_eq!(api.request_count(), 6);
    api.finish().await;
}

#[tokio::test]
async fn a_dropped_waiter_sends_nothing_and_takes_no_place() {
    let api = relaykit_suite::api!();
    let clock = ManualClock::new();
    let client =
        client(&api).rate(Endpoint::TrackEvents, Rate::per_second(1)).clock(clock.clone()).build().unwrap();
    client.events().track_bulk(&[event()]).await.unwrap();
    let wait = || {
        let client = client.clone();
        tokio::spawn(async move { client.events().track_bulk(&[event()]).await })
    };
    let dropped = wait();
    clock.until_sleepers(1).await;
    let second = wait();
    clock.until_sleepers(2).await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    // The second has the turn now and sleeps until the second is over.
    clock.until_sleepers(1).await;
    clock.advance(SECOND);
    second.await.unwrap().unwrap();
    assert_eq!(api.request_count(), 2);
    api.finish().await;
}

/// Keeps what was counted and observed, as text.
#[derive(Debug, Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Recorder for Notes {
    fn add(&self, metric: &'static Metric, labels: &[&str], by: u64) {
        self.0
            .lock()
            .expect("no test panics with the lock")
            .push(format!("{} {labels:?} +{by}", metric.name));
    }

    fn observe(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        assert_eq!(metric.labels.len(), labels.len());
        self.0
            .lock()
            .expect("no test panics with the lock")
            .push(format!("{} {labels:?} {value}", metric.name));
    }
}

#[tokio::test]
async fn calls_and_their_times_are_recorded() {
    let api = relaykit_suite::api!();
    let (clock, notes) = (ManualClock::new(), Notes::default());
    let client = client(&api).clock(clock.clone()).recorder(notes.clone()).build().unwrap();
    api.script(throttled().header("retry-after", "20"));
    client.events().track_bulk(&[event()]).await.unwrap_err();
    let waiting = tokio::spawn(async move { client.events().track_bulk(&[event()]).await });
    clock.until_sleepers(1).await;
    clock.advance(SECOND * 20);
    waiting.await.unwrap().unwrap();
    assert_eq!(
        *notes.0.lock().unwrap(),
        [
            r#"iterable_turn_wait_seconds ["POST events/trackBulk"] 0"#,
            r#"iterable_exchange_seconds ["POST events/trackBulk"] 0"#,
            r#"iterable_calls_total ["POST events/trackBulk", "throttled"] +1"#,
            r#"iterable_turn_wait_seconds ["POST events/trackBulk"] 20"#,
            r#"iterable_exchange_seconds ["POST events/trackBulk"] 0"#,
            r#"iterable_calls_total ["POST events/trackBulk", "ok"] +1"#,
        ]
    );
    api.finish().await;
}
