use rusqlite::ErrorCode;

use super::SqliteError;
use crate::{SchemaError, StoreError};

/// Makes an error of SQLite one of a store. `op` is what was asked for, as a phrase that follows "could not".
#[must_use]
pub fn store_error(op: &'static str, error: SqliteError) -> StoreError {
    match error {
        SqliteError::Busy { source } => StoreError::Conflict { op, tries: 1, source: source.into() },
        SqliteError::Full => StoreError::Full { op, source: error.into() },
        SqliteError::Io { .. } | SqliteError::AlreadyOpen { .. } | SqliteError::Closed => {
            StoreError::Unavailable { op, source: error.into() }
        }
        SqliteError::Statement { source } => of_statement(op, source),
        SqliteError::Open { ref source, .. } if is_denied(&**source) => {
            StoreError::Denied { op, source: error.into() }
        }
        other => StoreError::Rejected { op, source: other.into() },
    }
}

fn of_statement(op: &'static str, error: rusqlite::Error) -> StoreError {
    use rusqlite::Error::{
        FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, QueryReturnedNoRows, Utf8Error,
    };

    match error.sqlite_error_code() {
        Some(ErrorCode::SchemaChanged) => StoreError::Conflict { op, tries: 1, source: error.into() },
        Some(
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied,
        ) => StoreError::Denied { op, source: error.into() },
        // SQLite has no code of its own for it.
        Some(ErrorCode::Unknown) if is_missing(&error) => {
            StoreError::Schema { op, source: SchemaError::Missing { source: error.into() } }
        }
        Some(_) => StoreError::Rejected { op, source: error.into() },
        None => match error {
            FromSqlConversionFailure(..)
            | IntegralValueOutOfRange(..)
            | InvalidColumnType(..)
            | QueryReturnedNoRows
            | Utf8Error(..) => StoreError::Unreadable { op, source: error.into() },
            error if is_missing(&error) => {
                StoreError::Schema { op, source: SchemaError::Missing { source: error.into() } }
            }
            error => StoreError::Rejected { op, source: error.into() },
        },
    }
}

fn is_missing(error: &rusqlite::Error) -> bool {
    let text = error.to_string();
    ["no such table", "no such column", "no such index", "has no column named"]
        .iter()
        .any(|missing| text.contains(missing))
}

fn is_denied(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let of_system = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    let of_sqlite = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    of_system == Some(std::io::ErrorKind::PermissionDenied)
        || matches!(
            of_sqlite,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen)
        )
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::Classify as _;
    use rusqlite::Connection;

    use super::*;

    fn of(sql: &str) -> StoreError {
        let connection = Connection::open_in_memory().unwrap();
        store_error("look", SqliteError::of(connection.execute_batch(sql).unwrap_err()))
    }

    #[test]
    fn what_is_missing_is_told_from_what_is_refused() {
        assert!(matches!(of("select * from t"), StoreError::Schema { .. }));
        assert!(matches!(
            of("create table t (a); select b from t"),
            StoreError::Schema { source: SchemaError::Missing { .. }, .. }
        ));
        assert!(matches!(
            of("create table t (a not null); insert into t values (null)"),
            StoreError::Rejected { .. }
        ));
        assert!(matches!(of("pragma query_only = on; create table t (a)"), StoreError::Denied { .. }));
    }

    #[test]
    fn a_busy_file_is_transient_and_nothing_was_done() {
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        let error = store_error("look", SqliteError::of(rusqlite::Error::SqliteFailure(busy, None)));
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
        assert!(error.is_transient() && !error.is_in_doubt());
    }
}
