use std::time::Duration;

use relaykit_pipeline_traits::uuid::Uuid;
use relaykit_pipeline_traits::{Message, MessageId, OrderingKey, Timestamp};
use rusqlite::{Result as SqlResult, Row};

use crate::message::{Parts, read_message};
use crate::{RowId, Seq, Shard};

/// A moment that never comes: a wait that ends only when an operator says so.
pub const PARKED: i64 = i64::MAX;

/// A message's row as it is found.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RawMessage {
    /// Where it is.
    pub row: RowId,
    /// The message's id.
    pub id: MessageId,
    /// The key, as far as it can be read.
    pub key: Option<OrderingKey>,
    /// The message, or why there is none; without any of its values, which may be personal.
    pub message: Result<Message, String>,
    /// Attempts spent.
    pub attempts: u32,
    /// When it came into the store.
    pub added_at: Timestamp,
    /// When it failed first, if it did.
    pub first_failed_at: Option<Timestamp>,
}

impl RawMessage {
    /// How many columns [`read`](Self::read) takes.
    pub const WIDTH: usize = 11;

    /// Reads a row whose first columns are `shard, seq, message_id, kind, ordering_key, payload, headers, occurred_at`, when it
    /// was added, `attempts, first_failed_at`.
    ///
    /// # Errors
    ///
    /// A column is of another type.
    pub fn read(row: &Row<'_>) -> SqlResult<Self> {
        let place = RowId { shard: Shard::new(row.get(0)?), seq: Seq(row.get(1)?) };
        let id = MessageId::from_uuid(Uuid::from_bytes(row.get(2)?));
        let key = key(row)?;
        let message = match &key {
            Ok(key) => message(row, id, key.clone())?,
            Err(error) => Err(error.clone()),
        };
        let first_failed_at: Option<i64> = row.get(10)?;
        let attempts: i64 = row.get(9)?;
        Ok(Self {
            row: place,
            id,
            key: key.ok().flatten(),
            message,
            attempts: u32::try_from(attempts.max(0)).unwrap_or(u32::MAX),
            added_at: Timestamp::from_micros(row.get(8)?),
            first_failed_at: first_failed_at.map(Timestamp::from_micros),
        })
    }
}

type Readable<T> = Result<T, String>;

fn text<'a>(row: &'a Row<'_>, column: usize, field: &str) -> SqlResult<Readable<&'a str>> {
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
    let payload = row.get_ref(5)?.as_blob_or_null()?.ok_or_else(|| "payload was erased".to_owned());
    let occurred_at = Timestamp::from_micros(row.get(7)?);
    let parts = kind.and_then(|kind| {
        Ok(Parts {
            id,
            kind: kind.to_owned(),
            ordering_key: key.map(|key| key.as_str().to_owned()),
            payload: payload?.to_vec(),
            headers: headers?.to_owned(),
            occurred_at,
        })
    });
    Ok(parts.and_then(read_message))
}

/// Returns when a wait is over; never so late that it would count as [`PARKED`].
#[must_use]
pub fn due_at(now: Timestamp, wait: Duration) -> i64 {
    (now + wait).as_micros().min(PARKED - 1)
}

/// Returns how long it is until a moment.
#[must_use]
pub fn until(now: Timestamp, at: i64) -> Duration {
    Timestamp::from_micros(at).since(now)
}
