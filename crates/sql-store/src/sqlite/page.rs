use relaykit_pipeline_traits::Timestamp;
use rusqlite::{Connection, Result as SqlResult, Row, ToSql};

use super::row::{PARKED, RawMessage, until};
use crate::{Page, ReadFrom, RowId, Seq, Sql, Stored, Suspicion, Unreadable};

/// The statements that read pages.
///
/// A store with several streams, such as an inbox with one for each handler, has one parameter more in each: the stream's
/// name, behind the others.
#[derive(Debug, Clone)]
pub struct PageQueries {
    /// Reads the rows of the shard `?1` whose wait is over at `?2`, behind the place `?3`, at most `?4`: the columns of [`RawMessage`]
    /// `retry_at` and `suspicion`.
    pub rows: Sql,
    /// Says whether any row waits, or did. No parameters.
    pub waits: Sql,
    /// Reads the first place in the shard `?1` whose wait is over at `?2` and that no earlier row of its key holds.
    pub due: Sql,
    /// Reads when the first wait in the shard `?1` ends that ends behind `?2` and before `?3`.
    pub next_due: Sql,
}

impl PageQueries {
    /// Reads a page of the whole store, or of a stream, within one transaction, so that all is of one moment.
    ///
    /// SQLite has one writer at a time, so rows come into sight in the order of their places, and none is ever late:
    /// `mark` and `settled` stay 0.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub fn read(
        &self,
        connection: &Connection,
        stream: Option<&str>,
        from: &[ReadFrom],
        limit: u32,
        now: Timestamp,
    ) -> SqlResult<Page> {
        let mut page = Page::default();
        let at = now.as_micros();
        let mut rows = connection.prepare_cached(self.rows.as_str())?;
        for read in from {
            let shard = read.shard.number();
            let mut rows = rows.query(&*with(&[&shard, &at, &read.after.0, &limit], stream.as_ref()))?;
            while let Some(row) = rows.next()? {
                add(&mut page, row, now)?;
            }
        }
        page.rows.sort_unstable_by_key(|stored| stored.row);
        page.unreadable.sort_unstable_by_key(|unreadable| unreadable.row);
        let mut waits = connection.prepare_cached(self.waits.as_str())?;
        if waits.query_row(&*with(&[], stream.as_ref()), |row| row.get(0))? {
            self.waiting(connection, stream, from, now, &mut page)?;
        }
        Ok(page)
    }

    fn waiting(
        &self,
        connection: &Connection,
        stream: Option<&str>,
        from: &[ReadFrom],
        now: Timestamp,
        page: &mut Page,
    ) -> SqlResult<()> {
        let mut due = connection.prepare_cached(self.due.as_str())?;
        let mut next_due = connection.prepare_cached(self.next_due.as_str())?;
        let mut next: Option<i64> = None;
        for read in from {
            let (shard, at) = (read.shard.number(), now.as_micros());
            let first: Option<i64> =
                due.query_row(&*with(&[&shard, &at], stream.as_ref()), |row| row.get(0))?;
            page.due.extend(first.map(|seq| RowId { shard: read.shard, seq: Seq(seq) }));
            let waits: Option<i64> =
                next_due.query_row(&*with(&[&shard, &at, &PARKED], stream.as_ref()), |row| row.get(0))?;
            next = [next, waits].into_iter().flatten().min();
        }
        page.due.sort_unstable();
        page.next_due = next.map(|at| until(now, at));
        Ok(())
    }
}

fn add(page: &mut Page, row: &Row<'_>, now: Timestamp) -> SqlResult<()> {
    let raw = RawMessage::read(row)?;
    let retry_at: Option<i64> = row.get(RawMessage::WIDTH)?;
    match raw.message {
        Ok(message) => page.rows.push(Stored {
            row: raw.row,
            message,
            attempts: raw.attempts,
            age: now.since(raw.added_at),
            failing_for: raw.first_failed_at.map(|failed| now.since(failed)),
            waited: retry_at.is_some(),
            suspicion: Suspicion::from_number(row.get(RawMessage::WIDTH + 1)?),
        }),
        Err(error) => page.unreadable.push(Unreadable { row: raw.row, key: raw.key, error }),
    }
    Ok(())
}

/// Adds the stream's name to a statement's parameters.
fn with<'a>(parameters: &[&'a dyn ToSql], stream: Option<&'a &str>) -> Vec<&'a dyn ToSql> {
    let mut all = parameters.to_vec();
    all.extend(stream.map(|stream| stream as &dyn ToSql));
    all
}
