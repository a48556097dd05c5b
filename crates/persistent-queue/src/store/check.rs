use relaykit_sql_store::sqlite::rusqlite::{Connection, Error, Result, ffi};

/// So large a file, in bytes, is looked through when it is opened, which takes about a millisecond for each of its MiB.
const CHECKED: i64 = 64 << 20;

/// How SQLite says that the rows of a page and the room between them are not all of the page.
const MISCOUNTED: &str = "Fragmentation of ";

/// How many complaints are read at the most.
const COMPLAINTS: u32 = 1_000;

/// Looks through the file, unless it is large, for pages that tell of fewer rows than they have: those would be read without complaint,
/// and what they do not tell of would be missing without a word. Any other damage shows when it is read, and costs what it damaged.
///
/// # Errors
///
/// There is such a page.
pub(crate) fn check(connection: &Connection) -> Result<()> {
    let size = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
    if connection.query_row(size, [], |row| row.get::<_, i64>(0))? > CHECKED {
        return Ok(());
    }
    let mut complaints = connection.prepare(&format!("PRAGMA quick_check({COMPLAINTS})"))?;
    let complaints = complaints.query_map([], |row| row.get::<_, String>(0))?;
    for complaint in complaints.collect::<Result<Vec<_>>>()? {
        if complaint.contains(MISCOUNTED) {
            return Err(Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), Some(complaint)));
        }
    }
    Ok(())
}
