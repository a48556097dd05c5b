use std::collections::HashSet;

use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::sqlite::rusqlite::{Connection, Error, Result, ffi};
use relaykit_sql_store::torture::planted;

use super::clean::was_closed;
use super::count;
use super::dead::bury;
use super::due::next_due;
use super::oldest::oldest;
use crate::dead::DeadReason;
use crate::state::{Levels, Oldest};

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
