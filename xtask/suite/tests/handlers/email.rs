//! What the handler of e-mail updates does.

use relaykit_iterable_handlers::testing::{FailureList, Reply, StandIn, UnknownUsers};
use relaykit_iterable_handlers::{EmailUpdate, EmailUpdateHandler, Identity};
use serde_json::json;

use crate::{UPDATE_EMAIL, bodies, client, error, handle, paths, prepare, reason, word};

fn rename(from: &str, to: &str) -> EmailUpdate {
    EmailUpdate::new(crate::identity(from), to)
}

#[tokio::test]
async fn b16_a_batch_is_sent_one_call_each_in_order() {
    let api = relaykit_suite::api!();
    api.add_user(Some("a@example.com"), None);
    api.add_user(None, Some("u2"));
    let handler = EmailUpdateHandler::new(client(&api));
    let batch = prepare([
        rename("a@example.com", "b@example.com"),
        rename("u2", "u2@example.com"),
        rename("b@example.com", "c@example.com"),
    ]);
    assert_eq!(word(&handle(&handler, &batch).await), "DDD");
    assert_eq!(
        bodies(&api),
        [
            json!({"currentEmail": "a@example.com", "newEmail": "b@example.com"}),
            json!({"currentUserId": "u2", "newEmail": "u2@example.com"}),
            json!({"currentEmail": "b@example.com", "newEmail": "c@example.com"}),
        ]
    );
    assert!(paths(&api).iter().all(|path| path == UPDATE_EMAIL));
    assert!(api.user("c@example.com").is_some());
    api.finish().await;
}

#[tokio::test]
async fn an_update_that_is_rejected_does_not_hold_up_the_others() {
    let api = relaykit_suite::api!(StandIn::builder().unknown_users(UnknownUsers::NotFound));
    for user in ["a@example.com", "b@example.com", "c@example.com"] {
        api.add_user(Some(user), None);
    }
    api.reject_user("c@example.com", FailureList::ForgottenEmails);
    let handler = EmailUpdateHandler::new(client(&api));
    let batch = prepare([
        rename("a@example.com", "b@example.com"),
        rename("nobody@example.com", "x@example.com"),
        rename("c@example.com", "y@example.com"),
        rename("b@example.com", "z@example.com"),
    ]);
    let outcome = handle(&handler, &batch).await;
    assert_eq!(word(&outcome), "XXXD");
    assert_eq!(
        [0, 1, 2].map(|at| reason(&outcome, at)),
        ["Email conflicts", "Email not found", "User Forgotten"]
    );
    api.finish().await;
}

#[tokio::test]
async fn at_a_call_that_fails_by_itself_the_rest_is_untried() {
    let batch = prepare((0..3).map(|n| {
        EmailUpdate::new(Identity::email(format!("u{n}@example.com")), format!("v{n}@example.com"))
    }));
    let ok = || Reply::json(200, json!({"code": "Success", "msg": "", "params": null}));
    for (reply, second, first) in [
        (Reply::empty(503), "DRU", "RUU"),
        (Reply::drop_connection(), "DRU", "RUU"),
        (Reply::empty(429), "DRU", "RUU"),
        (Reply::empty(401), "DUU", "refused"),
    ] {
        for (before, expected) in [(1, second), (0, first)] {
            let api = relaykit_suite::api!();
            (0..before).for_each(|_| api.script(ok()));
            api.script(reply.clone());
            let outcome = handle(&EmailUpdateHandler::new(client(&api)), &batch).await;
            assert_eq!(word(&outcome), expected, "{reply:?}");
            assert_eq!(api.request_count(), before + 1);
            api.finish().await;
        }
    }
}

#[tokio::test]
async fn a_mismatch_of_types_is_final() {
    let api = relaykit_suite::api!();
    api.script(Reply::json(400, json!({"code": "RequestFieldsTypesMismatched", "msg": "", "params": null})));
    let batch = prepare([rename("a@example.com", "b@example.com")]);
    let outcome = handle(&EmailUpdateHandler::new(client(&api)), &batch).await;
    assert_eq!(word(&outcome), "X");
    assert!(error(&outcome, 0).api_error().is_some());
    api.finish().await;
}
