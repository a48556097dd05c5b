use relaykit_inbox::postgres::{PgSchema, WrongShards};
use relaykit_sql_store::postgres::TestPostgres;
use relaykit_sql_store::{Difference, Shards, StoreError};

use crate::common::{Inbox, keyed, schema, scope};

#[tokio::test]
async fn the_tables_are_as_they_are_described() {
    let Some(db) = TestPostgres::new().await else { return };
    let pool = db.pool().build().unwrap();
    schema(&db).migrate(&pool).await.unwrap();
    assert_eq!(schema(&db).verify(&pool).await.unwrap(), []);
    assert_eq!(db.number("select count(*) from {shards}").await, 4);
    // Every column of ours is described, so that none can change unseen.
    let columns = [
        (12, "select count(*) from pg_attribute where attrelid = '{messages}'::regclass and attnum > 0"),
        (11, "select count(*) from pg_attribute where attrelid = '{deliveries}'::regclass and attnum > 0"),
        (11, "select count(*) from pg_attribute where attrelid = '{dead}'::regclass and attnum > 0"),
    ];
    for (count, sql) in columns {
        assert_eq!(db.number(sql).await, count, "{sql}");
    }
    db.execute("drop index {@schema}.{=deliveries_due}; alter table {deliveries} alter attempts type bigint")
        .await;
    let differences = schema(&db).verify(&pool).await.unwrap();
    assert!(
        matches!(&differences[..], [Difference::Type { column, .. }, Difference::Index { .. }] if column == "attempts"),
        "{differences:?}"
    );
    db.clean().await;
}

#[tokio::test]
async fn two_that_migrate_at_once_leave_one_result_and_so_does_the_exported_sql() {
    let Some(db) = TestPostgres::new().await else { return };
    let migrations = [1, 2].map(|_| {
        let db = db.clone();
        tokio::spawn(async move { schema(&db).migrate(&db.pool().build().unwrap()).await })
    });
    for migration in migrations {
        assert_eq!(migration.await.unwrap().unwrap().to, 1);
    }
    let sql = sqlx::AssertSqlSafe(schema(&db).migration_sql());
    sqlx::raw_sql(sql).execute(&mut db.connection().await).await.unwrap();
    assert_eq!(db.number("select count(*) from {schema}").await, 1);
    let pool = db.pool().build().unwrap();
    assert_eq!(schema(&db).migrate(&pool).await.unwrap().from, 1);
    assert_eq!(schema(&db).verify(&pool).await.unwrap(), []);
    db.clean().await;
}

#[tokio::test]
async fn another_number_of_shards_is_refused() {
    let Some(db) = TestPostgres::new().await else { return };
    let pool = db.pool().build().unwrap();
    schema(&db).migrate(&pool).await.unwrap();
    let more = PgSchema::new(db.names("t")).shards(Shards::new(8).unwrap());
    for error in [more.migrate(&pool).await.unwrap_err(), more.verify(&pool).await.unwrap_err()] {
        let StoreError::Rejected { source, .. } = error else { panic!("{error:?}") };
        let wrong = source.downcast_ref::<WrongShards>().unwrap();
        assert_eq!((wrong.found, wrong.wanted), (4, 8));
    }
    db.clean().await;
}

/// Somebody who may write to a schema in the `search_path` puts functions there with the names of the server's.
#[tokio::test]
async fn a_hostile_search_path_changes_nothing() {
    let Some(i) = Inbox::new().await else { return };
    let trap = TestPostgres::new().await.unwrap();
    trap.execute(
        "create function {@schema}.sha256(bytea) returns bytea language plpgsql as $$ begin raise 'trap'; end $$;
         create function {@schema}.convert_to(text, name) returns bytea language plpgsql as $$ begin raise 'trap'; end $$;
         create function {@schema}.clock_timestamp() returns timestamptz language plpgsql as $$ begin raise 'trap'; end $$;
         create function {@schema}.unnest(anyarray) returns setof anyelement language plpgsql as $$ begin raise 'trap'; end $$;
         create function {@schema}.nextval(regclass) returns bigint language plpgsql as $$ begin raise 'trap'; end $$;",
    )
    .await;
    let hostile =
        relaykit_sql_store::Sql::new(&trap.names("t"), &["set search_path = {@schema}, pg_catalog"]);
    let mut conn = i.connection().await;
    sqlx::raw_sql(hostile).execute(&mut conn).await.unwrap();
    let (one, two) = (keyed("a"), keyed("b"));
    i.inbox.receive(&mut conn, &scope(), &one).await.unwrap();
    assert_eq!(i.inbox.receive_all(&mut conn, &scope(), &[one, two]).await.unwrap().len(), 2);
    assert_eq!(i.ids("crm").await.len(), 2);
    trap.clean().await;
    i.clean().await;
}
