//! What the handlers of lists do.

use relaykit_iterable_handlers::testing::{FailureList, Reply};
use relaykit_iterable_handlers::{
    DeliveryError, ListSubscribe, ListSubscribeHandler, ListUnsubscribe, ListUnsubscribeHandler, Reason,
    Subscriber,
};
use relaykit_pipeline_traits::{Classify, ErrorClass};
use serde_json::json;

use crate::{
    SUBSCRIBE, attempt, bodies, client, drive, error, handle, identity, paths, prepare, reason, word,
};

fn join(list: i64, users: &[&str]) -> ListSubscribe {
    users.iter().fold(ListSubscribe::new(list), |list, user| list.user(identity(user)))
}

fn leave(list: i64, users: &[&str]) -> ListUnsubscribe {
    users.iter().fold(ListUnsubscribe::new(list), |list, user| list.user(identity(user)))
}

fn invalid_list(status: u16) -> Reply {
    let body = json!({"msg": "error.lists.invalidListId(999)", "code": "Success", "params": {"listId": 999}});
    Reply::json(status, body)
}

#[tokio::test]
async fn one_call_for_each_list_in_order_of_first_appearance() {
    let api = relaykit_suite::api!();
    let batch = prepare([join(7, &["u1"]), join(3, &["u1"]), join(7, &["u2", "a@example.com"])]);
    assert_eq!(word(&handle(&ListSubscribeHandler::new(client(&api)), &batch).await), "DDD");
    assert_eq!(
        bodies(&api),
        [
            json!({"listId": 7, "subscribers": [{"userId": "u1"}, {"userId": "u2"}, {"email": "a@example.com"}]}),
            json!({"listId": 3, "subscribers": [{"userId": "u1"}]}),
        ]
    );
    let batch = prepare([leave(7, &["u1"]), leave(3, &["u1"])]);
    assert_eq!(word(&handle(&ListUnsubscribeHandler::new(client(&api)), &batch).await), "DD");
    assert_eq!(api.list(7).len(), 2);
    api.finish().await;
}

#[tokio::test]
async fn b10_a_message_has_one_verdict_whatever_its_number_of_subscribers() {
    let api = relaykit_suite::api!();
    api.reject_user("u2", FailureList::ForgottenUserIds);
    api.reject_user("c@example.com", FailureList::InvalidEmails);
    let batch = prepare([join(1, &["u1", "u2", "c@example.com"]), join(1, &["u4", "u5"])]);
    let outcome = handle(&ListSubscribeHandler::new(client(&api)), &batch).await;
    assert_eq!(word(&outcome), "XD");
    let DeliveryError::Rejected { failures, .. } = error(&outcome, 0) else { panic!("{outcome:?}") };
    let failures: Vec<_> = failures.iter().map(|failure| (failure.index, failure.reason.clone())).collect();
    assert_eq!(failures, [(Some(1), Reason::ForgottenUserIds), (Some(2), Reason::InvalidEmails)]);
    let batch = prepare([leave(1, &["u4", "u2"]), leave(1, &["u5"])]);
    let outcome = handle(&ListUnsubscribeHandler::new(client(&api)), &batch).await;
    assert_eq!((word(&outcome).as_str(), reason(&outcome, 0).as_str()), ("XD", "UserId Forgotten"));
    api.finish().await;
}

#[tokio::test]
async fn b11_messages_share_a_call_only_if_all_their_flags_agree() {
    let api = relaykit_suite::api!();
    let subscribe = prepare([
        join(1, &["u1"]),
        join(1, &["u2"]).update_existing_users_only(true),
        join(1, &["u3"]).update_existing_users_only(false),
    ]);
    handle(&ListSubscribeHandler::new(client(&api)), &subscribe).await;
    let unsubscribe = prepare([
        leave(1, &["u1"]),
        leave(1, &["u2"]).channel_unsubscribe(true),
        leave(1, &["u3"]).channel_unsubscribe(true).campaign_id(9),
        leave(1, &["u4"]).channel_unsubscribe(true),
    ]);
    handle(&ListUnsubscribeHandler::new(client(&api)), &unsubscribe).await;
    assert_eq!(
        bodies(&api),
        [
            json!({"listId": 1, "subscribers": [{"userId": "u1"}]}),
            json!({"listId": 1, "subscribers": [{"userId": "u2"}], "updateExistingUsersOnly": true}),
            json!({"listId": 1, "subscribers": [{"userId": "u3"}], "updateExistingUsersOnly": false}),
            json!({"listId": 1, "subscribers": [{"userId": "u1"}]}),
            json!({"listId": 1, "subscribers": [{"userId": "u2"}, {"userId": "u4"}], "channelUnsubscribe": true}),
            json!({"listId": 1, "subscribers": [{"userId": "u3"}], "channelUnsubscribe": true, "campaignId": 9}),
        ]
    );
    api.finish().await;
}

#[tokio::test]
async fn b13_a_list_call_that_fails_keeps_its_cause_and_leaves_the_others_alone() {
    let api = relaykit_suite::api!();
    let handler = ListSubscribeHandler::new(client(&api));
    let batch = prepare([join(1, &["u1"]), join(2, &["u2"]), join(3, &["u3"]), join(2, &["u4"])]);
    let done = || Reply::json(200, json!({"successCount": 1, "failCount": 0}));
    for (reply, expected) in [
        (Reply::empty(503), "DRDR"),
        (Reply::empty(413), "DIDI"),
        (Reply::json(409, json!({"code": "Conflict"})), "DIDI"),
        // Nobody answers: the rest waits.
        (Reply::drop_connection(), "DRUR"),
        (Reply::empty(429).header("retry-after", "2"), "DRUR"),
    ] {
        let api = relaykit_suite::api!();
        let handler = ListSubscribeHandler::new(client(&api));
        api.script(done());
        api.script(reply.clone());
        let outcome = handle(&handler, &batch).await;
        assert_eq!(word(&outcome), expected, "{reply:?}");
        assert!(error(&outcome, 1).api_error().is_some(), "{reply:?}");
        api.finish().await;
    }
    api.script(done());
    api.script(Reply::empty(403));
    assert_eq!(word(&handle(&handler, &batch).await), "DUUU");
    api.finish().await;
}

#[tokio::test]
async fn b13_list_messages_go_out_in_smaller_company_and_never_by_single_calls() {
    let api = relaykit_suite::api!();
    api.max_elements(SUBSCRIBE, 3);
    let batch = prepare(["u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7"].map(|user| join(1, &[user])));
    assert_eq!(drive(&ListSubscribeHandler::new(client(&api)), &batch, 20).await, "DDDDDDDD");
    assert!(paths(&api).iter().all(|path| path == SUBSCRIBE));
    assert_eq!(api.list(1).len(), 8);
    api.finish().await;
}

#[tokio::test]
async fn b14_a_page_instead_of_json_is_judged_by_its_status() {
    for (status, expected) in [(401, "refused"), (403, "refused"), (404, "X"), (400, "X"), (502, "retry")] {
        let api = relaykit_suite::api!();
        api.script(Reply::text(status, "<html>"));
        let outcome = handle(&ListSubscribeHandler::new(client(&api)), &prepare([join(1, &["u1"])])).await;
        assert_eq!(word(&outcome), expected, "{status}");
        api.finish().await;
    }
}

#[tokio::test]
async fn b15_a_list_may_be_unknown_once() {
    for status in [400, 500] {
        let api = relaykit_suite::api!();
        let handler = ListSubscribeHandler::new(client(&api));
        let batch = prepare([join(999, &["u1"]), join(999, &["u2"])]);
        let mixed = prepare([join(999, &["u1"]), join(1, &["u2"])]);
        api.script(invalid_list(status));
        let first = handle(&handler, &batch).await;
        assert_eq!(word(&first), "retry", "{status}");
        assert!(matches!(error(&first, 0), DeliveryError::UnknownList { list_id: 999, .. }));
        assert_eq!(error(&first, 0).class(), ErrorClass::Transient);
        api.script(invalid_list(status));
        let again = attempt(&handler, &batch, 2).await;
        assert_eq!(word(&again), "XX", "{status}");
        assert_eq!(reason(&again, 0), "List ID not valid for Iterable project");
        // The second attempt may be that of the other list's message: to be sure, it is looked at alone. A request
        // of one message has no smaller company, so it is isolated and not dead.
        api.script(invalid_list(status));
        assert_eq!(word(&attempt(&handler, &mixed, 2).await), "ID", "{status}");
        api.finish().await;
    }
}

#[tokio::test]
async fn an_unknown_list_is_no_other_lists_fault() {
    let api = relaykit_suite::api!();
    api.reject_list(999);
    let batch = prepare([join(999, &["u1"]), join(1, &["u1"])]);
    let handler = ListSubscribeHandler::new(client(&api));
    assert_eq!(word(&handle(&handler, &batch).await), "RD");
    let leaving = prepare([leave(999, &["u1"]), leave(1, &["u1"])]);
    assert_eq!(word(&handle(&ListUnsubscribeHandler::new(client(&api)), &leaving).await), "RD");
    api.finish().await;
}

#[tokio::test]
async fn a_user_in_two_messages_of_a_list_waits_for_the_first() {
    let api = relaykit_suite::api!();
    let named = |plan: &str| Subscriber::new(identity("u1")).field("plan", plan);
    let batch = prepare([
        ListSubscribe::new(1).subscriber(named("free")),
        ListSubscribe::new(1).subscriber(named("paid")),
        ListSubscribe::new(2).subscriber(named("paid")),
    ]);
    let handler = ListSubscribeHandler::new(client(&api));
    assert_eq!(word(&handle(&handler, &batch).await), "DUD");
    assert_eq!(word(&handle(&handler, &batch[1..2]).await), "D");
    api.finish().await;
}

#[tokio::test]
async fn users_who_are_passed_over_as_asked_are_no_doubt() {
    let api = relaykit_suite::api!();
    let handler = ListSubscribeHandler::new(client(&api));
    let one_of_two = || Reply::json(200, json!({"successCount": 1, "failCount": 0}));
    let known_only = prepare([join(1, &["u1", "nobody"]).update_existing_users_only(true)]);
    api.script(one_of_two());
    assert_eq!(word(&handle(&handler, &known_only).await), "D");
    api.script(one_of_two());
    assert_eq!(word(&handle(&handler, &prepare([join(1, &["u1", "nobody"])])).await), "R");
    api.finish().await;
}

#[tokio::test]
async fn a_subscriber_named_twice_in_one_message_is_no_doubt() {
    let api = relaykit_suite::api!();
    api.script(Reply::json(200, json!({"successCount": 1, "failCount": 0})));
    let handler = ListSubscribeHandler::new(client(&api));
    assert_eq!(word(&handle(&handler, &prepare([join(1, &["u1", "u1"])])).await), "D");
    api.finish().await;
}
