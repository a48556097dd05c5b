use relaykit_iterable_handlers::testing::{FailureList, Reply, StandIn};
use relaykit_iterable_handlers::wire::{
    ArrayMerge, BulkUser, CreateListRequest, IterableCode, MergeUsersRequest, SentMessagesQuery,
    TrackRequest, Unsubscriber, UpdateEmailRequest, UpdateSubscriptionsRequest, UpdateUserRequest,
};
use relaykit_iterable_handlers::{ApiError, NotSent};
use serde_json::json;

use crate::{KEY, client, latest, latest_body, object, raw};

/// An event with every member there is.
fn full_event() -> TrackRequest {
    TrackRequest {
        email: Some("ada@example.com".into()),
        user_id: None,
        event_name: "order".to_owned(),
        id: Some("e1".into()),
        created_at: Some(1_763_683_200),
        data_fields: Some(object(&json!({"total": 12.5, "items": ["a"], "nested": {"x": null}}))),
        campaign_id: Some(1),
        template_id: Some(2),
        create_new_fields: Some(false),
    }
}

#[tokio::test]
async fn every_event_call_arrives_as_the_description_has_it() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    let events = client.events();

    let reply = events.track(&full_event()).await.unwrap();
    assert_eq!(reply.code, Some(IterableCode::Success));
    assert_eq!(latest(&api), "POST /api/events/track");
    assert_eq!(latest_body(&api), serde_json::to_value(full_event()).unwrap());

    let bare = TrackRequest {
        user_id: Some("u1".into()),
        event_name: "login".to_owned(),
        ..TrackRequest::default()
    };
    let reply = events.track_bulk(&[full_event(), bare]).await.unwrap();
    assert_eq!((reply.success_count, reply.fail_count), (Some(2), Some(0)));
    assert_eq!(latest(&api), "POST /api/events/trackBulk");
    assert_eq!(latest_body(&api)["events"][1], json!({"userId": "u1", "eventName": "login"}));
    assert_eq!(api.events()["e1"], 2);

    let found = events.get_by_email("ada@example.com", Some(200)).await.unwrap();
    assert_eq!(latest(&api), "GET /api/events/ada%40example.com?limit=200");
    assert!(found.iter().all(|event| event.event_name.as_deref() == Some("order")));
    assert!(!found.is_empty());
    events.get_by_user_id("u1", None).await.unwrap();
    assert_eq!(latest(&api), "GET /api/events/byUserId/u1");
    api.finish().await;
}

#[tokio::test]
async fn every_user_call_that_writes_arrives_as_the_description_has_it() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    let users = client.users();

    let update = UpdateUserRequest {
        email: Some("ada@example.com".into()),
        data_fields: Some(object(&json!({"first": "Ada"}))),
        prefer_user_id: Some(false),
        merge_nested_objects: Some(true),
        create_new_fields: Some(true),
        ..UpdateUserRequest::default()
    };
    users.update(&update).await.unwrap();
    assert_eq!(latest(&api), "POST /api/users/update");
    assert_eq!(latest_body(&api), serde_json::to_value(&update).unwrap());

    let bulk = [BulkUser {
        user_id: Some("u1".into()),
        data_fields: Some(object(&json!({"a": 1}))),
        prefer_user_id: Some(true),
        merge_nested_objects: Some(false),
        ..BulkUser::default()
    }];
    let reply = users.bulk_update(&bulk, Some(false)).await.unwrap();
    assert_eq!((reply.success_count, reply.fail_count), (Some(1), Some(0)));
    assert_eq!(latest(&api), "POST /api/users/bulkUpdate");
    assert_eq!(latest_body(&api)["createNewFields"], json!(false));
    users.bulk_update(&bulk, None).await.unwrap();
    assert_eq!(latest_body(&api).get("createNewFields"), None);

    let subscriptions = UpdateSubscriptionsRequest {
        email: Some("ada@example.com".into()),
        email_list_ids: Some(Vec::new()),
        unsubscribed_channel_ids: Some(vec![1, 2]),
        unsubscribed_message_type_ids: Some(vec![3]),
        subscribed_message_type_ids: Some(vec![i64::MAX]),
        campaign_id: Some(4),
        template_id: Some(5),
        validate_channel_alignment: Some(false),
        ..UpdateSubscriptionsRequest::default()
    };
    users.update_subscriptions(&subscriptions).await.unwrap();
    assert_eq!(latest(&api), "POST /api/users/updateSubscriptions");
    assert_eq!(latest_body(&api), serde_json::to_value(&subscriptions).unwrap());
    let reply = users.bulk_update_subscriptions(&[subscriptions]).await.unwrap();
    assert_eq!((reply.success_count, reply.fail_count), (Some(1), Some(0)));
    assert_eq!(latest(&api), "POST /api/users/bulkUpdateSubscriptions");
    assert_eq!(latest_body(&api)["updateSubscriptionsRequests"][0]["emailListIds"], json!([]));

    let email = UpdateEmailRequest {
        current_email: Some("ada@example.com".into()),
        new_email: "ada@example.org".to_owned(),
        ..UpdateEmailRequest::default()
    };
    users.update_email(&email).await.unwrap();
    assert_eq!(latest(&api), "POST /api/users/updateEmail");
    assert!(users.get_by_email("ada@example.org").await.unwrap().is_some());

    let merge = MergeUsersRequest {
        source_email: Some("ada@example.org".into()),
        destination_user_id: Some("u1".into()),
        array_merge: Some(vec![ArrayMerge { field: "cars".to_owned(), dedupe_by: Some("vin".into()) }]),
        ..MergeUsersRequest::default()
    };
    users.merge(&merge).await.unwrap();
    assert_eq!(latest(&api), "POST /api/users/merge");
    assert_eq!(latest_body(&api), serde_json::to_value(&merge).unwrap());
    api.finish().await;
}

#[tokio::test]
async fn forgetting_and_deleting_name_the_user_in_one_way() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    let users = client.users();
    api.add_user(Some("ada@example.com"), None);
    api.add_user(None, Some("u1"));

    users.forget_by_email("ada@example.com").await.unwrap();
    assert_eq!(latest(&api), "POST /api/users/forget");
    assert_eq!(latest_body(&api), json!({"email": "ada@example.com"}));
    users.unforget_by_email("ada@example.com").await.unwrap();
    assert_eq!(latest_body(&api), json!({"email": "ada@example.com"}));
    users.forget_by_user_id("u1").await.unwrap();
    assert_eq!(latest_body(&api), json!({"userId": "u1"}));
    users.unforget_by_user_id("u1").await.unwrap();
    assert_eq!(latest(&api), "POST /api/users/unforget");

    api.add_user(Some("del@example.com"), None);
    api.add_user(None, Some("u2"));
    users.delete_by_email("del@example.com").await.unwrap();
    assert_eq!(latest(&api), "DELETE /api/users/del%40example.com");
    users.delete_by_user_id("u2").await.unwrap();
    assert_eq!(latest(&api), "DELETE /api/users/byUserId/u2");
    assert!(api.user("del@example.com").is_none() && api.user("u2").is_none());
    api.finish().await;
}

#[tokio::test]
async fn every_user_call_that_reads_arrives_as_the_description_has_it() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    let users = client.users();
    let write = UpdateUserRequest {
        email: Some("a+b@example.com".into()),
        user_id: Some("u&1".into()),
        data_fields: Some(object(&json!({"first": "Ada"}))),
        ..UpdateUserRequest::default()
    };
    users.update(&write).await.unwrap();

    let user = users.get_by_email("a+b@example.com").await.unwrap().expect("the user is there");
    assert_eq!(latest(&api), "GET /api/users/getByEmail?email=a%2Bb%40example.com");
    assert_eq!(user.email.as_deref(), Some("a+b@example.com"));
    assert_eq!(user.data_fields["first"], "Ada");
    let user = users.get_by_user_id("u&1").await.unwrap().expect("the user is there");
    assert_eq!(latest(&api), "GET /api/users/byUserId?userId=u%261");
    assert_eq!(user.user_id.as_deref(), Some("u&1"));
    assert_eq!(users.get_by_email("nobody@example.com").await.unwrap(), None);

    let gone = json!({"code": "error.users.noUserWithIdExists", "msg": "User not found"});
    for status in [400, 404, 500] {
        api.script(Reply::json(status, gone.clone()));
        assert_eq!(users.get_by_user_id("u9").await.unwrap(), None, "{status}");
    }

    let fields = users.fields().await.unwrap();
    assert_eq!(latest(&api), "GET /api/users/getFields");
    assert!(fields.contains_key("first"), "{fields:?}");

    let message = json!({"messageId": "m", "campaignId": 1, "templateId": 2, "createdAt": "2025-12-19 22:43:34 +00:00"});
    api.script(Reply::json(200, json!({"messages": [message]})));
    let query = SentMessagesQuery {
        email: Some("a+b@example.com".into()),
        limit: Some(1000),
        campaign_ids: vec![1, 2],
        start_date_time: Some("2025-12-01 00:00:00 +00:00".into()),
        end_date_time: Some("2025-12-31 00:00:00 +00:00".into()),
        exclude_blast_campaigns: Some(true),
        message_medium: Some("Email".into()),
        ..SentMessagesQuery::default()
    };
    let messages = users.sent_messages(&query).await.unwrap();
    assert_eq!((messages[0].message_id.as_deref(), messages[0].campaign_id), (Some("m"), Some(1)));
    let sent = api.requests().last().unwrap().query_pairs();
    let campaigns: Vec<&str> =
        sent.iter().filter(|(name, _)| name == "campaignIds").map(|(_, id)| id.as_str()).collect();
    assert_eq!(campaigns, ["1", "2"]);
    assert!(sent.contains(&("startDateTime".to_owned(), "2025-12-01 00:00:00 +00:00".to_owned())));

    api.script(Reply::json(200, json!({"hashedEmails": ["h1"]})));
    assert_eq!(users.forgotten_emails().await.unwrap(), ["h1"]);
    assert_eq!(latest(&api), "GET /api/users/forgotten");
    api.script(Reply::json(200, json!({"hashedUserIds": ["h2"]})));
    assert_eq!(users.forgotten_user_ids().await.unwrap(), ["h2"]);
    assert_eq!(latest(&api), "GET /api/users/forgottenUserIds");
    api.finish().await;
}

#[tokio::test]
async fn every_list_call_arrives_as_the_description_has_it() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    let lists = client.lists();

    let new = CreateListRequest { name: "beta".to_owned(), description: Some("testers".into()) };
    let id = lists.create(&new).await.unwrap();
    assert_eq!(latest(&api), "POST /api/lists");
    let all = lists.all().await.unwrap();
    assert!(all.iter().any(|list| list.id == id && list.name == "beta"), "{all:?}");

    let subscribers = [
        BulkUser { email: Some("a@example.com".into()), ..BulkUser::default() },
        BulkUser { email: Some("b@example.com".into()), prefer_user_id: Some(true), ..BulkUser::default() },
    ];
    let reply = lists.subscribe(id, &subscribers, Some(false)).await.unwrap();
    assert_eq!((reply.success_count, reply.fail_count), (Some(2), Some(0)));
    assert_eq!(latest(&api), "POST /api/lists/subscribe");
    assert_eq!(latest_body(&api)["updateExistingUsersOnly"], json!(false));
    assert_eq!(lists.size(id).await.unwrap(), 2);
    assert_eq!(latest(&api), format!("GET /api/lists/{id}/size"));

    let members = lists.users(id, Some(true)).await.unwrap();
    assert_eq!(latest(&api), format!("GET /api/lists/getUsers?listId={id}&preferUserId=true"));
    let mut members: Vec<&str> = members.iter().collect();
    members.sort_unstable();
    assert_eq!(members, ["a@example.com", "b@example.com"]);

    let leaver = [Unsubscriber { email: Some("a@example.com".into()), user_id: None }];
    lists.unsubscribe(id, &leaver, Some(7), Some(true)).await.unwrap();
    assert_eq!(latest(&api), "POST /api/lists/unsubscribe");
    assert_eq!(
        latest_body(&api),
        json!({"listId": id, "subscribers": [{"email": "a@example.com"}], "campaignId": 7, "channelUnsubscribe": true})
    );
    lists.unsubscribe(id, &leaver, None, None).await.unwrap();
    assert_eq!(latest_body(&api), json!({"listId": id, "subscribers": [{"email": "a@example.com"}]}));

    lists.delete(id).await.unwrap();
    assert_eq!(latest(&api), format!("DELETE /api/lists/{id}"));
    api.finish().await;
}

#[tokio::test]
async fn a_serialised_element_is_sent_as_it_is() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    let (users, lists) = (client.users(), client.lists());
    let body = || String::from_utf8(api.requests().last().unwrap().body.to_vec()).unwrap();

    // Spaces and the order of members stay: a message sent again is the same bytes.
    let text = r#"{ "eventName":"login", "email":"a@example.com" , "id":"e1"}"#;
    let event = serde_json::value::RawValue::from_string(text.to_owned()).unwrap();
    client.events().track_bulk_raw(&[&event, &event]).await.unwrap();
    assert_eq!(body(), format!(r#"{{"events":[{text},{text}]}}"#));

    let user = raw(&json!({"email": "a@example.com"}));
    users.bulk_update_raw(&[&user], Some(true)).await.unwrap();
    assert_eq!(latest_body(&api), json!({"users": [{"email": "a@example.com"}], "createNewFields": true}));
    users.bulk_update_subscriptions_raw(&[&user]).await.unwrap();
    assert_eq!(latest_body(&api), json!({"updateSubscriptionsRequests": [{"email": "a@example.com"}]}));
    lists.subscribe_raw(1, &[&user], None).await.unwrap();
    assert_eq!(latest_body(&api), json!({"listId": 1, "subscribers": [{"email": "a@example.com"}]}));
    lists.unsubscribe_raw(1, &[&user], None, Some(true)).await.unwrap();
    assert_eq!(latest_body(&api)["channelUnsubscribe"], json!(true));
    let email = raw(&json!({"currentEmail": "a@example.com", "newEmail": "b@example.com"}));
    users.update_email_raw(&email).await.unwrap();
    assert_eq!(latest(&api), "POST /api/users/updateEmail");
    api.finish().await;
}

#[tokio::test]
async fn what_the_api_refuses_of_a_bulk_stands_in_the_reply() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    api.reject_user("gone@example.com", FailureList::ForgottenEmails);
    api.reject_user("odd@example.com", FailureList::Other("quarantinedEmails".to_owned()));
    api.disallow_event("spam");
    let event = |email: &str, name: &str| TrackRequest {
        email: Some(email.to_owned()),
        event_name: name.to_owned(),
        ..TrackRequest::default()
    };
    let events = [
        event("a@example.com", "login"),
        event("gone@example.com", "login"),
        event("odd@example.com", "login"),
        event("a@example.com", "spam"),
    ];
    let reply = client.events().track_bulk(&events).await.unwrap();
    assert_eq!((reply.success_count, reply.fail_count), (Some(1), Some(3)));
    assert_eq!(reply.failed_updates.forgotten_emails, ["gone@example.com"]);
    assert_eq!(reply.failed_updates.unknown["quarantinedEmails"], json!(["odd@example.com"]));
    assert_eq!(reply.disallowed_event_names, ["spam"]);
    api.finish().await;
}

#[tokio::test]
async fn a_request_says_who_it_is_from() {
    let api = relaykit_suite::api!(StandIn::builder().require_key(KEY));
    let client = client(&api).build().unwrap();
    client.events().track(&full_event()).await.unwrap();
    client.lists().size(1).await.unwrap_or_default();
    let requests = api.requests();
    let agent = concat!("relaykit-iterable-handlers/", env!("CARGO_PKG_VERSION"));
    for request in &requests {
        assert_eq!(request.header("api-key"), Some(KEY));
        let sent = request.header("user-agent").unwrap();
        assert_eq!(sent.split('/').next(), agent.split('/').next());
        assert!(request.header("cookie").is_none() && request.header("referer").is_none());
    }
    assert_eq!(requests[0].header("content-type"), Some("application/json"));
    assert_eq!(requests[0].header("accept"), Some("application/json"));
    assert_eq!(requests[1].header("accept"), Some("text/plain"));
    assert_eq!(requests[1].header("content-type"), None);
    api.finish().await;
}

#[tokio::test]
async fn an_id_with_any_character_names_its_user_and_nothing_else() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    for id in ["a/../b", "?limit=1", "#x", "x y", "%2e%2e", "..%2f", "a+b", "{}", "~:@!", "a\\b", "a;b=c&d"] {
        api.add_user(None, Some(id));
        let other = api.users().len();
        let user = client.users().get_by_user_id(id).await.unwrap().expect(id);
        assert_eq!(user.user_id.as_deref(), Some(id));
        client.users().delete_by_user_id(id).await.unwrap();
        assert!(api.user(id).is_none(), "{id} is still there: {}", latest(&api));
        assert_eq!(api.users().len(), other - 1);
    }
    api.finish().await;
}

#[tokio::test]
async fn an_id_that_cannot_be_sent_sends_nothing() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    let (users, events) = (client.users(), client.events());
    let mut refused = vec![
        users.delete_by_email("").await.unwrap_err(),
        users.delete_by_user_id("").await.unwrap_err(),
        users.delete_by_user_id(".").await.unwrap_err(),
        users.delete_by_user_id("..").await.unwrap_err(),
        users.forget_by_email("").await.unwrap_err(),
        users.unforget_by_user_id("").await.unwrap_err(),
        users.update(&UpdateUserRequest::default()).await.unwrap_err(),
        users
            .bulk_update(&[BulkUser { email: Some(String::new()), ..BulkUser::default() }], None)
            .await
            .unwrap_err(),
        users.update_subscriptions(&UpdateSubscriptionsRequest::default()).await.unwrap_err(),
        users.update_email(&UpdateEmailRequest::default()).await.unwrap_err(),
        users.merge(&MergeUsersRequest::default()).await.unwrap_err(),
        users.sent_messages(&SentMessagesQuery::default()).await.unwrap_err(),
        client.lists().create(&CreateListRequest::default()).await.unwrap_err(),
        client.lists().subscribe(1, &[BulkUser::default()], None).await.unwrap_err(),
        client.lists().unsubscribe(1, &[Unsubscriber::default()], None, None).await.unwrap_err(),
        events.track(&TrackRequest::default()).await.unwrap_err(),
        events.track_bulk(&[full_event(), TrackRequest::default()]).await.unwrap_err(),
    ];
    refused.push(users.get_by_email("").await.unwrap_err());
    refused.push(events.get_by_email("", None).await.unwrap_err());
    refused.push(events.get_by_user_id("u1", Some(201)).await.unwrap_err());
    let long = TrackRequest { id: Some("x".repeat(513)), ..full_event() };
    refused.push(events.track(&long).await.unwrap_err());
    for error in refused {
        assert!(matches!(error, ApiError::NotSent { .. }), "{error}");
        assert!(!error.may_have_taken_effect());
    }
    assert_eq!(api.request_count(), 0);
    api.finish().await;
}

#[tokio::test]
async fn a_body_larger_than_the_api_takes_is_not_sent() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    let element = |bytes: usize| {
        let frame = json!({"email": "a@example.com", "eventName": ""}).to_string().len();
        raw(&json!({"email": "a@example.com", "eventName": "x".repeat(bytes - frame)}))
    };
    // `{"events":[` and `]}` take 13 bytes.
    let fits = element(relaykit_iterable_handlers::MAX_BODY_BYTES - 13);
    client.events().track_bulk_raw(&[&fits]).await.unwrap();
    assert_eq!(api.requests()[0].body.len(), 4_000_000);
    let exceeds = element(relaykit_iterable_handlers::MAX_BODY_BYTES - 12);
    let error = client.events().track_bulk_raw(&[&exceeds]).await.unwrap_err();
    assert!(
        matches!(
            error,
            ApiError::NotSent { source: NotSent::TooLarge { bytes: 4_000_001, max: 4_000_000 }, .. }
        ),
        "{error:?}"
    );
    assert_eq!(api.request_count(), 1);
    api.finish().await;
}
