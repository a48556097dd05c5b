//! The SQL, and the rows it reads and writes.

use std::collections::HashSet;
use std::time::Duration;

use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::sqlite::rusqlite::config::DbConfig;
use relaykit_sql_store::sqlite::rusqlite::{Connection, Error, OptionalExtension as _, Result, ffi, params};
use relaykit_sql_store::torture::planted;

use crate::dead::{DeadLetter, DeadReason};
use crate::queue::BatchInfo;
use crate::state::{Levels, Oldest};

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

/// A batch that is stored.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) added_at: Timestamp,
    pub(crate) attempts: u32,
    pub(crate) deaths: u32,
    pub(crate) delay: Duration,
    /// When it may be lent, if not at once.
    pub(crate) due: Option<Timestamp>,
    pub(crate) first_failed_at: Option<Timestamp>,
    pub(crate) items: u32,
    /// Attempts of each item, where they differ.
    pub(crate) tries: Option<Vec<u32>>,
    pub(crate) data: Vec<u8>,
}

/// A batch to be stored.
#[derive(Debug)]
pub(crate) struct NewRow<'a> {
    pub(crate) added_at: Timestamp,
    /// When it may be lent; `None` is at once.
    pub(crate) due: Option<Due>,
    pub(crate) items: u32,
    pub(crate) data: &'a [u8],
}

/// When a batch may be lent, and how long that was when it was decided: no step of the clock makes it longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) at: Timestamp,
    pub(crate) delay: Duration,
}

/// What stays of a batch after a call.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) id: i64,
    pub(crate) due: Option<Due>,
    pub(crate) attempts: u32,
    /// Attempts of each item, where they differ.
    pub(crate) tries: Option<Vec<u32>>,
    pub(crate) first_failed_at: Option<Timestamp>,
    /// The items that stay, and their bytes; `None` if all do.
    pub(crate) rest: Option<(u32, Vec<u8>)>,
}

/// What the file held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) stored: Levels,
    pub(crate) oldest: Option<Oldest>,
    pub(crate) next_due: Option<Timestamp>,
    pub(crate) dead_items: u64,
    /// Batches that may have been in flight when the process died; none if the queue was closed.
    pub(crate) suspects: HashSet<i64>,
    /// Items set aside because they crashed the process too often.
    pub(crate) crashed_items: u64,
}

/// The most suspects, whatever the settings were.
const MAX_SUSPECTS: i64 = 100_000;

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

/// Returns whether the queue was closed, rather than left by a crash.
pub(crate) fn was_closed(connection: &Connection) -> Result<bool> {
    connection.query_row("SELECT clean FROM state", [], |row| row.get(0))
}

/// Takes the file over: counts the crash, if there was one, and sets aside what crashed too often. `in_flight` is how many
/// batches may be in flight from now on.
pub(crate) fn take_over(
    connection: &Connection,
    max_crashes: u32,
    in_flight: usize,
    now: Timestamp,
) -> Result<Opened> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let opened = take_over_in(connection, max_crashes, in_flight, now);
    connection.execute_batch(if opened.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    opened
}

fn take_over_in(
    connection: &Connection,
    max_crashes: u32,
    in_flight: usize,
    now: Timestamp,
) -> Result<Opened> {
    let mut crashed_items = 0;
    let mut suspects = HashSet::new();
    if !was_closed(connection)? {
        if planted("counts_no_death") {
            connection.execute_batch("DELETE FROM claims")?;
        }
        connection.execute_batch(
            "UPDATE batches SET deaths = deaths + 1 WHERE id IN (SELECT id FROM claims); DELETE FROM claims",
        )?;
        let mut crashed = connection.prepare("SELECT id, deaths FROM live WHERE deaths > ?1")?;
        let crashed = crashed.query_map([max_crashes], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for (id, deaths) in crashed.collect::<Result<Vec<(i64, u32)>>>()? {
            let error = format!("the process died {deaths} times while it handled this batch");
            crashed_items += bury(connection, id, DeadReason::Crashed, &error, now)?;
        }
        // Batches are lent in the order of their ids, and those that wait in the order of their moments. So whatever was
        // in flight is among the first of both.
        let mut first = connection.prepare(
            "SELECT id FROM (SELECT id FROM live WHERE due = 0 ORDER BY id LIMIT (SELECT in_flight FROM state))
             UNION SELECT id FROM (SELECT id FROM live WHERE due > 0 ORDER BY due LIMIT (SELECT in_flight FROM state))
             UNION SELECT id FROM live WHERE deaths > 0",
        )?;
        suspects = first.query_map([], |row| row.get(0))?.collect::<Result<_>>()?;
    }
    let in_flight = i64::try_from(in_flight).unwrap_or(i64::MAX).min(MAX_SUSPECTS);
    connection.execute("UPDATE state SET clean = 0, in_flight = ?1", [in_flight])?;
    // A clock that went back since must not make anything wait longer than was meant.
    let micros = now.as_micros();
    connection.execute("UPDATE batches SET due = ?1 + delay WHERE due > ?1 + delay", [micros])?;
    let (stored, hollow) = connection.query_row(LEVELS, [], |row| {
        let levels =
            Levels { batches: count(row.get(0)?), items: count(row.get(1)?), bytes: count(row.get(2)?) };
        Ok((levels, row.get::<_, i64>(3)?))
    })?;
    if hollow > 0 {
        // A page that leads elsewhere: what no query finds would be missing without a word.
        let text = format!("{hollow} batches have no content");
        return Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(text)));
    }
    let dead: i64 = connection.query_row("SELECT coalesce(sum(items), 0) FROM dead", [], |row| row.get(0))?;
    Ok(Opened {
        stored,
        oldest: oldest(connection)?,
        next_due: next_due(connection)?,
        dead_items: count(dead),
        suspects,
        crashed_items,
    })
}

/// What the file holds, and how many of it SQLite reads as something that it would never have taken. It does not look for that:
/// a column that must not be empty is not compared with nothing.
const LEVELS: &str = "SELECT count(*), coalesce(sum(items), 0), coalesce(sum(length(data)), 0),
    coalesce(sum(typeof(due) <> 'integer' OR typeof(items) <> 'integer' OR typeof(data) <> 'blob'), 0) FROM live";

/// The batch that was stored first.
pub(crate) fn oldest(connection: &Connection) -> Result<Option<Oldest>> {
    let mut select = connection.prepare_cached("SELECT id, added_at FROM live ORDER BY id LIMIT 1")?;
    let oldest = select.query_row([], |row| {
        Ok(Oldest { id: row.get(0)?, added_at: Timestamp::from_micros(row.get(1)?), known: true })
    });
    oldest.optional()
}

/// Returns whether the batch is in the file.
pub(crate) fn is_there(connection: &Connection, id: i64) -> Result<bool> {
    connection.prepare_cached("SELECT 1 FROM batches WHERE id = ?1")?.exists([id])
}

/// Says that nothing is in flight any more.
pub(crate) fn set_clean(connection: &Connection) -> Result<()> {
    connection.execute_batch("DELETE FROM claims; UPDATE state SET clean = 1")
}

/// Lets the file be closed without its log if it is noted that the queue was closed. Else the log stays: a file without both
/// is one whose log somebody took away.
pub(crate) fn let_go_of_log(connection: &Connection) -> Result<()> {
    let closed = was_closed(connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !closed)?;
    Ok(())
}

pub(crate) fn insert(connection: &Connection, row: &NewRow<'_>) -> Result<i64> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO batches (added_at, due, delay, attempts, deaths, items, data) VALUES (?1, ?2, ?3, 0, 0, ?4, ?5)",
    )?;
    let (due, delay) = stored_due(row.due);
    insert.execute(params![row.added_at.as_micros(), due, delay, row.items, row.data])?;
    Ok(connection.last_insert_rowid())
}

pub(crate) fn remove(connection: &Connection, id: i64) -> Result<()> {
    connection.prepare_cached("DELETE FROM batches WHERE id = ?1")?.execute([id])?;
    Ok(())
}

pub(crate) fn keep(connection: &Connection, kept: &Kept) -> Result<()> {
    let (due, delay) = stored_due(kept.due);
    let first = kept.first_failed_at.map(Timestamp::as_micros);
    let tries: Option<Vec<u8>> =
        kept.tries.as_ref().map(|tries| tries.iter().flat_map(|one| one.to_le_bytes()).collect());
    if let Some((items, data)) = &kept.rest {
        let mut update = connection.prepare_cached(
            "UPDATE batches SET due = ?2, delay = ?3, attempts = ?4, first_failed_at = ?5, tries = ?6, items = ?7,
             data = ?8, deaths = 0 WHERE id = ?1",
        )?;
        update.execute(params![kept.id, due, delay, kept.attempts, first, tries, items, data])?;
    } else {
        let mut update = connection.prepare_cached(
            "UPDATE batches SET due = ?2, delay = ?3, attempts = ?4, first_failed_at = ?5, tries = ?6, deaths = 0
             WHERE id = ?1",
        )?;
        update.execute(params![kept.id, due, delay, kept.attempts, first, tries])?;
    }
    Ok(())
}

/// Notes that a batch is in flight, for the case that it crashes the process.
pub(crate) fn claim(connection: &Connection, id: i64) -> Result<()> {
    connection.prepare_cached("INSERT OR IGNORE INTO claims VALUES (?1)")?.execute([id])?;
    Ok(())
}

pub(crate) fn unclaim(connection: &Connection, id: i64) -> Result<()> {
    connection.prepare_cached("DELETE FROM claims WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// Moves a whole batch, as it is, to the dead letters. Returns how many items it has.
pub(crate) fn bury(
    connection: &Connection,
    id: i64,
    reason: DeadReason,
    error: &str,
    now: Timestamp,
) -> Result<u64> {
    let items: Option<i64> = connection
        .query_row(
            "INSERT INTO dead (reason, error, attempts, items, added_at, first_failed_at, died_at, data)
             SELECT ?2, ?3, attempts, items, added_at, first_failed_at, ?4, data FROM live WHERE id = ?1
             RETURNING items",
            params![id, reason.as_str(), error, now.as_micros()],
            |row| row.get(0),
        )
        .optional()?;
    remove(connection, id)?;
    Ok(items.map_or(0, count))
}

/// Some items to be set aside.
#[derive(Debug)]
pub(crate) struct NewDead {
    pub(crate) reason: DeadReason,
    pub(crate) error: String,
    pub(crate) attempts: u32,
    pub(crate) items: u32,
    pub(crate) added_at: Timestamp,
    pub(crate) first_failed_at: Option<Timestamp>,
    pub(crate) died_at: Timestamp,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn insert_dead(connection: &Connection, dead: &NewDead) -> Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO dead (reason, error, attempts, items, added_at, first_failed_at, died_at, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    insert.execute(params![
        dead.reason.as_str(),
        dead.error,
        dead.attempts,
        dead.items,
        dead.added_at.as_micros(),
        dead.first_failed_at.map(Timestamp::as_micros),
        dead.died_at.as_micros(),
        dead.data,
    ])?;
    Ok(())
}

const COLUMNS: &str = "id, added_at, attempts, deaths, delay, first_failed_at, items, tries, data, due";

/// Some stored batches, and what could not be read of them.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) rows: Vec<Row>,
    /// Batches whose pages are damaged, and what SQLite says.
    pub(crate) damaged: Vec<(i64, String)>,
    /// The last batch that was looked at.
    pub(crate) last: Option<i64>,
    /// There may be more.
    pub(crate) more: bool,
}

/// Which batches a page has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that may be lent at once.
    AtOnce,
    /// Waiting ones, too.
    All,
}

impl Which {
    const fn condition(self) -> &'static str {
        match self {
            Self::AtOnce => "id > ?1 AND due = 0",
            Self::All => "id > ?1",
        }
    }
}

/// Batches after the id, oldest first; as many as the bounds allow, and one at least.
pub(crate) fn page(
    connection: &Connection,
    which: Which,
    after: i64,
    limit: usize,
    max_bytes: usize,
) -> Result<Page> {
    match whole_page(connection, which, after, limit, max_bytes) {
        Err(error) if is_damage(&error) => salvaged_page(connection, which, after),
        read => read,
    }
}

fn whole_page(
    connection: &Connection,
    which: Which,
    after: i64,
    limit: usize,
    max_bytes: usize,
) -> Result<Page> {
    let condition = which.condition();
    let mut select = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM live WHERE {condition} ORDER BY id LIMIT ?2"))?;
    let mut rows = select.query(params![after, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let (mut page, mut bytes) = (Page::default(), 0);
    while let Some(row) = rows.next()? {
        let row = read(row)?;
        bytes += row.data.len();
        page.last = Some(row.id);
        page.rows.push(row);
        if bytes >= max_bytes {
            page.more = true;
            return Ok(page);
        }
    }
    page.more = page.rows.len() >= limit;
    Ok(page)
}

/// Reads a few batches one by one, since a page of one of them is damaged.
fn salvaged_page(connection: &Connection, which: Which, after: i64) -> Result<Page> {
    let condition = which.condition();
    let mut select =
        connection.prepare_cached(&format!("SELECT id FROM live WHERE {condition} ORDER BY id LIMIT 16"))?;
    let ids = select.query_map([after], |row| row.get(0))?.collect::<Result<Vec<i64>>>()?;
    let mut page = Page { last: ids.last().copied(), more: !ids.is_empty(), ..Page::default() };
    for id in ids {
        read_one(connection, id, &mut page)?;
    }
    Ok(page)
}

/// These batches, as far as they are there, up to so many bytes, and one at least. Also returns the ids that were not looked
/// at.
pub(crate) fn these(connection: &Connection, ids: &[i64], max_bytes: usize) -> Result<(Page, Vec<i64>)> {
    let (mut page, mut bytes) = (Page::default(), 0);
    for (at, id) in ids.iter().enumerate() {
        if bytes >= max_bytes {
            return Ok((page, ids[at..].to_vec()));
        }
        let before = page.rows.len();
        read_one(connection, *id, &mut page)?;
        bytes += page.rows[before..].iter().map(|row| row.data.len()).sum::<usize>();
    }
    Ok((page, Vec::new()))
}

fn is_damage(error: &Error) -> bool {
    use relaykit_sql_store::sqlite::rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, SystemIoFailure};

    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase | SystemIoFailure))
}

/// Sets a batch aside whose bytes cannot be read: the reason is kept. Its row cannot be deleted either, so it is marked and
/// never looked at again.
pub(crate) fn bury_unread(connection: &Connection, id: i64, error: &str, now: Timestamp) -> Result<u32> {
    let items = connection.query_row(
        "INSERT INTO dead (reason, error, attempts, items, added_at, first_failed_at, died_at, data)
         SELECT ?2, ?3, attempts, items, added_at, first_failed_at, ?4, x'' FROM live WHERE id = ?1
         RETURNING items",
        params![id, DeadReason::Undecodable.as_str(), error, now.as_micros()],
        |row| row.get(0),
    )?;
    connection.execute("INSERT INTO damaged VALUES (?1)", [id])?;
    Ok(items)
}

/// Batches up to `last` that have waited long enough, besides those that are taken already, and when the next one has.
pub(crate) fn due(
    connection: &Connection,
    now: Timestamp,
    last: i64,
    taken: &HashSet<i64>,
    limit: usize,
    max_bytes: usize,
) -> Result<(Page, Option<Timestamp>)> {
    // Answered by the index alone.
    let mut select = connection.prepare_cached("SELECT id, due FROM live WHERE due > 0 ORDER BY due, id")?;
    let mut ids = select.query([])?;
    let (mut page, mut bytes) = (Page::default(), 0);
    while let Some(row) = ids.next()? {
        let id: i64 = row.get(0)?;
        let due = Timestamp::from_micros(row.get(1)?);
        if id > last || taken.contains(&id) {
            continue;
        }
        if due > now || page.rows.len() + page.damaged.len() >= limit || bytes >= max_bytes {
            return Ok((page, Some(due)));
        }
        read_one(connection, id, &mut page)?;
        bytes += page.rows.last().map_or(0, |row| row.data.len());
    }
    Ok((page, None))
}

fn read_one(connection: &Connection, id: i64, page: &mut Page) -> Result<()> {
    let mut select = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM live WHERE id = ?1"))?;
    match select.query_row([id], read).optional() {
        Ok(row) => page.rows.extend(row),
        Err(error) if is_damage(&error) => page.damaged.push((id, error.to_string())),
        Err(error) => return Err(error),
    }
    Ok(())
}

pub(crate) fn next_due(connection: &Connection) -> Result<Option<Timestamp>> {
    let due: Option<i64> =
        connection.query_row("SELECT min(due) FROM live WHERE due > 0", [], |row| row.get(0))?;
    Ok(due.map(Timestamp::from_micros))
}

/// Stored batches after the id, waiting ones too, as a list for people.
pub(crate) fn list(connection: &Connection, after: i64, limit: usize) -> Result<Vec<BatchInfo>> {
    let mut select = connection.prepare_cached(
        "SELECT id, added_at, items, length(data), attempts, due FROM live WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = select.query_map(params![after, limit], |row| {
        let due: i64 = row.get(5)?;
        Ok(BatchInfo {
            id: row.get(0)?,
            added_at: Timestamp::from_micros(row.get(1)?),
            items: row.get(2)?,
            bytes: count(row.get(3)?),
            attempts: row.get(4)?,
            due: (due > 0).then(|| Timestamp::from_micros(due)),
        })
    })?;
    rows.collect()
}

/// The bytes of the stored batches that hold the first items, waiting ones too.
pub(crate) fn first_items(connection: &Connection, items: usize) -> Result<Vec<Vec<u8>>> {
    let mut select = connection.prepare_cached("SELECT items, data FROM live ORDER BY id")?;
    let mut rows = select.query([])?;
    let (mut found, mut data) = (0, Vec::new());
    while found < items
        && let Some(row) = rows.next()?
    {
        let items: u32 = row.get(0)?;
        found += items as usize;
        data.push(row.get(1)?);
    }
    Ok(data)
}

/// A batch that was deleted to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) id: i64,
    pub(crate) items: u32,
    pub(crate) bytes: usize,
}

/// Deletes the oldest batch that is not taken.
pub(crate) fn drop_oldest(connection: &Connection, taken: &HashSet<i64>) -> Result<Option<Dropped>> {
    let mut select = connection.prepare_cached("SELECT id FROM live ORDER BY id LIMIT ?1")?;
    let limit = i64::try_from(taken.len()).unwrap_or(i64::MAX).saturating_add(1);
    let ids = select.query_map([limit], |row| row.get(0))?.collect::<Result<Vec<i64>>>()?;
    let victim = ids.into_iter().find(|id| !taken.contains(id));
    let Some(id) = victim else { return Ok(None) };
    let mut delete =
        connection.prepare_cached("DELETE FROM batches WHERE id = ?1 RETURNING items, length(data)")?;
    let dropped = delete.query_row([id], |row| {
        Ok(Dropped {
            id,
            items: row.get(0)?,
            bytes: usize::try_from(count(row.get(1)?)).unwrap_or(usize::MAX),
        })
    });
    dropped.optional()
}

pub(crate) fn dead_letters(connection: &Connection, after: i64, limit: usize) -> Result<Vec<DeadLetter>> {
    let mut select = connection.prepare_cached(
        "SELECT id, reason, error, attempts, items, added_at, first_failed_at, died_at, length(data)
         FROM dead WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let rows = select.query_map(params![after, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        let first_failed_at: Option<i64> = row.get(6)?;
        let reason: String = row.get(1)?;
        Ok(DeadLetter {
            id: row.get(0)?,
            reason: DeadReason::parse(&reason),
            error: row.get(2)?,
            attempts: row.get(3)?,
            items: row.get(4)?,
            added_at: Timestamp::from_micros(row.get(5)?),
            first_failed_at: first_failed_at.map(Timestamp::from_micros),
            died_at: Timestamp::from_micros(row.get(7)?),
            bytes: count(row.get(8)?),
        })
    })?;
    rows.collect()
}

/// Puts dead letters back, as batches that were never tried. Those whose bytes are lost stay.
pub(crate) fn replay(connection: &Connection, ids: &[i64]) -> Result<Levels> {
    let mut total = Levels::default();
    for id in ids {
        let moved: Option<(i64, i64)> = connection
            .query_row(
                "INSERT INTO batches (added_at, due, delay, attempts, deaths, items, data)
                 SELECT added_at, 0, 0, 0, 0, items, data FROM dead WHERE id = ?1 AND length(data) > 0
                 RETURNING items, length(data)",
                [id],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        if let Some((items, bytes)) = moved {
            total.batches += 1;
            total.items += count(items);
            total.bytes += count(bytes);
            connection.execute("DELETE FROM dead WHERE id = ?1", [id])?;
        }
    }
    Ok(total)
}

/// Deletes dead letters. Returns how many items they had.
pub(crate) fn purge(connection: &Connection, ids: &[i64]) -> Result<u64> {
    let mut items = 0;
    for id in ids {
        let deleted: Option<i64> = connection
            .query_row("DELETE FROM dead WHERE id = ?1 RETURNING items", [id], |row| row.get(0))
            .optional()?;
        items += deleted.map_or(0, count);
    }
    Ok(items)
}

fn read(row: &relaykit_sql_store::sqlite::rusqlite::Row<'_>) -> Result<Row> {
    let first_failed_at: Option<i64> = row.get(5)?;
    let delay: i64 = row.get(4)?;
    let tries: Option<Vec<u8>> = row.get(7)?;
    let due: i64 = row.get(9)?;
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
    Ok(Row {
        id: row.get(0)?,
        added_at: Timestamp::from_micros(row.get(1)?),
        attempts: row.get(2)?,
        deaths: row.get(3)?,
        delay: Duration::from_micros(count(delay)),
        due: (due > 0).then(|| Timestamp::from_micros(due)),
        first_failed_at: first_failed_at.map(Timestamp::from_micros),
        items: row.get(6)?,
        tries: tries.map(|tries| tries.chunks(4).map(number).collect()),
        data: row.get(8)?,
    })
}

/// 0 is at once, which no moment of a retry is.
fn stored_due(due: Option<Due>) -> (i64, i64) {
    due.map_or((0, 0), |due| {
        let delay = i64::try_from(due.delay.as_micros()).unwrap_or(i64::MAX);
        (due.at.as_micros().max(1), delay)
    })
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
