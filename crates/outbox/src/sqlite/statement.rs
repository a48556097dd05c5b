use std::fmt;

use relaykit_pipeline_traits::{Message, OrderingKey, Timestamp};
use relaykit_sql_store::{Names, Shards, Sql};
use serde_json::{Value, json};

use crate::content::shard_of;
use relaykit_sql_store::message::{hex, write_headers};

/// A shard of null, which the table refuses, if the tables have another number of shards than was thought.
const INSERT: &str = "insert into {messages}
(shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at)
select
  case when value ->> 'shards' = (select max(shard) + 1 from {shards}) then value ->> 'shard' end,
  unhex(value ->> 'id'), value ->> 'kind', value ->> 'key', unhex(value ->> 'payload'), value ->> 'headers',
  value ->> 'occurred_at', value ->> 'added_at'
from json_each(?1) where true
on conflict (message_id) do nothing
returning message_id";

/// One SQL statement with one text parameter that adds messages, for connections that are not rusqlite's: that of sqlx, say.
///
/// Run it in the transaction that the messages belong to:
///
/// ```text
/// let statement = outbox.statement(&messages)?;
/// let added: Vec<Uuid> = sqlx::query_scalar(AssertSqlSafe(statement.sql)).bind(statement.parameter).fetch_all(&mut *tx).await?;
/// ```
///
/// It returns the ids of the messages that were added, as blobs. An id that is there already is passed over, whether the content is the
/// same or not: who needs to know compares the ids. It fails (`NOT NULL constraint failed`) if the tables have another number of
/// shards. It needs SQLite 3.41 or later.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddStatement {
    /// The statement. It is the same for all messages of an outbox, and `?1` is its parameter.
    pub sql: String,
    /// The parameter, a text.
    pub parameter: String,
}

impl AddStatement {
    pub(super) fn sql(names: &Names) -> Sql {
        Sql::new(names, &[INSERT])
    }

    pub(super) fn new(sql: &Sql, shards: Shards, messages: &[Message], now: Timestamp) -> Self {
        let messages = messages.iter().map(|message| value(shards, message, now));
        let parameter = Value::Array(messages.collect()).to_string();
        Self { sql: sql.as_str().to_owned(), parameter }
    }
}

impl fmt::Debug for AddStatement {
    /// Leaves out the messages, which may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddStatement").field("sql", &self.sql).finish_non_exhaustive()
    }
}

fn value(shards: Shards, message: &Message, now: Timestamp) -> Value {
    json!({
        "shards": shards.count(),
        "shard": shard_of(shards, message).number(),
        "id": hex(message.id().as_bytes()),
        "kind": message.kind(),
        "key": message.ordering_key().map(OrderingKey::as_str),
        "payload": hex(message.payload()),
        "headers": write_headers(message.headers()),
        "occurred_at": message.occurred_at().as_micros(),
        "added_at": now.as_micros(),
    })
}
