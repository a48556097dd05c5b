use relaykit_sql_store::sqlite::rusqlite::{Connection, Error, OptionalExtension as _, Result, params};

use super::row::{COLUMNS, Row, read};

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

pub(super) fn read_one(connection: &Connection, id: i64, page: &mut Page) -> Result<()> {
    let mut select = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM live WHERE id = ?1"))?;
    match select.query_row([id], read).optional() {
        Ok(row) => page.rows.extend(row),
        Err(error) if is_damage(&error) => page.damaged.push((id, error.to_string())),
        Err(error) => return Err(error),
    }
    Ok(())
}
