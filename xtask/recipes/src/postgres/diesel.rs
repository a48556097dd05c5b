//! diesel, with its own connections.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Integer, Text};
use relaykit_outbox::postgres::PgOutbox;
use relaykit_pipeline_traits::{Message, MessageId};

use crate::Error;

#[derive(QueryableByName)]
struct Added {
    #[diesel(sql_type = Text)]
    message_id: String,
}

/// Writes an order and its messages in one transaction, and returns the ids of those that were added.
pub fn book(
    conn: &mut PgConnection,
    outbox: &PgOutbox,
    order: i32,
    messages: &[Message],
) -> Result<Vec<MessageId>, Error> {
    let add = outbox.statement(messages)?;
    conn.transaction(|conn| {
        sql_query("insert into orders (number) values ($1)").bind::<Integer, _>(order).execute(conn)?;
        let added: Vec<Added> = sql_query(add.sql).bind::<Text, _>(add.parameter).load(conn)?;
        sql_query("update stock set on_hand = on_hand - 1").execute(conn)?;
        added.iter().map(|added| Ok(added.message_id.parse()?)).collect()
    })
}
