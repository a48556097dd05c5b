use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result, params};

use super::due::{Due, stored_due};

/// A batch to be stored.
#[derive(Debug)]
pub(crate) struct NewRow<'a> {
    pub(crate) added_at: Timestamp,
    /// When it may be lent; `None` is at once.
    pub(crate) due: Option<Due>,
    pub(crate) items: u32,
    pub(crate) data: &'a [u8],
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

/// Returns whether the batch is in the file.
pub(crate) fn is_there(connection: &Connection, id: i64) -> Result<bool> {
    connection.prepare_cached("SELECT 1 FROM batches WHERE id = ?1")?.exists([id])
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
