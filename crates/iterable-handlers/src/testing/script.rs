use std::collections::{BTreeMap, VecDeque};

use hyper::StatusCode;
use serde_json::Value;

use super::answer::Answer;
use super::reply::Reply;

/// The replies that a test put in line.
#[derive(Debug, Default)]
pub(crate) struct Script {
    by_path: BTreeMap<String, VecDeque<Reply>>,
    any: VecDeque<Reply>,
    /// After the queues: so many 500, then so many 429, then so many 413.
    pub(crate) fails: u64,
    pub(crate) throttles: u64,
    pub(crate) too_large: u64,
}

impl Script {
    pub(crate) fn push(&mut self, reply: Reply) {
        self.any.push_back(reply);
    }

    pub(crate) fn push_for(&mut self, path: &str, reply: Reply) {
        self.by_path.entry(path.to_owned()).or_default().push_back(reply);
    }

    pub(crate) fn len(&self) -> usize {
        self.any.len() + self.by_path.values().map(VecDeque::len).sum::<usize>()
    }

    /// Takes the reply for the next request of a path: one put in line for the path, then one for any path,
    /// then the counted failures.
    pub(crate) fn next(&mut self, path: &str) -> Option<Reply> {
        self.by_path.get_mut(path).and_then(VecDeque::pop_front).or_else(|| self.any.pop_front()).or_else(
            || {
                for (left, status) in [
                    (&mut self.fails, StatusCode::INTERNAL_SERVER_ERROR),
                    (&mut self.throttles, StatusCode::TOO_MANY_REQUESTS),
                    (&mut self.too_large, StatusCode::PAYLOAD_TOO_LARGE),
                ] {
                    if *left > 0 {
                        *left -= 1;
                        return Some(fail(status));
                    }
                }
                None
            },
        )
    }
}

fn fail(status: StatusCode) -> Reply {
    Reply::whole(Answer::envelope(status, status.as_str(), "fail", &Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::reply::Wire;

    fn status(reply: Option<Reply>) -> Option<u16> {
        reply.map(|reply| match reply.wire {
            Wire::Whole(answer) | Wire::Cut { answer, .. } => answer.status.as_u16(),
            Wire::Nothing => 0,
        })
    }

    #[test]
    fn queues_come_first_then_500_then_429_then_413() {
        let mut script = Script { fails: 1, throttles: 1, too_large: 1, ..Script::default() };
        script.push(Reply::empty(201));
        script.push(Reply::drop_connection());
        script.push_for("/a", Reply::empty(202));
        script.push_for("/b", Reply::empty(203));
        assert_eq!(script.len(), 4);
        let order: Vec<Option<u16>> = (0..7).map(|_| status(script.next("/a"))).collect();
        assert_eq!(order, [Some(202), Some(201), Some(0), Some(500), Some(429), Some(413), None]);
        assert_eq!(status(script.next("/b")), Some(203));
    }
}
