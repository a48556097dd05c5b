//! A SQLite file that others write too: how it is opened, written, read and migrated.
#![cfg(all(feature = "sqlite", feature = "leases"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_pipeline_traits::{Classify as _, ManualClock};
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult};
use relaykit_sql_store::sqlite::{
    Database, LEASE_MIGRATION, LEASE_TABLES, Location, Options, Request, Sharing, SqliteError, Writer,
    WriterOptions, migrate, migration_sql, open, verify, version,
};
use relaykit_sql_store::{
    Difference, Migrated, Migration, Names, Schema, SchemaError, StoreError, TableForm,
};
use tempfile::TempDir;

static TWO: [Migration; 2] = [
    Migration {
        version: 1,
        name: "tables",
        parts: &[
            "create table {messages} (id integer primary key); ",
            "create index {=messages_id} on {messages} (id); ",
        ],
    },
    Migration {
        version: 2,
        name: "somebody's column",
        parts: &["alter table {messages} add column at integer;
            with recursive n(n) as (select 1 union all select n + 1 from n where n < {#rows})
            insert into {messages} (id) select n from n;"],
    },
];

static BROKEN: [Migration; 3] = [
    TWO[0],
    TWO[1],
    Migration {
        version: 3,
        name: "broken",
        parts: &["create table {more} (id int); select * from nowhere;"],
    },
];

static LEASES: [Migration; 1] = [Migration { version: 1, name: "leases", parts: &[LEASE_MIGRATION] }];

const FORM: [TableForm; 1] = [TableForm {
    name: "messages",
    columns: &[("id", "integer"), ("at", "integer")],
    indexes: &["messages_id"],
}];

struct File(TempDir);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("file.db")
    }

    fn database(&self) -> Database {
        let builder = Database::builder(self.path(), ManualClock::new());
        builder.busy_timeout(Duration::from_millis(50)).open().unwrap()
    }

    /// Opens it as somebody else does.
    fn other(&self) -> Connection {
        connect(&self.path())
    }
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn schema(migrations: &'static [Migration]) -> Schema {
    // A schema that is set for Postgres means nothing here.
    let names = Names::new("t").unwrap().in_schema("app").unwrap();
    Schema::new(names, migrations, &FORM).with_number("rows", 3)
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let file = File::new();
    let (database, schema) = (file.database(), schema(&TWO));
    assert_eq!(version(&database, &schema).await.unwrap(), 0);
    assert_eq!(migrate(&database, &schema).await.unwrap(), Migrated { from: 0, to: 2 });
    assert_eq!(migrate(&database, &schema).await.unwrap(), Migrated { from: 2, to: 2 });
    let other = file.other();
    assert_eq!(number(&other, "select count(*) from t_messages"), 3);
    assert_eq!(number(&other, "select count(*) from t_schema where name = 'somebody''s column'"), 1);
    assert_eq!(verify(&database, &schema).await.unwrap(), []);
}

#[tokio::test]
async fn only_what_is_missing_is_migrated_and_older_tables_are_reported() {
    let file = File::new();
    let database = file.database();
    migrate(&database, &schema(&TWO[..1])).await.unwrap();
    let error = verify(&database, &schema(&TWO)).await.unwrap_err();
    let older =
        StoreError::Schema { op: "verify tables", source: SchemaError::Older { found: 1, wanted: 2 } };
    assert_eq!(format!("{error:?}"), format!("{older:?}"));
    assert_eq!(migrate(&database, &schema(&TWO)).await.unwrap(), Migrated { from: 1, to: 2 });
    let error = migrate(&database, &schema(&TWO[..1])).await.unwrap_err();
    assert!(matches!(error, StoreError::Schema { source: SchemaError::Newer { found: 2, known: 1 }, .. }));
    file.other().execute_batch("drop index t_messages_id").unwrap();
    let index = Difference::Index { table: "\"t_messages\"".into(), index: "t_messages_id".into() };
    assert_eq!(verify(&database, &schema(&TWO)).await.unwrap(), [index]);
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing() {
    let file = File::new();
    let database = file.database();
    assert!(migrate(&database, &schema(&BROKEN)).await.is_err());
    assert_eq!(number(&file.other(), "select count(*) from sqlite_schema"), 0);
    assert_eq!(migrate(&database, &schema(&TWO)).await.unwrap(), Migrated { from: 0, to: 2 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrators_take_turns() {
    let file = File::new();
    let databases: Vec<_> = (0..4)
        .map(|_| {
            let builder = Database::builder(file.path(), ManualClock::new());
            builder.busy_timeout(Duration::from_secs(10)).open().unwrap()
        })
        .collect();
    let tasks: Vec<_> = databases
        .into_iter()
        .map(|database| tokio::spawn(async move { migrate(&database, &schema(&TWO)).await }))
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().to, 2);
    }
    assert_eq!(number(&file.other(), "select count(*) from t_messages"), 3);
}

#[tokio::test]
async fn the_script_makes_the_same_tables_and_stops_where_it_has_been_applied() {
    let (file, copy) = (File::new(), File::new());
    migrate(&file.database(), &schema(&TWO)).await.unwrap();
    let other = copy.other();
    other.execute_batch(&migration_sql(&schema(&TWO), 0)).unwrap();
    let tables = |connection: &Connection| -> Vec<String> {
        let mut select = connection.prepare("select sql from sqlite_schema order by name").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(tables(&file.other()), tables(&other));
    assert!(other.execute_batch(&migration_sql(&schema(&TWO), 0)).is_err());
    other.execute_batch("rollback").unwrap();
    assert_eq!(migrate(&copy.database(), &schema(&TWO)).await.unwrap(), Migrated { from: 2, to: 2 });
    let since = migration_sql(&schema(&TWO), 1);
    assert!(!since.contains("create table \"t_messages\"") && since.contains("add column at"), "{since}");
}

#[tokio::test]
async fn the_tables_of_leases_are_as_they_must_be() {
    let file = File::new();
    let names = Names::new("t").unwrap();
    let schema = Schema::new(names, &LEASES, &LEASE_TABLES).with_number("shards", 5);
    migrate(&file.database(), &schema).await.unwrap();
    assert_eq!(verify(&file.database(), &schema).await.unwrap(), []);
    assert_eq!(number(&file.other(), "select count(*) + max(shard) from t_shards where token = 0"), 9);
}

#[tokio::test]
async fn a_file_is_shared_with_others_that_write_unless_they_lock_it() {
    let file = File::new();
    let database = file.database();
    let other = file.other();
    other.execute_batch("create table t (v); insert into t values (1)").unwrap();
    let write = |connection: &Connection| connection.execute("insert into t values (2)", []);
    assert_eq!(database.write("write", write).await.unwrap(), 1);
    other.execute_batch("insert into t values (3)").unwrap();
    let count =
        |connection: &Connection| connection.query_row("select count(*) from t", [], |row| row.get(0));
    assert_eq!(database.read::<i64, _>("read", count).await.unwrap(), 3);
    let location = Location::file(file.path());
    assert!(open(&location, &Options::default()).is_err(), "nobody can have it alone");
    drop((database, other));
    let alone = File::new();
    let location = Location::file(alone.path());
    let mut options = Options::default();
    let _locked = open(&location, &options).unwrap();
    options.sharing = Sharing::Shared;
    assert!(open(&location, &options).is_err());
    let error =
        Database::builder(alone.path(), ManualClock::new()).busy_timeout(Duration::ZERO).open().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }) && error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn a_reader_writes_nothing_and_sees_one_moment() {
    let file = File::new();
    let (database, other) = (file.database(), file.other());
    other.execute_batch("create table t (v)").unwrap();
    let error = database.read("read", |connection| connection.execute("insert into t values (1)", [])).await;
    assert!(matches!(error.unwrap_err(), StoreError::Denied { .. }));
    let counts = database
        .read("read", move |connection| {
            let count = || connection.query_row("select count(*) from t", [], |row| row.get(0));
            let before: i64 = count()?;
            other.execute_batch("insert into t values (1)")?;
            Ok((before, count()?))
        })
        .await
        .unwrap();
    assert_eq!(counts, (0, 0));
    assert_eq!(number(&file.other(), "select count(*) from t"), 1);
}

#[tokio::test]
async fn who_panics_is_told_and_takes_nobody_along() {
    let file = File::new();
    let database = file.database();
    file.other().execute_batch("create table t (v)").unwrap();
    let write = |connection: &Connection| -> Result<(), _> {
        connection.execute("insert into t values (1)", [])?;
        panic!("a bad day");
    };
    assert!(matches!(database.write("write", write).await, Err(StoreError::Rejected { .. })));
    let read = |_: &Connection| -> Result<(), _> { panic!("a bad day") };
    assert!(matches!(database.read("read", read).await, Err(StoreError::Rejected { .. })));
    let count =
        |connection: &Connection| connection.query_row("select count(*) from t", [], |row| row.get(0));
    assert_eq!(database.read::<i64, _>("read", count).await.unwrap(), 0);
    assert_eq!(database.write::<i64, _>("count", count).await.unwrap(), 0);
}

#[tokio::test]
async fn unused_pages_of_a_shared_file_are_left_to_its_owner() {
    let file = File::new();
    let other = file.other();
    other.execute_batch("pragma auto_vacuum = incremental; create table t (v)").unwrap();
    let clock = ManualClock::new();
    let database = Database::builder(file.path(), clock.clone()).open().unwrap();
    let load = |connection: &Connection| {
        let rows = "with recursive n(n) as (select 1 union all select n + 1 from n where n < 40)";
        connection
            .execute_batch(&format!("{rows} insert into t select zeroblob(100000) from n; delete from t"))
    };
    database.write("fill", load).await.unwrap();
    let unused = || number(&other, "select freelist_count from pragma_freelist_count");
    let before = unused();
    assert!(before > 900, "{before}");
    for _ in 0..5 {
        clock.advance(Duration::from_secs(2));
        let insert = |connection: &Connection| connection.execute("insert into t values (1)", []);
        database.write("insert", insert).await.unwrap();
    }
    assert!(unused() > before - 5, "{}", unused());
}

/// Held while the busy writer is to wait.
static GATE: Mutex<()> = Mutex::new(());
static WAITS: AtomicU32 = AtomicU32::new(0);

fn give_up(_times: i32) -> bool {
    drop(GATE.lock());
    WAITS.fetch_add(1, Ordering::SeqCst);
    false
}

struct Nothing(Sender<Result<(), SqliteError>>);

impl Request for Nothing {
    fn run(&mut self, _transaction: &Connection) -> SqlResult<()> {
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let _ = self.0.send(result);
    }
}

#[test]
fn requests_that_wait_together_wait_once_for_a_busy_file() {
    let file = File::new();
    let location = Location::file(file.path());
    let mut options = Options::default();
    options.sharing = Sharing::Shared;
    let mut connection = open(&location, &options).unwrap();
    connection.busy_handler(Some(give_up)).unwrap();
    let writer = Writer::start(connection, Arc::new(ManualClock::new()), WriterOptions::default()).unwrap();
    let other = file.other();
    other.execute_batch("begin immediate").unwrap();
    let (tell, told) = channel();
    let gate = GATE.lock().unwrap();
    // The first is waiting while the others come.
    for _ in 0..6 {
        writer.submit(Box::new(Nothing(tell.clone())));
    }
    drop(gate);
    for _ in 0..6 {
        assert!(matches!(told.recv().unwrap(), Err(SqliteError::Busy { .. })));
    }
    assert!(WAITS.load(Ordering::SeqCst) <= 2, "{WAITS:?}");
    other.execute_batch("commit").unwrap();
    writer.submit(Box::new(Nothing(tell)));
    assert!(told.recv().unwrap().is_ok());
}
