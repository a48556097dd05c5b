use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::{Location, SqliteError, check_version};
use crate::torture::planted;

/// What a commit survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// The crash of the process, of the system, and the loss of power: each group commit is synced to the disk. The
    /// default.
    #[default]
    Full,
    /// The crash of the process only. When the system crashes or power is lost, the last commits may be missing; the file
    /// stays consistent.
    ProcessCrashOnly,
}

/// Who may have the file open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// This connection alone. The default.
    #[default]
    Alone,
    /// Other connections and processes too, as long as they are on the same machine. Writers take turns, and
    /// [`Options::wait`] is how long one waits for its turn; readers wait for nobody.
    Shared,
}

/// How a database is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// What a commit survives. Default: [`Durability::Full`].
    pub durability: Durability,
    /// Who else may have the file open. Default: [`Sharing::Alone`].
    pub sharing: Sharing,
    /// How long to wait for another opener to close the file, or for another writer's transaction to end. Default: 0, which
    /// is not at all.
    pub wait: Duration,
    /// Beyond how many bytes the write-ahead log is written back and cut. Default: 16 MiB.
    pub wal_bytes: u32,
    /// The page cache, in bytes. Default: 8 MiB.
    pub cache_bytes: u32,
    /// Whether the last connection writes the log back and removes it when it is closed. Default: yes.
    pub log_ends_with_close: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            sharing: Sharing::Alone,
            wait: Duration::ZERO,
            wal_bytes: 16 * 1024 * 1024,
            cache_bytes: 8 * 1024 * 1024,
            log_ends_with_close: true,
        }
    }
}

const PAGE: u32 = 4096;

/// Opens the database, and makes it if it is not there.
///
/// Unless it is [`Shared`](Sharing::Shared), the file is locked as long as the connection lives, by the kernel, so a crash
/// leaves no stale lock. It is made readable and writable for its owner only. Its directory must exist.
///
/// # Errors
///
/// [`SqliteError::AlreadyOpen`] if somebody else has it open, [`SqliteError::Corrupt`] if it is no database; nothing was
/// changed then.
pub fn open(location: &Location, options: &Options) -> Result<Connection, SqliteError> {
    check_version()?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let (connection, path) = match location {
        Location::Memory => {
            let path = PathBuf::from("a database in memory");
            let opened = Connection::open_in_memory_with_flags(flags);
            (opened.map_err(|source| SqliteError::of_opening(path.clone(), source))?, path)
        }
        Location::File(path) => {
            let real = real_path(path).map_err(|source| SqliteError::of_system(path.clone(), source))?;
            create(&real).map_err(|source| SqliteError::of_system(path.clone(), source))?;
            let flags = flags | OpenFlags::SQLITE_OPEN_NOFOLLOW;
            let opened = Connection::open_with_flags(&real, flags);
            (opened.map_err(|source| SqliteError::of_opening(path.clone(), source))?, path.clone())
        }
    };
    configure(&connection, options).map_err(|source| SqliteError::of_opening(path, source))?;
    Ok(connection)
}

/// Resolves the directory, so that only the file itself must not be a symbolic link. An absolute path can be taken
/// neither for a URI nor for one of SQLite's special names.
fn real_path(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
    let directory = path.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
    Ok(directory.canonicalize()?.join(name))
}

/// Makes the file if it is not there, for its owner alone. SQLite gives its side files the same mode.
fn create(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

fn configure(connection: &Connection, options: &Options) -> rusqlite::Result<()> {
    connection.busy_timeout(options.wait)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !options.log_ends_with_close)?;
    // Plans that depend on parameters, be it only a limit, are made anew whenever those change.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    let set = |name: &str, value: &dyn rusqlite::ToSql| connection.pragma_update(None, name, value);
    if options.sharing == Sharing::Alone {
        // Before anything is written: the first write fixes it.
        set("auto_vacuum", &"INCREMENTAL")?;
        set("locking_mode", &"EXCLUSIVE")?;
    }
    let journal: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    tracing::trace!(journal, "sqlite's journal");
    let synchronous = match options.durability {
        Durability::Full => "FULL",
        Durability::ProcessCrashOnly => "NORMAL",
    };
    let synchronous = if planted("syncs_nothing") { "OFF" } else { synchronous };
    set("synchronous", &synchronous)?;
    set("cell_size_check", &true)?;
    set("temp_store", &"MEMORY")?;
    set("wal_autocheckpoint", &(options.wal_bytes / PAGE).max(1))?;
    connection.pragma_update_and_check(None, "journal_size_limit", options.wal_bytes, |_| Ok(()))?;
    set("cache_size", &-i64::from(options.cache_bytes / 1024))?;
    connection.set_prepared_statement_cache_capacity(64);
    if options.sharing == Sharing::Shared {
        return must_be_wal(&journal);
    }
    // Takes the lock now, rather than with the first write.
    connection.execute_batch("BEGIN IMMEDIATE; COMMIT")
}

/// Without the log, readers and writers would wait for each other.
fn must_be_wal(journal: &str) -> rusqlite::Result<()> {
    if journal.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
    let text = format!("the journal mode is {journal}, but must be wal");
    Err(rusqlite::Error::SqliteFailure(code, Some(text)))
}
