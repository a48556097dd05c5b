use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::pool::{Finish, Guarded};
use crate::{Migrated, Migration, Names, Schema, SchemaError, StoreError};

/// How long a migration may take, the wait for other migrators included.
const LIMIT: Duration = Duration::from_secs(600);

/// Brings the tables to the version of `schema`.
///
/// All missing migrations run in one transaction, under a lock that other migrators of the same tables wait for; so
/// any number may run at once, and one that is killed half-way leaves nothing. It runs what
/// [`migration_sql`] writes, which needs the right to make tables (and the schema, if that is missing). If nothing is
/// missing, it reads the version and needs no more rights than that.
///
/// Nothing is ever migrated down.
///
/// # Errors
///
/// The tables are newer than `schema` ([`SchemaError::Newer`]), or any variant of [`StoreError`]. Nothing was
/// changed then, unless the error is in doubt.
///
/// # Cancel safety
///
/// A dropped migration goes on to its end.
pub async fn migrate(pool: &Guarded, schema: &Schema) -> Result<Migrated, StoreError> {
    const OP: &str = "migrate tables";
    let (from, to) = (version(pool, schema).await?, schema.version());
    refuse_newer(OP, from, to)?;
    if from < to {
        let script = script(schema, 0);
        pool.transaction_within(OP, LIMIT, move |conn| {
            let script = script.clone();
            Box::pin(async move {
                sqlx::raw_sql(script).execute(conn).await?;
                Ok(Finish::Commit(()))
            })
        })
        .await?;
    }
    Ok(Migrated { from, to })
}

/// Reads the version of the tables; 0 if there are none.
///
/// # Errors
///
/// Every variant of [`StoreError`] but those of a transaction.
pub async fn version(pool: &Guarded, schema: &Schema) -> Result<u32, StoreError> {
    let schema = on_postgres(schema);
    let exists = pool.statement(schema.sql(&["select pg_catalog.to_regclass('{schema}') is not null"]));
    let read = pool.statement(schema.sql(&["select coalesce(pg_catalog.max(version), 0) from {schema}"]));
    pool.run("read the version of the tables", move |conn: &mut PgConnection| {
        let (exists, read) = (exists.clone(), read.clone());
        Box::pin(async move {
            if !exists.scalar::<bool>().fetch_one(&mut *conn).await? {
                return Ok(0);
            }
            let version: i32 = read.scalar().fetch_one(conn).await?;
            Ok(u32::try_from(version).unwrap_or(0))
        })
    })
    .await
}

/// Writes the SQL of the migrations after version `since`, to be run by hand or another tool.
///
/// It is one transaction, and may be run again: what has been applied is passed over.
#[must_use]
pub fn migration_sql(schema: &Schema, since: u32) -> String {
    format!("begin;\n{}commit;\n", script(schema, since).as_str())
}

/// Fails if the tables are newer than what is known.
pub(super) fn refuse_newer(op: &'static str, found: u32, known: u32) -> Result<(), StoreError> {
    if found > known {
        return Err(StoreError::Schema { op, source: SchemaError::Newer { found, known } });
    }
    Ok(())
}

/// Names tables as Postgres has them, always with a schema, so that no `search_path` plays a part.
pub(super) fn on_postgres(schema: &Schema) -> Schema {
    schema.renamed(schema.names().on_postgres())
}

/// Begins the script: only the server's own functions and operators are found, whatever others lie in the way.
const BEGIN: &str = "set local search_path = pg_catalog, pg_temp;
select pg_advisory_xact_lock({#lock});
do $relaykit_do$ begin
  if to_regnamespace('{@schema}') is null then
    execute 'create schema {@schema}';
  end if;
  if to_regclass('{schema}') is null then
    create table {schema} (
      version int primary key,
      name text not null,
      applied_at timestamptz not null default clock_timestamp()
    );
  end if;
end $relaykit_do$;
";

const STEP: [&str; 3] = [
    "do $relaykit_do$ begin
  if not exists (select from {schema} where version = {#version}) then
    execute $relaykit_sql$
",
    "
    $relaykit_sql$;
    insert into {schema} (version, name) values ({#version}, $relaykit_name$",
    "$relaykit_name$);
  end if;
end $relaykit_do$;
",
];

fn script(schema: &Schema, since: u32) -> crate::Sql {
    let schema = on_postgres(schema).with_number("lock", lock_key(schema.names()));
    let steps = schema.pending(since).map(|migration| step(&schema, migration));
    std::iter::once(schema.sql(&[BEGIN])).chain(steps).collect()
}

fn step(schema: &Schema, migration: &Migration) -> crate::Sql {
    let [before, between, after] = STEP;
    let mut parts = vec![before];
    parts.extend(migration.parts);
    parts.extend([between, migration.name, after]);
    schema.clone().with_number("version", migration.version.into()).sql(&parts)
}

/// Returns the key of the advisory lock of these tables.
fn lock_key(names: &Names) -> i64 {
    let digest = Sha256::digest(format!("relaykit migrate {}", names.on_postgres().table("schema")));
    let head = digest.first_chunk().expect("a SHA-256 has 32 bytes");
    i64::from_be_bytes(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    static TWO: [Migration; 2] = [
        Migration { version: 1, name: "tables", parts: &["create table {messages} (id int); "] },
        Migration { version: 2, name: "more", parts: &["alter table {messages} add more int"] },
    ];

    fn schema() -> Schema {
        Schema::new(Names::new("outbox").unwrap().in_schema("app").unwrap(), &TWO, &[])
    }

    #[test]
    fn the_script_is_one_transaction_under_a_lock_with_every_name_qualified() {
        let sql = migration_sql(&schema(), 0);
        assert!(sql.starts_with("begin;\nset local search_path"), "{sql}");
        assert!(sql.contains(r#"create table "app"."outbox_messages" (id int);"#), "{sql}");
        assert!(sql.contains("values (2, $relaykit_name$more$relaykit_name$)"), "{sql}");
        assert!(sql.ends_with("commit;\n"));
        assert!(!sql.contains('{'), "{sql}");
    }

    #[test]
    fn applied_migrations_can_be_left_out() {
        let sql = migration_sql(&schema(), 1);
        assert!(
            !sql.contains("create table \"app\".\"outbox_messages\"") && sql.contains("add more int"),
            "{sql}"
        );
    }

    #[test]
    fn other_tables_have_another_lock() {
        let key = |prefix| lock_key(&Names::new(prefix).unwrap());
        assert_ne!(key("outbox"), key("inbox"));
        assert_eq!(key("outbox"), lock_key(&Names::new("outbox").unwrap().in_schema("public").unwrap()));
    }
}
