//! The harness itself: a request that breaks the API's description fails the test.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is an answer")]

use std::collections::BTreeSet;

use relaykit_iterable_handlers::testing::StandIn;
use relaykit_suite::{Api, Contract};
use serde_json::{Value, json};

const TRACK: &str = "/api/events/trackBulk";

/// Returns the one violation of a body.
fn violation(path: &str, body: &Value) -> String {
    let contract = Contract::shared().unwrap();
    let found = contract.violations("POST", path, &[], body.to_string().as_bytes());
    assert_eq!(found.len(), 1, "{body}: {found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn a_wrong_body_is_caught() {
    if Contract::shared().is_none() {
        return;
    }
    for (path, body, word) in [
        (TRACK, json!({}), "required"),
        (TRACK, json!({"events": [{"userId": "u"}]}), "eventName"),
        (TRACK, json!({"events": [{"eventName": "e", "createdAt": "now"}]}), "integer"),
        (TRACK, json!({"events": [{"eventName": "e", "dataFields": null}]}), "object"),
        (TRACK, json!({"events": [{"eventName": "e", "surprise": 1}]}), "surprise"),
        (TRACK, json!({"events": [], "surprise": 1}), "surprise"),
        ("/api/users/bulkUpdate", json!({"users": [{"createNewFields": true}]}), "createNewFields"),
        ("/api/lists/subscribe", json!({"subscribers": []}), "listId"),
        ("/api/lists/unsubscribe", json!({"listId": 1, "subscribers": [{"dataFields": {}}]}), "dataFields"),
        ("/api/users/updateEmail", json!({"currentEmail": "a"}), "newEmail"),
    ] {
        let found = violation(path, &body);
        assert!(found.contains(path) && found.contains(word), "{found}");
    }
}

#[test]
fn a_right_body_passes() {
    let Some(contract) = Contract::shared() else {
        return;
    };
    for (path, body) in [
        (
            TRACK,
            json!({"events": [{"email": "a@example.com", "eventName": "e", "id": "1", "createdAt": 1, "dataFields": {"any": {"thing": [1, "x", null]}}}]}),
        ),
        (
            "/api/users/bulkUpdate",
            json!({"users": [{"userId": "u", "preferUserId": true, "mergeNestedObjects": false}], "createNewFields": true}),
        ),
        (
            "/api/users/bulkUpdateSubscriptions",
            json!({"updateSubscriptionsRequests": [{"userId": "u", "emailListIds": [1], "validateChannelAlignment": false}]}),
        ),
        (
            "/api/lists/subscribe",
            json!({"listId": 1, "subscribers": [{"userId": "u"}], "updateExistingUsersOnly": true}),
        ),
        (
            "/api/lists/unsubscribe",
            json!({"listId": 1, "subscribers": [{"userId": "u"}], "campaignId": 1, "channelUnsubscribe": true}),
        ),
    ] {
        let found = contract.violations("POST", path, &[], body.to_string().as_bytes());
        assert_eq!(found, Vec::<String>::new(), "{body}");
    }
}

#[test]
fn wrong_paths_and_queries_are_caught() {
    let Some(contract) = Contract::shared() else {
        return;
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    for (method, path, query, word) in [
        ("GET", "/api/nothing", vec![], "no such call"),
        ("PATCH", "/api/users/update", vec![], "no such call"),
        ("GET", "/api/lists/x/size", vec![], "listId"),
        ("GET", "/api/lists/getUsers", vec![], "lacks listId"),
        (
            "GET",
            "/api/lists/getUsers",
            vec![pair("listId", "1"), pair("preferUserId", "yes")],
            "preferUserId",
        ),
        ("GET", "/api/users/getFields", vec![pair("surprise", "1")], "surprise"),
        ("POST", "/api/users/update", vec![], "body is missing"),
    ] {
        let found = contract.violations(method, path, &query, b"");
        assert_eq!(found.len(), 1, "{method} {path}: {found:?}");
        assert!(found[0].contains(word), "{found:?}");
    }
    let found = contract.violations("GET", "/api/lists", &[], b"{}");
    assert!(found[0].contains("should be none"), "{found:?}");
    let found = contract.violations("POST", TRACK, &[], b"{");
    assert!(found[0].contains("not JSON"), "{found:?}");
}

#[test]
fn every_post_of_users_events_and_lists_is_checked() {
    let Some(contract) = Contract::shared() else {
        return;
    };
    let checked: BTreeSet<&str> = contract
        .calls_with_body()
        .filter(|(method, path)| {
            let ours = ["/api/users/", "/api/events/", "/api/lists"];
            *method == "POST" && ours.iter().any(|prefix| path.starts_with(prefix))
        })
        .map(|(_, path)| path)
        .collect();
    for path in [
        "/api/events/track",
        "/api/events/trackBulk",
        "/api/users/update",
        "/api/users/bulkUpdate",
        "/api/users/updateEmail",
        "/api/users/updateSubscriptions",
        "/api/users/bulkUpdateSubscriptions",
        "/api/users/forget",
        "/api/users/unforget",
        "/api/users/merge",
        "/api/lists",
        "/api/lists/subscribe",
        "/api/lists/unsubscribe",
    ] {
        assert!(checked.contains(path), "{path} is not checked");
        // Each check is alive: an unknown member never passes.
        let found = contract.violations("POST", path, &[], br#"{"surprise": 1}"#);
        assert!(found.iter().any(|line| line.contains("surprise")), "{path}: {found:?}");
    }
    assert_eq!(checked.len(), 23, "{checked:?}");
}

async fn send(api: &Api, body: Value) {
    reqwest::Client::new()
        .post(format!("{}{TRACK}", api.base_url()))
        .header("Api-Key", "key")
        .json(&body)
        .send()
        .await
        .unwrap();
}

#[tokio::test]
#[should_panic(expected = "1 requests break the API's description")]
async fn a_test_that_sends_a_wrong_body_fails_though_it_does_not_look() {
    let Some(api) = Api::start(StandIn::builder()).await else {
        panic!("1 requests break the API's description: skip");
    };
    send(&api, json!({"events": [{"userId": "u", "eventName": "e", "surprise": 1}]})).await;
}

#[tokio::test]
async fn a_test_may_mean_to_send_a_wrong_body() {
    let api = relaykit_suite::api!();
    send(&api, json!({"events": [{"userId": "u"}]})).await;
    assert_eq!(api.take_violations().len(), 1);
    api.finish().await;
}

#[tokio::test]
async fn a_request_without_a_key_or_a_content_type_is_caught() {
    let api = relaykit_suite::api!();
    reqwest::Client::new()
        .post(format!("{}/api/users/update", api.base_url()))
        .body(r#"{"userId": "u"}"#)
        .send()
        .await
        .unwrap();
    let found = api.take_violations();
    assert_eq!(found.len(), 2, "{found:?}");
    api.finish().await;
}
