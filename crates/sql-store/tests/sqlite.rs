//! What the SQLite writer promises, on real files.
#![cfg(feature = "sqlite")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_pipeline_traits::{ManualClock, Metric, MetricKind, Recorder};
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult};
use relaykit_sql_store::sqlite::{
    Durability, Location, Options, Request, SqliteError, Writer, WriterOptions, open,
};
use tempfile::TempDir;

type Answer = Result<(), SqliteError>;
type Work = Box<dyn FnMut(&Connection) -> SqlResult<()> + Send>;

/// Runs a closure, and sends the answer.
struct Run {
    work: Work,
    tell: Sender<Answer>,
}

impl Request for Run {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        (self.work)(transaction)
    }

    fn answer(self: Box<Self>, result: Answer) {
        let _ = self.tell.send(result);
    }
}

fn submit(
    writer: &Writer,
    work: impl FnMut(&Connection) -> SqlResult<()> + Send + 'static,
) -> Receiver<Answer> {
    let (tell, told) = channel();
    writer.submit(Box::new(Run { work: Box::new(work), tell }));
    told
}

fn insert(value: i64) -> impl FnMut(&Connection) -> SqlResult<()> + Send + 'static {
    move |tx| tx.execute("INSERT INTO t VALUES (?1)", [value]).map(drop)
}

/// Holds the thread until the sender is dropped, so that what is submitted meanwhile makes one group.
fn hold(writer: &Writer) -> Sender<()> {
    let (release, held) = channel::<()>();
    let (begun, has_begun) = channel();
    let held = Mutex::new(held);
    submit(writer, move |_| {
        let _ = begun.send(());
        let _ = held.lock().unwrap().recv();
        Ok(())
    });
    has_begun.recv().unwrap();
    release
}

struct Harness {
    directory: TempDir,
    writer: Writer,
    commits: Arc<Commits>,
}

static COMMIT: Metric =
    Metric { name: "commit_seconds", kind: MetricKind::Histogram, help: "commits", labels: &[] };

#[derive(Debug, Default)]
struct Commits(AtomicU64);

impl Recorder for Commits {
    fn observe(&self, _metric: &'static Metric, _labels: &[&str], _value: f64) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Harness {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(set: impl FnOnce(&Connection)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::file(directory.path().join("file.db"));
        let connection = open(&location, &Options::default()).unwrap();
        connection.execute_batch("CREATE TABLE t (v INTEGER NOT NULL UNIQUE)").unwrap();
        set(&connection);
        let commits = Arc::new(Commits::default());
        let mut options = WriterOptions::default();
        options.commit_seconds = Some((Arc::clone(&commits) as Arc<dyn Recorder>, &COMMIT));
        options.reopen = Some((location, Options::default()));
        let writer = Writer::start(connection, Arc::new(ManualClock::new()), options).unwrap();
        Self { directory, writer, commits }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("file.db")
    }

    fn stop(self) -> (TempDir, Vec<i64>) {
        self.writer.stop();
        assert!(self.writer.join(Duration::from_secs(10)));
        let values = values(&self.path());
        (self.directory, values)
    }
}

fn values(path: &Path) -> Vec<i64> {
    let connection = open(&Location::file(path), &Options::default()).unwrap();
    let mut select = connection.prepare("SELECT v FROM t ORDER BY v").unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn requests_that_wait_together_share_one_commit() {
    let h = Harness::new();
    let release = hold(&h.writer);
    let answers: Vec<_> = (0..100).map(|value| submit(&h.writer, insert(value))).collect();
    drop(release);
    for answer in answers {
        answer.recv().unwrap().unwrap();
    }
    assert_eq!(h.commits.0.load(Ordering::SeqCst), 2, "the one that held, and one for all the others");
    assert_eq!(h.stop().1, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_request_that_fails_takes_no_other_of_its_group_along() {
    let h = Harness::new();
    let release = hold(&h.writer);
    let good = submit(&h.writer, insert(1));
    let twice = submit(&h.writer, insert(1));
    let half = submit(&h.writer, |tx| {
        tx.execute("INSERT INTO t VALUES (7)", [])?;
        tx.execute("INSERT INTO nowhere VALUES (7)", []).map(drop)
    });
    let also_good = submit(&h.writer, insert(2));
    drop(release);
    good.recv().unwrap().unwrap();
    assert!(matches!(twice.recv().unwrap(), Err(SqliteError::Statement { .. })));
    assert!(matches!(half.recv().unwrap(), Err(SqliteError::Statement { .. })));
    also_good.recv().unwrap().unwrap();
    assert_eq!(h.stop().1, [1, 2], "nothing of the one that failed half-way");
}

#[test]
fn a_request_that_panics_leaves_nothing_and_the_writer_lives_on() {
    let h = Harness::new();
    let release = hold(&h.writer);
    let before = submit(&h.writer, insert(1));
    let panics = submit(&h.writer, |tx| {
        tx.execute("INSERT INTO t VALUES (9)", [])?;
        panic!("on purpose")
    });
    let after = submit(&h.writer, insert(2));
    drop(release);
    before.recv().unwrap().unwrap();
    assert!(matches!(panics.recv().unwrap(), Err(SqliteError::Panicked)));
    after.recv().unwrap().unwrap();
    assert_eq!(h.stop().1, [1, 2]);
}

#[test]
fn whoever_stops_waiting_cancels_no_commit() {
    let h = Harness::new();
    let release = hold(&h.writer);
    drop(submit(&h.writer, insert(1)));
    drop(release);
    assert_eq!(h.stop().1, [1]);
}

#[test]
fn a_stop_does_what_was_submitted_and_refuses_the_rest() {
    let h = Harness::new();
    let release = hold(&h.writer);
    let answers: Vec<_> = (0..50).map(|value| submit(&h.writer, insert(value))).collect();
    h.writer.stop();
    let late = submit(&h.writer, insert(99));
    assert!(matches!(late.recv().unwrap(), Err(SqliteError::Closed)));
    assert!(!h.writer.join(Duration::ZERO), "it has not ended yet");
    drop(release);
    for answer in answers {
        answer.recv().unwrap().unwrap();
    }
    assert_eq!(h.stop().1.len(), 50);
}

#[test]
fn a_full_file_leaves_no_half_transaction_and_still_deletes() {
    let h = Harness::with(|connection| {
        connection.pragma_update(None, "max_page_count", 40).unwrap();
        connection.execute_batch("CREATE TABLE big (b BLOB NOT NULL)").unwrap();
    });
    // SQLite ends the transaction by itself at this error. Nothing before or after it in the group may be half-done.
    let release = hold(&h.writer);
    let before = submit(&h.writer, insert(1));
    let full = submit(&h.writer, |tx| {
        tx.execute("INSERT INTO t VALUES (2)", [])?;
        tx.execute("INSERT INTO big VALUES (zeroblob(1000000))", []).map(drop)
    });
    let after = submit(&h.writer, insert(3));
    drop(release);
    before.recv().unwrap().unwrap();
    assert!(matches!(full.recv().unwrap(), Err(SqliteError::Full)));
    after.recv().unwrap().unwrap();
    let filled = (10..1_000)
        .find(|value| {
            let value = *value;
            let answer = submit(&h.writer, move |tx| {
                tx.execute("INSERT INTO t VALUES (?1)", [value])?;
                tx.execute("INSERT INTO big VALUES (zeroblob(20000))", []).map(drop)
            });
            matches!(answer.recv().unwrap(), Err(SqliteError::Full))
        })
        .unwrap();
    submit(&h.writer, |tx| tx.execute("DELETE FROM big", []).map(drop)).recv().unwrap().unwrap();
    submit(&h.writer, insert(1_000)).recv().unwrap().unwrap();
    let expected: Vec<i64> = [1, 3].into_iter().chain(10..filled).chain([1_000]).collect();
    assert_eq!(h.stop().1, expected);
}

#[test]
fn a_second_opener_in_the_same_process_learns_that_the_file_is_open() {
    let h = Harness::new();
    let error = open(&Location::file(h.path()), &Options::default()).unwrap_err();
    assert!(matches!(&error, SqliteError::AlreadyOpen { path } if *path == h.path()), "{error}");
    assert_eq!(error.to_string(), format!("{} is open already", h.path().display()));
}

const OPEN_THIS: &str = "RELAYKIT_TEST_OPEN_THIS";

/// The file, in a process that [`child`] has started: the test plays the child's part there.
fn as_child() -> Option<PathBuf> {
    std::env::var_os(OPEN_THIS).map(PathBuf::from)
}

/// Runs the test once more in a process of its own, as a child that is given the file.
fn child(test: &str, path: &Path, shell: &str) -> std::process::Output {
    let exe = std::env::current_exe().unwrap();
    Command::new("sh")
        .args(["-c", &format!("{shell} exec \"$0\" \"$@\"")])
        .arg(exe)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(OPEN_THIS, path)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[expect(clippy::print_stdout, reason = "the test that started this process reads it")]
fn opens(path: PathBuf) {
    match open(&Location::file(path), &Options::default()) {
        Ok(_) => println!("opened"),
        Err(SqliteError::AlreadyOpen { .. }) => println!("already open"),
        Err(error) => println!("{error:?}"),
    }
}

#[cfg(unix)]
#[test]
fn another_process_learns_that_the_file_is_open_and_gets_it_when_it_is_closed() {
    if let Some(path) = as_child() {
        return opens(path);
    }
    let h = Harness::new();
    let this = "another_process_learns_that_the_file_is_open_and_gets_it_when_it_is_closed";
    let told = |path: &Path| String::from_utf8(child(this, path, "").stdout).unwrap();
    assert!(told(&h.path()).contains("already open"));
    let path = h.path();
    let (_directory, _) = h.stop();
    assert!(told(&path).contains("opened"));
}

#[expect(clippy::print_stdout, reason = "the test that started this process reads it")]
fn writes_beyond_its_limit(path: &Path) {
    let location = Location::file(path);
    let connection = open(&location, &Options::default()).unwrap();
    connection.execute_batch("CREATE TABLE t (v INTEGER NOT NULL UNIQUE); CREATE TABLE big (b)").unwrap();
    let mut options = WriterOptions::default();
    options.reopen = Some((location, Options::default()));
    let writer = Writer::start(connection, Arc::new(ManualClock::new()), options).unwrap();
    submit(&writer, insert(1)).recv().unwrap().unwrap();
    let big = submit(&writer, |tx| tx.execute("INSERT INTO big VALUES (zeroblob(20000000))", []).map(drop));
    println!("answer: {:?}", big.recv().unwrap());
    submit(&writer, insert(2)).recv().unwrap().unwrap();
    writer.stop();
    assert!(writer.join(Duration::from_secs(10)));
    println!("left: {:?}", values(path));
}

#[cfg(unix)]
#[test]
fn a_limit_on_file_sizes_is_told_as_full_and_does_no_harm() {
    if let Some(path) = as_child() {
        return writes_beyond_its_limit(&path);
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file.db");
    // 4 MiB, in the blocks of 512 bytes that POSIX counts in; bash counts in twice as many.
    let this = "a_limit_on_file_sizes_is_told_as_full_and_does_no_harm";
    let output = child(this, &path, "trap '' XFSZ; ulimit -f 8192;");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("answer: Err(Full)"), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("left: [1, 2]"), "{told}");
}

#[expect(clippy::print_stdout, reason = "the test that started this process reads it")]
fn commits_while_syncs_fail(path: &Path) {
    let location = Location::file(path);
    let connection = open(&location, &Options::default()).unwrap();
    connection.execute_batch("CREATE TABLE t (v INTEGER NOT NULL UNIQUE)").unwrap();
    let mut options = WriterOptions::default();
    options.reopen = Some((location, Options::default()));
    let writer = Writer::start(connection, Arc::new(ManualClock::new()), options).unwrap();
    let mut done = Vec::new();
    for value in 0..30 {
        let (tell, told) = channel();
        writer.submit(Box::new(InsertOnce { value, tell }));
        match told.recv().unwrap() {
            Ok(()) => done.push(value),
            Err(error) => println!("failed: {error:?}"),
        }
    }
    writer.stop();
    assert!(writer.join(Duration::from_secs(10)));
    println!("done: {done:?}");
}

/// An insert that can tell whether it took effect.
struct InsertOnce {
    value: i64,
    tell: Sender<Answer>,
}

impl Request for InsertOnce {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        insert(self.value)(transaction)
    }

    fn answer(self: Box<Self>, result: Answer) {
        let _ = self.tell.send(result);
    }

    fn took_effect(&mut self, connection: &Connection) -> SqlResult<Option<bool>> {
        #[expect(clippy::print_stdout, reason = "the test that started this process reads it")]
        {
            println!("asked");
        }
        connection.prepare("SELECT 1 FROM t WHERE v = ?1")?.exists([self.value]).map(Some)
    }
}

#[cfg(target_os = "linux")]
#[test]
fn after_a_failed_sync_the_answer_is_what_the_file_opened_anew_says() {
    if let Some(path) = as_child() {
        return commits_while_syncs_fail(&path);
    }
    if !Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .output()
        .is_ok_and(|ran| ran.status.success())
    {
        println!("SKIPPED: needs strace, and the right to trace");
        return;
    }
    let mut asked = 0;
    // The disk fails at one sync after the other.
    for nth in 1..=20 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.db");
        let inject = format!("inject=fsync,fdatasync:error=EIO:when={nth}");
        let output = Command::new("strace")
            .args(["-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", &inject])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "after_a_failed_sync_the_answer_is_what_the_file_opened_anew_says",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(OPEN_THIS, &path)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let line =
            |name: &str| told.lines().find_map(|line| line.split_once(name)).map(|(_, rest)| rest.to_owned());
        // The first syncs belong to opening the file, which then fails as a whole.
        let Some(done) = line("done: ") else { continue };
        assert_eq!(done, format!("{:?}", values(&path)), "sync {nth}: {told}");
        asked += told.matches("asked").count();
    }
    assert!(asked >= 5, "only {asked} syncs failed in a commit");
}

#[cfg(unix)]
#[test]
fn a_path_is_a_path_whatever_characters_it_has() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let directory = tempfile::tempdir().unwrap();
    for name in [
        b"a#b".as_slice(),
        b"a%20b",
        b"a?mode=memory",
        b"a b",
        b"file:x?mode=ro",
        b":memory:",
        b"-",
        "ü".as_bytes(),
        b"not\xFFutf8",
    ] {
        let path = directory.path().join(OsStr::from_bytes(name));
        let connection = open(&Location::file(&path), &Options::default()).unwrap();
        connection.execute_batch("CREATE TABLE t (v); INSERT INTO t VALUES (5)").unwrap();
        drop(connection);
        assert_eq!(values(&path), [5], "{}", path.display());
    }
    let mut names: Vec<_> =
        directory.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 9, "one file each and no other: {names:?}");
}

#[cfg(unix)]
#[test]
fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let h = Harness::new();
    submit(&h.writer, insert(1)).recv().unwrap().unwrap();
    let mut files = 0;
    for entry in h.directory.path().read_dir().unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
        files += 1;
    }
    assert_eq!(files, 2, "the file and its log");
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("target");
    let link = directory.path().join("link");
    drop(open(&Location::file(&target), &Options::default()).unwrap());
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let error = open(&Location::file(&link), &Options::default()).unwrap_err();
    assert!(matches!(error, SqliteError::Open { .. }), "{error:?}");
}

#[test]
fn a_file_that_is_no_database_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    let text = "these are notes, not pages. ".repeat(100);
    std::fs::write(&path, &text).unwrap();
    let error = open(&Location::file(&path), &Options::default()).unwrap_err();
    assert!(matches!(error, SqliteError::Corrupt { .. }), "{error:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn the_log_stays_within_its_bound_and_space_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file.db");
    let mut options = Options::default();
    options.durability = Durability::ProcessCrashOnly;
    options.wal_bytes = 256 * 1024;
    let connection = open(&Location::file(&path), &options).unwrap();
    connection.execute_batch("CREATE TABLE t (v INTEGER NOT NULL, b BLOB)").unwrap();
    let clock = ManualClock::new();
    let writer = Writer::start(connection, Arc::new(clock.clone()), WriterOptions::default()).unwrap();
    let wal = directory.path().join("file.db-wal");
    let length = |path: &Path| path.metadata().unwrap().len();
    for value in 0..400 {
        let work = move |tx: &Connection| {
            tx.execute("INSERT INTO t VALUES (?1, zeroblob(10000))", [value]).map(drop)
        };
        submit(&writer, work).recv().unwrap().unwrap();
        assert!(length(&wal) <= 2 * 256 * 1024, "{} bytes of log", length(&wal));
    }
    submit(&writer, |tx| tx.execute("DELETE FROM t", []).map(drop)).recv().unwrap().unwrap();
    assert!(length(&path) > 3_500_000);
    // Even a writer that is never idle gives space back, a part each second.
    for _ in 0..10 {
        clock.advance(Duration::from_secs(1));
        submit(&writer, |_| Ok(())).recv().unwrap().unwrap();
    }
    writer.stop();
    assert!(writer.join(Duration::from_secs(10)));
    assert!(length(&path) < 2_000_000, "{} bytes of what were four million", length(&path));
    assert!(!wal.exists());
}

#[cfg(unix)]
#[test]
fn a_file_that_was_moved_away_is_not_written_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file.db");
    let location = Location::file(&path);
    let connection = open(&location, &Options::default()).unwrap();
    connection.execute_batch("CREATE TABLE t (v INTEGER NOT NULL UNIQUE)").unwrap();
    let clock = ManualClock::new();
    let mut options = WriterOptions::default();
    options.reopen = Some((location, Options::default()));
    let writer = Writer::start(connection, Arc::new(clock.clone()), options).unwrap();
    submit(&writer, insert(1)).recv().unwrap().unwrap();
    std::fs::rename(&path, directory.path().join("elsewhere.db")).unwrap();
    std::fs::write(&path, b"").unwrap();
    clock.advance(Duration::from_secs(1));
    let error = submit(&writer, insert(2)).recv().unwrap().unwrap_err();
    assert!(matches!(&error, SqliteError::Moved { path: moved } if *moved == path), "{error:?}");
}

#[test]
fn what_is_in_memory_is_a_database_too() {
    let connection = open(&Location::Memory, &Options::default()).unwrap();
    connection.execute_batch("CREATE TABLE t (v INTEGER NOT NULL UNIQUE)").unwrap();
    let writer = Writer::start(connection, Arc::new(ManualClock::new()), WriterOptions::default()).unwrap();
    submit(&writer, insert(1)).recv().unwrap().unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let work = move |tx: &Connection| {
        let found: u32 = tx.query_row("SELECT count(*) FROM t", [], |row| row.get(0))?;
        counted.store(found.into(), Ordering::SeqCst);
        Ok(())
    };
    submit(&writer, work).recv().unwrap().unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
}
