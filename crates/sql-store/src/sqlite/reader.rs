use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::{fmt, thread};

use relaykit_pipeline_traits::Clock;
use rusqlite::Connection;

use super::file::File;
use super::{Location, Options, SqliteError};

/// Something to be read. It is given the connection, or the reason why there is none, and says whether the connection is
/// still of use.
pub(super) type Job = Box<dyn FnOnce(Result<&Connection, SqliteError>) -> bool + Send>;

/// A thread with a connection that only reads. Cheap to clone; the thread ends with the last clone.
#[derive(Clone)]
pub(super) struct Reader {
    jobs: Sender<Job>,
    owner: u32,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// Opens the file and starts the thread.
    pub(super) fn start(
        location: Location,
        options: Options,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SqliteError> {
        let connection = Some(open(&location, &options)?);
        let file = location.path().map(File::seen_at);
        let (jobs, receiver) = channel();
        let path = location.path().unwrap_or_else(|| std::path::Path::new("")).to_owned();
        let thread = Thread { connection, location, options, clock, file, receiver };
        thread::Builder::new()
            .name("sqlite-reader".to_owned())
            .spawn(move || thread.run())
            .map_err(|source| SqliteError::of_system(path, source))?;
        Ok(Self { jobs, owner: std::process::id() })
    }

    /// Hands a job over. Never waits.
    pub(super) fn submit(&self, job: Job) {
        if std::process::id() != self.owner {
            job(Err(SqliteError::Forked { owner: self.owner }));
        } else if let Err(unsent) = self.jobs.send(job) {
            unsent.0(Err(SqliteError::Closed));
        }
    }
}

struct Thread {
    /// `None` after it broke, until it could be opened anew.
    connection: Option<Connection>,
    location: Location,
    options: Options,
    clock: Arc<dyn Clock>,
    file: Option<File>,
    receiver: Receiver<Job>,
}

impl Thread {
    fn run(mut self) {
        while let Ok(job) = self.receiver.recv() {
            let good = match self.ready() {
                Ok(connection) => job(Ok(connection)),
                Err(error) => job(Err(error)),
            };
            if !good {
                self.connection = None;
            }
        }
    }

    fn ready(&mut self) -> Result<&Connection, SqliteError> {
        if let Some(file) = &mut self.file {
            file.check(self.clock.monotonic())?;
        }
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => Ok(none.insert(open(&self.location, &self.options)?)),
        }
    }
}

fn open(location: &Location, options: &Options) -> Result<Connection, SqliteError> {
    let connection = super::open(location, options)?;
    connection.pragma_update(None, "query_only", true).map_err(SqliteError::of)?;
    Ok(connection)
}
