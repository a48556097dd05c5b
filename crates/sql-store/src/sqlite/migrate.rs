use std::time::Duration;

use rusqlite::{Connection, Result as SqlResult};

use super::Database;
use crate::{Migrated, Schema, SchemaError, Sql, StoreError};

/// How long a migration may take, the wait for its turn included.
const LIMIT: Duration = Duration::from_secs(600);

const EXISTS: &str = "select count(*) from sqlite_schema where type = 'table' and name = ?1";

const VERSION: &str = "select coalesce(max(version), 0) from {schema}";

const VERSIONS: &str = "create table if not exists {schema} (
  version integer primary key,
  name text not null,
  applied_at integer not null
) strict;
";

/// The version first: a script that has been applied stops at once.
const STEP: [&str; 3] = [
    "insert into {schema} (version, name, applied_at) values ({#version}, '",
    "', cast(unixepoch('subsec') * 1000000 as integer));
",
    "
",
];

/// Brings the tables to the version of `schema`.
///
/// All missing migrations run in one transaction, and migrators take turns; so any number may run at once, and one that
/// is killed half-way leaves nothing. It runs what [`migration_sql`] writes. Nothing is ever migrated down.
///
/// # Errors
///
/// The tables are newer than `schema` ([`SchemaError::Newer`]), or what [`Database::write`] says. Nothing was changed then,
/// unless the error is in doubt.
///
/// # Cancel safety
///
/// A dropped migration is done as a whole, or not at all.
pub async fn migrate(database: &Database, schema: &Schema) -> Result<Migrated, StoreError> {
    const OP: &str = "migrate tables";
    let (schema, to) = (on_sqlite(schema), schema.version());
    let from = version(database, &schema).await?;
    refuse_newer(OP, from, to)?;
    if from == to {
        return Ok(Migrated { from, to });
    }
    let apply = move |transaction: &Connection| {
        // Another migrator may have been here since.
        let from = read_version(transaction, &schema)?;
        if from < to {
            transaction.execute_batch(script(&schema, from).as_str())?;
        }
        Ok(from)
    };
    let from = database.with_call_timeout(LIMIT).write(OP, apply).await?;
    refuse_newer(OP, from, to)?;
    Ok(Migrated { from, to })
}

/// Reads the version of the tables; 0 if there are none.
///
/// # Errors
///
/// What [`Database::read`] says.
pub async fn version(database: &Database, schema: &Schema) -> Result<u32, StoreError> {
    let schema = on_sqlite(schema);
    database.read("read the version of the tables", move |connection| read_version(connection, &schema)).await
}

/// Writes the SQL of the migrations after version `since`, to be run by hand or another tool, such as `sqlite3 -bail`.
///
/// It is one transaction. SQLite knows no conditions here, so `since` must be the version of the tables; a script that
/// has been applied fails at its first step.
#[must_use]
pub fn migration_sql(schema: &Schema, since: u32) -> String {
    format!("begin immediate;\n{}commit;\n", script(&on_sqlite(schema), since).as_str())
}

pub(super) fn refuse_newer(op: &'static str, found: u32, known: u32) -> Result<(), StoreError> {
    if found > known {
        return Err(StoreError::Schema { op, source: SchemaError::Newer { found, known } });
    }
    Ok(())
}

pub(super) fn on_sqlite(schema: &Schema) -> Schema {
    schema.renamed(schema.names().on_sqlite())
}

pub(super) fn read_version(connection: &Connection, schema: &Schema) -> SqlResult<u32> {
    let exists: i64 =
        connection.query_row(EXISTS, [schema.names().bare(schema.versions())], |row| row.get(0))?;
    if exists == 0 {
        return Ok(0);
    }
    connection.query_row(schema.sql(&[VERSION]).as_str(), [], |row| row.get(0))
}

fn script(schema: &Schema, since: u32) -> Sql {
    let steps = schema.pending(since).map(|migration| {
        let [insert, values, end] = STEP;
        let mut parts = vec![insert];
        // A quote in a text is written twice.
        for (index, part) in migration.name.split('\'').enumerate() {
            parts.extend((index > 0).then_some("''"));
            parts.push(part);
        }
        parts.push(values);
        parts.extend(migration.parts);
        parts.push(end);
        schema.clone().with_number("version", migration.version.into()).sql(&parts)
    });
    std::iter::once(schema.sql(&[VERSIONS])).chain(steps).collect()
}
