use std::time::Duration;

use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult, params};
use relaykit_sql_store::{Names, Sql};

use super::row::{COLUMNS, Raw, WIDTH};
use super::schema::PARKED;
use crate::store::{Page, ReadFrom, RowId, Seq, Stored, Suspicion, Unreadable};

/// Says that no earlier row of `m`'s key still waits at `?2`.
pub(super) const NOT_BLOCKED: &str = " and not exists (
  select 1 from {messages} b where b.shard = m.shard and b.ordering_key = m.ordering_key and b.seq < m.seq
  and b.retry_at is not null and b.retry_at > ?2
)";

const ROWS: [&str; 4] = [
    COLUMNS,
    ", m.retry_at, m.suspicion from {messages} m indexed by {=messages_shard}
where m.shard = ?1 and m.seq > ?3 and (m.retry_at is null or m.retry_at <= ?2)",
    NOT_HELD,
    " order by m.seq limit ?4",
];

/// Says also that none has waited that lies at or before `?3`, and so is not on the page.
const NOT_HELD: &str = " and not exists (
  select 1 from {messages} b where b.shard = m.shard and b.ordering_key = m.ordering_key and b.seq < m.seq
  and b.retry_at is not null and (b.retry_at > ?2 or b.seq <= ?3)
)";

const WAITS: &str = "select exists (select 1 from {messages} where retry_at is not null)";

const DUE: [&str; 2] = [
    "select min(m.seq) from {messages} m
where m.shard = ?1 and m.retry_at is not null and m.retry_at <= ?2",
    NOT_BLOCKED,
];

const NEXT_DUE: &str = "select min(retry_at) from {messages}
where shard = ?1 and retry_at is not null and retry_at > ?2 and retry_at < ?3";

/// How pages are read.
#[derive(Debug, Clone)]
pub(super) struct Pages {
    rows: Sql,
    waits: Sql,
    due: Sql,
    next_due: Sql,
}

impl Pages {
    pub(super) fn new(names: &Names) -> Self {
        Self {
            rows: Sql::new(names, &ROWS),
            waits: Sql::new(names, &[WAITS]),
            due: Sql::new(names, &DUE),
            next_due: Sql::new(names, &[NEXT_DUE]),
        }
    }

    /// Reads within one transaction, so that all is of one moment.
    ///
    /// SQLite has one writer at a time, so messages come into sight in the order of their places, and none is ever late:
    /// `mark` and `settled` stay 0.
    pub(super) fn read(
        &self,
        connection: &Connection,
        from: &[ReadFrom],
        limit: u32,
        now: Timestamp,
    ) -> SqlResult<Page> {
        let mut page = Page::default();
        for read in from {
            self.shard(connection, read, limit, now, &mut page)?;
        }
        page.rows.sort_unstable_by_key(|stored| stored.row);
        page.unreadable.sort_unstable_by_key(|unreadable| unreadable.row);
        if connection.prepare_cached(self.waits.as_str())?.query_row([], |row| row.get(0))? {
            self.waiting(connection, from, now, &mut page)?;
        }
        Ok(page)
    }

    fn shard(
        &self,
        connection: &Connection,
        read: &ReadFrom,
        limit: u32,
        now: Timestamp,
        page: &mut Page,
    ) -> SqlResult<()> {
        let mut select = connection.prepare_cached(self.rows.as_str())?;
        let mut rows = select.query(params![read.shard.number(), now.as_micros(), read.after.0, limit])?;
        while let Some(row) = rows.next()? {
            let raw = Raw::read(row)?;
            let retry_at: Option<i64> = row.get(WIDTH)?;
            match raw.message {
                Ok(message) => page.rows.push(Stored {
                    row: raw.row,
                    message,
                    attempts: raw.attempts,
                    age: now.since(raw.added_at),
                    failing_for: raw.first_failed_at.map(|failed| now.since(failed)),
                    waited: retry_at.is_some(),
                    suspicion: Suspicion::from_number(row.get(WIDTH + 1)?),
                }),
                Err(error) => page.unreadable.push(Unreadable { row: raw.row, key: raw.key, error }),
            }
        }
        Ok(())
    }

    fn waiting(
        &self,
        connection: &Connection,
        from: &[ReadFrom],
        now: Timestamp,
        page: &mut Page,
    ) -> SqlResult<()> {
        let mut due = connection.prepare_cached(self.due.as_str())?;
        let mut next_due = connection.prepare_cached(self.next_due.as_str())?;
        let mut next: Option<i64> = None;
        for read in from {
            let (shard, at) = (read.shard.number(), now.as_micros());
            let first: Option<i64> = due.query_row(params![shard, at], |row| row.get(0))?;
            page.due.extend(first.map(|seq| RowId { shard: read.shard, seq: Seq(seq) }));
            let waits: Option<i64> = next_due.query_row(params![shard, at, PARKED], |row| row.get(0))?;
            next = [next, waits].into_iter().flatten().min();
        }
        page.due.sort_unstable();
        page.next_due = next.map(|at| until(now, at));
        Ok(())
    }
}

/// Returns how long it is until a moment.
pub(super) fn until(now: Timestamp, at: i64) -> Duration {
    Timestamp::from_micros(at).since(now)
}

/// Returns the statements that read pages, so that a test can look at their plans.
#[doc(hidden)]
#[must_use]
pub fn page_queries(names: &Names) -> Vec<(&'static str, Sql)> {
    let Pages { rows, waits, due, next_due } = Pages::new(names);
    vec![("rows", rows), ("waits", waits), ("due", due), ("next_due", next_due)]
}
