use rusqlite::{Connection, Result as SqlResult};

use super::Database;
use super::migrate::{on_sqlite, read_version, refuse_newer};
use crate::migration::{FoundTable, compare};
use crate::{Difference, Schema, SchemaError, StoreError};

const COLUMNS: &str = "select name, lower(type) from pragma_table_info(?1)";

const INDEXES: &str = "select name from pragma_index_list(?1)";

/// Lists how the tables differ from what this version needs; nothing, if they are fine.
///
/// # Errors
///
/// The tables are newer ([`SchemaError::Newer`]) or older ([`SchemaError::Older`]) than `schema`, or what
/// [`Database::read`] says.
///
/// # Cancel safety
///
/// Cancel safe: it changes nothing.
pub async fn verify(database: &Database, schema: &Schema) -> Result<Vec<Difference>, StoreError> {
    const OP: &str = "verify tables";
    let (schema, wanted) = (on_sqlite(schema), schema.version());
    let look = move |connection: &Connection| {
        let found = read_version(connection, &schema)?;
        let names = schema.names();
        let mut differences = Vec::new();
        for form in schema.tables() {
            differences.extend(compare(names, form, &table(connection, &names.bare(form.name))?));
        }
        Ok((found, differences))
    };
    let (found, differences) = database.read(OP, look).await?;
    refuse_newer(OP, found, wanted)?;
    if found < wanted {
        return Err(StoreError::Schema { op: OP, source: SchemaError::Older { found, wanted } });
    }
    Ok(differences)
}

fn table(connection: &Connection, name: &str) -> SqlResult<FoundTable> {
    let mut columns = connection.prepare(COLUMNS)?;
    let columns: Vec<(String, String)> =
        columns.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<SqlResult<_>>()?;
    let mut indexes = connection.prepare(INDEXES)?;
    let indexes = indexes.query_map([name], |row| row.get(0))?.collect::<SqlResult<_>>()?;
    Ok(FoundTable { exists: !columns.is_empty(), columns, indexes })
}
