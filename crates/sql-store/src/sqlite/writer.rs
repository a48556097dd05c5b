use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, Metric, Monotonic, Recorder};
use rusqlite::Connection;

use super::error::ended_by_itself;
use super::file::File;
use super::{Location, Options, SqliteError};
use crate::torture::crash_point;

/// Something to be done in a transaction, and who waits for it.
///
/// It may run more than once, each time on a transaction in which the former run left nothing.
pub trait Request: Send {
    /// Does it. On an error, everything that it did is rolled back.
    ///
    /// Every error of SQLite is to be handed on: some end the transaction, and what is written after one stays.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    fn run(&mut self, transaction: &Connection) -> rusqlite::Result<()>;

    /// Tells whoever waits, once: after the commit, or with the reason why there was none.
    fn answer(self: Box<Self>, result: Result<(), SqliteError>);

    /// About how many bytes it writes; bounds a group.
    fn bytes(&self) -> usize {
        0
    }

    /// Says whether what the last [`run`](Self::run) did is in the file, or `None` if that cannot be told.
    ///
    /// Asked when a sync failed and the file was opened anew, before anything else is written. One request that can
    /// tell speaks for all that were committed together.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    fn took_effect(&mut self, connection: &Connection) -> rusqlite::Result<Option<bool>> {
        let _ = connection;
        Ok(None)
    }
}

/// How a writer gathers requests into one commit.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WriterOptions {
    /// The thread's name. Default: `sqlite-writer`.
    pub name: String,
    /// How long a commit waits for more requests after its first. Default: 0: what arrives while a commit runs makes the
    /// next, which waits for a moment if it has fewer.
    pub window: Duration,
    /// The most requests of one commit. Default: 1,000.
    pub max_requests: usize,
    /// The most bytes of one commit; a larger request goes alone. Default: 8 MiB.
    pub max_bytes: usize,
    /// How many unused pages are given back to the file system at a time: in idle moments, and once a second while more
    /// than half of the file is unused. As many may stay. Default: 256. `u32::MAX` leaves them alone, as in a file that is shared.
    pub vacuum_pages: u32,
    /// After how long without a request unused pages are given back and the log is written back to the file, so that the
    /// next start is quick. Default: 1 s.
    pub idle_checkpoint: Duration,
    /// Records the time of each commit, in seconds, under this histogram without labels. Default: nowhere.
    pub commit_seconds: Option<(Arc<dyn Recorder>, &'static Metric)>,
    /// What to open anew when the system could not read or write. Default: nothing, the connection is kept.
    ///
    /// With it, the writer also notices that the file was moved away, and tells a full quota from a broken disk.
    pub reopen: Option<(Location, Options)>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            name: "sqlite-writer".to_owned(),
            window: Duration::ZERO,
            max_requests: 1_000,
            max_bytes: 8 * 1024 * 1024,
            vacuum_pages: 256,
            idle_checkpoint: Duration::from_secs(1),
            commit_seconds: None,
            reopen: None,
        }
    }
}

/// The thread that owns the one connection, and commits in groups. Cheap to clone.
///
/// Requests are taken in the order of [`submit`](Self::submit). Those that wait together are committed together, so they
/// share one sync of the disk. If one of a group fails, the group is rolled back and each runs in a transaction of its own, so
/// each has the answer it deserves. Nobody who stops waiting cancels anything.
///
/// When the system cannot read or write, nobody knows what a commit left on the disk, and syncing again proves nothing. So the
/// file is opened anew, its log written back and synced, and the requests asked what they find: the answer is the truth.
///
/// The thread ends when the last clone is gone and all requests are done, or after [`stop`](Self::stop).
#[derive(Debug, Clone)]
pub struct Writer {
    sender: Arc<Mailbox>,
    ended: Arc<Ended>,
    owner: u32,
}

#[derive(Debug, Default)]
struct Ended {
    flag: Mutex<bool>,
    changed: Condvar,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// If the system has no thread to give.
    pub fn start(
        connection: Connection,
        clock: Arc<dyn Clock>,
        options: WriterOptions,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let ended = Arc::new(Ended::default());
        let end = End(Arc::clone(&ended));
        let builder = thread::Builder::new().name(options.name.clone());
        let file = options.reopen.as_ref().and_then(|(location, _)| location.path()).map(File::seen_at);
        builder.spawn(move || {
            let _end = end;
            Thread {
                connection: Some(connection),
                clock,
                options,
                receiver,
                file,
                written: false,
                tidied: Monotonic::default(),
                last_group: 0,
                last_took: Duration::ZERO,
            }
            .run();
        })?;
        Ok(Self { sender: Arc::new(Mutex::new(Some(sender))), ended, owner: std::process::id() })
    }

    /// Hands a request over. Never waits; whoever submits bounds how much is on its way.
    ///
    /// After [`stop`](Self::stop) the request is answered with [`SqliteError::Closed`] at once.
    pub fn submit(&self, request: Box<dyn Request>) {
        if std::process::id() != self.owner {
            return request.answer(Err(SqliteError::Forked { owner: self.owner }));
        }
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match &*sender {
            Some(open) => open.send(request).err().map(|unsent| unsent.0),
            None => Some(request),
        };
        drop(sender);
        if let Some(request) = refused {
            request.answer(Err(SqliteError::Closed));
        }
    }

    /// Takes no more requests. What was submitted is still done; then the file is closed.
    pub fn stop(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Blocks until the thread has ended, for `within` at the longest. Returns whether it has.
    #[must_use]
    pub fn join(&self, within: Duration) -> bool {
        let flag = self.ended.flag.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.ended.changed.wait_timeout_while(flag, within, |ended| !*ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Says that the thread has ended, however it did.
struct End(Arc<Ended>);

impl Drop for End {
    fn drop(&mut self) {
        *self.0.flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }
}

struct Thread {
    /// `None` while the file could not be opened anew.
    connection: Option<Connection>,
    clock: Arc<dyn Clock>,
    options: WriterOptions,
    receiver: Receiver<Box<dyn Request>>,
    file: Option<File>,
    /// Whether anything was committed since the log was written back.
    written: bool,
    tidied: Monotonic,
    /// How many requests the last commit had, and how long it took.
    last_group: usize,
    last_took: Duration,
}

/// A commit waits for as many requests as the last one had, for this part of the last one's time, and 1 ms at most.
const PATIENCE: u32 = 4;
const MOST_PATIENCE: Duration = Duration::from_millis(1);

const TIDY_EVERY: Duration = Duration::from_secs(1);

type Group = Vec<Box<dyn Request>>;
type Mailbox = Mutex<Option<Sender<Box<dyn Request>>>>;

impl Thread {
    fn run(mut self) {
        let mut next = None;
        while let Some(first) = next.take().or_else(|| self.wait()) {
            let (group, more) = self.gather(first);
            next = more;
            self.commit(group);
            self.tidy();
        }
        crash_point("writer.before_close");
        // Closing cuts the log and, without an error, leaves the one file.
        if let Some(Err((_, error))) = self.connection.map(Connection::close) {
            tracing::warn!(%error, "could not close the file");
        }
    }

    /// Waits for a request. When none comes, gives unused pages back and writes the log back, bit by bit.
    fn wait(&mut self) -> Option<Box<dyn Request>> {
        let mut patience = self.options.idle_checkpoint;
        while self.written {
            match self.receiver.recv_timeout(patience) {
                Ok(request) => return Some(request),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.pages().is_some() && self.vacuum() {
                patience = Duration::ZERO;
            } else {
                self.write_back();
            }
        }
        self.receiver.recv().ok()
    }

    fn write_back(&mut self) {
        self.written = false;
        let Some(connection) = &self.connection else { return };
        crash_point("writer.before_write_back");
        if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            tracing::debug!(%error, "could not write the log back");
        }
    }

    /// Gathers what is there, or comes within the window. Also returns a request for which the group had no room.
    fn gather(&mut self, first: Box<dyn Request>) -> (Group, Option<Box<dyn Request>>) {
        let mut bytes = first.bytes();
        let mut group = vec![first];
        // Whoever waited for the last commit is likely to come again; a part of what a commit takes is well spent on them.
        let window = self.options.window.max(self.last_took / PATIENCE);
        let until = self.clock.monotonic() + window;
        while group.len() < self.options.max_requests && bytes < self.options.max_bytes {
            let waits = !self.options.window.is_zero() || group.len() < self.last_group;
            let Some(request) = self.next(waits.then_some(until)) else { break };
            bytes = bytes.saturating_add(request.bytes());
            if bytes > self.options.max_bytes {
                return (group, Some(request));
            }
            group.push(request);
        }
        (group, None)
    }

    fn next(&mut self, until: Option<Monotonic>) -> Option<Box<dyn Request>> {
        match self.receiver.try_recv() {
            Ok(request) => return Some(request),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        let left = until?.since(self.clock.monotonic());
        self.receiver.recv_timeout(left).ok()
    }

    fn commit(&mut self, mut group: Group) {
        if let Err(error) = self.ready() {
            return answer_all(group, &error);
        }
        self.written = true;
        let begun = self.clock.monotonic();
        let all = self.transaction(&mut group);
        let took = self.clock.monotonic().since(begun);
        self.last_took = took.min(MOST_PATIENCE * PATIENCE);
        self.last_group = group.len();
        if let Some((recorder, metric)) = &self.options.commit_seconds {
            recorder.observe(metric, &[], took.as_secs_f64());
        }
        match all {
            Ok(()) => answer_done(group),
            Err(SqliteError::Io { source }) if self.options.reopen.is_some() => {
                self.find_out(group, &SqliteError::Io { source });
            }
            // The log takes room that the file has no use for.
            Err(SqliteError::Full) if self.shorten_log() => self.one_by_one(group),
            // Each by itself would wait as long again.
            Err(error @ SqliteError::Busy { .. }) => answer_all(group, &error),
            Err(error) if group.len() == 1 => answer_all(group, &error),
            Err(_) => self.one_by_one(group),
        }
    }

    /// Writes the log back and cuts it. Returns whether that worked.
    fn shorten_log(&self) -> bool {
        let Some(connection) = &self.connection else { return false };
        let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        matches!(busy, Ok(0))
    }

    /// Runs each by itself, so that one that cannot be done takes no other along.
    fn one_by_one(&mut self, group: Group) {
        for request in group {
            let mut alone = vec![request];
            match self.transaction(&mut alone) {
                Ok(()) => answer_done(alone),
                Err(SqliteError::Io { source }) if self.options.reopen.is_some() => {
                    self.find_out(alone, &SqliteError::Io { source });
                }
                Err(error) => answer_all(alone, &error),
            }
        }
    }

    /// The system could not read or write. Opens the file anew and asks the requests whether they are in it.
    fn find_out(&mut self, mut group: Group, error: &SqliteError) {
        tracing::warn!(%error, "the file is opened anew");
        self.connection = None;
        if let Err(error) = self.ready() {
            return answer_all(group, &error);
        }
        let Some(connection) = &self.connection else { return answer_all(group, error) };
        let found = group.iter_mut().find_map(|request| match request.took_effect(connection) {
            Ok(None) => None,
            told => Some(told),
        });
        match found {
            Some(Ok(Some(true))) => answer_done(group),
            // Nothing of it is there. It is not tried again here: the disk has just failed, so whoever asked decides.
            _ => answer_all(group, error),
        }
    }

    /// Makes sure that there is a connection, to the file that was opened.
    fn ready(&mut self) -> Result<(), SqliteError> {
        if let Some(file) = &mut self.file {
            file.check(self.clock.monotonic())?;
        }
        if self.connection.is_some() {
            return Ok(());
        }
        let (location, options) = self.options.reopen.as_ref().ok_or(SqliteError::Closed)?;
        let connection = super::open(location, options)?;
        // What the log holds may be in the system's memory alone, taken for synced. Written to the file it is synced
        // afresh, and the answer can be trusted.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(SqliteError::of)?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Runs all of them in one transaction. On an error nothing of it is left, as far as anybody knows.
    fn transaction(&mut self, group: &mut Group) -> Result<(), SqliteError> {
        let Some(connection) = &self.connection else { return Err(SqliteError::Closed) };
        let error = match catch_unwind(AssertUnwindSafe(|| transaction(connection, group))) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => SqliteError::of(error),
            Err(_panic) => SqliteError::Panicked,
        };
        // Some errors end the transaction by themselves.
        if !connection.is_autocommit()
            && let Err(error) = connection.execute_batch("ROLLBACK")
        {
            // A closed connection has no transaction, and keeps no other from writing.
            if self.options.reopen.is_some() {
                self.connection = None;
            }
            return Err(SqliteError::of(error));
        }
        let bytes = group.iter().map(|request| request.bytes()).sum();
        match (&error, &self.file) {
            // A quota or a limit of file sizes looks like a broken disk.
            (SqliteError::Io { .. }, Some(file)) if !file.has_room(bytes) => Err(SqliteError::Full),
            _ => Err(error),
        }
    }

    /// Does once a second what would otherwise wait for an idle moment that never comes.
    fn tidy(&mut self) {
        let now = self.clock.monotonic();
        if now.since(self.tidied) < TIDY_EVERY {
            return;
        }
        self.tidied = now;
        // Pages that are used again at once need not be given back; a file that is mostly empty should be.
        if let Some((free, all)) = self.pages()
            && free > all / 2
        {
            self.vacuum();
        }
    }

    /// Unused pages, and all.
    fn pages(&self) -> Option<(u32, u32)> {
        let connection = self.connection.as_ref()?;
        let count = |name| connection.pragma_query_value(None, name, |row| row.get(0)).ok();
        let (free, all) = (count("freelist_count")?, count("page_count")?);
        (free > self.options.vacuum_pages).then_some((free, all))
    }

    /// Gives some unused pages back. Returns whether that worked.
    fn vacuum(&mut self) -> bool {
        let Some(connection) = &self.connection else { return false };
        let pages = self.options.vacuum_pages;
        // Each step gives back one page only.
        let vacuumed = connection.prepare_cached(&format!("PRAGMA incremental_vacuum({pages})")).and_then(
            |mut vacuum| {
                let mut rows = vacuum.query([])?;
                while rows.next()?.is_some() {}
                Ok(())
            },
        );
        self.written = true;
        if let Err(error) = &vacuumed {
            tracing::debug!(%error, "could not give unused pages back");
        }
        vacuumed.is_ok()
    }
}

fn answer_done(group: Group) {
    for request in group {
        crash_point("writer.before_answer");
        answer(request, Ok(()));
    }
}

fn answer_all(group: Group, error: &SqliteError) {
    for request in group {
        answer(request, Err(error.share()));
    }
}

/// A panic of whoever is told must not take the thread along, and with it all the others.
fn answer(request: Box<dyn Request>, result: Result<(), SqliteError>) {
    if catch_unwind(AssertUnwindSafe(|| request.answer(result))).is_err() {
        tracing::error!("a panic while a request was answered");
    }
}

/// Runs all of them in one transaction. On an error it may still be open.
fn transaction(connection: &Connection, group: &mut Group) -> rusqlite::Result<()> {
    crash_point("writer.before_begin");
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    for request in group {
        request.run(connection)?;
        crash_point("writer.after_request");
        // Some errors end the transaction by themselves. To go on would write outside of any.
        if connection.is_autocommit() {
            return Err(ended_by_itself());
        }
    }
    connection.prepare_cached("COMMIT")?.execute([])?;
    crash_point("writer.after_commit");
    Ok(())
}
