use super::*;

fn answered(status: u16, body: &str) -> ApiError {
    let body = Bytes::copy_from_slice(body.as_bytes());
    ApiError::from_reply(Endpoint::TrackEvents, status, body, None, |text| text.replace("s3cret", "***"))
}

fn class(status: u16, code: &str) -> ErrorClass {
    answered(status, &format!(r#"{{"msg":"","code":"{code}","params":null}}"#)).class()
}

#[test]
fn every_status_has_a_class() {
    for status in (100..600).filter(|status| !(200..300).contains(status)) {
        let expected = match status {
            429 => ErrorClass::Throttled,
            408 | 409 | 500.. => ErrorClass::Transient,
            _ => ErrorClass::Permanent,
        };
        assert_eq!(answered(status, "").class(), expected, "{status}");
    }
}

#[test]
fn a_code_that_blames_the_request_makes_any_status_permanent() {
    assert_eq!(class(500, "RequestFieldsTypesMismatched"), ErrorClass::Permanent);
    assert_eq!(class(500, "error.users.noUserWithIdExists"), ErrorClass::Permanent);
    assert_eq!(class(500, "GenericError"), ErrorClass::Transient);
    assert_eq!(class(409, "ForgottenUserError"), ErrorClass::Permanent);
    assert_eq!(class(409, "Conflict"), ErrorClass::Transient);
    assert_eq!(class(429, "RateLimitExceeded"), ErrorClass::Throttled);
    assert_eq!(class(400, "BadJsonBody"), ErrorClass::Permanent);
}

#[test]
fn what_was_not_sent_or_not_answered_has_a_class() {
    let endpoint = Endpoint::TrackEvents;
    let second = Duration::from_secs(1);
    let table = [
        (
            ApiError::NotSent { endpoint, source: NotSent::TooLarge { bytes: 5, max: 4 } },
            ErrorClass::Permanent,
            None,
            false,
        ),
        (
            ApiError::RateLimited { endpoint, wait: second, max_wait: second },
            ErrorClass::Throttled,
            Some(second),
            false,
        ),
        (
            ApiError::Halted { endpoint, since: Timestamp::EPOCH, status: 401, code: None, retry_in: second },
            ErrorClass::Transient,
            Some(second),
            false,
        ),
        (ApiError::TimedOut { endpoint, timeout: second }, ErrorClass::Transient, None, true),
        (
            ApiError::Transport { endpoint, phase: Phase::Connect, source: "refused".into() },
            ErrorClass::Transient,
            None,
            false,
        ),
        (
            ApiError::Transport { endpoint, phase: Phase::Reply, source: "reset".into() },
            ErrorClass::Transient,
            None,
            true,
        ),
        (
            ApiError::Undecodable { endpoint, status: 200, source: Unreadable::Number },
            ErrorClass::Transient,
            None,
            true,
        ),
        (ApiError::BodyTooLarge { endpoint, status: 200, max: 1 }, ErrorClass::Transient, None, true),
    ];
    for (error, class, retry_after, effect) in table {
        assert_eq!(error.class(), class, "{error}");
        assert_eq!(error.retry_after(), retry_after, "{error}");
        assert_eq!(error.may_have_taken_effect(), effect, "{error}");
        assert_eq!(error.endpoint(), endpoint);
    }
}

#[test]
fn an_error_shows_the_message_without_addresses_and_key() {
    let error = answered(
        400,
        r#"{"msg":"Invalid email: ada@example.com\n(key s3cret)","code":"InvalidEmailAddressError","params":null}"#,
    );
    assert_eq!(
        error.to_string(),
        "POST events/trackBulk was answered 400 InvalidEmailAddressError: Invalid email: *** (key ***)"
    );
    assert!(error.body().starts_with(br#"{"msg":"Invalid email: ada"#));
    let debug = format!("{error:?}");
    assert!(!debug.contains("ada@") && !debug.contains("s3cret"), "{debug}");
}

#[test]
fn a_page_instead_of_an_envelope_is_shown_in_part() {
    let page = format!("<html>\n  <b>502</b> ask bob@example.com {}", "x ".repeat(9000));
    let error = answered(502, &page);
    let ApiError::Status { message, code, .. } = &error else { panic!("{error}") };
    assert_eq!(*code, None);
    assert!(message.starts_with("<html> <b>502</b> ask *** x x"), "{message}");
    assert_eq!(message.chars().count(), 256);
    assert!(message.ends_with('…'));
    assert_eq!(error.body(), page.as_bytes());
}

#[test]
fn an_empty_body_leaves_the_message_out() {
    assert_eq!(answered(503, "").to_string(), "POST events/trackBulk was answered 503");
}

#[test]
fn addresses_are_masked_wherever_they_stand() {
    for (text, masked) in [
        ("a@x.com", "***"),
        ("users/o'brien+tag/x@x.com?", "***"),
        ("[\"a@x.com\",\"b@y.com\"]", "[\"***\",\"***\"]"),
        ("/api/users/a%40x.com", "***"),
        ("email:a@x.com, ok", "email:***, ok"),
        ("nothing here", "nothing here"),
    ] {
        assert_eq!(excerpt(text), masked);
    }
}

#[test]
fn an_address_cut_in_half_is_not_shown() {
    let spaces = " ".repeat(EXAMINED_CHARS - 7);
    let text = format!("{spaces}to ada.lovelace@example.com");
    assert_eq!(excerpt(&text), "to");
}

#[test]
fn what_is_wrong_with_a_body_is_told_by_place_alone() {
    let error = serde_json::from_str::<PostResponse>(r#"["ada@example.com"]"#).unwrap_err();
    let unreadable = Unreadable::from(&error);
    assert!(matches!(unreadable, Unreadable::Shape { line: 1, .. }), "{unreadable}");
    let error = serde_json::from_str::<PostResponse>("").unwrap_err();
    assert_eq!(Unreadable::from(&error), Unreadable::Incomplete { line: 1, column: 0 });
    let error = serde_json::from_str::<PostResponse>("<html>").unwrap_err();
    assert_eq!(Unreadable::from(&error), Unreadable::Syntax { line: 1, column: 1 });
}
