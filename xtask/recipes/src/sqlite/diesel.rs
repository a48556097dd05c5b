//! diesel.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Binary, Integer, Text};
use relaykit_outbox::sqlite::SqliteOutbox;
use relaykit_pipeline_traits::uuid::Uuid;
use relaykit_pipeline_traits::{Message, MessageId};

use crate::Error;

#[derive(QueryableByName)]
struct Added {
    #[diesel(sql_type = Binary)]
    message_id: Vec<u8>,
}

/// Writes an order and its messages in one transaction, and returns the ids of those that were added.
pub fn book(
    conn: &mut SqliteConnection,
    outbox: &SqliteOutbox,
    order: i32,
    messages: &[Message],
) -> Result<Vec<MessageId>, Error> {
    let add = outbox.statement(messages)?;
    conn.immediate_transaction(|conn| {
        sql_query("insert into orders (number) values (?)").bind::<Integer, _>(order).execute(conn)?;
        let added: Vec<Added> = sql_query(add.sql).bind::<Text, _>(add.parameter).load(conn)?;
        sql_query("update stock set on_hand = on_hand - 1").execute(conn)?;
        added.iter().map(|added| Ok(MessageId::from_uuid(Uuid::from_slice(&added.message_id)?))).collect()
    })
}
