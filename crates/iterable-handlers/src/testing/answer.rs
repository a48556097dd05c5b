use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};

/// What goes back to the caller.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(status: StatusCode, body: &Value) -> Self {
        Self::with_type(status, "application/json", body.to_string().into())
    }

    pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::with_type(status, "text/plain; charset=utf-8", body.into())
    }

    /// Answers with the envelope that most endpoints use.
    pub(crate) fn envelope(status: StatusCode, code: &str, msg: &str, params: &Value) -> Self {
        Self::json(status, &json!({"msg": msg, "code": code, "params": params}))
    }

    pub(crate) fn success() -> Self {
        Self::envelope(StatusCode::OK, "Success", "", &Value::Null)
    }

    pub(crate) fn bad_request(code: &str, msg: &str, params: &Value) -> Self {
        Self::envelope(StatusCode::BAD_REQUEST, code, msg, params)
    }

    pub(crate) fn throttled(path: &str) -> Self {
        let msg = format!("Exceeded rate limit for endpoint: {path}, project: 1 ");
        Self::envelope(StatusCode::TOO_MANY_REQUESTS, "RateLimitExceeded", &msg, &json!({}))
    }

    pub(crate) fn too_large(msg: &str) -> Self {
        Self::envelope(StatusCode::PAYLOAD_TOO_LARGE, "BatchTooLarge", msg, &Value::Null)
    }

    pub(crate) fn header(mut self, name: &'static str, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self { status, headers, body }
    }
}
