use std::collections::HashSet;
use std::time::Duration;

use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result};

use super::page::{Page, read_one};

/// When a batch may be lent, and how long that was when it was decided: no step of the clock makes it longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) at: Timestamp,
    pub(crate) delay: Duration,
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

pub(crate) fn next_due(connection: &Connection) -> Result<Option<Timestamp>> {
    let due: Option<i64> =
        connection.query_row("SELECT min(due) FROM live WHERE due > 0", [], |row| row.get(0))?;
    Ok(due.map(Timestamp::from_micros))
}

/// 0 is at once, which no moment of a retry is.
pub(super) fn stored_due(due: Option<Due>) -> (i64, i64) {
    due.map_or((0, 0), |due| {
        let delay = i64::try_from(due.delay.as_micros()).unwrap_or(i64::MAX);
        (due.at.as_micros().max(1), delay)
    })
}
