use std::collections::BTreeMap;
use std::fmt::Write as _;

use relaykit_pipeline_traits::{Headers, Message, MessageId, Timestamp};

/// Writes bytes in hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a text takes everything");
    }
    text
}

/// The parts of a message as a row has them.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Its id.
    pub id: MessageId,
    /// Its kind.
    pub kind: String,
    /// Its key, if it has one.
    pub ordering_key: Option<String>,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its headers, as [`write_headers`] writes them.
    pub headers: String,
    /// When it occurred.
    pub occurred_at: Timestamp,
}

/// Reads a message.
///
/// # Errors
///
/// Why it is none, without any of its values, which may be personal.
pub fn read_message(parts: Parts) -> Result<Message, String> {
    let headers = read_headers(&parts.headers)?;
    let mut builder = Message::builder(parts.id, parts.kind, parts.occurred_at).payload(parts.payload);
    if let Some(key) = parts.ordering_key {
        builder = builder.ordering_key(key);
    }
    let mut message = builder.build().map_err(|error| error.to_string())?;
    *message.headers_mut() = headers;
    Ok(message)
}

/// Writes headers as a JSON object of strings.
///
/// # Panics
///
/// Never: texts are JSON.
#[must_use]
pub fn write_headers(headers: &Headers) -> String {
    let entries: BTreeMap<&str, &str> = headers.iter().collect();
    serde_json::to_string(&entries).expect("texts are JSON")
}

/// Reads what [`write_headers`] wrote, or a producer in SQL.
///
/// # Errors
///
/// What is wrong, without any of the text.
pub fn read_headers(text: &str) -> Result<Headers, String> {
    let mut headers = Headers::new();
    if text == "{}" {
        return Ok(headers);
    }
    // The parser's own message would show parts of the text.
    let entries: BTreeMap<String, String> =
        serde_json::from_str(text).map_err(|_| "headers are no JSON object of texts".to_owned())?;
    for (name, value) in entries {
        headers.insert(&name, value).map_err(|error| error.to_string())?;
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_make_the_round_trip() {
        let mut headers = Headers::new();
        headers.insert("a", "\"quoted\" ü\t").unwrap();
        headers.insert("b", "").unwrap();
        assert_eq!(read_headers(&write_headers(&headers)), Ok(headers));
        assert_eq!(write_headers(&Headers::new()), "{}");
    }

    #[test]
    fn what_is_no_header_is_told_without_its_value() {
        let error = read_headers(r#"{"a": 17}"#).unwrap_err();
        assert!(!error.contains("17"), "{error}");
        assert!(read_headers("secret").is_err() && read_headers(r#"{"a b": "x"}"#).is_err());
    }

    #[test]
    fn bytes_are_written_in_hex() {
        assert_eq!(hex(&[0x00, 0x0f, 0xa5, 0xff]), "000fa5ff");
    }
}
