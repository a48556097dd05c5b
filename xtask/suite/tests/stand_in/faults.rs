use relaykit_iterable_handlers::testing::{Fault, Faults, StandIn};
use relaykit_suite::api;
use serde_json::json;

use crate::caller::Caller;

const TRACK: &str = "/api/events/trackBulk";

/// Sends `count` bulk requests of two events one after the other, and returns each status, 0 for none.
async fn send(api: &StandIn, count: usize) -> Vec<u16> {
    let caller = Caller::of(api);
    let mut statuses = Vec::new();
    for number in 0..count {
        let events = json!({"events": [
            {"userId": "u", "eventName": "e", "id": format!("{number}-a")},
            {"userId": "u", "eventName": "e", "id": format!("{number}-b")},
        ]});
        let heard = caller.try_post(TRACK, events).await;
        statuses.push(heard.map_or(0, |heard| heard.status));
    }
    statuses
}

#[tokio::test]
async fn one_seed_gives_one_storm() {
    let mut storms = Vec::new();
    for seed in [7, 7, 8] {
        let api = api!(StandIn::builder().seed(seed).faults(Faults::storm()));
        storms.push((send(&api, 60).await, api.events(), api.faults_hit()));
        api.finish().await;
    }
    assert_eq!(storms[0], storms[1]);
    assert_ne!(storms[0].0, storms[2].0);
    assert!(storms[0].2.values().sum::<u64>() > 10, "{:?}", storms[0].2);
}

#[tokio::test]
async fn each_fault_does_what_it_says() {
    // The status that is heard, whether `Retry-After` is there, and how many events took effect.
    for (fault, status, applied) in [
        (Fault::Unavailable, 503, 0),
        (Fault::Throttled, 429, 0),
        (Fault::LostRequest, 0, 0),
        (Fault::LostReply, 0, 2),
        (Fault::CutReply, 0, 2),
        (Fault::Slow, 200, 2),
    ] {
        let api = api!(StandIn::builder().faults(Faults::none().with(fault, 1.0)));
        assert_eq!(send(&api, 1).await, [status], "{fault:?}");
        assert_eq!(api.events().len(), applied, "{fault:?}");
        assert_eq!(api.faults_hit()[&fault], 1);
        api.finish().await;
    }
}

#[tokio::test]
async fn a_server_error_comes_before_or_after_the_effect() {
    let api = api!(StandIn::builder().faults(Faults::none().with(Fault::ServerError, 1.0)));
    let statuses = send(&api, 40).await;
    assert!(statuses.iter().all(|status| *status == 500));
    let applied = api.events().len() / 2;
    assert!((1..40).contains(&applied), "{applied} of 40 took effect");
    api.finish().await;
}

#[tokio::test]
async fn one_element_is_never_too_many() {
    let api = api!(StandIn::builder().faults(Faults::none().with(Fault::TooLarge, 1.0)));
    let caller = Caller::of(&api);
    let event = json!({"userId": "u", "eventName": "e"});
    let many: Vec<_> = (0..20).map(|_| event.clone()).collect();
    assert_eq!(caller.post(TRACK, json!({"events": many})).await.0, 413);
    for _ in 0..20 {
        assert_eq!(caller.post(TRACK, json!({"events": [event]})).await.0, 200);
    }
    api.finish().await;
}

#[tokio::test]
async fn everything_comes_through_a_storm_if_it_is_tried_often_enough() {
    let seed = 20_251_101;
    let api = api!(StandIn::builder().seed(seed).faults(Faults::storm()));
    let caller = Caller::of(&api);
    for number in 0..50 {
        let body = json!({"events": [{"userId": "u", "eventName": "e", "id": number.to_string()}]});
        let mut tries = 0;
        while !matches!(caller.try_post(TRACK, body.clone()).await, Ok(heard) if heard.status == 200) {
            tries += 1;
            assert!(tries < 50, "seed {seed}: event {number} does not come through");
        }
    }
    let events = api.events();
    assert_eq!(events.len(), 50, "seed {seed}");
    assert!(events.values().any(|times| *times > 1), "seed {seed}: {events:?}");
    api.finish().await;
}

#[tokio::test]
async fn faults_end_when_told() {
    let faults = Faults::none().with(Fault::Unavailable, 1.0).first(2);
    let api = api!(StandIn::builder().faults(faults));
    assert_eq!(send(&api, 4).await, [503, 503, 200, 200]);
    api.finish().await;
}
