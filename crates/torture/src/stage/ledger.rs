use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;

use relaykit_pipeline_traits::{Clock as _, SystemClock};
use serde::{Deserialize, Serialize};

use crate::history::{Event, Id};

/// What all processes of a round tell, in one file: in the order in which it happened.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: Mutex<File>,
    life: usize,
}

/// What a process told at once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) life: usize,
    /// When, in microseconds of wall time.
    pub(crate) at: i64,
    pub(crate) events: Vec<Event>,
}

impl Ledger {
    /// Opens the file for a process.
    ///
    /// # Errors
    ///
    /// If it cannot be opened or made.
    pub(crate) fn open(path: &Path, life: usize) -> anyhow::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self { file: Mutex::new(file), life })
    }

    /// Tells what happened, in one write.
    pub(crate) fn say(&self, events: &[Event]) {
        self.say_of(self.life, events);
    }

    /// Tells what happened to another process.
    pub(crate) fn say_of(&self, life: usize, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let at = SystemClock::new().now().as_micros();
        let entry = Entry { life, at, events: events.to_vec() };
        let text = serde_json::to_string(&entry).expect("events are plain data");
        // Who is killed while it writes leaves a piece, which must not take the next line along.
        let text = format!("\n{text}\n");
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(text.as_bytes()).expect("the ledger is in memory, or on a disk with room");
    }
}

/// Reads everything that was told.
///
/// # Errors
///
/// If the file cannot be read.
pub(crate) fn entries(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let text = std::fs::read(path)?;
    let lines = text.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// Reads it as a history.
///
/// # Errors
///
/// If the file cannot be read.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Event>> {
    let mut history = Vec::new();
    for Entry { life, events, .. } in entries(path)? {
        history.push(Event::By { life });
        history.extend(events);
    }
    Ok(history)
}

/// Adds what the database says was committed, and what was not: some never learnt it.
pub(crate) fn settle(history: &mut Vec<Event>, committed: &HashSet<Id>) {
    let (mut offered, mut told) = (Vec::new(), HashSet::new());
    for event in history.iter() {
        match event {
            Event::Offered { id, .. } => offered.push(*id),
            Event::Acknowledged { id } => drop(told.insert(*id)),
            _ => {}
        }
    }
    history.push(Event::By { life: 0 });
    history.extend(offered.into_iter().filter_map(|id| match committed.contains(&id) {
        true if told.contains(&id) => None,
        true => Some(Event::Acknowledged { id }),
        false => Some(Event::Refused { id }),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_a_line_takes_no_other_along() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("ledger");
        let (one, other) =
            (Ledger::open(&path, 1).expect("it opens"), Ledger::open(&path, 2).expect("it opens"));
        one.say(&[Event::Acknowledged { id: 1 }]);
        let mut file = OpenOptions::new().append(true).open(&path).expect("it is there");
        file.write_all(b"\n{\"life\":1,\"eve").expect("there is room");
        other.say(&[Event::Acknowledged { id: 2 }]);
        other.say_of(1, &[Event::Killed]);
        let expected = [
            Event::By { life: 1 },
            Event::Acknowledged { id: 1 },
            Event::By { life: 2 },
            Event::Acknowledged { id: 2 },
            Event::By { life: 1 },
            Event::Killed,
        ];
        assert_eq!(read(&path).expect("it can be read"), expected);
    }
}
