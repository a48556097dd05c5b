//! What the handlers make of a call that fails as a whole.

use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use relaykit_iterable_handlers::testing::{Reply, StandIn};
use relaykit_iterable_handlers::{
    ApiError, ApiKey, Client, DeliveryError, EventTrackHandler, ListSubscribe, ListSubscribeHandler, NotSent,
    Reason, UserUpdateHandler,
};
use relaykit_pipeline_traits::{BatchOutcome, Classify, ErrorClass, ManualClock};
use serde_json::{Value, json};

use crate::{attempt, client, drive, error, event, handle, identity, prepare, user, word};

fn envelope(status: u16, code: &str) -> Reply {
    Reply::json(status, json!({"msg": "no", "code": code, "params": null}))
}

#[tokio::test]
async fn each_answer_of_the_api_has_its_verdict() {
    let html = |status| Reply::text(status, "<html>no</html>");
    for (name, reply, together, alone) in [
        ("200", Reply::json(200, json!({"successCount": 2, "failCount": 0})), "DD", "R"),
        ("201", Reply::json(201, json!({"successCount": 2, "failCount": 0})), "DD", "R"),
        ("202", Reply::json(202, json!({"successCount": 2, "failCount": 0})), "DD", "R"),
        ("204 without a word", Reply::empty(204), "retry", "retry"),
        (
            "200 with half a body",
            Reply::truncated(200, json!({"successCount": 2, "failCount": 0})),
            "retry",
            "retry",
        ),
        ("200 with a page", html(200), "retry", "retry"),
        ("no reply", Reply::drop_connection(), "retry", "retry"),
        ("no reply after the effect", Reply::drop_connection().applied(true), "retry", "retry"),
        ("408", Reply::empty(408), "retry", "retry"),
        ("429", envelope(429, "RateLimitExceeded"), "retry", "retry"),
        ("500", envelope(500, "GenericError"), "retry", "retry"),
        ("502", html(502), "retry", "retry"),
        ("503", Reply::empty(503), "retry", "retry"),
        ("301", Reply::empty(301).header("location", "https://elsewhere.example/"), "refused", "refused"),
        ("401", envelope(401, "BadApiKey"), "refused", "refused"),
        ("403", envelope(403, "Forbidden"), "refused", "refused"),
        ("401 with a page", html(401), "refused", "refused"),
        ("413", html(413), "split", "X"),
        ("400 BatchTooLarge", envelope(400, "BatchTooLarge"), "split", "X"),
        ("400 BadJsonBody", envelope(400, "BadJsonBody"), "split", "X"),
        ("400 UniqueFieldsLimitExceeded", envelope(400, "UniqueFieldsLimitExceeded"), "split", "X"),
        ("400 of another shape", html(400), "split", "X"),
        ("400 types", envelope(400, "RequestFieldsTypesMismatched"), "split", "X"),
        ("500 types", envelope(500, "RequestFieldsTypesMismatched"), "split", "X"),
        ("409 forgotten", envelope(409, "ForgottenUserError"), "split", "X"),
        ("409 conflict", envelope(409, "Conflict"), "split", "X"),
        ("409 without a word", Reply::empty(409), "split", "X"),
        ("404", html(404), "split", "X"),
        ("422", Reply::empty(422), "split", "X"),
    ] {
        let events = prepare([event("a@example.com"), event("b@example.com")]);
        let users = prepare([user("u1"), user("u2")]);
        let lists = prepare(["u1", "u2"].map(|user| ListSubscribe::new(1).user(identity(user))));
        for messages in [2, 1] {
            // A project of its own each: a 429 and a 401 are remembered by the client.
            let api = relaykit_suite::api!();
            for _ in 0..3 {
                api.script(reply.clone());
            }
            let expected = if messages == 2 { together } else { alone };
            let outcomes = [
                handle(&EventTrackHandler::new(client(&api)), &events[..messages]).await,
                handle(&UserUpdateHandler::new(client(&api)), &users[..messages]).await,
                handle(&ListSubscribeHandler::new(client(&api)), &lists[..messages]).await,
            ];
            for (outcome, what) in outcomes.iter().zip(["events", "users", "lists"]) {
                assert_eq!(word(outcome), expected, "{name}: {messages} {what}");
            }
            api.finish().await;
        }
    }
}

#[tokio::test]
async fn what_a_verdict_says_about_trying_again_fits_the_answer() {
    for (reply, class) in [
        (Reply::empty(503), ErrorClass::Transient),
        (Reply::empty(429), ErrorClass::Throttled),
        (Reply::drop_connection(), ErrorClass::Transient),
        (Reply::text(200, "<html>"), ErrorClass::Transient),
        (Reply::empty(413), ErrorClass::Permanent),
        (Reply::empty(409), ErrorClass::Permanent),
        (envelope(500, "RequestFieldsTypesMismatched"), ErrorClass::Permanent),
    ] {
        let api = relaykit_suite::api!();
        api.script(reply.clone());
        let outcome = handle(&EventTrackHandler::new(client(&api)), &prepare([event("u1")])).await;
        let error = error(&outcome, 0);
        assert_eq!(error.class(), class, "{reply:?}");
        assert!(error.source().is_some(), "{reply:?} keeps its cause");
        assert!(error.api_error().is_some());
        api.finish().await;
    }
}

#[tokio::test]
async fn a_retry_after_is_handed_on() {
    let api = relaykit_suite::api!();
    api.script(Reply::empty(429).header("retry-after", "7"));
    let handler = EventTrackHandler::new(client(&api));
    let outcome = handle(&handler, &prepare([event("u1"), event("u2")])).await;
    assert!(
        matches!(&outcome, BatchOutcome::RetryBatch { after: Some(after), .. } if *after == Duration::from_secs(7)),
        "{outcome:?}"
    );
    api.finish().await;
}

#[tokio::test]
async fn a_turn_that_comes_too_late_spends_no_attempt() {
    let clock = ManualClock::new();
    let api = relaykit_suite::api!(StandIn::builder().clock(clock.clone()));
    let client = Client::builder(ApiKey::new("key").unwrap())
        .base_url(api.base_url())
        .clock(clock)
        .timeout(Duration::from_secs(1))
        .build()
        .unwrap();
    let handler = EventTrackHandler::new(client);
    api.script(Reply::empty(429).header("retry-after", "60"));
    handle(&handler, &prepare([event("u1")])).await;
    let outcome = handle(&handler, &prepare([event("u1"), event("u2")])).await;
    assert_eq!((word(&outcome).as_str(), api.request_count()), ("retry", 1));
    assert_eq!(error(&outcome, 0).class(), ErrorClass::Throttled);
    assert!(matches!(error(&outcome, 0).api_error(), Some(ApiError::RateLimited { .. })), "{outcome:?}");
    api.finish().await;
}

#[tokio::test]
async fn after_a_refused_key_no_message_is_at_fault_and_none_is_sent() {
    let api = relaykit_suite::api!(StandIn::builder().require_key("another key"));
    let handler = EventTrackHandler::new(client(&api));
    let batch = prepare([event("u1"), event("u2")]);
    for _ in 0..3 {
        assert_eq!(word(&handle(&handler, &batch).await), "refused");
    }
    assert_eq!(api.request_count(), 1);
    api.finish().await;
}

#[tokio::test]
async fn b17_mismatched_fields_are_told_whatever_their_value() {
    let api = relaykit_suite::api!();
    api.mismatch_field("age", "date");
    let handler = UserUpdateHandler::new(client(&api));
    let batch = prepare([user("u1").field("age", json!({"years": 7})), user("u2")]);
    assert_eq!(word(&handle(&handler, &batch).await), "split");
    assert_eq!(drive(&handler, &batch, 10).await, "XD");
    let outcome = handle(&handler, &batch[..1]).await;
    match error(&outcome, 0) {
        DeliveryError::FieldTypes { fields, .. } => {
            let age = fields.get("age").unwrap();
            assert_eq!((age.expected_type.as_str(), &age.offending_value), ("date", &json!({"years": 7})));
        }
        other => panic!("{other:?}"),
    }
    api.finish().await;
}

#[tokio::test]
async fn b17_a_reply_that_does_not_say_which_fields_is_a_mismatch_still() {
    let api = relaykit_suite::api!();
    api.script(Reply::json(
        400,
        json!({"code": "RequestFieldsTypesMismatched", "msg": 5, "params": {"validationErrors": "?"}}),
    ));
    let outcome = handle(&UserUpdateHandler::new(client(&api)), &prepare([user("u1")])).await;
    assert!(
        matches!(error(&outcome, 0), DeliveryError::FieldTypes { fields, .. } if fields.is_empty()),
        "{outcome:?}"
    );
    api.finish().await;
}

#[tokio::test]
async fn a_rejection_names_its_reason() {
    for (status, code, reason) in [
        (413, "", Reason::TooLarge),
        (400, "BatchTooLarge", Reason::TooLarge),
        (400, "BadJsonBody", Reason::BadJson),
        (400, "UniqueFieldsLimitExceeded", Reason::TooManyFields),
        (400, "EmailAlreadyExists", Reason::ConflictEmails),
        (400, "UserIdAlreadyExists", Reason::ConflictUserIds),
        (400, "ForgottenUserError", Reason::Forgotten),
        (409, "ForgottenUserError", Reason::Forgotten),
        (409, "ExternalKeyConflict", Reason::Conflict),
        (400, "InvalidEmailAddressError", Reason::InvalidEmails),
        (400, "InvalidUserIdError", Reason::InvalidUserIds),
        (400, "UnknownEmailError", Reason::NotFoundEmails),
        (400, "UnknownUserIdError", Reason::NotFoundUserIds),
        (500, "error.users.noUserWithIdExists", Reason::NotFoundUserIds),
        (400, "BadParams", Reason::Refused { status: 400 }),
        (422, "Novel", Reason::Refused { status: 422 }),
    ] {
        let api = relaykit_suite::api!();
        api.script(envelope(status, code));
        let outcome = attempt(&UserUpdateHandler::new(client(&api)), &prepare([user("u1")]), 3).await;
        assert_eq!(error(&outcome, 0).reason(), Some(&reason), "{status} {code}");
        api.finish().await;
    }
}

#[tokio::test]
async fn what_is_printed_of_a_failure_names_nobody() {
    let api = relaykit_suite::api!();
    let reply =
        |failed: Value| Reply::json(200, json!({"successCount": 0, "failCount": 1, "failedUpdates": failed}));
    api.script(reply(json!({"odd": ["ada@example.com"]})));
    api.script(reply(json!({"conflictEmails": ["ada@example.com"]})));
    api.script(Reply::json(
        400,
        json!({"code": "RequestFieldsTypesMismatched", "msg": "ada@example.com",
            "params": {"validationErrors": {"x": {"offendingValue": "ada@example.com"}}}}),
    ));
    api.script(Reply::json(400, json!({"code": "BadParams", "msg": "ada@example.com is odd"})));
    let handler = UserUpdateHandler::new(client(&api));
    for _ in 0..4 {
        let outcome = handle(&handler, &prepare([user("ada@example.com")])).await;
        let error = error(&outcome, 0);
        let mut text = format!("{outcome:?} {error}");
        let mut cause = error.source();
        while let Some(next) = cause {
            let _ = write!(text, " {next} {next:?}");
            cause = next.source();
        }
        assert!(!text.contains("ada@"), "{text}");
    }
    assert_eq!(api.scripted(), 0);
    api.finish().await;
}

#[tokio::test]
async fn the_cause_of_what_was_not_sent_is_kept() {
    // Nothing listens there.
    let client = Client::builder(ApiKey::new("key").unwrap())
        .base_url("http://127.0.0.1:9")
        .no_rate_limits()
        .build()
        .unwrap();
    let outcome = handle(&EventTrackHandler::new(client), &prepare([event("u1")])).await;
    assert_eq!(word(&outcome), "retry");
    let api_error = error(&outcome, 0).api_error().unwrap();
    assert!(matches!(api_error, ApiError::Transport { .. }), "{api_error:?}");
    assert!(!matches!(api_error, ApiError::NotSent { source: NotSent::Build(_), .. }));
}
