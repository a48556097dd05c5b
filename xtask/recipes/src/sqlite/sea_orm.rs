//! SeaORM.

use relaykit_outbox::sqlite::SqliteOutbox;
use relaykit_pipeline_traits::uuid::Uuid;
use relaykit_pipeline_traits::{Message, MessageId};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbBackend, SqliteTransactionMode, Statement, TransactionOptions,
    TransactionTrait,
};

use crate::Error;

/// Writes an order and its messages in one transaction, and returns the ids of those that were added.
pub async fn book(
    db: &DatabaseConnection,
    outbox: &SqliteOutbox,
    order: i32,
    messages: &[Message],
) -> Result<Vec<MessageId>, Error> {
    let add = outbox.statement(messages)?;
    let statement = |sql: &str, value| Statement::from_sql_and_values(DbBackend::Sqlite, sql, [value]);
    let immediate = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };

    let tx = db.begin_with_options(immediate).await?;
    tx.execute_raw(statement("insert into orders (number) values (?)", order.into())).await?;
    let added = tx.query_all_raw(statement(&add.sql, add.parameter.into())).await?;
    tx.execute_unprepared("update stock set on_hand = on_hand - 1").await?;
    tx.commit().await?;
    let id = |blob: Vec<u8>| Ok(MessageId::from_uuid(Uuid::from_slice(&blob)?));
    added.iter().map(|row| id(row.try_get_by_index(0)?)).collect()
}
