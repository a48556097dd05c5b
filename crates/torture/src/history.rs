use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Names an item through its whole life; ids of one run ascend in the order of offering.
pub(crate) type Id = u64;

/// One thing that the parent saw. A killed process records nothing; what it wrote to its pipe stays readable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// What follows was told by this process, of several that run at once.
    By { life: usize },
    /// The file is about to be opened: a life begins.
    Opening,
    /// The file is open.
    Opened,
    /// An item is about to be pushed. Items of one key are pushed one after the other.
    Offered { id: Id, key: u64 },
    /// Its producer was told that it is on disk.
    Acknowledged { id: Id },
    /// It came back to its producer.
    Refused { id: Id },
    /// A handler had it and said so.
    Lent { id: Id, key: u64, said: Said },
    /// Whoever had handled it was not waited for: nobody knows what was said of it.
    GivenUp { id: Id },
    /// It was among the dead letters in the end.
    Found { id: Id },
    /// The rows that a transactional handler left, in the order in which it wrote them.
    Effects { ids: Vec<Id> },
    /// What a handler or the end found is not what was pushed.
    Wrong { id: Id },
    /// The injected fault was told by the queue, in its words.
    Fault { error: String },
    /// The process did not run for longer than it may say nothing: what it had was given to others meanwhile.
    Stalled,
    /// The process was told that what it had was given to others.
    Overtaken,
    /// The process was killed, aborted, or left without a close; or the power failed.
    Killed,
    /// What somebody dead had held was handled by others so many microseconds after the last fault; so many are allowed.
    Recovered { micros: u64, bound: u64 },
    /// A call of a store took so long, which is more than its timeouts say.
    Blocked { millis: u64 },
    /// The queue was closed. It could not write everything down if `unsettled` says so.
    Stopped { unsettled: bool },
    /// Everything was worked off, or the time for it ran out.
    Ended { left: Left },
}

/// What a handler said about an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Said {
    Done,
    Dead,
    Again,
}

/// What was left after everything should have been worked off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Left {
    /// Items that nobody was lent.
    pub(crate) stored: u64,
    /// Items that a worker has, or that are not on disk.
    pub(crate) in_flight: u64,
    /// Rows that say that a batch is in flight.
    pub(crate) claims: u64,
    /// Files beside the queue's.
    pub(crate) side_files: u64,
    /// Sessions of the database in a transaction that does nothing.
    #[serde(default)]
    pub(crate) idle_sessions: u64,
    /// SQLite's own check found damage.
    pub(crate) damaged: bool,
}

/// Writes a history, one event a line.
///
/// # Errors
///
/// If the file cannot be written.
pub(crate) fn save(history: &[Event], path: &Path) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for event in history {
        serde_json::to_writer(&mut file, event)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    Ok(())
}
