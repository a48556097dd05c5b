//! What the handlers of events, users and subscriptions make of replies.

use std::num::NonZeroUsize;

use relaykit_iterable_handlers::testing::{Counts, FailureList, Reply};
use relaykit_iterable_handlers::{
    DeliveryError, Doubt, EventTrack, EventTrackHandler, Identity, MAX_BODY_BYTES, MAX_ELEMENTS_BYTES,
    Prepared, Reason, Request, Stamper, SubscriptionUpdate, SubscriptionUpdateHandler, UserUpdate,
    UserUpdateHandler,
};
use relaykit_pipeline_traits::{BatchOutcome, Verdict};
use serde_json::json;

use crate::{
    SUBSCRIPTIONS, TRACK, USERS, attempt, bodies, client, drive, error, event, handle, paths, prepare,
    reason, user, word,
};

#[tokio::test]
async fn a_batch_of_each_kind_goes_out_in_one_bulk_call() {
    let api = relaykit_suite::api!();
    let client = client(&api);
    let events = prepare([event("a@example.com"), event("u1"), event("a@example.com")]);
    assert_eq!(word(&handle(&EventTrackHandler::new(client.clone()), &events).await), "DDD");
    let users = prepare([user("a@example.com"), user("u1")]);
    assert_eq!(word(&handle(&UserUpdateHandler::new(client.clone()), &users).await), "DD");
    let subscriptions = prepare([
        SubscriptionUpdate::new(Identity::email("a@example.com")).email_list_ids([1]),
        SubscriptionUpdate::new(Identity::user_id("u1")).unsubscribed_channel_ids([]),
    ]);
    assert_eq!(word(&handle(&SubscriptionUpdateHandler::new(client), &subscriptions).await), "DD");
    assert_eq!(paths(&api), [TRACK, USERS, SUBSCRIPTIONS]);
    assert_eq!(api.events().len(), 3);
    api.finish().await;
}

#[tokio::test]
async fn failures_find_their_messages_and_tell_why() {
    let api = relaykit_suite::api!();
    api.reject_user("b@example.com", FailureList::InvalidEmails);
    api.reject_user("u3", FailureList::ForgottenUserIds);
    api.disallow_event("forbidden");
    let handler = EventTrackHandler::new(client(&api));
    let batch = prepare([
        event("a@example.com"),
        event("b@example.com"),
        event("u3"),
        EventTrack::new(Identity::email("a@example.com"), "forbidden"),
    ]);
    let outcome = handle(&handler, &batch).await;
    assert_eq!(word(&outcome), "DXXX");
    assert_eq!(
        [1, 2, 3].map(|at| reason(&outcome, at)),
        ["Malformed Email", "UserId Forgotten", "Disallowed Event Name"]
    );
    let users = prepare([user("u3"), user("u4")]);
    let outcome = handle(&UserUpdateHandler::new(client(&api)), &users).await;
    assert_eq!(word(&outcome), "XD");
    api.finish().await;
}

#[tokio::test]
async fn b6_a_failure_under_the_other_id_of_a_message_is_no_success() {
    let api = relaykit_suite::api!();
    api.reject_user("u1", FailureList::InvalidUserIds);
    let both = UserUpdate::new(Identity::both("a@example.com", "u1"));
    let batch = prepare([both, user("u2")]);
    let outcome = handle(&UserUpdateHandler::new(client(&api)), &batch).await;
    assert_eq!(word(&outcome), "XD");
    assert_eq!(reason(&outcome, 0), "Malformed UserId");
    api.finish().await;
}

#[tokio::test]
async fn b6_a_failed_key_in_another_spelling_is_no_success() {
    let api = relaykit_suite::api!();
    api.lowercase_failed_keys(true);
    api.reject_user("ada@example.com", FailureList::ForgottenEmails);
    let handler = UserUpdateHandler::new(client(&api));
    let batch = prepare([user("ADA@Example.com"), user("u2")]);
    assert_eq!(word(&handle(&handler, &batch).await), "XD");
    api.script(Reply::json(
        200,
        json!({"successCount": 1, "failCount": 1, "failedUpdates": {"invalidEmails": [" Ada@example.COM\t"]}}),
    ));
    assert_eq!(word(&handle(&handler, &batch).await), "XD");
    api.finish().await;
}

#[tokio::test]
async fn b6_a_failure_of_an_id_in_the_data_fields_is_no_success() {
    let api = relaykit_suite::api!();
    api.script(Reply::json(
        200,
        json!({"successCount": 1, "failCount": 1, "failedUpdates": {"invalidEmails": ["broken@"]}}),
    ));
    let batch = prepare([user("u1").field("email", "broken@"), user("u2")]);
    let outcome = handle(&UserUpdateHandler::new(client(&api)), &batch).await;
    assert_eq!(word(&outcome), "XD");
    api.finish().await;
}

#[tokio::test]
async fn b6_an_existing_address_in_the_way_is_found_out_by_looking_alone() {
    let api = relaykit_suite::api!();
    let handler = UserUpdateHandler::new(client(&api));
    let conflict = json!({"successCount": 0, "failCount": 1, "failedUpdates": {"conflictEmails": ["taken@example.com"]}});
    let in_company = json!({"successCount": 1, "failCount": 1, "failedUpdates": {"conflictEmails": ["taken@example.com"]}});
    api.script(Reply::json(200, in_company));
    let batch = prepare([user("u1"), user("u2")]);
    let outcome = handle(&handler, &batch).await;
    assert_eq!(word(&outcome), "II");
    assert!(matches!(error(&outcome, 0), DeliveryError::Ambiguous { doubt: Doubt::UnmatchedKey }));
    api.script(Reply::json(200, conflict));
    let outcome = handle(&handler, &batch[..1]).await;
    assert_eq!((word(&outcome), reason(&outcome, 0)), ("X".to_owned(), "Email conflicts".to_owned()));
    assert_eq!(word(&handle(&handler, &batch[1..]).await), "D");
    api.finish().await;
}

#[tokio::test]
async fn b6_the_deprecated_lists_are_read() {
    let api = relaykit_suite::api!();
    api.script(Reply::json(
        200,
        json!({"successCount": 1, "failCount": 1, "invalidEmails": ["a@example.com"]}),
    ));
    api.script(Reply::json(200, json!({"successCount": 1, "failCount": 1, "invalidUserIds": ["u1"]})));
    let events = prepare([event("a@example.com"), event("b@example.com")]);
    assert_eq!(word(&handle(&EventTrackHandler::new(client(&api)), &events).await), "XD");
    let users = prepare([user("u1"), user("u2")]);
    assert_eq!(word(&handle(&UserUpdateHandler::new(client(&api)), &users).await), "XD");
    api.finish().await;
}

#[tokio::test]
async fn counts_that_lie_make_nobody_succeed_in_company() {
    let api = relaykit_suite::api!();
    let handler = EventTrackHandler::new(client(&api));
    let batch = prepare([event("a@example.com"), event("b@example.com")]);
    for counts in [Counts::Zero, Counts::OffByOne] {
        api.counts(counts);
        let outcome = handle(&handler, &batch).await;
        assert_eq!(word(&outcome), "II", "{counts:?}");
        assert!(matches!(error(&outcome, 0), DeliveryError::Ambiguous { doubt: Doubt::Counts }));
        // Alone it is tried again, or dead with a reason where the API counts a failure.
        let alone = word(&handle(&handler, &batch[..1]).await);
        assert!(alone == "R" || alone == "X", "{counts:?}: {alone}");
    }
    api.finish().await;
}

#[tokio::test]
async fn a_list_of_failures_that_is_new_makes_nobody_succeed() {
    let api = relaykit_suite::api!();
    api.reject_user("b@example.com", FailureList::Other("quarantinedEmails".to_owned()));
    let handler = EventTrackHandler::new(client(&api));
    let batch = prepare([event("a@example.com"), event("b@example.com"), event("c@example.com")]);
    let outcome = handle(&handler, &batch).await;
    assert_eq!(word(&outcome), "III");
    assert_eq!(drive(&handler, &batch, 20).await, "DXD");
    let alone = handle(&handler, &batch[1..2]).await;
    match error(&alone, 0).reason() {
        Some(Reason::Unrecognised { list, key }) => {
            assert_eq!((list.as_str(), key.as_str()), ("quarantinedEmails", r#"["b@example.com"]"#));
        }
        other => panic!("{other:?}"),
    }
    api.finish().await;
}

#[tokio::test]
async fn b8_what_has_no_json_form_is_refused_alone_and_before_it_is_sent() {
    let api = relaykit_suite::api!();
    let stamper = Stamper::system();
    let huge = event("a@example.com").field("x", "y".repeat(MAX_BODY_BYTES)).prepare(&stamper);
    let returned = huge.unwrap_err().into_request();
    assert_eq!(returned.as_wire().event_name, "login");
    assert!(
        relaykit_iterable_handlers::data_fields(&std::collections::HashMap::from([((1, 2), 3)])).is_err()
    );
    assert_eq!(api.request_count(), 0);
    api.finish().await;
}

#[tokio::test]
async fn b12_what_is_not_given_is_absent_and_an_empty_list_clears() {
    let api = relaykit_suite::api!();
    let client = client(&api);
    handle(&EventTrackHandler::new(client.clone()), &prepare([event("u1").id("e1")])).await;
    handle(
        &UserUpdateHandler::new(client.clone()),
        &prepare([UserUpdate::new(Identity::email("a@example.com"))]),
    )
    .await;
    handle(&UserUpdateHandler::new(client.clone()).create_new_fields(false), &prepare([user("u1")])).await;
    let clear = SubscriptionUpdate::new(Identity::user_id("u1")).email_list_ids([]);
    handle(&SubscriptionUpdateHandler::new(client), &prepare([clear])).await;
    assert_eq!(
        bodies(&api),
        [
            json!({"events": [{"userId": "u1", "eventName": "login", "id": "e1", "createdAt": 1_761_955_200}]}),
            json!({"users": [{"email": "a@example.com"}]}),
            json!({"users": [{"userId": "u1", "dataFields": {"plan": "free"}}], "createNewFields": false}),
            json!({"updateSubscriptionsRequests": [{"userId": "u1", "emailListIds": []}]}),
        ]
    );
    api.finish().await;
}

#[tokio::test]
async fn b15_a_failure_inside_the_api_is_tried_again() {
    let api = relaykit_suite::api!();
    api.reject_user("a@example.com", FailureList::ValidEmailFailures);
    api.reject_user("u2", FailureList::InvalidUserIds);
    let subscription = |name: &str| SubscriptionUpdate::new(crate::identity(name)).email_list_ids([1]);
    let batch = prepare([subscription("a@example.com"), subscription("u2"), subscription("u3")]);
    let handler = SubscriptionUpdateHandler::new(client(&api));
    let outcome = handle(&handler, &batch).await;
    assert_eq!(word(&outcome), "RXD");
    assert_eq!(reason(&outcome, 0), "Internal Error with Email");
    api.accept_user("a@example.com");
    assert_eq!(word(&handle(&handler, &batch[..1]).await), "D");
    api.finish().await;
}

#[tokio::test]
async fn b19_a_lost_reply_is_repeated_byte_for_byte_and_adds_no_event() {
    let api = relaykit_suite::api!();
    api.script(Reply::drop_connection().applied(true));
    let handler = EventTrackHandler::new(client(&api));
    let batch = prepare([
        event("a@example.com").field("n", 0.1 + 0.2),
        event("u1").field("z", json!({"b": 1, "a": 2})),
    ]);
    assert_eq!(word(&handle(&handler, &batch).await), "retry");
    // In between they may have been on a disk.
    let stored = serde_json::to_string(&batch).unwrap();
    let restored: Vec<Prepared<EventTrack>> = serde_json::from_str(&stored).unwrap();
    assert_eq!(word(&attempt(&handler, &restored, 2).await), "DD");
    let requests = api.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(api.events().into_values().collect::<Vec<_>>(), [2, 2]);
    api.finish().await;
}

#[tokio::test]
async fn b19_a_user_who_is_listed_once_for_two_messages_isolates_those_two() {
    let api = relaykit_suite::api!();
    let handler = EventTrackHandler::new(client(&api));
    let batch = prepare([event("a@example.com"), event("b@example.com"), event("A@example.com")]);
    api.script(Reply::json(
        200,
        json!({"successCount": 2, "failCount": 1, "failedUpdates": {"notFoundEmails": ["a@example.com"]}}),
    ));
    let outcome = handle(&handler, &batch).await;
    assert_eq!(word(&outcome), "IDI");
    assert!(matches!(error(&outcome, 2), DeliveryError::Ambiguous { doubt: Doubt::WhichOfSeveral }));
    api.finish().await;
}

#[tokio::test]
async fn b20_fields_that_the_project_adds_or_drops_are_told() {
    let api = relaykit_suite::api!();
    let reply = json!({"successCount": 1, "failCount": 0, "createdFields": ["plan"], "filteredOutFields": ["shoeSize"]});
    api.script(Reply::json(200, reply.clone()));
    api.script(Reply::json(200, reply));
    let outcomes = [
        handle(&UserUpdateHandler::new(client(&api)), &prepare([user("u1")])).await,
        handle(&EventTrackHandler::new(client(&api)), &prepare([event("u1")])).await,
    ];
    for outcome in outcomes {
        let BatchOutcome::Each(verdicts) = outcome else { panic!("{outcome:?}") };
        let [Verdict::Done(delivered)] = verdicts.as_slice() else { panic!("{verdicts:?}") };
        assert_eq!(*delivered.created_fields, ["plan"]);
        assert_eq!(*delivered.filtered_out_fields, ["shoeSize"]);
    }
    api.finish().await;
}

#[tokio::test]
async fn a_user_stands_once_in_a_request_and_later_updates_wait() {
    let api = relaykit_suite::api!();
    let handler = UserUpdateHandler::new(client(&api));
    let batch = prepare([
        user("u1").field("n", 1),
        user("u2").field("n", 1),
        user(" u1").field("n", 2),
        user("u1").field("n", 3),
    ]);
    assert_eq!(word(&handle(&handler, &batch).await), "DDUU");
    assert_eq!(bodies(&api)[0]["users"].as_array().unwrap().len(), 2);
    assert_eq!(drive(&handler, &batch[2..], 10).await, "DD");
    let sent: Vec<_> = bodies(&api).iter().map(|body| body["users"][0]["dataFields"]["n"].clone()).collect();
    assert_eq!(sent, [json!(1), json!(2), json!(3)]);
    api.finish().await;
}

#[tokio::test]
async fn events_of_one_user_keep_their_order_in_one_request() {
    let api = relaykit_suite::api!();
    let batch = prepare((0..5).map(|n| event("u1").field("__sequence", n)));
    let handler = EventTrackHandler::new(client(&api)).max_elements(NonZeroUsize::new(2).unwrap());
    assert_eq!(word(&handle(&handler, &batch).await), "DDDDD");
    assert_eq!(api.request_count(), 3);
    assert_eq!(api.out_of_order(), 0);
    api.finish().await;
}

#[tokio::test]
async fn no_body_is_larger_than_the_limit() {
    let api = relaykit_suite::api!();
    let handler = EventTrackHandler::new(client(&api));
    let event_of = |bytes: usize| {
        let stamper = Stamper::system();
        let empty = event("u1").field("x", "").prepare(&stamper).unwrap().weight();
        event("u1").field("x", "y".repeat(bytes - empty)).prepare(&stamper).unwrap()
    };
    let half = MAX_ELEMENTS_BYTES / 2;
    let batch =
        [event_of(half), event_of(MAX_ELEMENTS_BYTES - half), event_of(MAX_ELEMENTS_BYTES), event_of(1000)];
    assert_eq!(word(&handle(&handler, &batch).await), "DDDD");
    let sizes: Vec<usize> = api.requests().iter().map(|request| request.body.len()).collect();
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|&size| size <= MAX_BODY_BYTES), "{sizes:?}");
    assert!(sizes[0] > MAX_BODY_BYTES - 1000, "{sizes:?}");
    api.finish().await;
}

#[tokio::test]
async fn after_a_request_that_failed_the_rest_of_the_batch_is_untried() {
    let api = relaykit_suite::api!();
    let batch = prepare((0..5).map(|n| event(&format!("u{n}"))));
    let handler = EventTrackHandler::new(client(&api)).max_elements(NonZeroUsize::new(2).unwrap());
    let two_done = || Reply::json(200, json!({"successCount": 2, "failCount": 0}));
    for (reply, expected) in [
        (Reply::empty(503), "DDRRU"),
        (Reply::empty(413), "DDIIU"),
        (Reply::drop_connection(), "DDRRU"),
        (Reply::empty(403), "DDUUU"),
    ] {
        api.script(two_done());
        api.script(reply.clone());
        assert_eq!(word(&handle(&handler, &batch).await), expected, "{reply:?}");
    }
    // The key is still refused: not even the first request goes out.
    let before = api.request_count();
    assert_eq!(word(&handle(&handler, &batch).await), "refused");
    assert_eq!(api.request_count(), before);
    api.finish().await;
}

#[tokio::test]
async fn one_poison_message_among_many_dies_alone() {
    let api = relaykit_suite::api!();
    api.reject_element("poison");
    api.max_elements(TRACK, 40);
    let batch = prepare((0..64).map(|n| event("u1").field("n", if n == 37 { "poison" } else { "fine" })));
    let handler = EventTrackHandler::new(client(&api));
    let last = drive(&handler, &batch, 100).await;
    assert_eq!(last.matches('D').count(), 63, "{last}");
    assert_eq!(last.find('X'), Some(37), "{last}");
    assert!(api.request_count() <= 14, "{} requests", api.request_count());
    assert!(api.events().values().all(|&times| times == 1));
    assert!(paths(&api).iter().all(|path| path == TRACK), "bulk and single calls are not mixed");
    api.finish().await;
}
