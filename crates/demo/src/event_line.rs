use relaykit_iterable_handlers::{EventTrack, Identity, PrepareError, Prepared, Request as _, Stamper};
use serde_json::{Map, Value};

/// Makes an event of one line of input, or says why it cannot be one.
///
/// The user is `payload.sender.login`, the name `event.action` or just `event`, and the payload becomes the data
/// fields. Without an `id` the stamper gives one. A `sequence` is added to them for a stand-in that watches the order.
pub(crate) fn parse(
    line: &[u8],
    id: Option<String>,
    sequence: Option<u64>,
    stamper: &Stamper,
) -> Result<Prepared<EventTrack>, Rejection> {
    let mut line: Map<String, Value> = serde_json::from_slice(line).map_err(Rejection::NotJson)?;
    let Some(Value::String(event)) = line.remove("event") else { return Err(Rejection::NoEvent) };
    let Some(Value::Object(payload)) = line.remove("payload") else { return Err(Rejection::NoPayload) };
    event_of(event, payload, id, sequence, stamper)
}

/// Makes an event of a webhook: its kind and its body.
pub(crate) fn event_of(
    event: String,
    payload: Map<String, Value>,
    id: Option<String>,
    sequence: Option<u64>,
    stamper: &Stamper,
) -> Result<Prepared<EventTrack>, Rejection> {
    let user = payload
        .get("sender")
        .and_then(|sender| sender.get("login"))
        .and_then(Value::as_str)
        .ok_or(Rejection::NoUser)?;
    let name = match payload.get("action").and_then(Value::as_str) {
        Some(action) => format!("{event}.{action}"),
        None => event,
    };
    let mut request = EventTrack::new(Identity::user_id(user), name).fields(payload);
    if let Some(id) = id {
        request = request.id(id);
    }
    if let Some(sequence) = sequence {
        request = request.field("__sequence", sequence);
    }
    request.prepare(stamper).map_err(|error| Rejection::Invalid(Box::new(error)))
}

/// Why a line was not accepted.
#[derive(Debug)]
pub(crate) enum Rejection {
    NotJson(serde_json::Error),
    NoEvent,
    NoPayload,
    NoUser,
    TooLong { max: usize },
    Invalid(Box<PrepareError<EventTrack>>),
}

impl Rejection {
    /// Returns the reason, without any of the payload.
    pub(crate) fn reason(&self) -> String {
        match self {
            // The library's text names line and column, never the content.
            Self::NotJson(error) => format!("not a JSON object: {error}"),
            Self::NoEvent => "no event: the member `event` must be a text".to_owned(),
            Self::NoPayload => "no payload: the member `payload` must be an object".to_owned(),
            Self::NoUser => "no user: `payload.sender.login` must be a text".to_owned(),
            Self::TooLong { max } => format!("the line is longer than {max} bytes"),
            Self::Invalid(error) => error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(line: &str) -> String {
        parse(line.as_bytes(), None, None, &Stamper::system()).unwrap_err().reason()
    }

    #[test]
    fn the_action_is_part_of_the_name() {
        let line = br#"{"event":"issues","payload":{"action":"opened","sender":{"login":"ada"}}}"#;
        let prepared = parse(line, None, None, &Stamper::system()).unwrap();
        assert_eq!(prepared.ordering_key().unwrap().as_str(), "id:ada");
        let line = br#"{"event":"push","payload":{"sender":{"login":"ada"}}}"#;
        assert!(parse(line, None, None, &Stamper::system()).is_ok());
    }

    #[test]
    fn a_line_that_is_no_event_is_rejected_with_its_reason() {
        assert!(reason("{").starts_with("not a JSON object"));
        assert!(reason("[1]").starts_with("not a JSON object"));
        assert!(reason(r#"{"payload":{}}"#).starts_with("no event"));
        assert!(reason(r#"{"event":"push","payload":3}"#).starts_with("no payload"));
        assert!(reason(r#"{"event":"push","payload":{"sender":{"login":null}}}"#).starts_with("no user"));
        assert_ne!(reason(r#"{"event":"push","payload":{"sender":{"login":" "}}}"#), "");
    }
}
