use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::sqlite::rusqlite::{Connection, OptionalExtension as _, Result, params};

use super::batch::remove;
use super::count;
use crate::dead::{DeadLetter, DeadReason};
use crate::state::Levels;

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
