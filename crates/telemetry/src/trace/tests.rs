use proptest::prelude::*;

use super::*;

/// The example of the specification, §3.2.
const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn headers(parent: &str, state: Option<&str>) -> Headers {
    let mut headers = Headers::new();
    headers.insert("content-type", "application/json").expect("a plain header");
    headers.insert(TRACEPARENT, parent).expect("a plain header");
    if let Some(state) = state {
        headers.insert(TRACESTATE, state).expect("a plain header");
    }
    headers
}

fn context(trace: u128, span: u64, sampled: bool, state: &str) -> Context {
    let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let state = state.parse().expect("a valid state");
    Context::new().with_remote_span_context(SpanContext::new(trace.into(), span.into(), flags, false, state))
}

#[test]
fn the_specifications_example_is_read() {
    let span = extract(&headers(EXAMPLE, Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"))).unwrap();
    assert_eq!(span.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(span.span_id().to_string(), "00f067aa0ba902b7");
    assert!(span.is_sampled() && span.is_remote());
    assert_eq!(span.trace_state().get("congo"), Some("t61rcWkgMzE"));
}

#[test]
fn a_later_version_may_append_and_this_one_may_not() {
    let later = EXAMPLE.replacen("00", "cc", 1);
    for good in [later.clone(), format!("{later}-what-comes-next")] {
        assert!(extract(&headers(&good, None)).is_some(), "{good}");
    }
    assert!(extract(&headers(&format!("{EXAMPLE}-more"), None)).is_none());
}

#[test]
fn what_is_malformed_is_no_span() {
    for bad in [
        "",
        "00",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
    ] {
        assert!(extract(&headers(bad, None)).is_none(), "{bad:?}");
    }
    assert!(extract(&Headers::new()).is_none());
}

#[test]
fn a_malformed_state_leaves_the_span() {
    let span = extract(&headers(EXAMPLE, Some("no equals sign"))).unwrap();
    assert_eq!(span.trace_state().header(), "");
}

#[test]
fn a_context_without_a_span_leaves_the_headers_as_they_were() {
    let mut kept = headers(EXAMPLE, Some("a=1"));
    let before = kept.clone();
    inject(&Context::new(), &mut kept).unwrap();
    assert_eq!(kept, before);
}

#[test]
fn the_state_of_another_span_is_removed() {
    let mut written = headers(EXAMPLE, Some("a=1"));
    inject(&context(1, 2, true, ""), &mut written).unwrap();
    assert_eq!(written.get(TRACEPARENT), Some("00-00000000000000000000000000000001-0000000000000002-01"));
    assert_eq!(written.get(TRACESTATE), None);
    assert_eq!(written.get("content-type"), Some("application/json"));
}

#[test]
fn full_headers_are_an_error_and_stay_as_they_were() {
    let mut full = Headers::new();
    for n in 0..relaykit_pipeline_traits::MAX_HEADERS {
        full.insert(&format!("x-{n}"), "1").unwrap();
    }
    let before = full.clone();
    assert!(matches!(inject(&context(1, 2, true, "a=1"), &mut full), Err(InvalidHeader::TooMany { .. })));
    assert_eq!(full, before);
}

#[test]
fn a_link_names_the_producers_span() {
    let link = link(&headers(EXAMPLE, None)).unwrap();
    assert_eq!(link.span_context.span_id().to_string(), "00f067aa0ba902b7");
}

proptest! {
    #[test]
    fn what_was_written_is_read(trace in 1_u128.., span in 1_u64.., sampled: bool) {
        let mut headers = Headers::new();
        inject(&context(trace, span, sampled, "vendor=x"), &mut headers).unwrap();
        let read = extract(&headers).unwrap();
        prop_assert_eq!(read.trace_id(), TraceId::from(trace));
        prop_assert_eq!(read.span_id(), SpanId::from(span));
        prop_assert_eq!(read.is_sampled(), sampled);
        prop_assert_eq!(read.trace_state().get("vendor"), Some("x"));
    }

    #[test]
    fn no_text_is_too_odd_to_read(parent in "\\PC{0,80}", state in "\\PC{0,80}") {
        let mut headers = Headers::new();
        headers.insert(TRACEPARENT, parent).unwrap();
        headers.insert(TRACESTATE, state).unwrap();
        if let Some(span) = extract(&headers) {
            prop_assert!(span.is_valid());
        }
    }
}
