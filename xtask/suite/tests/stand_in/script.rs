use std::time::Duration;

use relaykit_iterable_handlers::testing::{Reply, StandIn};
use relaykit_pipeline_traits::ManualClock;
use relaykit_suite::api;
use serde_json::json;

use crate::caller::Caller;

const TRACK: &str = "/api/events/track";
const UPDATE: &str = "/api/users/update";

#[tokio::test]
async fn scripted_replies_go_out_in_order_those_for_the_path_first() {
    let api = api!();
    let caller = Caller::of(&api);
    api.script(Reply::json(503, json!({"msg": "first"})).header("Retry-After", "7"));
    api.script(Reply::text(404, "second"));
    api.script_for(UPDATE, Reply::empty(204));
    assert_eq!(api.scripted(), 3);
    let user = json!({"userId": "u"});

    assert_eq!(caller.post(UPDATE, user.clone()).await.0, 204);
    let first = caller.try_post(UPDATE, user.clone()).await.unwrap();
    assert_eq!((first.status, first.json()), (503, json!({"msg": "first"})));
    assert_eq!(first.headers["retry-after"], "7");
    let second = caller.try_post(UPDATE, user.clone()).await.unwrap();
    assert_eq!((second.status, second.text.as_str()), (404, "second"));
    assert!(api.users().is_empty(), "scripted replies come instead of the effect");
    assert_eq!(caller.post(UPDATE, user).await.0, 200);
    assert_eq!(api.users().len(), 1);
    api.finish().await;
}

#[tokio::test]
async fn a_scripted_reply_can_follow_the_effect() {
    let api = api!();
    api.script(Reply::empty(500).applied(true));
    let (status, _) = Caller::of(&api).post(UPDATE, json!({"userId": "u"})).await;
    assert_eq!(status, 500);
    assert_eq!(api.user("u").unwrap().updates, 1);
    api.finish().await;
}

#[tokio::test]
async fn a_connection_can_end_before_and_after_the_effect() {
    let api = api!();
    let caller = Caller::of(&api);
    for (applied, count) in [(false, 0), (true, 1)] {
        api.script(Reply::drop_connection().applied(applied));
        let error = caller.try_post(TRACK, json!({"userId": "u", "eventName": "e"})).await.unwrap_err();
        assert!(error.is_request(), "{error:?}");
        assert_eq!(api.events().len(), count);
    }
    assert_eq!(api.request_count(), 2);
    api.finish().await;
}

#[tokio::test]
async fn a_truncated_reply_has_a_status_and_no_end() {
    let api = StandIn::start().await.unwrap();
    api.script(Reply::truncated(200, json!({"msg": "half"})));
    let url = format!("{}/api/lists", api.base_url());
    let mut response = reqwest::get(url).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = json!({"msg": "half"}).to_string();
    let promised = u64::try_from(body.len()).unwrap() + 64;
    assert_eq!(response.content_length(), Some(promised));
    let first = response.chunk().await.unwrap().unwrap();
    assert_eq!(&first[..], body.as_bytes());
    assert!(response.chunk().await.is_err());
}

#[tokio::test]
async fn a_slow_reply_waits_on_the_clock_and_its_effect_does_not() {
    let clock = ManualClock::new();
    let api = api!(StandIn::builder().clock(clock.clone()));
    api.script(Reply::empty(200).delay(Duration::from_secs(3600)).applied(true));
    let caller = Caller::of(&api);
    let waiting = tokio::spawn(async move { caller.post(UPDATE, json!({"userId": "u"})).await });
    clock.until_sleepers(1).await;
    assert_eq!(api.users().len(), 1);
    assert!(!waiting.is_finished());
    clock.advance(Duration::from_secs(3600));
    assert_eq!(waiting.await.unwrap().0, 200);
    api.finish().await;
}

#[tokio::test]
async fn every_reply_can_be_slow() {
    let clock = ManualClock::new();
    let api = api!(StandIn::builder().clock(clock.clone()).latency(Duration::from_secs(1)));
    let caller = Caller::of(&api);
    let waiting = tokio::spawn(async move { caller.post(UPDATE, json!({"userId": "u"})).await });
    clock.until_sleepers(1).await;
    clock.advance(Duration::from_secs(1));
    assert_eq!(waiting.await.unwrap().0, 200);
    api.finish().await;
}

#[tokio::test]
async fn failing_answers_the_queue_then_500_then_429_then_413() {
    let api = api!(StandIn::failing(1, 1).too_large(1));
    api.script(Reply::empty(418));
    let caller = Caller::of(&api);
    let mut heard = Vec::new();
    for _ in 0..5 {
        heard.push(caller.post(UPDATE, json!({"userId": "u"})).await);
    }
    let statuses: Vec<u16> = heard.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [418, 500, 429, 413, 200]);
    assert_eq!(heard[1].1, json!({"msg": "fail", "code": "500", "params": null}));
    api.finish().await;
}

#[tokio::test]
async fn what_came_can_be_read_back() {
    let api = api!(StandIn::builder().keep_requests(2));
    let caller = Caller::of(&api);
    caller.get("/api/lists").await;
    caller.get("/api/users/getByEmail?email=a%2Bb%40example.com").await;
    caller.post(UPDATE, json!({"userId": "u"})).await;
    assert_eq!(api.request_count(), 3);
    let requests = api.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].method, "GET");
    assert_eq!(requests[0].path, "/api/users/getByEmail");
    assert_eq!(requests[0].query_pairs(), [("email".to_owned(), "a+b@example.com".to_owned())]);
    assert_eq!(requests[1].number, 3);
    assert_eq!(requests[1].json(), json!({"userId": "u"}));
    assert_eq!(requests[1].header("Api-Key"), Some("key"));
    assert!(!format!("{requests:?}").contains("\"key\""));
    api.finish().await;
}
