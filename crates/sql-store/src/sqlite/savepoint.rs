use rusqlite::{Connection, Error};

use super::error::ended_by_itself;

/// Does something within a savepoint: all of it, or nothing of it. Outside of a transaction it is one of its own, which begins
/// with the first statement.
///
/// # Errors
///
/// What `work` says; and what SQLite says, through `failed`. Some errors of SQLite end the transaction that is open, and the
/// savepoint with it ([`Connection::is_autocommit`] tells): what was done before is gone then, too.
pub fn in_savepoint<T, E>(
    connection: &Connection,
    work: impl FnOnce() -> Result<T, E>,
    failed: impl Fn(Error) -> E,
) -> Result<T, E> {
    let run = |sql| connection.prepare_cached(sql).and_then(|mut statement| statement.execute([])).map(drop);
    run("savepoint relaykit").map_err(&failed)?;
    let done = work();
    if connection.is_autocommit() {
        return done.and_then(|_| Err(failed(ended_by_itself())));
    }
    let undo = || run("rollback to relaykit").and_then(|()| run("release relaykit"));
    if done.is_err() {
        undo().map_err(failed)?;
        return done;
    }
    if let Err(error) = run("release relaykit") {
        // Outside of a transaction the release is the commit. It failed; nothing may be left open.
        let _ = undo();
        return Err(failed(error));
    }
    done
}
