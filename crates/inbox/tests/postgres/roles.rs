//! The least that a role needs, as `relaykit_inbox::postgres` lists it.

use relaykit_inbox::postgres::PgInboxStore;
use relaykit_inbox::{
    DeadFilter, DeadReason, InboxStore, ReceiveError, Received, Retention, Seq, Settlement, inbox_conformance,
};
use relaykit_sql_store::postgres::{TestPostgres, TestRole};
use relaykit_sql_store::{Dying, StoreError};
use sqlx::ConnectOptions;

use crate::common::{HOUR, Inbox, handler, keyed, message, route, routes, schema, scope, take_all, waiting};
use crate::harness::Postgres;
use crate::role::{MIGRATOR, RECEIVER, WORKER};

// The promises hold when the tables are a migrator's and a worker does all.
inbox_conformance!(Postgres::under_roles());

#[tokio::test]
async fn a_receiver_receives_with_its_rights_and_can_do_nothing_else() {
    let Some(i) = Inbox::new().await else { return };
    let known = keyed("k");
    i.receive(std::slice::from_ref(&known)).await;
    let role = TestRole::new(&i.db, &RECEIVER).await;
    let mut conn = role.options().connect().await.unwrap();
    assert_eq!(i.inbox.receive(&mut conn, &scope(), &keyed("k")).await.unwrap(), Received::Stored);
    assert_eq!(i.inbox.receive(&mut conn, &scope(), &known).await.unwrap(), Received::AlreadyKnown);
    let list = [keyed("k"), known.clone()];
    i.inbox.receive_all(&mut conn, &scope(), &list).await.unwrap();
    assert_eq!(i.store.depth(&handler("crm")).await.unwrap().pending, 3);

    let store = PgInboxStore::new(role.pool(), &i.db.names("t"));
    let denied = store.settle(&i.settlement()).await.unwrap_err();
    assert!(matches!(denied, StoreError::Denied { .. }), "{denied:?}");
    assert!(matches!(store.route(&routes(), 1).await, Err(StoreError::Denied { .. })));
    assert!(matches!(store.depth(&handler("crm")).await, Err(StoreError::Denied { .. })));
    let dead = store.dead_letters(None, &DeadFilter::all(), 1).await;
    assert!(matches!(dead, Err(StoreError::Denied { .. })), "{dead:?}");
    drop((conn, store));
    role.drop(&i.db).await;
    i.clean().await;
}

#[tokio::test]
async fn each_right_of_a_receiver_is_needed() {
    let Some(i) = Inbox::new().await else { return };
    for missing in RECEIVER {
        let grants: Vec<_> = RECEIVER.into_iter().filter(|grant| *grant != missing).collect();
        let role = TestRole::new(&i.db, &grants).await;
        let mut conn = role.options().connect().await.unwrap();
        let error = i.inbox.receive(&mut conn, &scope(), &keyed("k")).await.unwrap_err();
        assert!(matches!(error, ReceiveError::Store(StoreError::Denied { .. })), "{grants:?}: {error:?}");
        drop(conn);
        role.drop(&i.db).await;
    }
    i.clean().await;
}

#[tokio::test]
async fn a_worker_does_all_its_work_without_rights_on_the_tables_form() {
    let Some(i) = Inbox::new().await else { return };
    let role = TestRole::new(&i.db, &WORKER).await;
    let messages = i.receive_of("a", 3).await;
    i.receive(&[message("fork").build().unwrap()]).await;
    i.db.execute("update {shards} set owner = null, until = null").await;
    let pool = role.pool();
    let store = PgInboxStore::new(pool.clone(), &i.db.names("t"));
    let leases = take_all(&store).await;
    let settlement = Settlement {
        leases,
        done: vec![i.row("mail", &messages[0]).await],
        retry: vec![waiting(i.row("mail", &messages[1]).await, 1, HOUR)],
        dead: vec![Dying {
            row: i.row("crm", &messages[0]).await,
            attempts: 1,
            reason: DeadReason::Rejected,
            error: "no".to_owned(),
        }],
    };
    assert_eq!(store.settle(&settlement).await.unwrap().written, 3);
    assert_eq!(i.ids("crm").await.len(), 2);
    let mut forks = routes();
    forks.add("fork", route("mail", false)).unwrap();
    assert_eq!(store.route(&forks, 10).await.unwrap(), 1);
    assert_eq!(store.writing().await.unwrap(), Vec::<String>::new());
    assert_eq!(store.catch_up("push", &route("new", true), Seq(0), 10).await.unwrap().unwrap().1, 3);
    assert_eq!(store.unrouted(Seq(0), 10).await.unwrap(), []);
    assert_eq!(store.dead_letters(None, &DeadFilter::all(), 10).await.unwrap().len(), 1);
    assert_eq!(store.replay(None, &DeadFilter::all(), 10).await.unwrap(), [messages[0].id()]);
    assert_eq!(store.purge(None, &DeadFilter::all(), 10).await.unwrap(), 0);
    assert_eq!(store.depth(&handler("crm")).await.unwrap().pending, 3);
    store.erase(&Retention::default(), 10).await.unwrap();
    // Whoever starts with a migration needs to see the version, and the number of shards; no more if nothing is missing.
    assert!(matches!(schema(&i.db).migrate(&pool).await, Err(StoreError::Denied { .. })));
    role.run(&i.db, "grant select on {schema} to {role}").await;
    assert_eq!(schema(&i.db).migrate(&pool).await.unwrap().from, 1);
    assert_eq!(schema(&i.db).verify(&pool).await.unwrap(), []);
    pool.close().await;
    role.drop(&i.db).await;
    i.clean().await;
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
