use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use super::facts::Became;
use crate::history::{Id, Said};

/// The number of a process.
pub(super) type Life = usize;

/// The number of a message in the hands of a call.
pub(super) type Call = u64;

/// Which messages: 0 is the outbox, then come the handlers of the inbox.
pub(super) type StreamNo = usize;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum What {
    Started { node: usize },
    Killed,
    Froze { wait: Duration },
    Stopped,
    Stepped { micros: i64 },
    Overtaken { messages: usize },
    Stored { stream: StreamNo, id: Id, key: Option<u64> },
    Began { stream: StreamNo, call: Call, id: Id },
    Took { stream: StreamNo, call: Call, said: Said },
    Said { stream: StreamNo, call: Call, said: Option<Said> },
    GivenUp { stream: StreamNo, call: Call },
    Settled { stream: StreamNo, id: Option<Id>, became: Became },
    Read { stream: StreamNo, rows: usize },
    Fault { op: &'static str, fault: &'static str },
    Leases { op: &'static str, shards: Vec<(u16, i64)> },
    Down { what: &'static str, wait: Duration },
    Meddled { stream: StreamNo, id: Id, dead: bool },
    Received { partition: usize, offset: usize, stored: bool },
}

/// All that happened, in order, with the time and the process.
#[derive(Debug, Default)]
pub(super) struct Trace(Vec<(Duration, Option<Life>, What)>);

impl Trace {
    pub(super) fn push(&mut self, at: Duration, life: Option<Life>, what: What) {
        self.0.push((at, life, what));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns a number that differs if anything does.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        hasher.finish()
    }

    /// Writes it for people, an event a line.
    pub(super) fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (at, life, what)| {
            let life = life.map_or_else(|| "-".to_owned(), |life| life.to_string());
            let _ = writeln!(text, "{:>14.6} {life:>3} {what:?}", at.as_secs_f64());
            text
        })
    }
}
