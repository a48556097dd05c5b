use std::time::Duration;

use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::sqlite::rusqlite::Result;

use super::count;

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

pub(super) const COLUMNS: &str =
    "id, added_at, attempts, deaths, delay, first_failed_at, items, tries, data, due";

pub(super) fn read(row: &relaykit_sql_store::sqlite::rusqlite::Row<'_>) -> Result<Row> {
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
