//! Producers that use another driver than sqlx.

use tokio_postgres::NoTls;

use crate::common::{Outbox, keyed};

/// The recipe for tokio-postgres: the statement runs in a transaction of the application's own.
#[tokio::test]
async fn tokio_postgres_adds_in_its_own_transaction() {
    let Some(o) = Outbox::new().await else { return };
    let url = std::env::var(relaykit_sql_store::postgres::TEST_POSTGRES).unwrap();
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let messages = [keyed("a"), keyed("b")];
    let add = o.outbox.statement(&messages).unwrap();

    let tx = client.transaction().await.unwrap();
    assert_eq!(tx.query(&add.sql, &[&add.parameter]).await.unwrap().len(), 2);
    tx.rollback().await.unwrap();
    assert_eq!(o.page().await.rows, []);

    let tx = client.transaction().await.unwrap();
    let added: Vec<String> =
        tx.query(&add.sql, &[&add.parameter]).await.unwrap().iter().map(|row| row.get(0)).collect();
    tx.commit().await.unwrap();
    assert_eq!(added, messages.each_ref().map(|message| message.id().to_string()));
    let mut found: Vec<_> = o.page().await.rows.into_iter().map(|stored| stored.message).collect();
    found.sort_by_key(|message| messages.iter().position(|other| other == message));
    assert_eq!(found, messages);
    drop(client);
    connection.await.unwrap().unwrap();
    o.clean().await;
}
