use std::path::{Path, PathBuf};

use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::sqlite::rusqlite::Connection;
use relaykit_sql_store::sqlite::{Durability, Options, SqliteError, open as open_file};
use relaykit_sql_store::torture::crash_point;

use crate::builder::Config;
use crate::error::OpenError;
use crate::order::MAX_AWAY;
use crate::store::{self, Foreign, Opened};

pub(super) fn file_options<T>(config: &Config<T>) -> Options {
    let mut options = Options::default();
    options.durability = config.durability;
    // On a full disk the log can be written back only if the ballast has as much room as it.
    let wal_bytes = match config.ballast_bytes {
        0 => MAX_LOG,
        ballast => u32::try_from(ballast / 4).unwrap_or(MAX_LOG).clamp(MIN_LOG, MAX_LOG),
    };
    options.wal_bytes = wal_bytes;
    options.log_ends_with_close = false;
    options
}

/// Bounds of the file's log, in bytes.
const MIN_LOG: u32 = 64 * 1024;
const MAX_LOG: u32 = 4 * 1024 * 1024;

pub(super) fn connect<T>(config: &Config<T>, now: Timestamp) -> Result<(Connection, Opened), OpenError> {
    let path = config.location.path().map(Path::to_path_buf);
    let shown = path.clone().unwrap_or_default();
    let had_log = path.as_deref().is_none_or(|path| named(path, "-wal").exists());
    let connection = open_file(&config.location, &file_options(config)).map_err(|error| match error {
        SqliteError::AlreadyOpen { path } => OpenError::AlreadyOpen { path },
        SqliteError::Corrupt { ref path, .. } => OpenError::Corrupt { path: path.clone(), source: error },
        source => OpenError::Storage { source },
    })?;
    crash_point("open.connected");
    let failed = |source| storage(path.clone(), source);
    match store::owner(&connection).map_err(failed)? {
        Ok(true) => {
            store::check(&connection).map_err(failed)?;
            // Until it is closed, a queue's file has a log beside it.
            let loss = !had_log && !store::was_closed(&connection).map_err(failed)?;
            if loss && config.durability == Durability::Full && !config.accept_loss {
                return Err(OpenError::LogMissing { path: shown });
            }
            if loss {
                tracing::warn!(path = %shown.display(), "the queue was not closed, and its log is gone");
            }
        }
        Ok(false) => store::create(&connection).map_err(failed)?,
        Err(Foreign::Application(application_id)) => {
            return Err(OpenError::Foreign { path: shown, application_id });
        }
        Err(Foreign::Schema(found)) => return Err(OpenError::Version { path: shown, found }),
    }
    let in_flight = (config.workers + config.unsettled).saturating_mul(config.batches);
    crash_point("open.has_tables");
    // Batches that are held stay behind while later ones are lent.
    let in_flight = in_flight.saturating_add(if config.key.is_some() { MAX_AWAY } else { 0 });
    let opened = store::take_over(&connection, config.max_crashes, in_flight, now).map_err(failed)?;
    crash_point("open.taken_over");
    Ok((connection, opened))
}

fn named(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn storage(path: Option<PathBuf>, source: relaykit_sql_store::sqlite::rusqlite::Error) -> OpenError {
    use relaykit_sql_store::sqlite::rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};

    let path = path.unwrap_or_default();
    match source.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => {
            OpenError::Corrupt { path: path.clone(), source: SqliteError::Corrupt { path, source } }
        }
        _ => OpenError::Storage { source: SqliteError::of(source) },
    }
}

/// Renames a damaged file and its log to the first free `….corrupt-N`.
pub(super) fn set_corrupt_aside(path: &Path) -> Result<(), OpenError> {
    let named = |suffix: &str| named(path, suffix);
    let free = (1..10_000).map(|n| format!(".corrupt-{n}")).find(|suffix| !named(suffix).exists());
    let suffix = free.unwrap_or_default();
    let failed = |source: std::io::Error| OpenError::Storage {
        source: SqliteError::Open { path: path.to_path_buf(), source: source.into() },
    };
    std::fs::rename(path, named(&suffix)).map_err(failed)?;
    for side in ["-wal", "-shm"] {
        let from = named(side);
        if from.exists() {
            std::fs::rename(&from, named(&format!("{suffix}{side}"))).map_err(failed)?;
        }
    }
    tracing::error!(path = %path.display(), "the queue's file was damaged; it was renamed, and an empty one made");
    Ok(())
}
