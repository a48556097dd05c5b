use std::collections::VecDeque;

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderMap;
use serde_json::Value;

/// A request as it arrived.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Recorded {
    /// The request's number, from 1, in the order in which requests were complete.
    pub number: u64,
    /// The method. Compares with strings: `recorded.method == "POST"`.
    pub method: Method,
    /// The path as sent, percent-encoded, without the query: `/api/events/trackBulk`.
    pub path: String,
    /// The query as sent, without the question mark.
    pub query: Option<String>,
    /// The headers; `Debug` hides the value of `Api-Key`.
    pub headers: HeaderMap,
    /// The body; empty if it was larger than the stand-in takes.
    pub body: Bytes,
}

impl Recorded {
    /// Returns the body as JSON; `null` if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Returns the query's names and values, decoded, in order.
    #[must_use]
    pub fn query_pairs(&self) -> Vec<(String, String)> {
        let Some(query) = &self.query else {
            return Vec::new();
        };
        reqwest::Url::parse(&format!("http://localhost/?{query}"))
            .map(|url| {
                url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
            })
            .unwrap_or_default()
    }

    /// Returns a header's value, if it was sent and is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// The latest requests, bounded in number and in bytes of their bodies.
#[derive(Debug)]
pub(crate) struct Ring {
    requests: VecDeque<Recorded>,
    max_requests: usize,
    bytes: usize,
}

/// How many bytes of bodies a [`Ring`] keeps: 64 MiB.
const MAX_BYTES: usize = 64 * 1024 * 1024;

impl Ring {
    pub(crate) const fn new(max_requests: usize) -> Self {
        Self { requests: VecDeque::new(), max_requests, bytes: 0 }
    }

    pub(crate) fn push(&mut self, request: Recorded) {
        self.bytes += request.body.len();
        self.requests.push_back(request);
        while self.requests.len() > self.max_requests || self.bytes > MAX_BYTES {
            let Some(oldest) = self.requests.pop_front() else {
                break;
            };
            self.bytes -= oldest.body.len();
        }
    }

    pub(crate) fn to_vec(&self) -> Vec<Recorded> {
        self.requests.iter().cloned().collect()
    }
}

#[cfg(test)]
pub(crate) fn request(method: Method, target: &str, body: impl Into<Bytes>) -> Recorded {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    Recorded { number: 1, method, path: path.to_owned(), query, headers: HeaderMap::new(), body: body.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_latest_requests() {
        let mut ring = Ring::new(2);
        for path in ["/1", "/2", "/3"] {
            ring.push(request(Method::GET, path, ""));
        }
        let paths: Vec<String> = ring.to_vec().into_iter().map(|r| r.path).collect();
        assert_eq!(paths, ["/2", "/3"]);
    }

    #[test]
    fn the_ring_keeps_no_more_bytes_than_its_bound() {
        let mut ring = Ring::new(1000);
        for _ in 0..20 {
            ring.push(request(Method::POST, "/", vec![0; 4 * 1024 * 1024]));
        }
        assert_eq!(ring.to_vec().len(), 16);
        assert_eq!(ring.bytes, MAX_BYTES);
    }

    #[test]
    fn the_query_is_decoded() {
        let recorded = request(Method::GET, "/api/users/getByEmail?email=a%2Bb%40example.com&x=1+2", "");
        assert_eq!(
            recorded.query_pairs(),
            [("email".to_owned(), "a+b@example.com".to_owned()), ("x".to_owned(), "1 2".to_owned())]
        );
    }
}
