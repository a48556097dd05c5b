//! The file: what it survives, whose it is, and what is set aside.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Bench, Oops, Reaction, SECOND, Script, done, each, until};
use relaykit_persistent_queue::{Builder, DeadReason, Durability, OpenError, Plain, Queue, RejectReason};
use relaykit_pipeline_traits::{Clock as _, Verdict};
use relaykit_sql_store::sqlite::rusqlite::Connection;

/// Leaves the file as a crash at this moment would: copies it with its log to a new place.
fn crash(bench: &Bench, path: &Path, name: &str) -> PathBuf {
    let copy = bench.dir.path().join(name);
    let with = |path: &Path, suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    std::fs::copy(path, &copy).unwrap();
    std::fs::copy(with(path, "-wal"), with(&copy, "-wal")).unwrap();
    copy
}

fn open_at(bench: &Bench, path: &Path, script: &Script) -> Builder<u32, Plain<Script>> {
    Queue::builder(path, script.clone()).clock(bench.clock.clone()).ballast_bytes(0).linger(Duration::ZERO)
}

/// Changes the closed file behind the queue's back.
fn tamper(path: &Path, sql: &str) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(sql).unwrap();
}

#[tokio::test]
async fn after_a_crash_everything_durable_is_lent_and_order_is_kept() {
    let bench = Bench::new();
    let hangs = Script::new(|batch, _| if batch.contains(&3) { Reaction::Hang } else { done(batch) });
    let queue = bench.builder(&hangs).max_items(1).open().unwrap();
    queue.push_all(0..10).await.unwrap();
    queue.flush().await.unwrap();
    until(|| queue.stats().processed == 3).await;
    queue.list(0, 0).await.unwrap();
    let copy = crash(&bench, &bench.path(), "copy.db");
    let script = Script::done();
    let queue = open_at(&bench, &copy, &script).open().unwrap();
    until(|| queue.stats().processed == 7).await;
    assert_eq!(script.items(), [3, 4, 5, 6, 7, 8, 9], "what was done is done");
}

#[tokio::test]
async fn a_batch_that_keeps_killing_the_process_is_set_aside_and_no_other_is_blamed() {
    let bench = Bench::new();
    // Two workers: a killer is in flight whenever the process dies, and innocent batches beside it.
    let script = || Script::new(|batch, _| if batch == [1] { Reaction::Hang } else { done(batch) });
    let first = Script::new(|_, _| Reaction::Hang);
    let queue = bench.builder(&first).workers(2).max_items(1).open().unwrap();
    queue.push_all(0..6).await.unwrap();
    queue.flush().await.unwrap();
    first.calls(2).await;
    let mut path = crash(&bench, &bench.path(), "crash-0.db");
    for death in 1..=3 {
        // It is not counted the first time, and may happen twice by default.
        let script = script();
        let queue = open_at(&bench, &path, &script).workers(2).open().unwrap();
        let others = if death == 1 { 5 } else { 0 };
        until(|| queue.stats().processed == others && script.items().contains(&1)).await;
        queue.list(0, 0).await.unwrap();
        assert_eq!(queue.stats().dead_items, 0);
        path = crash(&bench, &path, &format!("crash-{death}.db"));
    }
    let queue = open_at(&bench, &path, &script()).workers(2).open().unwrap();
    let dead = queue.dead_letters(0, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].reason, dead[0].items), (DeadReason::Crashed, 1));
    assert_eq!(dead[0].error, "the process died 3 times while it handled this batch");
    assert_eq!(queue.stats().stored_items, 0);
}

#[tokio::test]
async fn batches_that_may_have_killed_the_process_twice_are_lent_one_at_a_time() {
    let bench = Bench::new();
    let hangs = Script::new(|_, _| Reaction::Hang);
    let mut path = bench.path();
    let queue = bench.builder(&hangs).workers(4).max_items(1).open().unwrap();
    queue.push_all(0..4).await.unwrap();
    queue.flush().await.unwrap();
    hangs.calls(4).await;
    let mut lent = Vec::new();
    for death in 0..2 {
        path = crash(&bench, &path, &format!("crash-{death}.db"));
        let hangs = Script::new(|_, _| Reaction::Hang);
        let queue = open_at(&bench, &path, &hangs).workers(4).open().unwrap();
        hangs.calls(1).await;
        for _ in 0..4 {
            queue.list(0, 0).await.unwrap();
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
        lent.push(hangs.lent().len());
        std::mem::forget(queue);
    }
    assert_eq!(lent, [4, 1]);
}

#[tokio::test]
async fn a_closed_or_dropped_queue_accuses_nobody() {
    let bench = Bench::new();
    for round in 0..8 {
        let hangs = Script::new(|_, _| Reaction::Hang);
        let queue = loop {
            // A dropped one closes its file on its own thread.
            match bench.builder(&hangs).linger(Duration::ZERO).open() {
                Ok(queue) => break queue,
                Err(OpenError::AlreadyOpen { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        if round == 0 {
            queue.push_durable(1).await.unwrap();
        }
        hangs.calls(1).await;
        if round % 2 == 0 {
            let _ = queue.close(Duration::ZERO).await;
        }
    }
    let script = Script::done();
    let queue = loop {
        match bench.builder(&script).open() {
            Ok(queue) => break queue,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    until(|| queue.stats().processed == 1).await;
    assert_eq!(script.attempts(), [1]);
}

#[tokio::test]
async fn a_batch_whose_bytes_changed_is_set_aside_and_the_queue_goes_on() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).max_items(1).open().unwrap();
    queue.pause();
    queue.push_all([1, 2, 3, 4]).await.unwrap();
    let _ = queue.close(SECOND).await;
    tamper(&bench.path(), "UPDATE batches SET data = CAST(replace(data, x'32', x'35') AS BLOB) WHERE id = 2");
    tamper(&bench.path(), "UPDATE batches SET data = CAST(x'ff' || substr(data, 2) AS BLOB) WHERE id = 3");
    let script = Script::done();
    let queue = bench.builder(&script).open().unwrap();
    until(|| queue.stats().processed == 2 && queue.stats().died == 2).await;
    assert_eq!(script.items(), [1, 4]);
    let dead = queue.dead_letters(0, 10).await.unwrap();
    assert!(dead.iter().all(|letter| letter.reason == DeadReason::Undecodable));
    assert!(dead[0].error.contains("checksum"), "{}", dead[0].error);
    assert!(dead[1].error.contains("format 255"), "{}", dead[1].error);
    let _ = queue.close(SECOND).await;
    let kept: i64 = Connection::open(bench.path())
        .unwrap()
        .query_row("SELECT count(*) FROM dead WHERE length(data) > 10", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 2, "with their bytes, for whoever can make sense of them");
}

#[tokio::test]
async fn a_damaged_page_costs_its_batch_and_no_other() {
    let bench = Bench::new();
    let big = |n: u32| format!("{n}{}", "x".repeat(20_000));
    let items = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sees = std::sync::Arc::clone(&items);
    let handler = move || {
        let sees = std::sync::Arc::clone(&sees);
        relaykit_pipeline_traits::handler_fn(move |batch: &[String], _cx| {
            sees.lock().unwrap().extend(batch.iter().map(|item| item[..1].to_owned()));
            let done =
                relaykit_pipeline_traits::BatchOutcome::<(), std::convert::Infallible>::all_done(batch.len());
            Box::pin(async move { done })
        })
    };
    let builder = || Queue::builder(bench.path(), handler()).max_items(1).ballast_bytes(0);
    let queue = builder().open().unwrap();
    queue.pause();
    for n in 1..=5 {
        queue.push(big(n)).await.unwrap();
    }
    let _ = queue.close(SECOND).await;
    // The third batch's bytes go on in other pages; the number of the first of them is damaged.
    let mut file = std::fs::read(bench.path()).unwrap();
    let start = file.windows(10).position(|bytes| bytes == &big(3).as_bytes()[..10]).unwrap();
    let rest = start + 1 + file[start + 1..].iter().position(|byte| *byte != b'x').unwrap();
    file[rest..rest + 4].copy_from_slice(&0x7FFF_FF00_u32.to_be_bytes());
    std::fs::write(bench.path(), file).unwrap();
    let queue = builder().open().unwrap();
    until(|| queue.stats().processed == 4 && queue.stats().died == 1).await;
    queue.list(0, 0).await.unwrap();
    assert_eq!(*items.lock().unwrap(), ["1", "2", "4", "5"]);
    let dead = queue.dead_letters(0, 10).await.unwrap();
    assert_eq!(
        (dead.len(), dead[0].reason, dead[0].items, dead[0].bytes),
        (1, DeadReason::Undecodable, 1, 0)
    );
    assert_eq!(queue.stats().stored_items, 0);
    let _ = queue.close(SECOND).await;
    // It is set aside once, not at each start.
    let queue = builder().open().unwrap();
    queue.push_durable(big(6)).await.unwrap();
    until(|| queue.stats().processed == 1).await;
    assert_eq!((queue.stats().stored_items, queue.dead_letters(0, 10).await.unwrap().len()), (0, 1));
}

#[tokio::test]
async fn a_file_without_its_log_is_not_taken_for_whole() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).open().unwrap();
    queue.pause();
    queue.push_durable(1).await.unwrap();
    // It was written back to the file once, so that the file knows that it was not closed.
    let copy = crash(&bench, &bench.path(), "copy.db");
    {
        let connection = Connection::open(&copy).unwrap();
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    }
    let _ = std::fs::remove_file(bench.dir.path().join("copy.db-wal"));
    let script = Script::done();
    let error = open_at(&bench, &copy, &script).open().unwrap_err();
    assert!(matches!(&error, OpenError::LogMissing { path } if *path == copy), "{error:?}");
    let queue = open_at(&bench, &copy, &script).accept_loss(true).open().unwrap();
    until(|| queue.stats().processed == 1).await;
}

#[tokio::test]
async fn a_close_that_cannot_be_noted_keeps_the_log_and_the_file_can_be_opened() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).open().unwrap();
    queue.pause();
    queue.push_durable(1).await.unwrap();
    let _ = queue.close(SECOND).await;
    // As if the disk failed at the last commit, for the close and for what is dropped.
    let refuses = "CREATE TRIGGER refuses BEFORE UPDATE OF clean ON state WHEN NEW.clean = 1
                   BEGIN SELECT RAISE(ABORT, 'the disk failed'); END";
    tamper(&bench.path(), refuses);
    for closes in [true, false] {
        let hangs = Script::new(|_, _| Reaction::Hang);
        let queue = loop {
            match bench.builder(&hangs).open() {
                Err(OpenError::AlreadyOpen { .. }) => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        hangs.calls(1).await;
        if closes {
            assert!(queue.close(Duration::ZERO).await.file_closed);
        }
    }
    let script = Script::done();
    let queue = loop {
        match bench.builder(&script).open() {
            Err(OpenError::AlreadyOpen { .. }) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    until(|| queue.stats().processed == 1).await;
}

#[tokio::test]
async fn a_file_whose_rows_lead_elsewhere_is_refused() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).open().unwrap();
    queue.pause();
    for item in 1..=3 {
        queue.push_durable(item).await.unwrap();
    }
    let _ = queue.close(SECOND).await;
    // As one flipped bit in a list of rows has it: the row is read from a place where there is none, and as empty.
    let change = |from: &str, to: &str| {
        format!(
            "PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = replace(sql, '{from}', '{to}') WHERE name = 'batches';"
        )
    };
    tamper(&bench.path(), &change("due INTEGER NOT NULL", "due INTEGER"));
    tamper(&bench.path(), "UPDATE batches SET due = NULL WHERE id = 2");
    tamper(&bench.path(), &change("due INTEGER,", "due INTEGER NOT NULL,"));
    let error = bench.builder(&Script::done()).open().unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_of_which_a_page_tells_of_fewer_rows_than_it_has_is_refused() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).max_items(1).open().unwrap();
    queue.pause();
    queue.push_all(0..20).await.unwrap();
    queue.flush().await.unwrap();
    let _ = queue.close(SECOND).await;
    let page = "SELECT rootpage FROM sqlite_schema WHERE name = 'batches'";
    let page: u32 = Connection::open(bench.path()).unwrap().query_row(page, [], |row| row.get(0)).unwrap();
    let mut bytes = std::fs::read(bench.path()).unwrap();
    // The header of a page of rows: its type, and at the third byte how many there are.
    let at = usize::try_from(page - 1).unwrap() * 4_096;
    assert_eq!(bytes[at..at + 5], [13, bytes[at + 1], bytes[at + 2], 0, 20]);
    bytes[at + 4] ^= 4;
    std::fs::write(bench.path(), bytes).unwrap();
    let error = bench.builder(&Script::done()).open().unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn what_was_on_its_way_does_not_overtake_what_the_disk_refused() {
    let bench = Bench::new();
    let queue =
        bench.builder(&Script::new(|batch, _| each(batch, |_| Verdict::Dead(Oops::Bad)))).open().unwrap();
    queue.push_durable(0).await.unwrap();
    until(|| queue.stats().dead_items == 1).await;
    let _ = queue.close(SECOND).await;
    // What is sealed within the next half second cannot be stored while there is a dead letter.
    let early = bench.clock.now().as_micros() + 500_000;
    tamper(
        &bench.path(),
        &format!(
            "CREATE TRIGGER refuses BEFORE INSERT ON batches
             WHEN NEW.added_at < {early} AND (SELECT count(*) FROM dead) > 0
             BEGIN SELECT RAISE(ABORT, 'the disk failed'); END"
        ),
    );
    // The writer's thread waits while it tells of the refusal, so that the next batch is handed over behind the refused one.
    let (fails, failed) = std::sync::mpsc::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel();
    let goes_on = std::sync::Mutex::new(goes_on);
    let script = Script::done();
    let queue = bench
        .builder(&script)
        .max_items(3)
        .on_fault(move |_| {
            fails.send(()).unwrap();
            goes_on.lock().unwrap().recv().unwrap();
        })
        .open()
        .unwrap();
    for item in 1..=3 {
        queue.push(item).await.unwrap();
    }
    until(|| failed.try_recv().is_ok()).await;
    bench.clock.advance(SECOND);
    queue.push(4).await.unwrap();
    queue.push(5).await.unwrap();
    let pushes = queue.clone();
    let durable = tokio::spawn(async move { pushes.push_durable(6).await });
    until(|| queue.stats().buffered_items == 6).await;
    go_on.send(()).unwrap();
    // Whoever waits gets the item back at once; the others stay, and do not overtake.
    let refused = durable.await.unwrap().unwrap_err();
    assert_eq!(refused.item, Some(6));
    assert_eq!((queue.stats().stored_items, queue.stats().buffered_items), (0, 5));
    assert_eq!(script.items(), [0; 0]);
    // The disk works again.
    let dead = queue.dead_letters(0, 10).await.unwrap();
    queue.purge(&[dead[0].id]).await.unwrap();
    until(|| {
        bench.clock.advance(SECOND);
        queue.stats().processed == 5
    })
    .await;
    assert_eq!(script.items(), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_flush_during_a_close_on_a_failing_disk_ends() {
    let bench = Bench::new();
    let queue = bench.builder(&Script::done()).open().unwrap();
    queue.pause();
    queue.push_durable(1).await.unwrap();
    let _ = queue.close(SECOND).await;
    tamper(
        &bench.path(),
        "CREATE TRIGGER refuses BEFORE INSERT ON batches BEGIN SELECT RAISE(ABORT, 'the disk failed'); END",
    );
    let hangs = Script::new(|_, _| Reaction::Hang);
    let queue = bench.builder(&hangs).open().unwrap();
    hangs.calls(1).await;
    queue.push(2).await.unwrap();
    let closes = queue.clone();
    let close = tokio::spawn(async move { closes.close(SECOND).await });
    until(|| queue.try_push(3).is_err()).await;
    // What was pushed is refused by then.
    queue.list(0, 0).await.unwrap();
    let flushes = queue.clone();
    let flush = tokio::spawn(async move { flushes.flush().await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    bench.clock.advance(SECOND);
    assert!(close.await.unwrap().unsaved.contains(&2));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(flush.is_finished(), "nobody answers it any more");
    assert!(flush.await.unwrap().is_err());
}

#[tokio::test]
async fn a_foreign_or_damaged_file_is_an_error_and_stays_as_it_is() {
    let bench = Bench::new();
    let script = Script::done();
    let foreign = bench.dir.path().join("foreign.db");
    tamper(&foreign, "CREATE TABLE precious (x); INSERT INTO precious VALUES (1)");
    let error = open_at(&bench, &foreign, &script).recreate_corrupt(true).open().unwrap_err();
    assert!(matches!(error, OpenError::Foreign { application_id: 0, .. }), "{error:?}");
    let rows: i64 = Connection::open(&foreign)
        .unwrap()
        .query_row("SELECT count(*) FROM precious", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 1);

    let later = bench.dir.path().join("later.db");
    let _ = open_at(&bench, &later, &script).open().unwrap().close(SECOND).await;
    tamper(&later, "PRAGMA user_version = 2");
    let error = open_at(&bench, &later, &script).open().unwrap_err();
    assert!(matches!(error, OpenError::Version { found: 2, .. }), "{error:?}");

    let notes = bench.dir.path().join("notes.txt");
    let text = "these are notes, not pages. ".repeat(100);
    std::fs::write(&notes, &text).unwrap();
    let error = open_at(&bench, &notes, &script).open().unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
    assert_eq!(std::fs::read_to_string(&notes).unwrap(), text);
    let queue = open_at(&bench, &notes, &script).recreate_corrupt(true).open().unwrap();
    assert_eq!(std::fs::read_to_string(bench.dir.path().join("notes.txt.corrupt-1")).unwrap(), text);
    queue.push_durable(1).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_queues_files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let bench = Bench::new();
    let queue = Queue::builder(bench.path(), Script::done()).ballast_bytes(100_000).open().unwrap();
    queue.push_durable(1).await.unwrap();
    let ballast = bench.dir.path().join("queue.db.ballast");
    until(|| ballast.metadata().is_ok_and(|found| found.len() == 100_000)).await;
    for entry in bench.dir.path().read_dir().unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn a_backlog_larger_than_memory_is_lent_in_order() {
    let bench = Bench::new();
    let builder = |script: &Script| {
        bench.builder(script).durability(Durability::ProcessCrashOnly).max_items(10).memory_bytes(4_000)
    };
    let queue = builder(&Script::done()).open().unwrap();
    queue.pause();
    queue.push_all(0..50_000).await.unwrap();
    let _ = queue.close(SECOND).await;
    let script = Script::done();
    let queue = builder(&script).batches(3).open().unwrap();
    // More come while it is worked off.
    for item in 50_000..51_000 {
        queue.push(item).await.unwrap();
        if item % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    queue.flush().await.unwrap();
    until(|| queue.stats().processed == 51_000).await;
    assert_eq!(script.items(), (0..51_000).collect::<Vec<_>>());
    let stats = queue.stats();
    assert_eq!((stats.stored_items, stats.stored_batches, stats.stored_bytes), (0, 0, 0));
}

#[tokio::test]
async fn space_is_given_back_after_a_backlog_is_gone() {
    let bench = Bench::new();
    let script = Script::done();
    let queue =
        bench.builder(&script).durability(Durability::ProcessCrashOnly).max_items(1_000).open().unwrap();
    queue.pause();
    queue.push_all(0..1_000_000).await.unwrap();
    queue.flush().await.unwrap();
    let length = || bench.path().metadata().unwrap().len();
    assert!(length() > 5_000_000, "{} bytes", length());
    queue.resume();
    until(|| queue.stats().processed == 1_000_000).await;
    for _ in 0..100 {
        bench.clock.advance(SECOND);
        queue.list(0, 0).await.unwrap();
    }
    let _ = queue.close(SECOND).await;
    assert!(length() < 3_000_000, "{} bytes", length());
}

/// A file system of two megabytes, gone with the test. `None` if this machine does not allow one.
struct SmallDisk {
    at: tempfile::TempDir,
}

impl SmallDisk {
    fn new() -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(at.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { at });
        }
        #[expect(clippy::print_stdout, reason = "a skip is said aloud")]
        {
            println!("SKIPPED: needs the right to mount a tmpfs");
        }
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.at.path()).output();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_pushes_but_never_removal_and_pushes_work_again_when_there_is_room() {
    let Some(disk) = SmallDisk::new() else { return };
    let bench = Bench::new();
    let path = disk.at.path().join("queue.db");
    let items = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counts = std::sync::Arc::clone(&items);
    let handler = relaykit_pipeline_traits::handler_fn(move |batch: &[String], _cx| {
        counts.fetch_add(batch.len() as u64, std::sync::atomic::Ordering::SeqCst);
        let done =
            relaykit_pipeline_traits::BatchOutcome::<(), std::convert::Infallible>::all_done(batch.len());
        Box::pin(async move { done })
    });
    let queue =
        Queue::builder(&path, handler).clock(bench.clock.clone()).ballast_bytes(300_000).open().unwrap();
    until(|| disk.at.path().join("queue.db.ballast").metadata().is_ok_and(|found| found.len() == 300_000))
        .await;
    for round in 0..3 {
        queue.pause();
        let mut stored = queue.stats().stored_items;
        let refused = loop {
            match queue.push_durable("x".repeat(10_000)).await {
                Ok(()) => stored += 1,
                Err(refused) => break refused,
            }
            assert!(stored < 1_000, "the disk is not full");
        };
        assert_eq!(refused.reason, RejectReason::StorageFull, "round {round}");
        assert_eq!(refused.item.map(|item| item.len()), Some(10_000), "it comes back");
        assert_eq!(queue.stats().stored_items, stored, "what was accepted before is there");
        // Somebody else takes the very last of it.
        let _ = std::fs::write(disk.at.path().join("other"), vec![1; 2_000_000]);
        let before = items.load(std::sync::atomic::Ordering::SeqCst);
        queue.resume();
        while queue.stats().stored_items > 0 {
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            bench.clock.advance(SECOND);
        }
        assert_eq!(items.load(std::sync::atomic::Ordering::SeqCst) - before, stored, "each was handled once");
        let _ = std::fs::remove_file(disk.at.path().join("other"));
        bench.clock.advance(SECOND);
        queue.pause();
        while let Err(refused) = queue.push_durable("y".to_owned()).await {
            assert_eq!(refused.reason, RejectReason::StorageFull);
            for _ in 0..1_000 {
                tokio::task::yield_now().await;
            }
            bench.clock.advance(SECOND);
        }
        // The first room that there is again belongs to the ballast.
        assert_eq!(disk.at.path().join("queue.db.ballast").metadata().unwrap().len(), 300_000);
    }
    assert!(queue.close(SECOND).await.file_closed);
}
