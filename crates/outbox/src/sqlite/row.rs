use relaykit_pipeline_traits::uuid::Uuid;
use relaykit_pipeline_traits::{Message, MessageId, OrderingKey, Timestamp};
use relaykit_sql_store::Shard;
use relaykit_sql_store::sqlite::rusqlite::{Result as SqlResult, Row};

use crate::store::{RowId, Seq};
use relaykit_sql_store::message::{Parts, read_message};

/// The columns that [`Raw::read`] wants, first and in this order, of a table called `m`.
pub(super) const COLUMNS: &str =
    "select m.shard, m.seq, m.message_id, m.kind, m.ordering_key, m.payload, m.headers,
m.occurred_at, m.added_at, m.attempts, m.first_failed_at";

/// How many columns those are.
pub(super) const WIDTH: usize = 11;

/// A row as it is found, in either table.
pub(super) struct Raw {
    pub(super) row: RowId,
    pub(super) id: MessageId,
    /// The key, as far as it can be read.
    pub(super) key: Option<OrderingKey>,
    /// The message, or why there is none.
    pub(super) message: Result<Message, String>,
    pub(super) attempts: u32,
    pub(super) added_at: Timestamp,
    pub(super) first_failed_at: Option<Timestamp>,
}

impl Raw {
    pub(super) fn read(row: &Row<'_>) -> SqlResult<Self> {
        let place = RowId { shard: Shard::new(row.get(0)?), seq: Seq(row.get(1)?) };
        let id = MessageId::from_uuid(Uuid::from_bytes(row.get(2)?));
        let key = key(row)?;
        let message = match &key {
            Ok(key) => message(row, id, key.clone())?,
            Err(error) => Err(error.clone()),
        };
        let first_failed_at: Option<i64> = row.get(10)?;
        Ok(Self {
            row: place,
            id,
            key: key.ok().flatten(),
            message,
            attempts: attempts(row.get(9)?),
            added_at: Timestamp::from_micros(row.get(8)?),
            first_failed_at: first_failed_at.map(Timestamp::from_micros),
        })
    }
}

pub(super) fn attempts(stored: i64) -> u32 {
    u32::try_from(stored.max(0)).unwrap_or(u32::MAX)
}

type Readable<T> = Result<T, String>;

fn text<'a>(row: &'a Row<'_>, column: usize, field: &str) -> SqlResult<Readable<&'a str>> {
    // The values are left out: they may be personal.
    let bytes = row.get_ref(column)?.as_bytes()?;
    Ok(std::str::from_utf8(bytes).map_err(|_| format!("{field} is no UTF-8")))
}

fn key(row: &Row<'_>) -> SqlResult<Readable<Option<OrderingKey>>> {
    if row.get_ref(4)?.as_bytes_or_null()?.is_none() {
        return Ok(Ok(None));
    }
    let key = text(row, 4, "ordering_key")?;
    Ok(key.and_then(|key| OrderingKey::new(key).map(Some).map_err(|error| error.to_string())))
}

fn message(row: &Row<'_>, id: MessageId, key: Option<OrderingKey>) -> SqlResult<Readable<Message>> {
    let (kind, headers) = (text(row, 3, "kind")?, text(row, 6, "headers")?);
    let payload = row.get_ref(5)?.as_blob()?;
    let occurred_at = Timestamp::from_micros(row.get(7)?);
    let parts = kind.and_then(|kind| {
        Ok(Parts {
            id,
            kind: kind.to_owned(),
            ordering_key: key.map(|key| key.as_str().to_owned()),
            payload: payload.to_vec(),
            headers: headers?.to_owned(),
            occurred_at,
        })
    });
    Ok(parts.and_then(read_message))
}
