use relaykit_iterable_handlers::testing::FailureList;
use relaykit_suite::api;
use serde_json::json;

use crate::caller::Caller;

#[tokio::test]
async fn a_tracked_event_gets_an_id_and_can_be_read_back() {
    let api = api!();
    let caller = Caller::of(&api);
    let body = json!({"userId": "u", "eventName": "e", "createdAt": 5, "dataFields": {"k": 1}});
    let (status, reply) = caller.post("/api/events/track", body).await;
    assert_eq!((status, &reply["code"]), (200, &json!("Success")));
    let id = reply["params"]["id"].as_str().unwrap();
    assert_eq!(api.events()[id], 1);
    let events = caller.get("/api/events/byUserId/u?limit=5").await.json();
    assert_eq!(events["events"][0]["dataFields"], json!({"k": 1}));
    assert_eq!(events["events"][0]["createdAt"], 5);
    api.finish().await;
}

#[tokio::test]
async fn a_disallowed_event_is_told_with_a_200() {
    let api = api!();
    api.disallow_event("e");
    let (status, reply) =
        Caller::of(&api).post("/api/events/track", json!({"userId": "u", "eventName": "e"})).await;
    assert_eq!(status, 200);
    assert_eq!(reply["msg"], "event e is disallowed from tracking.");
    assert!(api.events().is_empty());
    api.finish().await;
}

#[tokio::test]
async fn a_rejected_user_fails_the_call_with_the_reasons_code() {
    let api = api!();
    let caller = Caller::of(&api);
    for (list, status, code) in [
        (FailureList::InvalidEmails, 400, "InvalidEmailAddressError"),
        (FailureList::InvalidUserIds, 400, "InvalidUserIdError"),
        (FailureList::NotFoundUserIds, 400, "UnknownUserIdError"),
        (FailureList::ConflictUserIds, 400, "UserIdAlreadyExists"),
        (FailureList::ForgottenUserIds, 409, "ForgottenUserError"),
        (FailureList::ValidUserIdFailures, 500, "GenericError"),
        (FailureList::InvalidDataUserIds, 400, "BadParams"),
    ] {
        api.reject_user("u", list);
        for path in ["/api/users/update", "/api/users/updateSubscriptions"] {
            let (said, reply) = caller.post(path, json!({"userId": "u"})).await;
            assert_eq!((said, &reply["code"]), (status, &json!(code)), "{path}");
        }
    }
    api.finish().await;
}

#[tokio::test]
async fn an_address_moves_once() {
    let api = api!();
    api.add_user(Some("old@example.com"), Some("u"));
    api.add_user(Some("taken@example.com"), None);
    let caller = Caller::of(&api);
    let path = "/api/users/updateEmail";
    let body = json!({"currentEmail": "old@example.com", "newEmail": "new@example.com"});
    let (status, _) = caller.post(path, body.clone()).await;
    assert_eq!(status, 200);
    assert_eq!(api.user("u").unwrap().email.as_deref(), Some("new@example.com"));
    // The address was given up: sent again, the call names somebody who is not there.
    let (status, reply) = caller.post(path, body).await;
    assert_eq!((status, &reply["code"]), (400, &json!("UnknownEmailError")));

    for (body, code) in [
        (json!({"currentUserId": "u", "newEmail": "taken@example.com"}), "EmailAlreadyExists"),
        (json!({"currentUserId": "u", "newEmail": "invalid@"}), "InvalidEmailAddressError"),
    ] {
        let (status, reply) = caller.post(path, body).await;
        assert_eq!((status, &reply["code"]), (400, &json!(code)));
    }
    api.finish().await;
}

#[tokio::test]
async fn a_forgotten_user_stays_forgotten_until_unforgotten() {
    let api = api!();
    let caller = Caller::of(&api);
    let who = json!({"email": "a@example.com"});
    let bulk = json!({"users": [who]});
    caller.post("/api/users/update", who.clone()).await;
    caller.post("/api/users/forget", who.clone()).await;
    assert!(api.user("a@example.com").is_none());
    let (status, _) = caller.post("/api/users/update", who.clone()).await;
    assert_eq!(status, 409);
    let (_, reply) = caller.post("/api/users/bulkUpdate", bulk.clone()).await;
    assert_eq!(reply["failedUpdates"]["forgottenEmails"], json!(["a@example.com"]));
    caller.post("/api/users/unforget", who).await;
    let (_, reply) = caller.post("/api/users/bulkUpdate", bulk).await;
    assert_eq!(reply["successCount"], 1);
    api.finish().await;
}

#[tokio::test]
async fn users_are_read_and_deleted_by_either_name() {
    let api = api!();
    let caller = Caller::of(&api);
    let body = json!({"email": "a+b/c@example.com", "userId": "u", "dataFields": {"k": 1}});
    caller.post("/api/users/update", body.clone()).await;
    for path in [
        "/api/users/a%2Bb%2Fc%40example.com",
        "/api/users/getByEmail?email=a%2Bb%2Fc%40example.com",
        "/api/users/byUserId/u",
        "/api/users/byUserId?userId=u",
    ] {
        assert_eq!(caller.get(path).await.json(), json!({"user": body}), "{path}");
    }
    let deleted = caller.delete("/api/users/a%2Bb%2Fc%40example.com").await;
    assert_eq!(deleted.status, 200);
    assert_eq!(caller.get("/api/users/byUserId/u").await.json(), json!({}));
    api.finish().await;
}

#[tokio::test]
async fn lists_are_created_listed_and_deleted() {
    let api = api!();
    let caller = Caller::of(&api);
    let (_, reply) = caller.post("/api/lists", json!({"name": "new"})).await;
    assert_eq!(reply, json!({"listId": 1}));
    let lists = caller.get("/api/lists").await.json();
    assert_eq!(lists["lists"][0]["name"], "new");
    assert_eq!(caller.delete("/api/lists/1").await.status, 200);
    assert_eq!(caller.delete("/api/lists/1").await.status, 400);
    assert_eq!(caller.get("/api/lists/1/size").await.status, 400);
    api.finish().await;
}
