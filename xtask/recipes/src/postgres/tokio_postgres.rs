//! tokio-postgres, also from a pool such as deadpool-postgres.

use relaykit_outbox::postgres::PgOutbox;
use relaykit_pipeline_traits::{Message, MessageId};
use tokio_postgres::Client;

use crate::Error;

/// Writes an order and its messages in one transaction, and returns the ids of those that were added.
pub async fn book(
    client: &mut Client,
    outbox: &PgOutbox,
    order: i32,
    messages: &[Message],
) -> Result<Vec<MessageId>, Error> {
    let add = outbox.statement(messages)?;
    let tx = client.transaction().await?;
    tx.execute("insert into orders (number) values ($1)", &[&order]).await?;
    let added = tx.query(&add.sql, &[&add.parameter]).await?;
    tx.execute("update stock set on_hand = on_hand - 1", &[]).await?;
    tx.commit().await?;
    added.iter().map(|row| Ok(row.try_get::<_, String>(0)?.parse()?)).collect()
}
