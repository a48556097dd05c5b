use relaykit_outbox::postgres::{PgSchema, WrongShards};
use relaykit_sql_store::postgres::TestPostgres;
use relaykit_sql_store::{Difference, Shards, StoreError};

use crate::common::schema;

#[tokio::test]
async fn the_tables_are_as_they_are_described() {
    let Some(db) = TestPostgres::new().await else { return };
    let pool = db.pool().build().unwrap();
    schema(&db).migrate(&pool).await.unwrap();
    assert_eq!(schema(&db).verify(&pool).await.unwrap(), []);
    assert_eq!(db.number("select count(*) from {shards}").await, 4);
    // Every column of ours is described, so that none can change unseen.
    for (table, sql) in [(15, "{messages}"), (15, "{dead}")].map(|(count, table)| (count, table)) {
        let count = match sql {
            "{messages}" => {
                "select count(*) from pg_attribute where attrelid = '{messages}'::regclass and attnum > 0"
            }
            _ => "select count(*) from pg_attribute where attrelid = '{dead}'::regclass and attnum > 0",
        };
        assert_eq!(db.number(count).await, table);
    }
    db.execute("drop index {@schema}.{=messages_due}; alter table {messages} alter attempts type bigint")
        .await;
    let differences = schema(&db).verify(&pool).await.unwrap();
    let [Difference::Type { column, .. }, Difference::Index { .. }] = &differences[..] else {
        panic!("{differences:?}")
    };
    assert_eq!(column, "attempts");
    db.clean().await;
}

#[tokio::test]
async fn two_that_migrate_at_once_leave_one_result() {
    let Some(db) = TestPostgres::new().await else { return };
    let migrations = [1, 2].map(|_| {
        let db = db.clone();
        tokio::spawn(async move { schema(&db).migrate(&db.pool().build().unwrap()).await })
    });
    for migration in migrations {
        assert_eq!(migration.await.unwrap().unwrap().to, 1);
    }
    assert_eq!(db.number("select count(*) from {schema}").await, 1);
    assert_eq!(db.number("select count(*) from {shards}").await, 4);
    db.clean().await;
}

#[tokio::test]
async fn the_exported_sql_makes_the_same_tables_and_may_be_run_twice() {
    let Some(db) = TestPostgres::new().await else { return };
    for _ in 0..2 {
        let sql = sqlx::AssertSqlSafe(schema(&db).migration_sql());
        sqlx::raw_sql(sql).execute(&mut db.connection().await).await.unwrap();
    }
    let pool = db.pool().build().unwrap();
    assert_eq!(schema(&db).verify(&pool).await.unwrap(), []);
    assert_eq!(schema(&db).migrate(&pool).await.unwrap().from, 1);
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

/// Somebody who may write to a schema in the `search_path` puts functions and tables there with the names of ours.
#[tokio::test]
async fn a_hostile_search_path_changes_nothing() {
    let Some(db) = TestPostgres::new().await else { return };
    schema(&db).migrate(&db.pool().build().unwrap()).await.unwrap();
    let trap = TestPostgres::new().await.unwrap();
    trap.execute(
        "create function {@schema}.sha256(bytea) returns bytea language plpgsql as $$ begin raise 'trap'; end $$;
         create function {@schema}.convert_to(text, name) returns bytea language plpgsql as $$ begin raise 'trap'; end $$;
         create function {@schema}.clock_timestamp() returns timestamptz language plpgsql as $$ begin raise 'trap'; end $$;
         create function {@schema}.octet_length(text) returns int language plpgsql as $$ begin raise 'trap'; end $$;
         create function {@schema}.nextval(regclass) returns bigint language plpgsql as $$ begin raise 'trap'; end $$;",
    )
    .await;
    let hostile =
        relaykit_sql_store::Sql::new(&trap.names("t"), &["set search_path = {@schema}, pg_catalog"]);
    let add =
        relaykit_sql_store::Sql::new(&db.names("t"), &["select {add}(gen_random_uuid(), 'k', 'key', '')"]);
    let mut conn = db.connection().await;
    sqlx::raw_sql(hostile).execute(&mut conn).await.unwrap();
    assert!(sqlx::query_scalar::<_, bool>(add).fetch_one(&mut conn).await.unwrap());
    trap.clean().await;
    db.clean().await;
}
