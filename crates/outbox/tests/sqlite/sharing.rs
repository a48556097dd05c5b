use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use relaykit_outbox::sqlite::{Database, SqliteOutbox, SqliteOutboxStore};
use relaykit_outbox::{AddError, DeadReason, Dying, Limits, OutboxStore as _, Settlement};
use relaykit_pipeline_traits::{Classify as _, ManualClock, Message, MessageId, Rng, Timestamp};
use relaykit_sql_store::{OpenTransactions, Shards, StoreError};

use crate::common::{Harness, connect, database, names, row};

#[tokio::test]
async fn a_file_that_somebody_writes_is_busy_for_a_while_and_readable_all_the_time() {
    let mut h = Harness::new().await;
    h.add("a", "1");
    h.application.execute_batch("begin immediate; insert into orders values (1)").unwrap();
    assert_eq!(h.ready().await, ["1"], "polling waits for nobody");
    let settlement = Settlement { done: vec![row(1)], ..h.settlement() };
    // Several at once are one group, and wait once.
    let settled = [h.store.settle(&settlement), h.store.settle(&settlement), h.store.settle(&settlement)];
    for settled in futures_util::future::join_all(settled).await {
        let error = settled.unwrap_err();
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
        assert!(error.is_transient() && !error.is_in_doubt());
    }
    h.application.execute_batch("commit").unwrap();
    assert_eq!(h.ready().await, ["1"], "nothing of it was written");
    assert_eq!(h.store.settle(&settlement).await.unwrap().written, 1);
    assert_eq!(h.ready().await, [""; 0]);
}

#[tokio::test]
async fn an_application_that_finds_the_file_busy_learns_that_it_may_try_again() {
    let mut h = Harness::new().await;
    let (message, other) = (h.message("a", "1"), connect(&h.path()));
    other.busy_timeout(Duration::ZERO).unwrap();
    h.application.execute_batch("begin immediate").unwrap();
    let error = h.outbox.add(&other, &message).unwrap_err();
    assert!(matches!(error, AddError::Store(StoreError::Conflict { .. })) && error.is_transient(), "{error}");
    let error = h.outbox.add_all(&other, std::slice::from_ref(&message)).unwrap_err();
    assert!(matches!(error, AddError::Store(StoreError::Conflict { .. })), "{error}");
    assert!(other.is_autocommit(), "no transaction was left open");
    h.application.execute_batch("commit").unwrap();
    h.outbox.add(&other, &message).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_others_write_and_the_relay_settles() {
    const EACH: usize = 150;
    let h = Harness::new().await;
    let (tell, told) = mpsc::channel::<()>();
    let threads: Vec<_> = (0..2)
        .map(|thread: u64| {
            let (path, outbox, tell) = (h.path(), h.outbox.clone(), tell.clone());
            let mut rng = Rng::seeded(thread);
            std::thread::spawn(move || {
                let connection = connect(&path);
                for number in 0..EACH {
                    let at = Timestamp::from_millis(1);
                    let id = MessageId::new(at, &mut rng);
                    let message = Message::builder(id, "k", at)
                        .ordering_key(format!("t{thread}"))
                        .payload(format!("{thread}/{number:04}"))
                        .build()
                        .unwrap();
                    connection.execute_batch("begin immediate").unwrap();
                    outbox.add(&connection, &message).unwrap();
                    // Some of them change their mind.
                    if number % 5 == 0 {
                        connection.execute_batch("rollback").unwrap();
                    } else {
                        connection.execute_batch("commit").unwrap();
                    }
                }
                drop(tell);
            })
        })
        .collect();
    drop(tell);
    let mut sent: Vec<String> = Vec::new();
    loop {
        let ended = matches!(told.try_recv(), Err(mpsc::TryRecvError::Disconnected));
        let page = h.page_after(0, 20).await;
        let seqs: Vec<_> = page.rows.iter().map(|stored| stored.row.seq.0).collect();
        sent.extend(
            page.rows.iter().map(|stored| String::from_utf8(stored.message.payload().to_vec()).unwrap()),
        );
        if seqs.is_empty() {
            if ended {
                break;
            }
            tokio::task::yield_now().await;
            continue;
        }
        // The file may be busy for longer than this store waits.
        let done: Vec<_> = page.rows.iter().map(|stored| stored.row).collect();
        let settlement = Settlement { done, ..h.settlement() };
        loop {
            match h.store.settle(&settlement).await {
                Ok(settled) => break assert_eq!(settled.written, seqs.len() as u64),
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    for thread in 0..2 {
        let of: Vec<_> = sent.iter().filter(|payload| payload.starts_with(&format!("{thread}/"))).collect();
        let wanted: Vec<_> = (0..EACH)
            .filter(|number| number % 5 != 0)
            .map(|number| format!("{thread}/{number:04}"))
            .collect();
        assert_eq!(of, wanted.iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_dropped_call_is_done_as_a_whole_or_not_at_all() {
    let mut h = Harness::new().await;
    for round in 0..20 {
        for number in 0..5 {
            h.add(&format!("k{number}"), "x");
        }
        let rows: Vec<_> = h.page().await.rows.iter().map(|stored| stored.row).collect();
        let before = rows.len();
        let (done, dying) = rows.split_at(before / 2);
        let dead = dying.iter().map(|place| Dying {
            row: *place,
            attempts: 1,
            reason: DeadReason::Rejected,
            error: String::new(),
        });
        let settlement = Settlement { done: done.to_vec(), dead: dead.collect(), ..h.settlement() };
        let mut call = Box::pin(h.store.settle(&settlement));
        let polled = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_ready())).await;
        drop(call);
        // The next write comes after it.
        h.retry(-1, 0, Duration::ZERO).await;
        let (left, dead) = (h.page().await.rows.len(), h.number("select count(*) from outbox_dead"));
        assert_eq!(left, 0, "round {round}, polled to its end: {polled}");
        assert_eq!(usize::try_from(dead).unwrap(), dying.len());
        h.application.execute_batch("delete from outbox_dead").unwrap();
    }
}

#[tokio::test]
async fn a_call_that_fails_half_way_leaves_nothing() {
    let mut h = Harness::new().await;
    for payload in ["1", "2", "3"] {
        h.add("", payload);
    }
    let full = "create trigger full before insert on outbox_dead begin select raise(rollback, 'no'); end";
    h.application.execute_batch(full).unwrap();
    let settlement = Settlement {
        done: vec![row(1)],
        dead: [2, 3]
            .map(|seq| Dying {
                row: row(seq),
                attempts: 1,
                reason: DeadReason::Rejected,
                error: String::new(),
            })
            .into(),
        ..h.settlement()
    };
    assert!(h.store.settle(&settlement).await.is_err());
    assert_eq!(h.ready().await, ["1", "2", "3"]);
    h.application.execute_batch("drop trigger full").unwrap();
    assert_eq!(h.store.settle(&settlement).await.unwrap().written, 3);
}

#[tokio::test]
async fn a_call_ends_with_its_timeout() {
    let h = Harness::new().await;
    let clock = ManualClock::new();
    let database = Database::builder(h.path(), clock.clone());
    let database = database.busy_timeout(Duration::from_secs(5)).call_timeout(Duration::from_secs(9));
    let store = SqliteOutboxStore::new(database.open().unwrap(), &names(), h.shards);
    h.application.execute_batch("begin immediate").unwrap();
    let settlement = h.settlement();
    let call = store.settle(&settlement);
    let advance = async {
        clock.until_sleepers(1).await;
        clock.advance(Duration::from_secs(9));
    };
    let (settled, ()) = futures_util::future::join(call, advance).await;
    let error = settled.unwrap_err();
    assert!(matches!(error, StoreError::Timeout { .. }) && error.is_in_doubt(), "{error}");
    h.application.execute_batch("commit").unwrap();
    store.settle(&settlement).await.unwrap();
}

#[tokio::test]
async fn a_path_is_taken_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["with space.db", "a#b.db", "a%20b.db", "a?mode=ro.db", "file:x.db", ":memory:"] {
        let (path, clock) = (directory.path().join(name), ManualClock::new());
        let store = SqliteOutboxStore::new(database(&path, &clock), &names(), Shards::default());
        store.migrate().await.unwrap();
        assert!(path.exists(), "{name}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            for file in [path.clone(), directory.path().join(format!("{name}-wal"))] {
                assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
            }
        }
    }
    assert_eq!(
        std::fs::read_dir(directory.path())
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
                !name.ends_with("-wal") && !name.ends_with("-shm")
            })
            .count(),
        6
    );
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_neither_written_nor_read() {
    let mut h = Harness::new().await;
    h.add("a", "1");
    assert_eq!(h.ready().await, ["1"]);
    std::fs::rename(h.path(), h.directory.path().join("moved.db")).unwrap();
    h.clock.advance(Duration::from_secs(2));
    let error = h.store.page(&[], &OpenTransactions::default(), 1).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
    assert!(h.store.settle(&h.settlement()).await.is_err());
}

#[tokio::test]
async fn timeouts_that_make_no_sense_and_files_that_are_no_databases_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("text");
    std::fs::write(&path, "this is no database, but a text that is long enough to have a header".repeat(20))
        .unwrap();
    let builder = || Database::builder(&path, ManualClock::new());
    let refused = |error: StoreError| matches!(error, StoreError::Rejected { .. });
    assert!(refused(builder().open().unwrap_err()));
    assert!(refused(builder().busy_timeout(Duration::from_secs(15)).open().unwrap_err()));
    assert!(refused(builder().call_timeout(Duration::from_secs(3601)).open().unwrap_err()));
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("this is no database"));
}

/// What tells the test below that it is the process to be killed: the file's path.
const WRITE_THIS: &str = "RELAYKIT_TEST_OUTBOX_FILE";

/// Adds an order and its message in one transaction after the other, until the process is killed.
fn add_until_killed(path: &std::path::Path) {
    let connection = connect(path);
    let outbox = SqliteOutbox::new(&names(), Shards::new(1).unwrap(), Limits::default());
    let mut rng = Rng::seeded(u64::from(std::process::id()));
    for number in 0..100_000 {
        let at = Timestamp::from_millis(1);
        let message = Message::builder(MessageId::new(at, &mut rng), "k", at).payload(number.to_string());
        connection.execute_batch("begin immediate").unwrap();
        connection.execute("insert into orders values (null)", []).unwrap();
        outbox.add(&connection, &message.build().unwrap()).unwrap();
        connection.execute_batch("commit").unwrap();
    }
}

#[tokio::test]
async fn a_process_that_is_killed_leaves_orders_and_messages_in_agreement() {
    const NAME: &str = "sharing::a_process_that_is_killed_leaves_orders_and_messages_in_agreement";
    if let Some(path) = std::env::var_os(WRITE_THIS) {
        return add_until_killed(std::path::Path::new(&path));
    }
    let h = Harness::new().await;
    let mut sent = 0;
    for _ in 0..5 {
        let before = h.number("select count(*) from orders");
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(WRITE_THIS, h.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while h.number("select count(*) from orders") < before + 10 {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            // Messages are sent all the while.
            let done: Vec<_> = h.page().await.rows.iter().map(|stored| stored.row).collect();
            if let Ok(settled) = h.store.settle(&Settlement { done, ..h.settlement() }).await {
                sent += settled.written;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let left = u64::try_from(h.number("select count(*) from outbox_messages")).unwrap();
    assert_eq!(u64::try_from(h.number("select count(*) from orders")).unwrap(), sent + left);
    assert!(sent > 0);
}
