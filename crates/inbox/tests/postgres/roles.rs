//! The least that a receiver needs, as `relaykit_inbox::postgres` lists it.

use relaykit_inbox::{InboxStore, ReceiveError, Received};
use relaykit_pipeline_traits::Rng;
use relaykit_sql_store::{Sql, StoreError};
use sqlx::{AssertSqlSafe, ConnectOptions};

use crate::common::{Inbox, keyed, scope};

const GRANTS: [&str; 4] = [
    "grant insert, select on {messages} to {role}",
    "grant insert on {deliveries} to {role}",
    "grant usage on sequence {messages_seq} to {role}",
    "grant usage on sequence {deliveries_seq} to {role}",
];

async fn run(i: &Inbox, role: &str, sql: &'static str) {
    let sql = Sql::new(&i.db.names("t"), &[sql]);
    // Its name stands where a table's would.
    let sql = sql.as_str().replace(&i.db.names("t").table("role"), role);
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut i.connection().await).await.unwrap();
}

#[tokio::test]
async fn a_receiver_receives_with_its_rights_and_needs_each_of_them() {
    let Some(i) = Inbox::new().await else { return };
    let known = keyed("k");
    i.receive(std::slice::from_ref(&known)).await;
    for missing in 0..=GRANTS.len() {
        let role = format!("role_{:016x}", Rng::from_entropy().next_u64());
        run(&i, &role, "create role {role} login password 'test'; grant usage on schema {@schema} to {role}")
            .await;
        for (number, grant) in GRANTS.into_iter().enumerate() {
            if number != missing {
                run(&i, &role, grant).await;
            }
        }
        let options = i.db.options().username(&role).password("test");
        let mut conn = options.connect().await.unwrap();
        let new = i.inbox.receive(&mut conn, &scope(), &keyed("k")).await;
        if missing == GRANTS.len() {
            assert_eq!(new.unwrap(), Received::Stored);
            assert_eq!(i.inbox.receive(&mut conn, &scope(), &known).await.unwrap(), Received::AlreadyKnown);
            let list = [keyed("k"), known.clone()];
            i.inbox.receive_all(&mut conn, &scope(), &list).await.unwrap();
        } else {
            assert!(matches!(new, Err(ReceiveError::Store(StoreError::Denied { .. }))), "{missing}: {new:?}");
        }
        drop(conn);
        run(&i, &role, "drop owned by {role}; drop role {role}").await;
    }
    assert_eq!(i.store.depth(&crate::common::handler("crm")).await.unwrap().pending, 3);
    i.clean().await;
}
