//! The least that a role needs, as `relaykit_outbox::postgres` lists it.

use relaykit_outbox::outbox_conformance;
use relaykit_outbox::postgres::PgOutboxStore;
use relaykit_outbox::{DeadFilter, DeadReason, Dying, OutboxStore, Settlement};
use relaykit_sql_store::postgres::{TestPostgres, TestRole};
use relaykit_sql_store::{Sql, StoreError};
use sqlx::{AssertSqlSafe, ConnectOptions};

use crate::common::{HOUR, Outbox, key, keyed, schema, take_all, waiting};
use crate::role::{MIGRATOR, RELAY, WRITER};

// The promises hold when the tables are a migrator's, a writer adds and a relay sends.
outbox_conformance!(Outbox::under_roles());

#[tokio::test]
async fn a_writer_adds_and_can_do_nothing_else() {
    let Some(o) = Outbox::new().await else { return };
    let role = TestRole::new(&o.db, &WRITER).await;
    let mut conn = role.options().connect().await.unwrap();
    let messages = [keyed("a"), keyed("b")];
    o.outbox.add(&mut conn, &keyed("a")).await.unwrap();
    o.outbox.add(&mut conn, &messages[0]).await.unwrap();
    o.outbox.add_all(&mut conn, &messages).await.unwrap();
    let statement = o.outbox.statement(&[keyed("c")]).unwrap();
    let ran = sqlx::query(AssertSqlSafe(statement.sql)).bind(statement.parameter).execute(&mut conn).await;
    assert_eq!(ran.unwrap().rows_affected(), 1);
    let function = Sql::new(&o.db.names("t"), &["select {add}(gen_random_uuid(), 'k', null, '')"]);
    sqlx::query(function).execute(&mut conn).await.unwrap();
    assert_eq!(o.page().await.rows.len(), 5);

    let store = PgOutboxStore::new(role.pool(), &o.db.names("t"));
    let denied = store.settle(&o.settlement()).await.unwrap_err();
    assert!(matches!(denied, StoreError::Denied { .. }), "{denied:?}");
    assert!(matches!(store.skip(&key("a")).await, Err(StoreError::Denied { .. })));
    assert!(matches!(store.dead_letters(&DeadFilter::all(), 1).await, Err(StoreError::Denied { .. })));
    drop((conn, store));
    role.drop(&o.db).await;
    o.clean().await;
}

#[tokio::test]
async fn each_right_of_a_writer_is_needed() {
    let Some(o) = Outbox::new().await else { return };
    let (insert, select, sequence) = (
        "grant insert on {messages} to {role}",
        "grant select on {messages} to {role}",
        "grant usage on sequence {messages_seq} to {role}",
    );
    for grants in [[insert, select], [insert, sequence], [select, sequence]] {
        let role = TestRole::new(&o.db, &grants).await;
        let mut conn = role.options().connect().await.unwrap();
        let error = o.outbox.add(&mut conn, &keyed("a")).await.unwrap_err();
        let denied = matches!(error, relaykit_outbox::AddError::Store(StoreError::Denied { .. }));
        assert!(denied, "{grants:?}: {error:?}");
        drop(conn);
        role.drop(&o.db).await;
    }
    o.clean().await;
}

#[tokio::test]
async fn a_relay_does_all_its_work_without_rights_on_the_tables_form() {
    let Some(o) = Outbox::new().await else { return };
    let role = TestRole::new(&o.db, &RELAY).await;
    let a = o.add_to("a", 4).await;
    let b = o.add_to("b", 2).await;
    o.db.execute("update {shards} set owner = null, until = null").await;
    let pool = role.pool();
    let store = PgOutboxStore::new(pool.clone(), &o.db.names("t"));
    let leases = take_all(&store).await;
    let settlement = Settlement {
        leases: leases.clone(),
        done: vec![o.row(&a[0]).await],
        retry: vec![waiting(o.row(&a[1]).await, 1, HOUR)],
        dead: vec![Dying {
            row: o.row(&b[0]).await,
            attempts: 1,
            reason: DeadReason::Rejected,
            error: "no".to_owned(),
        }],
    };
    assert_eq!(store.settle(&settlement).await.unwrap().written, 3);
    assert_eq!(o.page().await.rows.len(), 1);
    assert_eq!(store.blocked(10).await.unwrap().len(), 1);
    assert_eq!(store.park(&key("a")).await.unwrap(), Some(a[1].id()));
    assert_eq!(store.resume(&key("a")).await.unwrap(), Some(a[1].id()));
    assert_eq!(store.skip(&key("a")).await.unwrap(), Some(a[1].id()));
    assert_eq!(store.dead_letters(&DeadFilter::all(), 10).await.unwrap().len(), 2);
    assert_eq!(store.replay(&DeadFilter::all().key(key("b")), 10).await.unwrap(), [b[0].id()]);
    assert_eq!(store.purge(&DeadFilter::all(), 10).await.unwrap(), 1);
    assert_eq!(store.depth().await.unwrap().pending, 4);

    // Whoever starts with a migration needs to see the version, and the number of shards; no more if nothing is missing.
    assert!(matches!(schema(&o.db).migrate(&pool).await, Err(StoreError::Denied { .. })));
    role.run(&o.db, "grant select on {schema} to {role}").await;
    assert_eq!(schema(&o.db).migrate(&pool).await.unwrap().from, 1);
    assert_eq!(schema(&o.db).verify(&pool).await.unwrap(), []);
    pool.close().await;
    role.drop(&o.db).await;
    o.clean().await;
}

#[tokio::test]
async fn a_migrator_needs_to_make_tables_in_the_schema() {
    let Some(db) = TestPostgres::new().await else { return };
    let role = TestRole::new(&db, &[]).await;
    let pool = role.pool();
    assert!(matches!(schema(&db).migrate(&pool).await, Err(StoreError::Denied { .. })));
    for grant in MIGRATOR {
        role.run(&db, grant).await;
    }
    assert_eq!(schema(&db).migrate(&pool).await.unwrap().to, 1);
    assert_eq!(schema(&db).verify(&pool).await.unwrap(), []);
    pool.close().await;
    role.drop(&db).await;
    db.clean().await;
}
