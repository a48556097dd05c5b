use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::Sql;

impl SqlSafeStr for &Sql {
    fn into_sql_str(self) -> SqlStr {
        // The only place that says so: an `Sql` is made of fixed text, validated names and numbers.
        AssertSqlSafe(self.shared()).into_sql_str()
    }
}

impl SqlSafeStr for Sql {
    fn into_sql_str(self) -> SqlStr {
        (&self).into_sql_str()
    }
}
