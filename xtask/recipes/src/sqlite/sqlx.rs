//! sqlx, with its own SQLite driver.

use relaykit_outbox::sqlite::SqliteOutbox;
use relaykit_pipeline_traits::uuid::Uuid;
use relaykit_pipeline_traits::{Message, MessageId};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::Error;

/// Writes an order and its messages in one transaction, and returns the ids of those that were added.
pub async fn book(
    conn: &mut SqliteConnection,
    outbox: &SqliteOutbox,
    order: i32,
    messages: &[Message],
) -> Result<Vec<MessageId>, Error> {
    let add = outbox.statement(messages)?;
    let mut tx = conn.begin_with("begin immediate").await?;
    sqlx::query("insert into orders (number) values (?)").bind(order).execute(&mut *tx).await?;
    // The statement is the outbox's own, and its values are in the parameter.
    let add = sqlx::query_scalar(AssertSqlSafe(add.sql)).bind(add.parameter);
    let added: Vec<Vec<u8>> = add.fetch_all(&mut *tx).await?;
    sqlx::query("update stock set on_hand = on_hand - 1").execute(&mut *tx).await?;
    tx.commit().await?;
    added.iter().map(|id| Ok(MessageId::from_uuid(Uuid::from_slice(id)?))).collect()
}
