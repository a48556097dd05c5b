use std::time::Duration;

use relaykit_iterable_handlers::testing::{Limits, StandIn, StandInError};
use relaykit_pipeline_traits::ManualClock;
use relaykit_suite::api;
use serde_json::json;

use crate::caller::Caller;

const BULK: &str = "/api/users/bulkUpdate";

#[tokio::test]
async fn a_path_over_its_limit_is_told_to_wait() {
    let clock = ManualClock::new();
    let api = api!(StandIn::builder().clock(clock.clone()).limits(Limits::published()));
    let caller = Caller::of(&api);
    let body = json!({"users": [{"userId": "u"}]});
    for _ in 0..5 {
        assert_eq!(caller.post(BULK, body.clone()).await.0, 200);
    }
    let refused = caller.try_post(BULK, body.clone()).await.unwrap();
    assert_eq!(refused.status, 429);
    assert_eq!(refused.json()["code"], "RateLimitExceeded");
    assert_eq!(refused.headers["retry-after"], "1");
    // Another path has a limit of its own.
    assert_eq!(caller.get("/api/users/byUserId/u").await.status, 200);
    clock.advance(Duration::from_secs(1));
    assert_eq!(caller.post(BULK, body).await.0, 200);
    assert_eq!(api.throttled(), 1);
    assert_eq!(api.user("u").unwrap().updates, 6);
    api.finish().await;
}

#[tokio::test]
async fn ids_in_paths_share_one_limit() {
    let clock = ManualClock::new();
    let limits = Limits::per_second("/api/users/{email}", 1).without_retry_after();
    let api = api!(StandIn::builder().clock(clock).limits(limits));
    let caller = Caller::of(&api);
    assert_eq!(caller.get("/api/users/a@example.com").await.status, 200);
    let refused = caller.get("/api/users/b@example.com").await;
    assert_eq!(refused.status, 429);
    assert!(!refused.headers.contains_key("retry-after"));
    api.finish().await;
}

#[tokio::test]
async fn an_impossible_limit_is_refused() {
    let error = StandIn::builder().limits(Limits::per_second(BULK, 0)).start().await.unwrap_err();
    let StandInError::Setting { source } = error else {
        panic!("{error}");
    };
    assert_eq!(source.field, "limits");
}
