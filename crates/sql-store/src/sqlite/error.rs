use std::io;
use std::path::PathBuf;

use relaykit_pipeline_traits::{Classify, ErrorClass};
use rusqlite::ErrorCode;

/// What went wrong with a SQLite file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteError {
    /// The linked library is too old, or withdrawn: versions before 3.51.3 and 3.52.0 can corrupt files in WAL mode
    /// ([WAL-reset bug](https://www.sqlite.org/wal.html#walresetbug)).
    #[error("sqlite {found} is linked, but must be 3.51.3 or later, and not 3.52.0")]
    UnsafeVersion {
        /// The version that is linked.
        found: String,
    },
    /// Another process, or another part of this one, has the file open.
    #[error("{} is open already", path.display())]
    AlreadyOpen {
        /// The file.
        path: PathBuf,
    },
    /// The file is no SQLite database, or its structure is damaged. Nothing was changed.
    #[error("{} is damaged or no database", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file could not be opened or made.
    #[error("could not open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite or the system says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another connection wrote for longer than the wait allows. Nothing of the request was written.
    #[error("another connection holds the file")]
    Busy {
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The disk, or the bound of the file's size, is full. Nothing of the request was written.
    #[error("the disk is full")]
    Full,
    /// The system could not read or write. What a commit under way left on the disk is unknown until the file was read
    /// again.
    #[error("could not read or write the file")]
    Io {
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A page of the file is damaged. What does not need it still works.
    #[error("the file is damaged")]
    Damaged {
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file was renamed, deleted or replaced while it was open. Nothing more is written, since it would be lost.
    #[error("{} is no longer the file that was opened", path.display())]
    Moved {
        /// The file.
        path: PathBuf,
    },
    /// The process forked, and this is the child. The file belongs to the parent.
    #[error("the file belongs to process {owner}, from which this one was forked")]
    Forked {
        /// The parent's process id.
        owner: u32,
    },
    /// SQLite refused a statement.
    #[error("sqlite refused a statement")]
    Statement {
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A request panicked. Nothing of it was written.
    #[error("a request to the writer panicked")]
    Panicked,
    /// The writer has ended.
    #[error("the writer has ended")]
    Closed,
}

impl SqliteError {
    /// Sorts an error of a statement or a commit.
    ///
    /// A quota and a limit on file sizes come as [`Io`](Self::Io), since SQLite does not say more; the
    /// [`Writer`](super::Writer) finds out and makes [`Full`](Self::Full) of them.
    #[must_use]
    pub fn of(source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { source },
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::SystemIoFailure) => Self::Io { source },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged { source },
            _ => Self::Statement { source },
        }
    }

    /// Returns a copy for another who waits for the same commit. What the driver says is kept as its code and text.
    pub(crate) fn share(&self) -> Self {
        match self {
            Self::Full => Self::Full,
            Self::Busy { source } => Self::Busy { source: copy(source) },
            Self::Io { source } => Self::Io { source: copy(source) },
            Self::Damaged { source } => Self::Damaged { source: copy(source) },
            Self::Moved { path } => Self::Moved { path: path.clone() },
            Self::Forked { owner } => Self::Forked { owner: *owner },
            Self::Statement { source } => Self::Statement { source: copy(source) },
            Self::AlreadyOpen { path } => Self::AlreadyOpen { path: path.clone() },
            Self::Panicked => Self::Panicked,
            Self::Open { path, source } => {
                Self::Open { path: path.clone(), source: source.to_string().into() }
            }
            Self::Corrupt { path, source } => Self::Corrupt { path: path.clone(), source: copy(source) },
            Self::UnsafeVersion { found } => Self::UnsafeVersion { found: found.clone() },
            Self::Closed => Self::Closed,
        }
    }

    /// Sorts an error of opening `path`.
    pub(crate) fn of_opening(path: PathBuf, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::AlreadyOpen { path },
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Corrupt { path, source },
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Open { path, source: source.into() },
        }
    }

    pub(crate) fn of_system(path: PathBuf, source: io::Error) -> Self {
        if is_no_room(&source) { Self::Full } else { Self::Open { path, source: source.into() } }
    }
}

/// The driver's error is not `Clone`, but its code and text are all that anybody asks of it.
fn copy(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => rusqlite::Error::SqliteFailure(*code, text.clone()),
        other => {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR);
            rusqlite::Error::SqliteFailure(code, Some(other.to_string()))
        }
    }
}

/// Says that the transaction is over, though nobody ended it: some errors do.
pub(super) fn ended_by_itself() -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT);
    rusqlite::Error::SqliteFailure(code, Some("the transaction ended by itself".to_owned()))
}

/// Returns whether the system says that there is no room: none on the disk, in the quota, or for so large a file.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};

    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl Classify for SqliteError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Busy { .. } | Self::Full | Self::Io { .. } | Self::AlreadyOpen { .. } | Self::Closed => {
                ErrorClass::Transient
            }
            _ => ErrorClass::Permanent,
        }
    }
}
