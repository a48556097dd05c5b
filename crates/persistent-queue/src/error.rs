use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use relaykit_pipeline_traits::InvalidSetting;
use relaykit_sql_store::sqlite::SqliteError;

/// Why a queue could not be opened. The file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting is out of its bounds.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// Another process, or another queue of this one, has the file open.
    #[error("{} is open already", path.display())]
    AlreadyOpen {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged, or not a database. See [`Builder::recreate_corrupt`](crate::Builder::recreate_corrupt).
    #[error("{} is damaged or no database", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: SqliteError,
    },
    /// The file is a database of something else.
    #[error("{} is a database, but no queue (application id {application_id:#x})", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its application id; 0 if it has none.
        application_id: i32,
    },
    /// A later version wrote the file.
    #[error("{} has tables of version {found}, but this version knows up to 1", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version of its tables.
        found: i32,
    },
    /// The file could not be opened, read or made.
    #[error("could not open the queue")]
    Storage {
        /// What the storage says.
        source: SqliteError,
    },
    /// The system has no thread to give.
    #[error("could not start the writer's thread")]
    Thread {
        /// What the system says.
        source: std::io::Error,
    },
    /// The process died while it had the file open, and the file's log is gone: what was stored last may be missing. See
    /// [`Builder::accept_loss`](crate::Builder::accept_loss).
    #[error("{} was not closed, and its log is gone", path.display())]
    LogMissing {
        /// The file.
        path: PathBuf,
    },
    /// There is no tokio runtime here.
    #[error("a queue is opened within a tokio runtime")]
    NoRuntime,
}

/// Why an item, or several, were not accepted. They come back.
pub struct Rejected<T> {
    /// What was not accepted.
    pub item: T,
    /// Why.
    pub reason: RejectReason,
}

/// Why an item was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RejectReason {
    /// The queue is closing, or closed.
    #[error("the queue is closed")]
    Closed,
    /// The queue holds as much as it may: `try_push` does not wait, and neither does a queue that rejects when it is full.
    #[error("the queue is full")]
    Full,
    /// More was pushed than the disk could take so far. `try_push` says so; the other pushes wait.
    #[error("the disk has not taken yet what was pushed before")]
    Busy,
    /// The disk is full. Try again when there is space; what was accepted before is safe.
    #[error("the disk is full")]
    StorageFull,
    /// The system could not write. Try again when it can; what is on disk is safe.
    #[error("the storage failed: {reason}")]
    StorageFailed {
        /// What it says.
        reason: String,
    },
    /// The item is larger than a batch may be.
    #[error("the item has {bytes} bytes, but must have at most {max}")]
    TooLarge {
        /// Its encoded bytes.
        bytes: usize,
        /// The bound, `max_bytes`.
        max: usize,
    },
    /// The codec cannot express the item.
    #[error("the item cannot be encoded: {reason}")]
    Unencodable {
        /// What the codec says.
        reason: String,
    },
}

/// Why something could not be done with what is stored.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// The queue is closed.
    #[error("the queue is closed")]
    Closed,
    /// The storage failed.
    #[error("the storage failed")]
    Storage {
        /// What it says.
        source: Arc<SqliteError>,
    },
}

impl QueueError {
    pub(crate) fn of(error: SqliteError) -> Self {
        match error {
            SqliteError::Closed => Self::Closed,
            source => Self::Storage { source: Arc::new(source) },
        }
    }
}

impl<T> fmt::Debug for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<T> std::error::Error for Rejected<T> {}
