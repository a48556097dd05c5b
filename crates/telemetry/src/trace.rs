use opentelemetry::Context;
use opentelemetry::trace::{
    Link, SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use relaykit_pipeline_traits::{Headers, InvalidHeader};

/// The header that names the span: [W3C Trace Context](https://www.w3.org/TR/trace-context/), §3.2.
pub const TRACEPARENT: &str = "traceparent";
/// The header in which tracing systems add what is theirs: W3C Trace Context, §3.3.
pub const TRACESTATE: &str = "tracestate";

/// Writes the span of `context` to `headers`, so that whoever handles the message later can link to it.
///
/// Without a valid span nothing is written, and what was there stays. The application's own propagator plays no part: a message is
/// read by other services, later, and they know W3C's headers.
///
/// # Errors
///
/// If the headers are full. They are then as they were.
pub fn inject(context: &Context, headers: &mut Headers) -> Result<(), InvalidHeader> {
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return Ok(());
    }
    let flags = span.trace_flags() & TraceFlags::SAMPLED;
    let parent = format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), flags.to_u8());
    let state = span.trace_state().header();
    let mut written = headers.clone();
    written.insert(TRACEPARENT, parent)?;
    // Another span's state does not belong to this one.
    written.remove(TRACESTATE);
    if !state.is_empty() {
        written.insert(TRACESTATE, state)?;
    }
    *headers = written;
    Ok(())
}

/// Reads the span from `headers`, as that of another process.
///
/// Returns `None` without a `traceparent`, or if it is malformed. A malformed `tracestate` is left out, as §3.3.1.4 asks.
pub fn extract(headers: &Headers) -> Option<SpanContext> {
    let (trace, span, flags) = parse(headers.get(TRACEPARENT)?)?;
    let state = headers.get(TRACESTATE).and_then(|state| state.parse::<TraceState>().ok());
    let context = SpanContext::new(trace, span, flags, true, state.unwrap_or_default());
    context.is_valid().then_some(context)
}

/// Returns a link to the span in `headers`, for the span that handles the message.
///
/// A link, not a parent: the producer's span has ended long since, and one batch has messages of many traces.
pub fn link(headers: &Headers) -> Option<Link> {
    extract(headers).map(|span| Link::new(span, Vec::new(), 0))
}

/// Parses `version "-" trace-id "-" parent-id "-" trace-flags`, all lower-case hexadecimal.
fn parse(header: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let mut parts = header.split('-');
    let version = hex(parts.next()?, 2)?;
    let trace = hex(parts.next()?, 32)?;
    let span = hex(parts.next()?, 16)?;
    let flags = hex(parts.next()?, 2)?;
    // Version ff is forbidden; a later version may append parts, version 00 may not.
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    Some((TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?, flags))
}

fn hex(part: &str, length: usize) -> Option<&str> {
    let digits = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (part.len() == length && digits).then_some(part)
}

#[cfg(test)]
mod tests;
