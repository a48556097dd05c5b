use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result, params};

use super::count;
use crate::queue::BatchInfo;

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
