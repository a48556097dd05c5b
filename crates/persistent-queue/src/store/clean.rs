use relaykit_sql_store::sqlite::rusqlite::config::DbConfig;
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result};

/// Returns whether the queue was closed, rather than left by a crash.
pub(crate) fn was_closed(connection: &Connection) -> Result<bool> {
    connection.query_row("SELECT clean FROM state", [], |row| row.get(0))
}

/// Says that nothing is in flight any more.
pub(crate) fn set_clean(connection: &Connection) -> Result<()> {
    connection.execute_batch("DELETE FROM claims; UPDATE state SET clean = 1")
}

/// Lets the file be closed without its log if it is noted that the queue was closed. Else the log stays: a file without both
/// is one whose log somebody took away.
pub(crate) fn let_go_of_log(connection: &Connection) -> Result<()> {
    let closed = was_closed(connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !closed)?;
    Ok(())
}
