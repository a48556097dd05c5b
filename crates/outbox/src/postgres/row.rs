use std::time::Duration;

use relaykit_pipeline_traits::{Message, MessageId, OrderingKey, Timestamp};
use relaykit_sql_store::Shard;
use relaykit_sql_store::postgres::{PgTimestamp, PgUuid};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::store::{RowId, Seq};
use relaykit_sql_store::message::{Parts, read_message};

/// A century: longer waits are as good as this one, and it is counted exactly in SQL.
const LONGEST_WAIT: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The columns of a message as they are stored, before anybody looks whether they are one.
#[derive(Debug, Clone)]
pub(super) struct RawMessage {
    id: MessageId,
    kind: String,
    key: Option<String>,
    payload: Vec<u8>,
    headers: String,
    occurred_at: Timestamp,
}

impl RawMessage {
    /// Reads the six columns from `first` on: `message_id, kind, ordering_key, payload, headers, occurred_at`.
    pub(super) fn read(row: &PgRow, first: usize) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: MessageId::from_uuid(row.try_get::<PgUuid, _>(first)?.0),
            kind: row.try_get(first + 1)?,
            key: row.try_get(first + 2)?,
            payload: row.try_get(first + 3)?,
            headers: row.try_get(first + 4)?,
            occurred_at: row.try_get::<PgTimestamp, _>(first + 5)?.0,
        })
    }

    pub(super) const fn id(&self) -> MessageId {
        self.id
    }

    /// Returns the key, if it is one.
    pub(super) fn key(&self) -> Option<OrderingKey> {
        self.key.as_deref().and_then(|key| OrderingKey::new(key).ok())
    }

    /// Makes the message, or says why it is none. No value of the row is part of what it says.
    pub(super) fn message(self) -> Result<Message, String> {
        read_message(Parts {
            id: self.id,
            kind: self.kind,
            ordering_key: self.key,
            payload: self.payload,
            headers: self.headers,
            occurred_at: self.occurred_at,
        })
    }
}

pub(super) fn micros(wait: Duration) -> i64 {
    i64::try_from(wait.min(LONGEST_WAIT).as_micros()).unwrap_or(i64::MAX)
}

pub(super) fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

pub(super) fn shard(number: i32) -> Result<Shard, sqlx::Error> {
    u16::try_from(number).map(Shard::new).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

pub(super) fn row_id(number: i32, seq: i64) -> Result<RowId, sqlx::Error> {
    Ok(RowId { shard: shard(number)?, seq: Seq(seq) })
}

pub(super) fn attempts(stored: i32) -> u32 {
    u32::try_from(stored).unwrap_or(0)
}

pub(super) fn stored_attempts(attempts: u32) -> i32 {
    i32::try_from(attempts).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_without_end_are_a_century() {
        assert_eq!(duration(micros(Duration::MAX)), LONGEST_WAIT);
        assert_eq!(duration(-1), Duration::ZERO);
    }
}
