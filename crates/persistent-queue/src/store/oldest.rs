use std::collections::HashSet;

use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::sqlite::rusqlite::{Connection, OptionalExtension as _, Result};

use super::count;
use crate::state::Oldest;

/// The batch that was stored first.
pub(crate) fn oldest(connection: &Connection) -> Result<Option<Oldest>> {
    let mut select = connection.prepare_cached("SELECT id, added_at FROM live ORDER BY id LIMIT 1")?;
    let oldest = select.query_row([], |row| {
        Ok(Oldest { id: row.get(0)?, added_at: Timestamp::from_micros(row.get(1)?), known: true })
    });
    oldest.optional()
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
