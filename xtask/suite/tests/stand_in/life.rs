use std::time::Duration;

use relaykit_iterable_handlers::testing::{Reply, StandIn, StandInError};
use relaykit_pipeline_traits::ManualClock;
use serde_json::json;

use crate::caller::Caller;

const UPDATE: &str = "/api/users/update";

#[tokio::test]
async fn a_stop_lets_a_request_in_flight_finish_without_its_wait() {
    let clock = ManualClock::new();
    let api = StandIn::builder().clock(clock.clone()).start().await.unwrap();
    api.script(Reply::empty(204).delay(Duration::from_secs(3600)));
    let caller = Caller::of(&api);
    let waiting = tokio::spawn(async move { caller.post(UPDATE, json!({"userId": "u"})).await });
    clock.until_sleepers(1).await;
    api.stop().await;
    assert_eq!(waiting.await.unwrap().0, 204);
}

#[tokio::test]
async fn a_stopped_stand_in_takes_no_calls_and_can_start_again_where_it_was() {
    let api = StandIn::start().await.unwrap();
    let caller = Caller::of(&api);
    let port: u16 = api.base_url().rsplit(':').next().unwrap().parse().unwrap();
    assert_eq!(caller.post(UPDATE, json!({"userId": "u"})).await.0, 200);
    api.stop().await;
    let error = caller.try_post(UPDATE, json!({"userId": "u"})).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");

    let again = StandIn::builder().port(port).start().await.unwrap();
    assert_eq!(caller.post(UPDATE, json!({"userId": "u"})).await.0, 200);
    assert_eq!(again.request_count(), 1);
    again.stop().await;
}

#[tokio::test]
async fn a_stop_ends_idle_connections_that_callers_keep() {
    let api = StandIn::start().await.unwrap();
    let http = reqwest::Client::new();
    let url = format!("{}/api/lists", api.base_url());
    assert_eq!(http.get(&url).send().await.unwrap().status(), 200);
    api.stop().await;
    assert!(http.get(&url).send().await.is_err());
}

#[tokio::test]
async fn a_port_that_is_taken_is_told() {
    let api = StandIn::start().await.unwrap();
    let port: u16 = api.base_url().rsplit(':').next().unwrap().parse().unwrap();
    let error = StandIn::builder().port(port).start().await.unwrap_err();
    assert!(matches!(error, StandInError::Listen { port: taken, .. } if taken == port));
}

#[tokio::test]
async fn a_dropped_stand_in_is_gone() {
    let api = StandIn::start().await.unwrap();
    let caller = Caller::of(&api);
    drop(api);
    // The server's task ends at its next turn.
    tokio::task::yield_now().await;
    assert!(caller.try_post(UPDATE, json!({"userId": "u"})).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_are_served_at_once() {
    let api = StandIn::start().await.unwrap();
    let caller = Caller::of(&api);
    let calls: Vec<_> = (0..100)
        .map(|number| {
            let caller = caller.clone();
            tokio::spawn(async move {
                let body =
                    json!({"userId": format!("u{number}"), "eventName": "e", "id": number.to_string()});
                caller.post("/api/events/track", body).await.0
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert_eq!(api.events().len(), 100);
    assert!(api.events().values().all(|times| *times == 1));
    let numbers: Vec<u64> = api.requests().iter().map(|request| request.number).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
}
