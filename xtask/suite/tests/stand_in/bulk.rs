use std::sync::{Arc, Mutex};

use relaykit_iterable_handlers::testing::{Counts, FailureList, StandIn, UnknownUsers};
use relaykit_suite::{Contract, api};
use serde_json::{Value, json};

use crate::caller::Caller;

const TRACK: &str = "/api/events/trackBulk";
const UPDATE: &str = "/api/users/bulkUpdate";
const SUBSCRIPTIONS: &str = "/api/users/bulkUpdateSubscriptions";
const SUBSCRIBE: &str = "/api/lists/subscribe";
const UNSUBSCRIBE: &str = "/api/lists/unsubscribe";

fn event(email: &str, id: &str) -> Value {
    json!({"email": email, "eventName": "login", "id": id, "createdAt": 1_761_955_200, "dataFields": {"k": "v"}})
}

fn counts(reply: &Value) -> (u64, u64) {
    (reply["successCount"].as_u64().unwrap(), reply["failCount"].as_u64().unwrap())
}

#[tokio::test]
async fn each_event_takes_effect_and_the_counts_are_honest() {
    let api = api!();
    let caller = Caller::of(&api);
    api.reject_user("gone@example.com", FailureList::ForgottenEmails);
    let events = json!({"events": [
        event("a@example.com", "1"),
        event("gone@example.com", "2"),
        event("invalid@", "3"),
        event("A@example.com", "4"),
    ]});
    let (status, reply) = caller.post(TRACK, events).await;
    assert_eq!(status, 200);
    assert_eq!(counts(&reply), (2, 2));
    assert_eq!(reply["failedUpdates"]["forgottenEmails"], json!(["gone@example.com"]));
    assert_eq!(reply["failedUpdates"]["invalidEmails"], json!(["invalid@"]));
    // Deprecated, and still there.
    assert_eq!(reply["invalidEmails"], json!(["invalid@"]));
    let applied: Vec<String> = api.events().into_keys().collect();
    assert_eq!(applied, ["1", "4"]);
    assert_eq!(api.users().len(), 1);
    api.finish().await;
}

#[tokio::test]
async fn an_event_that_comes_again_is_the_same_event() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let api = api!(StandIn::builder().on_event(move |event| {
        log.lock().unwrap().push((event.id.clone(), event.user.clone(), event.times));
    }));
    let caller = Caller::of(&api);
    for _ in 0..2 {
        caller.post(TRACK, json!({"events": [event("A@example.com", "1")]})).await;
    }
    assert_eq!(api.events()["1"], 2);
    let user = "a@example.com".to_owned();
    assert_eq!(*seen.lock().unwrap(), [("1".to_owned(), user.clone(), 1), ("1".to_owned(), user, 2)]);
    api.finish().await;
}

#[tokio::test]
async fn a_rejected_user_is_named_in_the_list_that_was_said() {
    let api = StandIn::start().await.unwrap();
    let caller = Caller::of(&api);
    let lists = [
        (FailureList::InvalidEmails, "a@example.com"),
        (FailureList::InvalidUserIds, "user-a"),
        (FailureList::InvalidDataEmails, "a@example.com"),
        (FailureList::InvalidDataUserIds, "user-a"),
        (FailureList::NotFoundEmails, "a@example.com"),
        (FailureList::NotFoundUserIds, "user-a"),
        (FailureList::ConflictEmails, "a@example.com"),
        (FailureList::ConflictUserIds, "user-a"),
        (FailureList::ForgottenEmails, "a@example.com"),
        (FailureList::ForgottenUserIds, "user-a"),
        (FailureList::Other("surprisingEmails".to_owned()), "a@example.com"),
    ];
    for (list, named) in lists {
        let name = list.name().to_owned();
        api.reject_user("user-a", list);
        let users = json!({"users": [
            {"email": "a@example.com", "userId": "user-a"},
            {"userId": "user-b"},
        ]});
        let (_, reply) = caller.post(UPDATE, users).await;
        assert_eq!(counts(&reply), (1, 1), "{name}");
        assert_eq!(reply["failedUpdates"][&name], json!([named]), "{reply}");
    }
    api.accept_user("user-a");
    let (_, reply) = caller.post(UPDATE, json!({"users": [{"userId": "user-a"}]})).await;
    assert_eq!(counts(&reply), (1, 0));
}

#[tokio::test]
async fn an_element_without_a_name_fails_and_is_not_named() {
    let api = StandIn::start().await.unwrap();
    let (status, reply) =
        Caller::of(&api).post(UPDATE, json!({"users": [{"mail": "a@example.com"}, {"userId": "u"}]})).await;
    assert_eq!(status, 200);
    assert_eq!(counts(&reply), (1, 1));
    let lists = reply["failedUpdates"].as_object().unwrap();
    assert!(lists.values().all(|list| list == &json!([])), "{reply}");
}

#[tokio::test]
async fn a_disallowed_event_is_named_once_and_counted_each_time() {
    let api = api!();
    api.disallow_event("login");
    let mut other = event("a@example.com", "3");
    other["eventName"] = json!("logout");
    let events = json!({"events": [event("a@example.com", "1"), event("b@example.com", "2"), other]});
    let (_, reply) = Caller::of(&api).post(TRACK, events).await;
    assert_eq!(counts(&reply), (1, 2));
    assert_eq!(reply["disallowedEventNames"], json!(["login"]));
    assert_eq!(api.events().len(), 1);
    api.finish().await;
}

#[tokio::test]
async fn counts_can_be_made_to_lie() {
    let api = api!();
    let caller = Caller::of(&api);
    for (lie, said) in [(Counts::Honest, (1, 0)), (Counts::Zero, (0, 0)), (Counts::OffByOne, (2, 0))] {
        api.counts(lie);
        let (_, reply) = caller.post(UPDATE, json!({"users": [{"userId": "u"}]})).await;
        assert_eq!(counts(&reply), said, "{lie:?}");
    }
    api.finish().await;
}

#[tokio::test]
async fn failed_keys_can_come_back_in_lower_case() {
    let api = api!();
    api.reject_user("a@example.com", FailureList::NotFoundEmails);
    let caller = Caller::of(&api);
    let mut named = Vec::new();
    for lowercase in [false, true] {
        api.lowercase_failed_keys(lowercase);
        let (_, reply) = caller.post(TRACK, json!({"events": [event("A@Example.com", "1")]})).await;
        named.push(reply["failedUpdates"]["notFoundEmails"].clone());
    }
    assert_eq!(named, [json!(["A@Example.com"]), json!(["a@example.com"])]);
    api.finish().await;
}

#[tokio::test]
async fn fields_are_created_or_left_out_as_asked() {
    let api = api!();
    let caller = Caller::of(&api);
    let users = |fields: Value| json!([{"userId": "u", "dataFields": fields, "mergeNestedObjects": true}]);
    let (_, first) = caller.post(UPDATE, json!({"users": users(json!({"a": 1, "s": {"x": 1}}))})).await;
    assert_eq!(first["createdFields"], json!(["a", "s"]));
    let fields = json!({"a": 2, "b": 3, "s": {"y": 2}});
    let (_, second) = caller.post(UPDATE, json!({"users": users(fields), "createNewFields": false})).await;
    assert_eq!(second["filteredOutFields"], json!(["b"]));
    let user = api.user("u").unwrap();
    assert_eq!(Value::Object(user.data_fields), json!({"a": 2, "s": {"x": 1, "y": 2}}));
    let fields = caller.get("/api/users/getFields").await.json();
    assert_eq!(fields, json!({"fields": {"a": "long", "s": "object"}}));
    api.finish().await;
}

#[tokio::test]
async fn subscriptions_overwrite_and_name_failures_at_the_top_level() {
    let api = api!();
    api.reject_user("broken", FailureList::ValidUserIdFailures);
    api.reject_user("gone@example.com", FailureList::ForgottenEmails);
    let caller = Caller::of(&api);
    let requests = json!([
        {"userId": "u", "emailListIds": [1, 2], "subscribedMessageTypeIds": [5]},
        {"userId": "u", "emailListIds": [3]},
        {"userId": "broken", "emailListIds": [1]},
        {"email": "gone@example.com", "emailListIds": [1]},
        {"email": "invalid@"},
    ]);
    let (_, reply) = caller.post(SUBSCRIPTIONS, json!({"updateSubscriptionsRequests": requests})).await;
    assert_eq!(counts(&reply), (2, 3));
    assert_eq!(reply["validUserIdFailures"], json!(["broken"]));
    // The description of this call has no list of the forgotten.
    assert_eq!(reply["validEmailFailures"], json!(["gone@example.com"]));
    assert_eq!(reply["invalidEmails"], json!(["invalid@"]));
    let user = api.user("u").unwrap();
    assert_eq!(user.lists.into_iter().collect::<Vec<_>>(), [3]);
    assert_eq!(user.subscriptions["subscribedMessageTypeIds"], json!([5]));
    api.finish().await;
}

#[tokio::test]
async fn users_join_and_leave_lists() {
    let api = api!();
    let caller = Caller::of(&api);
    let body = json!({"listId": 7, "subscribers": [{"email": "a@example.com"}, {"userId": "u"}]});
    let (_, reply) = caller.post(SUBSCRIBE, body).await;
    assert_eq!(counts(&reply), (2, 0));
    assert_eq!(api.list(7), ["a@example.com", "u"]);
    assert_eq!(caller.get("/api/lists/7/size").await.text, "2");
    let users = caller.get("/api/lists/getUsers?listId=7").await;
    assert_eq!(users.text, "a@example.com\nu\n");

    let body = json!({"listId": 7, "subscribers": [{"email": "A@example.com"}]});
    let (_, reply) = caller.post(UNSUBSCRIBE, body).await;
    assert_eq!(counts(&reply), (1, 0));
    assert_eq!(api.list(7), ["u"]);
    api.finish().await;
}

#[tokio::test]
async fn a_list_that_only_takes_known_users_reports_the_others() {
    let api = api!();
    api.add_user(Some("known@example.com"), None);
    let body = json!({
        "listId": 7,
        "subscribers": [{"email": "known@example.com"}, {"email": "new@example.com"}],
        "updateExistingUsersOnly": true,
    });
    let (_, reply) = Caller::of(&api).post(SUBSCRIBE, body).await;
    assert_eq!(counts(&reply), (1, 1));
    assert_eq!(reply["failedUpdates"]["notFoundEmails"], json!(["new@example.com"]));
    assert_eq!(api.users().len(), 1);
    api.finish().await;
}

#[tokio::test]
async fn an_invalid_list_is_a_400_whose_code_is_success() {
    let api = api!();
    api.reject_list(9);
    for path in [SUBSCRIBE, UNSUBSCRIBE] {
        let (status, reply) =
            Caller::of(&api).post(path, json!({"listId": 9, "subscribers": [{"userId": "u"}]})).await;
        assert_eq!(status, 400);
        assert_eq!(reply["code"], "Success");
        assert_eq!(reply["msg"], "error.lists.invalidListId(9)");
    }
    assert!(api.users().is_empty());
    api.finish().await;
}

#[tokio::test]
async fn unknown_users_are_reported_if_asked_for() {
    let api = api!(StandIn::builder().unknown_users(UnknownUsers::NotFound));
    let caller = Caller::of(&api);
    let (_, reply) = caller.post(TRACK, json!({"events": [event("a@example.com", "1")]})).await;
    assert_eq!(reply["failedUpdates"]["notFoundEmails"], json!(["a@example.com"]));
    // An update makes the user known.
    caller.post(UPDATE, json!({"users": [{"email": "a@example.com"}]})).await;
    let (_, reply) = caller.post(TRACK, json!({"events": [event("a@example.com", "1")]})).await;
    assert_eq!(counts(&reply), (1, 0));
    api.finish().await;
}

#[tokio::test]
async fn names_of_two_users_conflict() {
    let api = api!();
    api.add_user(Some("a@example.com"), Some("a"));
    api.add_user(Some("b@example.com"), Some("b"));
    let users = json!({"users": [{"email": "a@example.com", "userId": "b"}]});
    let (_, reply) = Caller::of(&api).post(UPDATE, users).await;
    assert_eq!(counts(&reply), (0, 1));
    assert_eq!(reply["failedUpdates"]["conflictUserIds"], json!(["b"]));
    api.finish().await;
}

#[tokio::test]
async fn events_of_a_user_out_of_order_are_counted() {
    let api = api!();
    let caller = Caller::of(&api);
    for sequence in [1, 3, 2, 3] {
        let mut event = event("a@example.com", &sequence.to_string());
        event["dataFields"] = json!({"__sequence": sequence});
        caller.post(TRACK, json!({"events": [event]})).await;
    }
    assert_eq!(api.out_of_order(), 1);
    api.finish().await;
}

#[tokio::test]
async fn bulk_replies_are_what_the_description_says() {
    let api = api!();
    let contract = Contract::shared().unwrap();
    api.reject_user("x@example.com", FailureList::InvalidEmails);
    let caller = Caller::of(&api);
    let bodies = [
        (TRACK, json!({"events": [event("a@example.com", "1"), event("x@example.com", "2")]})),
        (UPDATE, json!({"users": [{"userId": "u", "dataFields": {"a": 1}}, {"email": "x@example.com"}]})),
        (
            SUBSCRIPTIONS,
            json!({"updateSubscriptionsRequests": [{"userId": "u"}, {"email": "x@example.com"}]}),
        ),
        (SUBSCRIBE, json!({"listId": 1, "subscribers": [{"userId": "u"}, {"email": "x@example.com"}]})),
        (UNSUBSCRIBE, json!({"listId": 1, "subscribers": [{"userId": "u"}, {"email": "x@example.com"}]})),
        ("/api/events/track", json!({"eventName": "e", "email": "a@example.com"})),
        ("/api/users/update", json!({"email": "a@example.com"})),
        ("/api/lists", json!({"name": "new"})),
    ];
    for (path, body) in bodies {
        let (status, reply) = caller.post(path, body).await;
        assert_eq!(status, 200, "{path}");
        assert_eq!(contract.reply_violations("POST", path, &reply), Vec::<String>::new());
    }
    for path in [
        "/api/users/a@example.com",
        "/api/users/nobody@example.com",
        "/api/users/getFields",
        "/api/users/forgotten",
        "/api/users/getSentMessages",
        "/api/events/a@example.com",
    ] {
        let heard = caller.get(path).await;
        assert_eq!(heard.status, 200, "{path}");
        assert_eq!(contract.reply_violations("GET", path, &heard.json()), Vec::<String>::new());
    }
    api.finish().await;
}
