use sqlx::postgres::PgArguments;
use sqlx::query::{Query, QueryScalar};
use sqlx::{Decode, Postgres, Type};

use crate::Sql;

/// A statement, for the connections of one [`Guarded`](super::Guarded) pool or others alike.
///
/// It is prepared once for each session, unless a pooler stands between: there it is prepared anew each time,
/// without a name, since the session may know another client's statement by that name. (sqlx names statements even
/// with `statement_cache_capacity(0)`, and then never closes them.)
#[derive(Debug, Clone)]
pub struct Statement {
    sql: Sql,
    persistent: bool,
}

impl Statement {
    /// Makes a statement for connections outside of a [`Guarded`](super::Guarded) pool. Behind a pooler in transaction mode it
    /// must not be `persistent`.
    #[must_use]
    pub const fn new(sql: Sql, persistent: bool) -> Self {
        Self { sql, persistent }
    }

    /// Begins a query with this statement.
    pub fn query(&self) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(&self.sql).persistent(self.persistent)
    }

    /// Begins a query for the first column.
    pub fn scalar<T>(&self) -> QueryScalar<'static, Postgres, T, PgArguments>
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(&self.sql).persistent(self.persistent)
    }
}
