//! SeaORM.

use relaykit_outbox::postgres::PgOutbox;
use relaykit_pipeline_traits::{Message, MessageId};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement, TransactionTrait};

use crate::Error;

/// Writes an order and its messages in one transaction, and returns the ids of those that were added.
pub async fn book(
    db: &DatabaseConnection,
    outbox: &PgOutbox,
    order: i32,
    messages: &[Message],
) -> Result<Vec<MessageId>, Error> {
    let add = outbox.statement(messages)?;
    let statement = |sql: &str, value| Statement::from_sql_and_values(DbBackend::Postgres, sql, [value]);

    let tx = db.begin().await?;
    tx.execute_raw(statement("insert into orders (number) values ($1)", order.into())).await?;
    let added = tx.query_all_raw(statement(&add.sql, add.parameter.into())).await?;
    tx.execute_unprepared("update stock set on_hand = on_hand - 1").await?;
    tx.commit().await?;
    added.iter().map(|row| Ok(row.try_get_by_index::<String>(0)?.parse()?)).collect()
}
