use relaykit_sql_store::postgres::{
    Guarded, LEASE_TABLES, Migrated, TestPostgres, migrate, migration_sql, verify, version,
};
use relaykit_sql_store::{Difference, Migration, Schema, SchemaError, StoreError, TableForm};

use crate::common::{execute, tables};

static TWO: [Migration; 2] = [
    Migration {
        version: 1,
        name: "tables",
        parts: &[
            "create table {messages} (id uuid primary key); ",
            "create index {=messages_id} on {messages} (id); ",
        ],
    },
    Migration {
        version: 2,
        name: "a function's body",
        parts: &["alter table {messages} add at timestamptz;
             create function {touch}() returns int language sql as $$ select 1 $$;
             insert into {messages} select gen_random_uuid() from generate_series(1, {#rows});"],
    },
];

static BROKEN: [Migration; 3] = [
    TWO[0],
    TWO[1],
    Migration { version: 3, name: "broken", parts: &["create table {more} (id int); select 1 / 0;"] },
];

const FORM: [TableForm; 1] = [TableForm {
    name: "messages",
    columns: &[("id", "uuid"), ("at", "timestamp with time zone")],
    indexes: &["messages_pkey", "messages_id"],
}];

fn schema(db: &TestPostgres, migrations: &'static [Migration]) -> Schema {
    Schema::new(db.names("t"), migrations, &FORM).with_number("rows", 3)
}

fn pool(db: &TestPostgres) -> Guarded {
    db.pool().build().unwrap()
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let Some(db) = TestPostgres::new().await else { return };
    let (pool, schema) = (pool(&db), schema(&db, &TWO));
    assert_eq!(version(&pool, &schema).await.unwrap(), 0);
    assert_eq!(migrate(&pool, &schema).await.unwrap(), Migrated { from: 0, to: 2 });
    assert_eq!(migrate(&pool, &schema).await.unwrap(), Migrated { from: 2, to: 2 });
    assert_eq!(db.number("select count(*) from {messages}").await, 3);
    assert_eq!(db.number("select count(*) from {schema}").await, 2);
    assert_eq!(verify(&pool, &schema).await.unwrap(), []);
    db.clean().await;
}

#[tokio::test]
async fn only_what_is_missing_is_migrated() {
    let Some(db) = TestPostgres::new().await else { return };
    let pool = pool(&db);
    migrate(&pool, &schema(&db, &TWO[..1])).await.unwrap();
    let older = verify(&pool, &schema(&db, &TWO)).await.unwrap_err();
    let StoreError::Schema { source: SchemaError::Older { found: 1, wanted: 2 }, .. } = older else {
        panic!("{older:?}")
    };
    assert_eq!(migrate(&pool, &schema(&db, &TWO)).await.unwrap(), Migrated { from: 1, to: 2 });
    db.clean().await;
}

#[tokio::test]
async fn eight_that_migrate_at_once_leave_one_result() {
    let Some(db) = TestPostgres::new().await else { return };
    let schema = schema(&db, &TWO);
    let migrations = (0..8).map(|_| {
        let (db, schema) = (db.clone(), schema.clone());
        tokio::spawn(async move { migrate(&pool(&db), &schema).await })
    });
    for migration in migrations.collect::<Vec<_>>() {
        assert_eq!(migration.await.unwrap().unwrap().to, 2);
    }
    assert_eq!(db.number("select count(*) from {messages}").await, 3);
    assert_eq!(db.number("select count(*) from {schema}").await, 2);
    db.clean().await;
}

#[tokio::test]
async fn a_migration_that_fails_leaves_nothing_of_any_step_and_drops_nothing() {
    let Some(db) = TestPostgres::new().await else { return };
    let pool = pool(&db);
    let failed = migrate(&pool, &schema(&db, &BROKEN)).await.unwrap_err();
    assert!(matches!(failed, StoreError::Rejected { .. }), "{failed:?}");
    assert_eq!(
        db.number("select count(*) from pg_class where relnamespace = '{@schema}'::regnamespace").await,
        0
    );
    migrate(&pool, &schema(&db, &TWO)).await.unwrap();
    migrate(&pool, &schema(&db, &BROKEN)).await.unwrap_err();
    assert_eq!(db.number("select count(*) from {messages}").await, 3);
    assert_eq!(version(&pool, &schema(&db, &TWO)).await.unwrap(), 2);
    db.clean().await;
}

#[tokio::test]
async fn a_migrator_that_is_killed_half_way_leaves_nothing() {
    static SLOW: [Migration; 2] = [
        TWO[0],
        Migration { version: 2, name: "slow", parts: &["select pg_sleep(60), 'killed-{messages}'"] },
    ];
    let Some(db) = TestPostgres::new().await else { return };
    let schema = schema(&db, &SLOW);
    let killed = tokio::spawn({
        let (db, schema) = (db.clone(), schema.clone());
        async move { migrate(&pool(&db), &schema).await }
    });
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                where wait_event = 'PgSleep' and application_name = trim('\"' from '{@schema}')";
    while db.number(kill).await == 0 {
        assert!(!killed.is_finished(), "nobody slept");
    }
    let error = killed.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert_eq!(
        db.number("select count(*) from pg_class where relnamespace = '{@schema}'::regnamespace").await,
        0
    );
    db.clean().await;
}

#[tokio::test]
async fn tables_of_a_newer_version_are_refused_by_both_numbers() {
    let Some(db) = TestPostgres::new().await else { return };
    let pool = pool(&db);
    migrate(&pool, &schema(&db, &TWO)).await.unwrap();
    let old = schema(&db, &TWO[..1]);
    for error in [migrate(&pool, &old).await.unwrap_err(), verify(&pool, &old).await.unwrap_err()] {
        let StoreError::Schema { source: source @ SchemaError::Newer { found: 2, known: 1 }, .. } = error
        else {
            panic!("{error:?}")
        };
        assert!(source.to_string().contains("version 2, which is newer than 1"), "{source}");
    }
    db.clean().await;
}

#[tokio::test]
async fn verify_lists_what_was_changed_behind_our_back() {
    let Some(db) = TestPostgres::new().await else { return };
    let (pool, schema) = (pool(&db), schema(&db, &TWO));
    migrate(&pool, &schema).await.unwrap();
    execute(&pool, &db, "drop index {messages_id}").await.unwrap();
    execute(&pool, &db, "alter table {messages} alter at type timestamp").await.unwrap();
    let differences = verify(&pool, &schema).await.unwrap();
    let [Difference::Type { column, found, .. }, Difference::Index { index, .. }] = &differences[..] else {
        panic!("{differences:?}")
    };
    assert_eq!((&column[..], &found[..], &index[..]), ("at", "timestamp without time zone", "t_messages_id"));
    execute(&pool, &db, "drop table {messages}").await.unwrap();
    assert!(matches!(verify(&pool, &schema).await.unwrap()[..], [Difference::Table { .. }]));
    db.clean().await;
}

#[tokio::test]
async fn the_exported_sql_makes_the_same_tables_and_may_be_run_twice() {
    let Some(db) = TestPostgres::new().await else { return };
    let (pool, schema) = (pool(&db), schema(&db, &TWO));
    let mut conn = db.connection().await;
    for _ in 0..2 {
        let sql = sqlx::AssertSqlSafe(migration_sql(&schema, 0));
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
    }
    assert_eq!(verify(&pool, &schema).await.unwrap(), []);
    assert_eq!(migrate(&pool, &schema).await.unwrap(), Migrated { from: 2, to: 2 });
    assert_eq!(db.number("select count(*) from {messages}").await, 3);
    db.clean().await;
}

#[tokio::test]
async fn a_missing_schema_is_made() {
    let Some(db) = TestPostgres::new().await else { return };
    let (pool, schema) = (pool(&db), schema(&db, &TWO));
    db.execute("drop schema {@schema}").await;
    migrate(&pool, &schema).await.unwrap();
    assert_eq!(verify(&pool, &schema).await.unwrap(), []);
    db.clean().await;
}

/// Somebody who may write to a schema in the `search_path` puts functions there with the names of ours.
#[tokio::test]
async fn a_hostile_search_path_changes_nothing() {
    let Some(db) = TestPostgres::new().await else { return };
    db.execute(
        "create function {@schema}.to_regclass(text) returns regclass language sql as $$ select null::regclass $$;
         create function {@schema}.to_regnamespace(text) returns regnamespace language sql as $$ select null::regnamespace $$;
         create function {@schema}.pg_advisory_xact_lock(bigint) returns void language plpgsql as $$ begin raise 'trap'; end $$;
         create function {@schema}.clock_timestamp() returns timestamptz language plpgsql as $$ begin raise 'trap'; end $$;",
    )
    .await;
    let victim = TestPostgres::new().await.unwrap();
    let hostile = format!("{}, pg_catalog", db.names("t").schema().unwrap().as_str());
    let options = victim.options().options([("search_path", hostile)]);
    let clock = relaykit_pipeline_traits::SystemClock::new();
    let pool = Guarded::connect(options, clock).build().unwrap();
    let schema = schema(&victim, &TWO);
    migrate(&pool, &schema).await.unwrap();
    assert_eq!(migrate(&pool, &schema).await.unwrap(), Migrated { from: 2, to: 2 });
    assert_eq!(verify(&pool, &schema).await.unwrap(), []);
    victim.clean().await;
    db.clean().await;
}

#[tokio::test]
async fn the_lease_tables_are_as_they_are_described() {
    let Some(db) = TestPostgres::new().await else { return };
    let pool = pool(&db);
    let schema = tables(&db, &pool, 64).await;
    assert_eq!(schema.tables(), LEASE_TABLES);
    assert_eq!(verify(&pool, &schema).await.unwrap(), []);
    assert_eq!(db.number("select count(*) from {shards}").await, 64);
    // Every column is described, so that none can change unseen.
    let described: usize = LEASE_TABLES.iter().map(|table| table.columns.len()).sum();
    let found = "select count(*) from information_schema.columns c where format('%I.%I', table_schema, table_name) in \
                 (select replace(t, '\"', '') from unnest(array['{members}', '{shards}']) t)";
    assert_eq!(usize::try_from(db.number(found).await).unwrap(), described);
    db.clean().await;
}
