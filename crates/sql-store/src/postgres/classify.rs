use std::time::Duration;

use crate::{SchemaError, StoreError};

/// What a call was, for the error that it ends in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) op: &'static str,
    pub(super) limit: Duration,
}

/// Makes the driver's error ours.
pub(super) fn store_error(call: Call, tries: u32, error: sqlx::Error) -> StoreError {
    let Call { op, limit } = call;
    let class = match &error {
        sqlx::Error::Database(database) => of_code(database.code().as_deref().unwrap_or_default()),
        sqlx::Error::PoolTimedOut => Class::PoolTimeout,
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => Class::Unavailable,
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
            Class::Unreadable
        }
        _ => Class::Rejected,
    };
    let source = Box::new(error);
    match class {
        Class::Unavailable => StoreError::Unavailable { op, source },
        Class::PoolTimeout => StoreError::PoolTimeout { op, limit },
        Class::Timeout => StoreError::Timeout { op, limit },
        Class::Conflict => StoreError::Conflict { op, tries, source },
        Class::Full => StoreError::Full { op, source },
        Class::Denied => StoreError::Denied { op, source },
        Class::Missing => StoreError::Schema { op, source: SchemaError::Missing { source } },
        Class::Unreadable => StoreError::Unreadable { op, source },
        Class::Rejected => StoreError::Rejected { op, source },
    }
}

/// Makes a driver's error ours: one of a statement that ran on a connection of the caller's, outside of a
/// [`Guarded`](super::Guarded) pool. `op` says what was asked for, as a phrase that follows "could not".
#[must_use]
pub fn driver_error(op: &'static str, error: sqlx::Error) -> StoreError {
    store_error(Call { op, limit: Duration::ZERO }, 1, error)
}

/// Makes an error of a `COMMIT` ours: unless the server said no, nobody knows.
pub(super) fn commit_error(call: Call, tries: u32, error: sqlx::Error) -> StoreError {
    match store_error(call, tries, error) {
        StoreError::Unavailable { op, source } => StoreError::CommitUnknown { op, source },
        other => other,
    }
}

/// Tells whether the transaction lost against another one, so that the same may succeed at once.
pub(super) fn is_conflict(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(database) if database.code().is_some_and(|code| of_code(&code) == Class::Conflict))
}

/// Tells whether the connection is of no more use: it broke, or holds plans that no longer fit the tables.
pub(super) fn spoils_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            of_code(&code) == Class::Unavailable || STALE_PLANS.contains(&code.as_ref())
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed => {
            true
        }
        _ => false,
    }
}

/// "Cached plan must not change result type" after a migration, and prepared statements that are not there, or
/// are somebody else's, behind a pooler.
const STALE_PLANS: [&str; 3] = ["0A000", "26000", "42P05"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Unavailable,
    PoolTimeout,
    Timeout,
    Conflict,
    Full,
    Denied,
    Missing,
    Unreadable,
    Rejected,
}

/// Classifies an SQLSTATE (PostgreSQL, appendix A).
fn of_code(code: &str) -> Class {
    match code {
        "40001" | "40P01" | "55P03" => Class::Conflict,
        // A query is cancelled by statement_timeout.
        "57014" => Class::Timeout,
        // Shutdowns; a connection too many; a standby, where we were before it took over.
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "53300" | "25006" => Class::Unavailable,
        _ if code.starts_with("08") => Class::Unavailable,
        "0A000" | "26000" | "42P05" => Class::Unavailable,
        "53100" | "53200" => Class::Full,
        "42501" => Class::Denied,
        _ if code.starts_with("28") => Class::Denied,
        "42P01" | "42703" | "42883" | "3F000" => Class::Missing,
        _ => Class::Rejected,
    }
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::Classify;

    use super::*;

    const CALL: Call = Call { op: "settle", limit: Duration::from_secs(1) };

    #[test]
    fn codes_fall_into_what_a_caller_does_about_them() {
        assert_eq!(of_code("40P01"), Class::Conflict);
        assert_eq!(of_code("08006"), Class::Unavailable);
        assert_eq!(of_code("42P01"), Class::Missing);
        assert_eq!(of_code("23505"), Class::Rejected);
        assert_eq!(of_code("28P01"), Class::Denied);
    }

    #[test]
    fn a_broken_connection_is_in_doubt_during_a_commit_only() {
        let io = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert!(!store_error(CALL, 1, io()).is_in_doubt());
        let error = commit_error(CALL, 1, io());
        assert!(error.is_in_doubt() && error.is_transient());
        assert!(spoils_connection(&io()));
    }
}
