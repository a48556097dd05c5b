use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use relaykit_pipeline_traits::{Clock, Monotonic, Timestamp};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{debug, error};

use super::halt::{Halted, Pass};
use super::{Client, Endpoint, MAX_BODY_BYTES, metrics};
use crate::error::{ApiError, NotSent, Phase, Unreadable};
use crate::wire::{IterableCode, PostResponse};

/// The longest wait that a `Retry-After` is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);
/// How long an endpoint rests after a 429 that says no time.
const REST_AFTER_429: Duration = Duration::from_secs(1);

const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// One request.
#[derive(Debug)]
pub(crate) struct Call {
    endpoint: Endpoint,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Option<Bytes>,
    text: bool,
}

impl Call {
    /// Calls an endpoint without ids in its path.
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self::at(endpoint, endpoint.path().to_owned())
    }

    /// Calls an endpoint at a path whose ids were filled in with [`segment`].
    pub(crate) const fn at(endpoint: Endpoint, path: String) -> Self {
        Self { endpoint, path, query: Vec::new(), body: None, text: false }
    }

    /// Adds a parameter.
    pub(crate) fn with_query(mut self, name: &'static str, value: &(impl ToString + ?Sized)) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    /// Adds a parameter if there is a value.
    pub(crate) fn with_optional_query(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with_query(name, &value),
            None => self,
        }
    }

    /// Sets the body, refusing one that the API would.
    pub(crate) fn with_json(mut self, body: &(impl Serialize + ?Sized)) -> Result<Self, ApiError> {
        let endpoint = self.endpoint;
        let not_sent = |source| ApiError::NotSent { endpoint, source };
        let body = serde_json::to_vec(body).map_err(|error| not_sent(NotSent::Encode(error)))?;
        if body.len() > MAX_BODY_BYTES {
            return Err(not_sent(NotSent::TooLarge { bytes: body.len(), max: MAX_BODY_BYTES }));
        }
        self.body = Some(body.into());
        Ok(self)
    }

    /// Asks for text instead of JSON.
    pub(crate) const fn for_text(mut self) -> Self {
        self.text = true;
        self
    }
}

/// A reply whose status is 2xx.
#[derive(Debug)]
pub(crate) struct Reply {
    endpoint: Endpoint,
    status: u16,
    body: Bytes,
}

impl Reply {
    /// Reads the body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|error| self.unreadable(Unreadable::from(&error)))
    }

    /// Reads the body as an answer that has nothing else to say; an empty body says as much.
    pub(crate) fn post(&self) -> Result<PostResponse, ApiError> {
        if self.body.is_empty() {
            return Ok(PostResponse::default());
        }
        self.json()
    }

    /// Reads the body as text.
    pub(crate) fn text(self) -> Result<String, ApiError> {
        match std::str::from_utf8(&self.body) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(self.unreadable(Unreadable::Text { valid_up_to: error.valid_up_to() })),
        }
    }

    /// Reads the body as a whole number, quoted or not.
    pub(crate) fn number(&self) -> Result<u64, ApiError> {
        std::str::from_utf8(&self.body)
            .ok()
            .and_then(|text| text.trim().trim_matches('"').parse().ok())
            .ok_or_else(|| self.unreadable(Unreadable::Number))
    }

    const fn unreadable(&self, source: Unreadable) -> ApiError {
        ApiError::Undecodable { endpoint: self.endpoint, status: self.status, source }
    }
}

impl Client {
    /// Sends a request when its turn comes, and returns the reply if its status is 2xx.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the request may have taken effect.
    pub(crate) async fn call(&self, call: Call) -> Result<Reply, ApiError> {
        let endpoint = call.endpoint.to_string();
        let result = self.call_recorded(call, &endpoint).await;
        self.inner.recorder.add(&metrics::CALLS, &[&endpoint, metrics::outcome(&result)], 1);
        result
    }

    async fn call_recorded(&self, call: Call, label: &str) -> Result<Reply, ApiError> {
        let inner = &*self.inner;
        let endpoint = call.endpoint;
        let clock = &*inner.clock;
        let (timeout, max_bytes) = match endpoint {
            Endpoint::GetListUsers => (inner.export_timeout, inner.max_export_bytes),
            _ => (inner.timeout, inner.max_response_bytes),
        };
        let halted = |why| halted(endpoint, why);

        inner.halts.check(endpoint, clock).map_err(halted)?;
        let queued = clock.monotonic();
        let turn = inner.limiter.acquire(endpoint, clock, timeout).await;
        inner.recorder.observe(&metrics::WAIT, &[label], secs_since(clock, queued));
        turn.map_err(|wait| ApiError::RateLimited { endpoint, wait, max_wait: timeout })?;
        // Asked again: the key may have been refused in the meantime.
        let pass = inner.halts.admit(endpoint, clock).map_err(halted)?;

        let began = clock.monotonic();
        let exchanged = tokio::select! {
            biased;
            exchanged = self.exchange(call, max_bytes) => exchanged,
            () = clock.sleep_until(began + timeout) => Err(ApiError::TimedOut { endpoint, timeout }),
        };
        let elapsed = secs_since(clock, began);
        inner.recorder.observe(&metrics::EXCHANGE, &[label], elapsed);
        let answer = exchanged.inspect_err(|error| {
            debug!(%endpoint, error = error as &dyn std::error::Error, elapsed, "iterable did not answer");
        })?;
        debug!(%endpoint, status = answer.status, bytes = answer.body.len(), elapsed, "iterable answered");
        if !answer.is_success() {
            return Err(self.refused(endpoint, answer, pass));
        }

        pass.answered(answer.status, None);
        if answer.cut {
            return Err(ApiError::BodyTooLarge { endpoint, status: answer.status, max: max_bytes });
        }
        Ok(Reply { endpoint, status: answer.status, body: answer.body })
    }

    /// Takes note of what a reply other than 2xx says about the calls to come, and makes an error of it.
    fn refused(&self, endpoint: Endpoint, answer: Answer, pass: Pass<'_>) -> ApiError {
        let inner = &*self.inner;
        let retry_after =
            answer.retry_after.as_deref().and_then(|value| retry_after(value, inner.clock.now()));
        if answer.status == 429 {
            let rest = retry_after.unwrap_or(REST_AFTER_429);
            inner.limiter.pause(endpoint, inner.clock.monotonic() + rest);
            debug!(%endpoint, rest = rest.as_secs_f64(), "iterable asks for less, and the endpoint rests");
        }
        let hide = |text: &str| inner.key.hide_in(text);
        let error = ApiError::from_reply(endpoint, answer.status, answer.body, retry_after, hide);
        if pass.answered(answer.status, error.code()) {
            error!(%endpoint, error = %error, "iterable refused the key, and calls are kept back");
        }
        error
    }

    /// Sends a request and reads the reply, as far as `max_bytes`.
    async fn exchange(&self, call: Call, max_bytes: usize) -> Result<Answer, ApiError> {
        let endpoint = call.endpoint;
        let request = self.request(call)?;
        let mut response = self.inner.http.execute(request).await.map_err(|error| {
            let phase = if error.is_connect() { Phase::Connect } else { Phase::Exchange };
            transport(endpoint, phase, error)
        })?;
        let status = response.status();
        let retry_after = header_text(response.headers());
        let mut body = BytesMut::new();
        let mut cut =
            response.content_length().is_some_and(|length| length > max_bytes as u64 && status.is_success());
        while !cut {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let room = max_bytes - body.len();
                    cut = chunk.len() > room;
                    body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                }
                Ok(None) => break,
                // The status of a refusal says enough without the rest of its body.
                Err(_) if !status.is_success() => break,
                Err(error) => return Err(transport(endpoint, Phase::Reply, error)),
            }
        }
        Ok(Answer { status: status.as_u16(), retry_after, body: body.freeze(), cut })
    }

    fn request(&self, call: Call) -> Result<reqwest::Request, ApiError> {
        let inner = &*self.inner;
        let endpoint = call.endpoint;
        let url = format!("{}/api/{}", inner.base_url, call.path);
        let accept = if call.text { "text/plain" } else { "application/json" };
        let mut request = inner
            .http
            .request(endpoint.method(), url)
            .header("Api-Key", inner.key.header())
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, accept);
        if !call.query.is_empty() {
            request = request.query(&call.query);
        }
        if let Some(body) = call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        request.build().map_err(|error| ApiError::NotSent {
            endpoint,
            source: NotSent::Build(error.without_url().into()),
        })
    }
}

/// What came back, whatever its status.
struct Answer {
    status: u16,
    retry_after: Option<String>,
    body: Bytes,
    cut: bool,
}

impl Answer {
    const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}

/// Fills in an id as one segment of a path.
///
/// # Errors
///
/// The id is empty, or a dot segment: URLs resolve those even when they are percent-encoded.
pub(crate) fn segment(field: &'static str, id: &str) -> Result<String, NotSent> {
    // What RFC 3986 calls unreserved.
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    match id {
        "" => Err(NotSent::Empty { field }),
        "." | ".." => Err(NotSent::DotSegment { field }),
        _ => Ok(utf8_percent_encode(id, ESCAPED).to_string()),
    }
}

/// Reads a `Retry-After`: seconds or a date, at most 10 minutes. What it cannot read says nothing.
fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too many digits for a number are a long time, too.
        value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let at: SystemTime = httpdate::parse_http_date(value).ok()?;
        Timestamp::from(at).since(now)
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

fn header_text(headers: &HeaderMap) -> Option<String> {
    headers.get(RETRY_AFTER)?.to_str().ok().map(str::to_owned)
}

fn transport(endpoint: Endpoint, phase: Phase, error: reqwest::Error) -> ApiError {
    ApiError::Transport {
        endpoint,
        phase,
        // An address in a path is personal.
        source: error.without_url().into(),
    }
}

fn halted(endpoint: Endpoint, why: Halted) -> ApiError {
    ApiError::Halted {
        endpoint,
        since: why.since,
        status: why.status,
        code: why.code,
        retry_in: why.retry_in,
    }
}

fn secs_since(clock: &dyn Clock, began: Monotonic) -> f64 {
    clock.monotonic().since(began).as_secs_f64()
}

/// Returns whether the error says that there is no such user.
pub(crate) fn is_unknown_user(error: &ApiError) -> bool {
    matches!(error.code(), Some(IterableCode::NoUserWithIdExists))
}

#[cfg(test)]
mod tests;
