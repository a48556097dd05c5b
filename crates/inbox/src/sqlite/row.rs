use relaykit_sql_store::sqlite::rusqlite::types::Type;
use relaykit_sql_store::sqlite::rusqlite::{Error, Result as SqlResult, Row};

use crate::name::{HandlerKey, Scope};

pub(super) fn scope(row: &Row<'_>, column: usize) -> SqlResult<Scope> {
    Scope::new(row.get::<_, String>(column)?).map_err(|error| unreadable(column, error))
}

pub(super) fn handler(row: &Row<'_>, column: usize) -> SqlResult<HandlerKey> {
    HandlerKey::new(row.get::<_, String>(column)?).map_err(|error| unreadable(column, error))
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}
