use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use relaykit_pipeline_traits::{Classify, ErrorClass, Timestamp};

use crate::client::Endpoint;
use crate::wire::{IterableCode, PostResponse};

/// The cause of an error, where it is another crate's.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// Why a call of the API failed.
///
/// Shows neither the key nor a request, and of a reply an excerpt without e-mail addresses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The request was not sent, since it cannot succeed.
    #[error("{endpoint} was not sent")]
    NotSent {
        /// The call.
        endpoint: Endpoint,
        /// What is wrong with it.
        source: NotSent,
    },
    /// The request was not sent, since its turn under the endpoint's rate limit would come too late.
    #[error(
        "{endpoint} was not sent: its turn comes in {wait:?} or later, and a call waits {max_wait:?} at most"
    )]
    RateLimited {
        /// The call.
        endpoint: Endpoint,
        /// How long until its turn, as far as that is known.
        wait: Duration,
        /// How long a call waits.
        max_wait: Duration,
    },
    /// The request was not sent, since the API refused the key a short while ago.
    #[error("{endpoint} was not sent: the API refused the key with {}", Shown(*status, code.as_ref()))]
    Halted {
        /// The call.
        endpoint: Endpoint,
        /// When the API first refused the key.
        since: Timestamp,
        /// The status of the refusal, 401 or 403.
        status: u16,
        /// The code of the refusal.
        code: Option<IterableCode>,
        /// How long until a call is let through to try again; zero while one is trying.
        retry_in: Duration,
    },
    /// The connection failed. Unless it failed in [`Phase::Connect`], the request may have taken effect.
    #[error("{endpoint} failed to {phase}")]
    Transport {
        /// The call.
        endpoint: Endpoint,
        /// How far it came.
        phase: Phase,
        /// What happened.
        source: Cause,
    },
    /// No complete reply came in time. The request may have taken effect.
    #[error("{endpoint} had no complete reply after {timeout:?}")]
    TimedOut {
        /// The call.
        endpoint: Endpoint,
        /// How long it was given.
        timeout: Duration,
    },
    /// The API answered with a status other than 2xx.
    #[error("{endpoint} was answered {}{}", Shown(*status, code.as_ref()), Appended(message))]
    Status {
        /// The call.
        endpoint: Endpoint,
        /// The status.
        status: u16,
        /// The code in the reply, if the reply has one.
        code: Option<IterableCode>,
        /// The reply's message or text: at most 256 characters, e-mail addresses as `***`.
        message: String,
        /// The reply's body, which [`body`](Self::body) returns.
        body: ReplyBody,
        /// How long the API asks to wait, at most 10 minutes.
        retry_after: Option<Duration>,
    },
    /// The API answered 2xx with a body that is not what the call answers. The request took effect, in part or
    /// in whole.
    #[error("{endpoint} was answered {status} with a body that cannot be read")]
    Undecodable {
        /// The call.
        endpoint: Endpoint,
        /// The status.
        status: u16,
        /// What is wrong with the body.
        source: Unreadable,
    },
    /// The API answered 2xx with a body larger than the client reads. The request took effect, in part or in
    /// whole.
    #[error("{endpoint} was answered {status} with a body larger than {max} bytes")]
    BodyTooLarge {
        /// The call.
        endpoint: Endpoint,
        /// The status.
        status: u16,
        /// The largest body the client reads for this call, in bytes.
        max: usize,
    },
}

/// Why a request was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// An id is empty.
    #[error("{field} is empty")]
    Empty {
        /// The field, as the API names it.
        field: &'static str,
    },
    /// The user is not named.
    #[error("neither {email} nor {user_id} is given")]
    NoIdentity {
        /// The field that takes the address.
        email: &'static str,
        /// The field that takes the user id.
        user_id: &'static str,
    },
    /// An id is `.` or `..`, which no path can carry: it would name another resource.
    #[error("{field} is a dot segment, which a path cannot carry")]
    DotSegment {
        /// The field, as the API names it.
        field: &'static str,
    },
    /// A text is too long.
    #[error("{field} has {bytes} bytes, but at most {max} are allowed")]
    TooLong {
        /// The field, as the API names it.
        field: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The longest that is allowed.
        max: usize,
    },
    /// A number is out of range.
    #[error("{field} is {value}, but must be {min} to {max}")]
    OutOfRange {
        /// The field, as the API names it.
        field: &'static str,
        /// The value given.
        value: u32,
        /// The least that is allowed.
        min: u32,
        /// The most that is allowed.
        max: u32,
    },
    /// The body is larger than the API takes.
    #[error("the body has {bytes} bytes, but the API takes {max}")]
    TooLarge {
        /// The size of the body in bytes.
        bytes: usize,
        /// The largest body the API takes, in bytes.
        max: usize,
    },
    /// The request cannot be written as JSON.
    #[error("the request cannot be written as JSON")]
    Encode(#[source] serde_json::Error),
    /// The HTTP client refused the request.
    #[error("the request cannot be built")]
    Build(#[source] Cause),
}

/// How far a request came before its connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// No connection was made, so nothing was sent.
    Connect,
    /// The request was sent, in part or in whole, and no reply came.
    Exchange,
    /// The reply broke off.
    Reply,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Exchange => "get a reply",
            Self::Reply => "read the whole reply",
        })
    }
}

/// What is wrong with a body. Tells the place and not the content, which may be personal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// The body is not JSON.
    #[error("not JSON at line {line} column {column}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The body ends too early; an empty one does so at line 1 column 0.
    #[error("the JSON ends too early, at line {line} column {column}")]
    Incomplete {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The body is JSON of another shape.
    #[error("JSON of another shape at line {line} column {column}")]
    Shape {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
    /// The body is not UTF-8.
    #[error("not UTF-8 after byte {valid_up_to}")]
    Text {
        /// How many bytes are.
        valid_up_to: usize,
    },
    /// The body is not a whole number.
    #[error("not a whole number")]
    Number,
}

impl From<&serde_json::Error> for Unreadable {
    fn from(error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        match error.classify() {
            serde_json::error::Category::Eof => Self::Incomplete { line, column },
            serde_json::error::Category::Data => Self::Shape { line, column },
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => {
                Self::Syntax { line, column }
            }
        }
    }
}

/// The body of a reply. `Debug` tells its size only.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ReplyBody(Bytes);

impl ReplyBody {
    /// Returns the body, which may hold personal data.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplyBody({} bytes)", self.0.len())
    }
}

impl ApiError {
    /// Makes the error of a reply whose status is not 2xx.
    pub(crate) fn from_reply(
        endpoint: Endpoint,
        status: u16,
        body: Bytes,
        retry_after: Option<Duration>,
        hide: impl Fn(&str) -> String,
    ) -> Self {
        let envelope = serde_json::from_slice::<PostResponse>(&body).ok();
        let (code, msg) = envelope.map_or((None, None), |envelope| (envelope.code, envelope.msg));
        let message =
            msg.map_or_else(|| excerpt(&hide(&String::from_utf8_lossy(&body))), |msg| excerpt(&hide(&msg)));
        // What stands in place of a code is shown in logs, too.
        let code = code.map(|code| match code {
            IterableCode::Other(text) => IterableCode::Other(excerpt(&hide(&text))),
            known => known,
        });
        Self::Status { endpoint, status, code, message, body: ReplyBody(body), retry_after }
    }

    /// Returns the call that failed.
    pub const fn endpoint(&self) -> Endpoint {
        match self {
            Self::NotSent { endpoint, .. }
            | Self::RateLimited { endpoint, .. }
            | Self::Halted { endpoint, .. }
            | Self::Transport { endpoint, .. }
            | Self::TimedOut { endpoint, .. }
            | Self::Status { endpoint, .. }
            | Self::Undecodable { endpoint, .. }
            | Self::BodyTooLarge { endpoint, .. } => *endpoint,
        }
    }

    /// Returns the status of the reply, if this call had one.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. }
            | Self::Undecodable { status, .. }
            | Self::BodyTooLarge { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Returns the code of the reply, if this call had one that is not 2xx.
    pub const fn code(&self) -> Option<&IterableCode> {
        match self {
            Self::Status { code, .. } => code.as_ref(),
            _ => None,
        }
    }

    /// Returns the body of a reply that is not 2xx; empty in all other cases. May hold personal data.
    pub fn body(&self) -> &[u8] {
        match self {
            Self::Status { body, .. } => body.as_bytes(),
            _ => &[],
        }
    }

    /// Returns whether the request may have taken effect, in part or in whole.
    pub const fn may_have_taken_effect(&self) -> bool {
        match self {
            Self::NotSent { .. } | Self::RateLimited { .. } | Self::Halted { .. } => false,
            Self::Transport { phase, .. } => !matches!(phase, Phase::Connect),
            Self::Status { status, .. } => *status >= 500 || *status == 408,
            Self::TimedOut { .. } | Self::Undecodable { .. } | Self::BodyTooLarge { .. } => true,
        }
    }
}

impl Classify for ApiError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NotSent { .. } => ErrorClass::Permanent,
            Self::RateLimited { .. } => ErrorClass::Throttled,
            Self::Halted { .. }
            | Self::Transport { .. }
            | Self::TimedOut { .. }
            | Self::Undecodable { .. }
            | Self::BodyTooLarge { .. } => ErrorClass::Transient,
            Self::Status { status, code, .. } => class_of(*status, code.as_ref()),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::RateLimited { wait, .. } => Some(*wait),
            Self::Halted { retry_in, .. } => Some(*retry_in),
            _ => None,
        }
    }
}

/// Decides whether a request that was answered so may be tried again.
fn class_of(status: u16, code: Option<&IterableCode>) -> ErrorClass {
    match (status, code) {
        // The API answers some faults of the request with a 5xx.
        (_, Some(IterableCode::RequestFieldsTypesMismatched | IterableCode::NoUserWithIdExists)) => {
            ErrorClass::Permanent
        }
        (429, _) => ErrorClass::Throttled,
        // Documented reasons for a 409 that no wait removes.
        (
            409,
            Some(
                IterableCode::ForgottenUserError
                | IterableCode::ExternalKeyConflict
                | IterableCode::EmailAlreadyExists
                | IterableCode::UserIdAlreadyExists,
            ),
        ) => ErrorClass::Permanent,
        (408 | 409 | 500.., _) => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    }
}

/// The most characters of a reply that an error shows.
const EXCERPT_CHARS: usize = 256;
/// The most characters of a reply that are looked at for it.
const EXAMINED_CHARS: usize = 4096;

/// Shortens a text for logs: one line, no e-mail addresses, at most 256 characters.
fn excerpt(text: &str) -> String {
    let examined: String = text.chars().take(EXAMINED_CHARS).collect();
    let mut words = examined.split_whitespace().map(mask).collect::<Vec<_>>();
    if examined.len() < text.len() && words.len() > 1 {
        // The last word may be half an address.
        words.pop();
    }
    let line = words.join(" ");
    match line.char_indices().nth(EXCERPT_CHARS) {
        None => line,
        Some(_) => line.chars().take(EXCERPT_CHARS - 1).chain(['…']).collect(),
    }
}

/// Replaces what looks like an e-mail address, percent-encoded ones too.
fn mask(word: &str) -> String {
    const SEPARATORS: &[char] = &['"', '<', '>', '(', ')', '[', ']', ',', ';', ':'];
    word.split_inclusive(SEPARATORS)
        .map(|part| {
            let body = part.trim_end_matches(SEPARATORS);
            if body.contains('@') || body.contains("%40") {
                format!("***{}", &part[body.len()..])
            } else {
                part.to_owned()
            }
        })
        .collect()
}

/// Shows a status and a code.
struct Shown<'a>(u16, Option<&'a IterableCode>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(code) => write!(f, "{} {code}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Shows a message behind a colon, or nothing.
struct Appended<'a>(&'a str);

impl fmt::Display for Appended<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.0)
    }
}

#[cfg(test)]
mod tests;
