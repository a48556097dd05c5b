use std::sync::LazyLock;

use proptest::prelude::*;
use reqwest::Url;

use super::*;
use crate::{ApiKey, Client};

/// One client for all tests, as making one reads the machine's certificates.
static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    Client::builder(ApiKey::new("s3cret").unwrap()).base_url("http://127.0.0.1:1").build().unwrap()
});

proptest! {
    /// A failing case prints the id.
    #[test]
    fn any_id_makes_the_round_trip_as_one_segment(id in "\\PC*|[a-z0-9/?#%+ .@:&=;\\\\\\x00-\\x1f]{1,20}") {
        prop_assume!(!id.is_empty() && id != "." && id != "..");
        let path = format!("users/byUserId/{}", segment("userId", &id).unwrap());
        let url = Url::parse(&format!("http://127.0.0.1:1/api/{path}")).unwrap();
        let segments: Vec<_> = url.path_segments().unwrap().collect();
        prop_assert_eq!(segments.len(), 4, "{}", url);
        let back = percent_encoding::percent_decode_str(segments[3]).decode_utf8().unwrap();
        prop_assert_eq!(back.as_ref(), id.as_str());
        prop_assert!(url.query().is_none() && url.fragment().is_none());
    }

    #[test]
    fn any_id_makes_the_round_trip_as_a_parameter(id in "\\PC*|[a-z/?#%+ .@&=;]{1,20}") {
        let call = Call::new(Endpoint::GetUserById).with_query("userId", id.as_str());
        let request = CLIENT.request(call).unwrap();
        let pairs: Vec<_> = request.url().query_pairs().collect();
        prop_assert_eq!(pairs.len(), 1);
        prop_assert_eq!(pairs[0].0.as_ref(), "userId");
        prop_assert_eq!(pairs[0].1.as_ref(), id.as_str());
    }
}

#[test]
fn an_id_that_no_path_carries_is_refused() {
    assert!(matches!(segment("email", ""), Err(NotSent::Empty { field: "email" })));
    for dots in [".", ".."] {
        assert!(matches!(segment("userId", dots), Err(NotSent::DotSegment { field: "userId" })));
    }
    assert_eq!(segment("userId", "...").unwrap(), "...");
    assert_eq!(segment("email", "a+b@x.com").unwrap(), "a%2Bb%40x.com");
    assert_eq!(segment("userId", "%2e%2e/x").unwrap(), "%252e%252e%2Fx");
}

#[test]
fn a_request_carries_the_key_as_a_sensitive_header() {
    let call = Call::new(Endpoint::TrackEvents).with_json(&serde_json::json!({"events": []})).unwrap();
    let request = CLIENT.request(call).unwrap();
    assert_eq!(request.url().as_str(), "http://127.0.0.1:1/api/events/trackBulk");
    let key = &request.headers()["api-key"];
    assert!(key.is_sensitive() && key == "s3cret");
    assert_eq!(request.headers()[USER_AGENT], AGENT);
    assert!(AGENT.starts_with("relaykit-iterable-handlers/"));
    assert_eq!(request.headers()[CONTENT_TYPE], "application/json");
    assert!(!format!("{request:?}").contains("s3cret"));
}

#[test]
fn a_body_of_the_limit_is_sent_and_one_byte_more_is_not() {
    // Two quotes make the string a body.
    let body = |bytes: usize| Call::new(Endpoint::TrackEvents).with_json(&"x".repeat(bytes - 2));
    assert!(body(MAX_BODY_BYTES).is_ok());
    let error = body(MAX_BODY_BYTES + 1).unwrap_err();
    assert!(
        matches!(
            error,
            ApiError::NotSent { source: NotSent::TooLarge { bytes: 4_000_001, max: 4_000_000 }, .. }
        ),
        "{error:?}"
    );
}

#[test]
fn a_retry_after_is_seconds_or_a_date_within_ten_minutes() {
    let now = Timestamp::from_millis(784_111_777_000); // Sun, 06 Nov 1994 08:49:37 GMT
    let secs = |secs| Some(Duration::from_secs(secs));
    for (value, wait) in [
        ("0", secs(0)),
        (" 60 ", secs(60)),
        ("601", secs(600)),
        ("99999999999999999999999", secs(600)),
        ("Sun, 06 Nov 1994 08:50:07 GMT", secs(30)),
        ("Sun, 06 Nov 1994 08:49:36 GMT", secs(0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", secs(600)),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
    ] {
        assert_eq!(retry_after(value, now), wait, "{value:?}");
    }
}

#[test]
fn a_number_is_read_quoted_or_not() {
    let reply = |body: &'static str| Reply {
        endpoint: Endpoint::GetListSize,
        status: 200,
        body: Bytes::from_static(body.as_bytes()),
    };
    assert_eq!(reply("100").number().unwrap(), 100);
    assert_eq!(reply(" \"7\"\n").number().unwrap(), 7);
    for wrong in ["", "-1", "1.5", "<html>"] {
        assert!(matches!(reply(wrong).number(), Err(ApiError::Undecodable { status: 200, .. })));
    }
    assert_eq!(reply("").post().unwrap(), PostResponse::default());
    assert!(reply("{").post().is_err());
}
