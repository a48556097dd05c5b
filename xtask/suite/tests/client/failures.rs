use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relaykit_iterable_handlers::testing::{Reply, StandIn};
use relaykit_iterable_handlers::wire::{IterableCode, TrackRequest};
use relaykit_iterable_handlers::{ApiError, ApiKey, Client, Phase, Unreadable};
use relaykit_pipeline_traits::{Classify, Clock, ErrorClass, ManualClock};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::{KEY, client, until};

const TRACK: &str = "/api/events/trackBulk";

fn event(id: &str) -> TrackRequest {
    TrackRequest {
        email: Some("ada@example.com".to_owned()),
        event_name: "login".to_owned(),
        id: Some(id.to_owned()),
        ..TrackRequest::default()
    }
}

/// Writes an error with all its causes.
fn chain(error: &ApiError) -> String {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(format!("{error} {error:?}"));
        cause = error.source();
    }
    format!("{error:?} {error}: {}", causes.join(": "))
}

#[tokio::test]
async fn a_slow_reply_times_out_by_the_clock() {
    let api = relaykit_suite::api!(StandIn::builder().clock(ManualClock::new()));
    let clock = ManualClock::new();
    let client = client(&api).clock(clock.clone()).timeout(Duration::from_secs(20)).build().unwrap();
    api.script(Reply::json(200, json!({})).applied(true).delay(Duration::from_secs(3600)));
    let calling = tokio::spawn({
        let client = client.clone();
        async move { client.events().track_bulk(&[event("e1")]).await }
    });
    until("the request arrives", || api.events().contains_key("e1")).await;
    clock.until_sleepers(1).await;
    clock.advance(Duration::from_secs(19));
    tokio::task::yield_now().await;
    assert!(!calling.is_finished());
    clock.advance(Duration::from_secs(1));
    let error = calling.await.unwrap().unwrap_err();
    assert!(
        matches!(error, ApiError::TimedOut { timeout, .. } if timeout == Duration::from_secs(20)),
        "{error}"
    );
    assert_eq!(error.class(), ErrorClass::Transient);
    assert!(error.may_have_taken_effect());
    assert_eq!(clock.sleepers(), 0);
    api.finish().await;
}

#[tokio::test]
async fn a_list_may_take_longer_than_other_replies() {
    let api = relaykit_suite::api!(StandIn::builder().clock(ManualClock::new()));
    let clock = ManualClock::new();
    let client = client(&api).clock(clock.clone()).build().unwrap();
    api.script(Reply::text(200, "").delay(Duration::from_secs(3600)));
    let calling = tokio::spawn(async move { client.lists().users(1, None).await });
    clock.until_sleepers(1).await;
    clock.advance(Duration::from_secs(599));
    tokio::task::yield_now().await;
    assert!(!calling.is_finished());
    clock.advance(Duration::from_secs(1));
    assert!(matches!(calling.await.unwrap(), Err(ApiError::TimedOut { .. })));
    api.finish().await;
}

#[tokio::test]
async fn a_dropped_call_takes_its_connection_with_it() {
    let api = relaykit_suite::api!(StandIn::builder().clock(ManualClock::new()));
    let clock = ManualClock::new();
    let client = client(&api).clock(clock.clone()).build().unwrap();
    api.script(Reply::json(200, json!({})).delay(Duration::from_secs(3600)));
    let calling = tokio::spawn({
        let client = client.clone();
        async move { client.events().track_bulk(&[event("e1")]).await }
    });
    until("the request arrives", || api.request_count() == 1).await;
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    assert_eq!(clock.sleepers(), 0);
    client.events().track_bulk(&[event("e2")]).await.unwrap();
    assert_eq!(api.events().get("e2"), Some(&1));
    api.finish().await;
}

#[tokio::test]
async fn a_connection_that_ends_without_reply_is_transient_and_leaves_the_effect_open() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    for (id, applied) in [("before", false), ("after", true)] {
        api.script(Reply::drop_connection().applied(applied));
        let error = client.events().track_bulk(&[event(id)]).await.unwrap_err();
        assert!(matches!(error, ApiError::Transport { phase: Phase::Exchange, .. }), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Transient);
        assert!(error.may_have_taken_effect() && error.source().is_some());
        assert_eq!(api.events().contains_key(id), applied);
    }
    // Nothing was sent a second time behind our back.
    assert_eq!(api.request_count(), 2);
    api.finish().await;
}

#[tokio::test]
async fn a_reply_that_breaks_off_is_transient_if_it_was_2xx() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    api.script(Reply::truncated(200, json!({"successCount": 1})).applied(true));
    let error = client.events().track_bulk(&[event("e1")]).await.unwrap_err();
    assert!(matches!(error, ApiError::Transport { phase: Phase::Reply, .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Transient);

    // Of a refusal, the status says enough.
    api.script(Reply::truncated(400, json!({"msg": "no", "code": "BadParams", "params": null})));
    let error = client.events().track_bulk(&[event("e1")]).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (Some(400), Some(&IterableCode::BadParams)));
    api.finish().await;
}

#[tokio::test]
async fn an_api_that_is_not_there_is_transient_and_nothing_took_effect() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    api.finish().await;
    let error = client.users().delete_by_email("ada@example.com").await.unwrap_err();
    assert!(matches!(error, ApiError::Transport { phase: Phase::Connect, .. }), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Transient);
    assert!(!error.may_have_taken_effect());
    // The path holds an address, and the error must not.
    let text = chain(&error);
    assert!(!text.contains("ada") && !text.contains(KEY), "{text}");
}

#[tokio::test]
async fn a_2xx_that_is_not_what_the_call_answers_is_transient() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    let page = "<html><body>ada@example.com: signed in</body></html>";
    for (reply, shape) in [
        (Reply::text(200, page), "syntax"),
        (Reply::text(200, r#"{"successCount": 1"#), "incomplete"),
        (Reply::empty(200), "incomplete"),
        (Reply::json(200, json!(["ada@example.com"])), "shape"),
        (Reply::json(200, json!({"failedUpdates": "ada@example.com"})), "shape"),
    ] {
        api.script_for(TRACK, reply.applied(true));
        let error = client.events().track_bulk(&[event("e1")]).await.unwrap_err();
        let ApiError::Undecodable { status: 200, source, .. } = &error else { panic!("{shape}: {error:?}") };
        let found = match source {
            Unreadable::Syntax { .. } => "syntax",
            Unreadable::Incomplete { .. } => "incomplete",
            Unreadable::Shape { .. } => "shape",
            _ => "other",
        };
        assert_eq!(found, shape);
        assert_eq!(error.class(), ErrorClass::Transient);
        assert!(error.may_have_taken_effect());
        assert!(!chain(&error).contains("ada"), "{}", chain(&error));
    }
    api.script(Reply::text(200, "about 100"));
    assert!(matches!(client.lists().size(1).await, Err(ApiError::Undecodable { .. })));
    api.finish().await;
}

#[tokio::test]
async fn any_2xx_is_success() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    for status in [200, 201, 202, 206] {
        let counts = json!({"successCount": 1, "failCount": 0});
        api.script(Reply::json(status, counts));
        let reply = client.events().track_bulk(&[event("e1")]).await.unwrap();
        assert_eq!(reply.success_count, Some(1), "{status}");
    }
    for reply in [Reply::empty(204), Reply::empty(202)] {
        api.script(reply);
        assert_eq!(client.events().track(&event("e1")).await.unwrap().code, None);
    }
    api.finish().await;
}

#[tokio::test]
async fn a_refusal_tells_status_code_and_message_and_keeps_the_body() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    let body = json!({
        "msg": "[/api/events/trackBulk] Invalid JSON body for ada@example.com",
        "code": "BadJsonBody",
        "params": {"obj.events[0].dataFields": "error.expected.jsobject"}
    });
    api.script(Reply::json(400, body.clone()).header("retry-after", "7"));
    let error = client.events().track_bulk(&[event("e1")]).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent);
    assert_eq!((error.status(), error.code()), (Some(400), Some(&IterableCode::BadJsonBody)));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert_eq!(serde_json::from_slice::<serde_json::Value>(error.body()).unwrap(), body);
    assert_eq!(
        error.to_string(),
        "POST events/trackBulk was answered 400 BadJsonBody: [/api/events/trackBulk] Invalid JSON body for ***"
    );
    assert!(!chain(&error).contains("ada@"), "{}", chain(&error));

    // A refusal may call itself a success.
    let invalid =
        json!({"msg": "error.lists.invalidListId(999)", "code": "Success", "params": {"listId": 999}});
    api.script(Reply::json(400, invalid));
    let error = client.lists().size(999).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (Some(400), Some(&IterableCode::Success)));
    api.finish().await;
}

#[tokio::test]
async fn a_page_of_a_proxy_is_an_answer_by_its_status() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    for (status, class) in [
        (400, ErrorClass::Permanent),
        (404, ErrorClass::Permanent),
        (413, ErrorClass::Permanent),
        (408, ErrorClass::Transient),
        (409, ErrorClass::Transient),
        (502, ErrorClass::Transient),
        (503, ErrorClass::Transient),
    ] {
        api.script(Reply::text(status, "<html>\n<h1>No</h1>\n</html>").header("content-type", "text/html"));
        let error = client.events().track_bulk(&[event("e1")]).await.unwrap_err();
        assert_eq!((error.class(), error.code()), (class, None), "{status}");
        let ApiError::Status { message, .. } = &error else { panic!("{error:?}") };
        assert_eq!(message, "<html> <h1>No</h1> </html>");
    }
    api.finish().await;
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let api = relaykit_suite::api!();
    let other = StandIn::start().await.unwrap();
    let client = client(&api).build().unwrap();
    for status in [301, 302, 307, 308] {
        api.script(Reply::empty(status).header("location", &format!("{}{TRACK}", other.base_url())));
        let error = client.events().track_bulk(&[event("e1")]).await.unwrap_err();
        assert_eq!((error.status(), error.class()), (Some(status), ErrorClass::Permanent));
    }
    assert_eq!(other.request_count(), 0);
    assert_eq!(api.request_count(), 4);
    other.stop().await;
    api.finish().await;
}

#[tokio::test]
async fn a_reply_larger_than_the_client_reads_is_refused_without_reading_it() {
    let api = relaykit_suite::api!();
    let client = client(&api).max_response_bytes(100).max_export_bytes(200).build().unwrap();
    let reply = |bytes: usize| {
        let frame = json!({"createdFields": [""]}).to_string().len();
        Reply::json(200, json!({"createdFields": ["x".repeat(bytes - frame)]}))
    };
    api.script(reply(100));
    client.events().track_bulk(&[event("e1")]).await.unwrap();
    api.script(reply(101));
    let error = client.events().track_bulk(&[event("e1")]).await.unwrap_err();
    assert!(matches!(error, ApiError::BodyTooLarge { status: 200, max: 100, .. }), "{error:?}");
    assert!(error.may_have_taken_effect());

    api.script(Reply::text(200, &"x".repeat(200)));
    client.lists().users(1, None).await.unwrap();
    api.script(Reply::text(200, &"x".repeat(201)));
    let error = client.lists().users(1, None).await.unwrap_err();
    assert!(matches!(error, ApiError::BodyTooLarge { max: 200, .. }), "{error:?}");

    // Of a refusal, the beginning is kept.
    api.script(Reply::text(500, &"y".repeat(5000)));
    let error = client.events().track_bulk(&[event("e1")]).await.unwrap_err();
    assert_eq!((error.status(), error.body().len()), (Some(500), 100));
    api.finish().await;
}

#[tokio::test]
async fn calls_one_after_the_other_share_a_connection() {
    let api = relaykit_suite::api!();
    let address = api.base_url().strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let front = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&connections);
    let relay = tokio::spawn(async move {
        while let Ok((mut inbound, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let address = address.clone();
            tokio::spawn(async move {
                let mut outbound = TcpStream::connect(address).await.unwrap();
                tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await.ok();
            });
        }
    });
    let client = Client::builder(ApiKey::new(KEY).unwrap()).base_url(front).no_rate_limits().build().unwrap();
    for number in 0..20 {
        client.clone().events().track_bulk(&[event(&number.to_string())]).await.unwrap();
    }
    assert_eq!((api.request_count(), connections.load(Ordering::SeqCst)), (20, 1));
    relay.abort();
    api.finish().await;
}

#[tokio::test]
async fn a_refused_key_halts_all_clones_until_one_call_finds_it_accepted() {
    let api = relaykit_suite::api!(StandIn::builder().require_key("another"));
    let clock = ManualClock::new();
    let client = client(&api).clock(clock.clone()).halt_for(Duration::from_secs(10)).build().unwrap();
    let began = clock.now();
    let error = client.events().track_bulk(&[event("e1")]).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (Some(401), Some(&IterableCode::BadApiKey)));
    assert!(!chain(&error).contains(KEY));

    clock.advance(Duration::from_secs(4));
    let error = client.clone().lists().all().await.unwrap_err();
    let ApiError::Halted { since, status: 401, code: Some(IterableCode::BadApiKey), retry_in, .. } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!((since, retry_in), (began, Duration::from_secs(6)));
    assert_eq!(api.request_count(), 1);

    // The next call after the halt is the probe; the key is still refused.
    clock.advance(Duration::from_secs(6));
    assert_eq!(client.lists().all().await.unwrap_err().status(), Some(401));
    assert!(matches!(client.lists().all().await, Err(ApiError::Halted { .. })));
    assert_eq!(api.request_count(), 2);
    api.finish().await;
}

#[tokio::test]
async fn a_probe_decides_for_all_who_call_meanwhile() {
    let api = relaykit_suite::api!(StandIn::builder().clock(ManualClock::new()));
    let clock = ManualClock::new();
    let client = client(&api).clock(clock.clone()).halt_for(Duration::from_secs(10)).build().unwrap();
    let refusal = json!({"msg": "Invalid API key", "code": "BadApiKey", "params": null});
    api.script(Reply::json(401, refusal));
    client.lists().all().await.unwrap_err();
    clock.advance(Duration::from_secs(10));

    // The probe waits for its reply; others are told to wait.
    api.script(Reply::json(200, json!({"lists": []})).delay(Duration::from_secs(5)));
    let probe = tokio::spawn({
        let client = client.clone();
        async move { client.lists().all().await }
    });
    until("the probe arrives", || api.request_count() == 2).await;
    let error = client.events().track_bulk(&[event("e1")]).await.unwrap_err();
    assert!(matches!(error, ApiError::Halted { retry_in: Duration::ZERO, .. }), "{error:?}");

    // The probe is given up, and the next call is the probe.
    probe.abort();
    assert!(probe.await.unwrap_err().is_cancelled());
    client.events().track_bulk(&[event("e1")]).await.unwrap();
    client.events().track_bulk(&[event("e2")]).await.unwrap();
    api.finish().await;
}

#[tokio::test]
async fn a_403_halts_its_endpoint_alone() {
    let api = relaykit_suite::api!();
    let clock = ManualClock::new();
    let client = client(&api).clock(clock.clone()).build().unwrap();
    api.script(Reply::json(403, json!({"msg": "no", "code": "Forbidden", "params": null})));
    let error = client.users().forget_by_user_id("u1").await.unwrap_err();
    assert_eq!(error.status(), Some(403));
    let error = client.users().forget_by_user_id("u1").await.unwrap_err();
    assert!(matches!(error, ApiError::Halted { status: 403, .. }), "{error:?}");
    client.events().track_bulk(&[event("e1")]).await.unwrap();
    clock.advance(Duration::from_secs(30));
    api.add_user(None, Some("u1"));
    client.users().forget_by_user_id("u1").await.unwrap();
    api.finish().await;
}

#[tokio::test]
async fn a_key_that_the_api_quotes_is_not_shown() {
    let api = relaykit_suite::api!();
    let client = client(&api).build().unwrap();
    let msg = format!("Invalid API key {KEY} for project 1");
    api.script(Reply::text(500, &msg));
    api.script(Reply::json(401, json!({"msg": msg, "code": KEY, "params": {}})));
    for status in [500, 401] {
        let error = client.lists().all().await.unwrap_err();
        assert_eq!(error.status(), Some(status));
        assert!(error.to_string().contains("***") && !chain(&error).contains(KEY), "{}", chain(&error));
    }
    // The halt remembers the code.
    let error = client.lists().all().await.unwrap_err();
    assert!(matches!(error, ApiError::Halted { .. }) && !chain(&error).contains(KEY), "{}", chain(&error));
    for text in [format!("{client:?}"), format!("{:?}", crate::client(&api))] {
        assert!(!text.contains(KEY), "{text}");
    }
    api.finish().await;
}
