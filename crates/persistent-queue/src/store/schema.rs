use relaykit_sql_store::sqlite::rusqlite::{Connection, Result};

/// Marks the file as a queue of ours: "rkqu".
pub(crate) const APPLICATION_ID: i32 = 0x726b_7175;
/// The version of the tables.
pub(crate) const SCHEMA: i32 = 1;

const TABLES: &str = "
CREATE TABLE batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    added_at INTEGER NOT NULL,
    due INTEGER NOT NULL,
    delay INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    deaths INTEGER NOT NULL,
    first_failed_at INTEGER,
    items INTEGER NOT NULL,
    tries BLOB,
    data BLOB NOT NULL
) STRICT;
CREATE INDEX batches_due ON batches (due) WHERE due > 0;
CREATE TABLE claims (id INTEGER PRIMARY KEY) STRICT;
CREATE TABLE damaged (id INTEGER PRIMARY KEY) STRICT;
CREATE VIEW live AS SELECT * FROM batches WHERE id NOT IN (SELECT id FROM damaged);
CREATE TABLE dead (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    reason TEXT NOT NULL,
    error TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    items INTEGER NOT NULL,
    added_at INTEGER NOT NULL,
    first_failed_at INTEGER,
    died_at INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE TABLE state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    clean INTEGER NOT NULL,
    in_flight INTEGER NOT NULL
) STRICT;
INSERT INTO state VALUES (1, 1, 0);
";

/// Why a file is no queue that this version can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Foreign {
    Application(i32),
    Schema(i32),
}

/// Reads whose file it is. A new one is nobody's.
pub(crate) fn owner(connection: &Connection) -> Result<std::result::Result<bool, Foreign>> {
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let schema: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match (application, schema, tables) {
        (0, 0, 0) => Ok(false),
        (APPLICATION_ID, SCHEMA, _) => Ok(true),
        (APPLICATION_ID, later, _) => Err(Foreign::Schema(later)),
        (other, _, _) => Err(Foreign::Application(other)),
    })
}

/// Makes the tables.
pub(crate) fn create(connection: &Connection) -> Result<()> {
    let marks = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA};");
    connection.execute_batch(&format!("BEGIN IMMEDIATE; {TABLES} {marks} COMMIT"))
}
