use std::time::Duration;

use relaykit_pipeline_traits::{Message, MessageId, OrderingKey, Timestamp};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::codec::{PgTimestamp, PgUuid};
use crate::message::{Parts, read_message};
use crate::{RowId, Seq, Shard};

/// A century: longer waits are as good as this one, and it is counted exactly in SQL.
const LONGEST_WAIT: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The columns of a message as they are stored, before anybody looks whether they are one.
#[derive(Debug, Clone)]
pub struct RawMessage {
    id: MessageId,
    kind: String,
    key: Option<String>,
    payload: Option<Vec<u8>>,
    headers: String,
    occurred_at: Timestamp,
}

impl RawMessage {
    /// Reads the six columns from `first` on: `message_id, kind, ordering_key, payload, headers, occurred_at`.
    ///
    /// # Errors
    ///
    /// A column is of another type.
    pub fn read(row: &PgRow, first: usize) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: MessageId::from_uuid(row.try_get::<PgUuid, _>(first)?.0),
            kind: row.try_get(first + 1)?,
            key: row.try_get(first + 2)?,
            payload: row.try_get(first + 3)?,
            headers: row.try_get(first + 4)?,
            occurred_at: row.try_get::<PgTimestamp, _>(first + 5)?.0,
        })
    }

    /// Returns the id, also of what is no message.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.id
    }

    /// Returns the key, if it is one.
    #[must_use]
    pub fn key(&self) -> Option<OrderingKey> {
        self.key.as_deref().and_then(|key| OrderingKey::new(key).ok())
    }

    /// Makes the message.
    ///
    /// # Errors
    ///
    /// Why it is none. No value of the row is part of that.
    pub fn message(self) -> Result<Message, String> {
        let payload = self.payload.ok_or_else(|| "the payload is not there any more".to_owned())?;
        read_message(Parts {
            id: self.id,
            kind: self.kind,
            ordering_key: self.key,
            payload,
            headers: self.headers,
            occurred_at: self.occurred_at,
        })
    }
}

/// Returns a wait in microseconds; one beyond a century counts as one.
#[must_use]
pub fn micros(wait: Duration) -> i64 {
    i64::try_from(wait.min(LONGEST_WAIT).as_micros()).unwrap_or(i64::MAX)
}

/// Returns a span that SQL counted in microseconds; a negative one is none.
#[must_use]
pub fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Reads a shard's number.
///
/// # Errors
///
/// It is none.
pub fn shard(number: i32) -> Result<Shard, sqlx::Error> {
    u16::try_from(number).map(Shard::new).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Reads a row's name.
///
/// # Errors
///
/// The shard's number is none.
pub fn row_id(number: i32, seq: i64) -> Result<RowId, sqlx::Error> {
    Ok(RowId { shard: shard(number)?, seq: Seq(seq) })
}

/// Reads how many attempts were spent.
#[must_use]
pub fn attempts(stored: i32) -> u32 {
    u32::try_from(stored).unwrap_or(0)
}

/// Returns how many attempts are stored.
#[must_use]
pub fn stored_attempts(attempts: u32) -> i32 {
    i32::try_from(attempts).unwrap_or(i32::MAX)
}

/// Reads a message's id.
///
/// # Errors
///
/// The column is of another type.
pub fn message_id(row: &PgRow, column: usize) -> Result<MessageId, sqlx::Error> {
    Ok(MessageId::from_uuid(row.try_get::<PgUuid, _>(column)?.0))
}

/// Reads a count.
///
/// # Errors
///
/// The column is of another type.
pub fn count(row: &PgRow, column: usize) -> Result<u64, sqlx::Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
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
