use relaykit_iterable_handlers::testing::{StandIn, StandInError};
use relaykit_suite::api;
use serde_json::json;

use crate::caller::Caller;

const TRACK: &str = "/api/events/trackBulk";

#[tokio::test]
async fn a_body_of_the_wrong_shape_is_refused_with_the_members_path() {
    let api = StandIn::start().await.unwrap();
    let caller = Caller::of(&api);
    let body = json!({"listId": 1, "subscribers": [{"userId": "u", "dataFields": []}]});
    let (status, reply) = caller.post("/api/lists/subscribe", body).await;
    assert_eq!(status, 400);
    assert_eq!(
        reply,
        json!({
            "msg": "[/api/lists/subscribe] Invalid JSON body",
            "code": "BadJsonBody",
            "params": {"obj.subscribers[0].dataFields": "error.expected.jsobject"},
        })
    );
    let heard = caller.post_raw(TRACK, b"{\"events\": [".to_vec()).await;
    assert_eq!((heard.status, &heard.json()["code"]), (400, &json!("BadJsonBody")));
    assert!(api.users().is_empty());
}

#[tokio::test]
async fn a_poisonous_element_is_refused_with_its_index() {
    let api = api!();
    api.reject_element("poison");
    let events = json!({"events": [
        {"userId": "a", "eventName": "e"},
        {"userId": "b", "eventName": "e", "dataFields": {"k": "poison"}},
    ]});
    let (status, reply) = Caller::of(&api).post(TRACK, events).await;
    assert_eq!(status, 400);
    assert_eq!(reply["code"], "BadJsonBody");
    assert_eq!(reply["params"], json!({"obj.events[1]": "error.invalid"}));
    assert!(api.events().is_empty());
    api.finish().await;
}

#[tokio::test]
async fn a_field_of_another_type_refuses_the_whole_request() {
    let api = api!();
    api.mismatch_field("signupDate", "date");
    let users = json!({"users": [
        {"userId": "a"},
        {"userId": "b", "dataFields": {"signupDate": "GGG"}},
    ]});
    let (status, reply) = Caller::of(&api).post("/api/users/bulkUpdate", users).await;
    assert_eq!(status, 400);
    assert_eq!(reply["code"], "RequestFieldsTypesMismatched");
    assert_eq!(
        reply["params"]["validationErrors"]["signupDate"],
        json!({
            "incomingTypes": ["string", "keyword"],
            "expectedType": "date",
            "category": "user",
            "offendingValue": "GGG",
            "_type": "UnexpectedType",
        })
    );
    assert!(api.users().is_empty());
    api.finish().await;
}

#[tokio::test]
async fn too_many_elements_are_a_413() {
    let api = api!();
    api.max_elements(TRACK, 1);
    let caller = Caller::of(&api);
    let event = json!({"userId": "a", "eventName": "e"});
    let (status, _) = caller.post(TRACK, json!({"events": [event, event]})).await;
    assert_eq!(status, 413);
    assert!(api.events().is_empty());
    let (status, _) = caller.post(TRACK, json!({"events": [event]})).await;
    assert_eq!(status, 200);
    api.finish().await;
}

#[tokio::test]
async fn a_body_of_more_than_4_mb_is_a_413() {
    let api = StandIn::start().await.unwrap();
    let caller = Caller::of(&api);
    let body = |bytes: usize| {
        let mut body = b"{\"users\":[]}".to_vec();
        body.resize(bytes, b' ');
        body
    };
    let path = "/api/users/bulkUpdate";
    assert_eq!(caller.post_raw(path, body(4_000_001)).await.status, 413);
    assert_eq!(caller.post_raw(path, body(4_000_000)).await.status, 200);
    assert_eq!(api.requests()[0].body.len(), 0);
}

#[tokio::test]
async fn another_key_is_a_401() {
    let api = StandIn::builder().require_key("secret").start().await.unwrap();
    let caller = Caller::of(&api);
    let heard = caller.get_with_key("/api/lists", "wrong").await;
    assert_eq!((heard.status, &heard.json()["code"]), (401, &json!("BadApiKey")));
    assert_eq!(caller.get_with_key("/api/lists", "secret").await.status, 200);
    assert!(!format!("{api:?}").contains("secret"));
    assert!(!format!("{:?}", api.requests()).contains("secret"));
}

#[tokio::test]
async fn an_unknown_path_is_a_404() {
    let api = StandIn::start().await.unwrap();
    let heard = Caller::of(&api).get("/api/nothing").await;
    assert_eq!((heard.status, &heard.json()["code"]), (404, &json!("NotFound")));
}

#[tokio::test]
async fn what_is_kept_has_a_bound() {
    let api = StandIn::builder().max_state(1).start().await.unwrap();
    let caller = Caller::of(&api);
    for id in ["a", "b"] {
        let (status, _) = caller.post("/api/users/update", json!({"userId": id})).await;
        assert_eq!(status, 200);
    }
    let (status, reply) = caller.post("/api/users/update", json!({"userId": "c"})).await;
    assert_eq!(status, 500);
    assert!(reply["msg"].as_str().unwrap().contains("max_state"));
}

#[tokio::test]
async fn settings_out_of_bounds_are_refused_by_name() {
    for (builder, field) in [
        (StandIn::builder().max_body_bytes(0), "max_body_bytes"),
        (StandIn::builder().max_body_bytes(usize::MAX), "max_body_bytes"),
    ] {
        let error = builder.start().await.unwrap_err();
        let StandInError::Setting { source } = error else {
            panic!("{error}");
        };
        assert_eq!(source.field, field);
    }
}
