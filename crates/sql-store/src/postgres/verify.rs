use sqlx::{PgConnection, Row};

use super::migrate::{on_postgres, refuse_newer, version};
use super::pool::Guarded;
use crate::migration::{FoundTable, compare};
use crate::{Difference, Schema, SchemaError, StoreError};

const COLUMNS: &str =
    "select c.relname::text, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod)
from pg_catalog.pg_class c
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where n.nspname = $1 and c.relname = any($2::text[]) and c.relkind in ('r', 'p')";

const INDEXES: &str = "select t.relname::text, i.relname::text
from pg_catalog.pg_index x
join pg_catalog.pg_class i on i.oid = x.indexrelid
join pg_catalog.pg_class t on t.oid = x.indrelid
join pg_catalog.pg_namespace n on n.oid = t.relnamespace
where n.nspname = $1 and t.relname = any($2::text[]) and x.indisvalid and x.indisready";

/// Lists how the tables differ from what this version needs; nothing, if they are fine.
///
/// It reads the catalog only, so every role may call it.
///
/// # Errors
///
/// The tables are newer ([`SchemaError::Newer`]) or older ([`SchemaError::Older`]) than `schema`, or any variant of
/// [`StoreError`] but those of a transaction.
///
/// # Cancel safety
///
/// Cancel safe: it changes nothing.
pub async fn verify(pool: &Guarded, schema: &Schema) -> Result<Vec<Difference>, StoreError> {
    const OP: &str = "verify tables";
    let (found, wanted) = (version(pool, schema).await?, schema.version());
    refuse_newer(OP, found, wanted)?;
    if found < wanted {
        return Err(StoreError::Schema { op: OP, source: SchemaError::Older { found, wanted } });
    }
    let schema = on_postgres(schema);
    let names = schema.names().clone();
    let in_schema = names.schema().map(|schema| schema.as_str().to_owned()).unwrap_or_default();
    let tables: Vec<_> = schema.tables().iter().map(|form| names.bare(form.name)).collect();
    let catalog = schema.names();
    let of_columns = pool.statement(crate::Sql::new(catalog, &[COLUMNS]));
    let of_indexes = pool.statement(crate::Sql::new(catalog, &[INDEXES]));
    let (columns, indexes) = pool
        .run(OP, move |conn: &mut PgConnection| {
            let (in_schema, tables) = (in_schema.clone(), tables.clone());
            let (of_columns, of_indexes) = (of_columns.clone(), of_indexes.clone());
            Box::pin(async move {
                let columns = of_columns.query().bind(&in_schema).bind(&tables).fetch_all(&mut *conn).await?;
                let columns: Vec<(String, Option<String>, Option<String>)> = columns
                    .iter()
                    .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
                    .collect::<Result<_, sqlx::Error>>()?;
                let indexes = of_indexes.query().bind(&in_schema).bind(&tables).fetch_all(conn).await?;
                let indexes: Vec<(String, String)> = indexes
                    .iter()
                    .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
                    .collect::<Result<_, sqlx::Error>>()?;
                Ok((columns, indexes))
            })
        })
        .await?;
    let differences = schema.tables().iter().flat_map(|form| {
        let table = names.bare(form.name);
        let of_table = columns.iter().filter(|(name, ..)| *name == table);
        let found = FoundTable {
            exists: of_table.clone().next().is_some(),
            columns: of_table.filter_map(|(_, column, kind)| column.clone().zip(kind.clone())).collect(),
            indexes: indexes
                .iter()
                .filter(|(name, _)| *name == table)
                .map(|(_, index)| index.clone())
                .collect(),
        };
        compare(&names, form, &found)
    });
    Ok(differences.collect())
}
