use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::answer::Answer;

/// A reply that a test puts in the [`StandIn`](super::StandIn)'s mouth.
///
/// By default it comes at once and *instead of* the request's effect. A status outside 200–599 or a header that
/// HTTP cannot carry is answered with a 500 whose text says so.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(crate) wire: Wire,
    pub(crate) delay: Duration,
    pub(crate) applied: bool,
}

/// What goes over the wire.
#[derive(Debug, Clone)]
pub(crate) enum Wire {
    /// The whole answer.
    Whole(Answer),
    /// The head and this body, with a `Content-Length` of so many bytes more, then the end of the connection.
    Cut { answer: Answer, missing: usize },
    /// Nothing: the connection ends.
    Nothing,
}

/// How many bytes [`Reply::truncated`] promises beyond what it sends.
const MISSING: usize = 64;

impl Reply {
    /// Replies with a JSON body.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "`json!` makes a value")]
    pub fn json(status: u16, body: Value) -> Self {
        let body = Bytes::from(body.to_string());
        Self::whole(checked(status, |status| Answer { body, ..Answer::json(status, &Value::Null) }))
    }

    /// Replies with a plain text body.
    #[must_use]
    pub fn text(status: u16, body: &str) -> Self {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Self::whole(checked(status, |status| Answer::text(status, body)))
    }

    /// Replies without a body.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Self::whole(checked(status, |status| Answer {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }))
    }

    /// Ends the connection without any reply.
    #[must_use]
    pub const fn drop_connection() -> Self {
        Self { wire: Wire::Nothing, delay: Duration::ZERO, applied: false }
    }

    /// Sends the whole body, promises 64 bytes more than that, and ends the connection.
    #[must_use]
    pub fn truncated(status: u16, body: Value) -> Self {
        let mut reply = Self::json(status, body);
        if let Wire::Whole(answer) = reply.wire {
            reply.wire = Wire::Cut { answer, missing: MISSING };
        }
        reply
    }

    /// Adds a header. A header of that name that is there already is replaced.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let (Wire::Whole(answer) | Wire::Cut { answer, .. }) = &mut self.wire else {
            return self;
        };
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => {
                answer.headers.insert(name, value);
            }
            _ => *answer = impossible(&format!("header {name:?}: {value:?} cannot be sent")),
        }
        self
    }

    /// Sets how long the caller waits for the reply, on the stand-in's clock. Default: zero.
    ///
    /// An effect asked for by [`applied`](Self::applied) comes before the wait.
    #[must_use]
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sets whether the request takes its normal effect before this reply. Default: `false`.
    ///
    /// `Reply::drop_connection().applied(true)` is the reply that was lost on its way.
    #[must_use]
    pub const fn applied(mut self, applied: bool) -> Self {
        self.applied = applied;
        self
    }

    pub(crate) const fn whole(answer: Answer) -> Self {
        Self { wire: Wire::Whole(answer), delay: Duration::ZERO, applied: false }
    }

    /// Cuts the answer in the middle.
    pub(crate) fn cut(mut answer: Answer) -> Self {
        let sent = answer.body.len() / 2;
        let missing = answer.body.len() - sent;
        answer.body.truncate(sent);
        Self { wire: Wire::Cut { answer, missing }, delay: Duration::ZERO, applied: true }
    }
}

fn checked(status: u16, answer: impl FnOnce(StatusCode) -> Answer) -> Answer {
    match StatusCode::from_u16(status) {
        Ok(status) if (200..600).contains(&status.as_u16()) => answer(status),
        _ => impossible(&format!("status {status} is not within 200–599")),
    }
}

fn impossible(why: &str) -> Answer {
    Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("stand-in: impossible reply: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(reply: Reply) -> Answer {
        match reply.wire {
            Wire::Whole(answer) | Wire::Cut { answer, .. } => answer,
            Wire::Nothing => panic!("no answer"),
        }
    }

    #[test]
    fn an_impossible_reply_says_why() {
        for (reply, why) in [
            (Reply::empty(42), "status 42"),
            (Reply::json(100, json!({})), "status 100"),
            (Reply::text(200, "x").header("a b", "c"), "a b"),
            (Reply::text(200, "x").header("a", "line\nbreak"), "line"),
        ] {
            let answer = answer(reply);
            assert_eq!(answer.status, 500);
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(text.contains(why), "{text}");
        }
    }

    #[test]
    fn a_cut_answer_keeps_its_first_half() {
        let Wire::Cut { answer, missing } = Reply::cut(Answer::text(StatusCode::OK, "12345")).wire else {
            panic!("not cut");
        };
        assert_eq!(&answer.body[..], b"12");
        assert_eq!(missing, 3);
    }
}
