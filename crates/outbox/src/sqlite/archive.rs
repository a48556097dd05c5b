use relaykit_pipeline_traits::{OrderingKey, Timestamp};
use relaykit_sql_store::sqlite::rusqlite::types::Value;
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult, params_from_iter};
use relaykit_sql_store::sqlite::{Database, RawMessage, id_list, rusqlite};
use relaykit_sql_store::{Names, Sql, StoreError};

use super::schema::COLUMNS;
use crate::archive::{Archive, ArchiveFilter, Archived};
use crate::dead::check_limit;
use crate::retention::{Maintained, Upkeep, is_busy};

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Whether there is an archive: the tables themselves say so, since every process that settles must do the same.
const EXISTS: &str = "select count(*) from sqlite_schema where type = 'table' and name = ?1";

/// Copies a row that was sent; the second step deletes it.
const KEEP: &str = "insert or replace into {archive} (seq, shard, message_id, kind, ordering_key, payload, headers,
  occurred_at, added_at, attempts, first_failed_at, sent_at)
select seq, shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at, attempts, first_failed_at, ?3
from {messages} where seq = ?1 and shard = ?2";

const LIST: [&str; 2] = [
    COLUMNS,
    ", m.sent_at from {archive} m
where (?1 is null or m.message_id in (select unhex(value) from json_each(?1)))
and (?2 is null or m.kind = ?2)
and (?3 is null or m.ordering_key = ?3)
and m.sent_at >= ?4
and (?5 is null or m.sent_at < ?5)
and (?6 is null or (m.sent_at, m.seq) > (?6, ?7))
order by m.sent_at, m.seq limit ?8",
];

const DELETE: &str = "delete from {archive} where seq in (
  select seq from {archive} where sent_at < ?1 order by sent_at limit ?2
)";

/// How sent rows are kept.
#[derive(Debug, Clone)]
pub(super) struct Keep {
    table: String,
    keep: Sql,
}

impl Keep {
    pub(super) fn new(names: &Names) -> Self {
        Self { table: names.bare("archive"), keep: Sql::new(names, &[KEEP]) }
    }

    /// Returns the statement that keeps a row, with its place, shard and the time, if rows are kept.
    pub(super) fn statement<'c>(
        &self,
        connection: &'c Connection,
    ) -> SqlResult<Option<rusqlite::CachedStatement<'c>>> {
        let exists: i64 = connection.prepare_cached(EXISTS)?.query_row([&self.table], |row| row.get(0))?;
        if exists == 0 {
            return Ok(None);
        }
        connection.prepare_cached(self.keep.as_str()).map(Some)
    }
}

/// The archive of an outbox in a SQLite file: a table `<prefix>_archive`, from which [`Retention`](crate::Retention) deletes in
/// chunks. Cheap to clone.
///
/// [`SqliteOutboxStore::with_archive`](super::SqliteOutboxStore::with_archive) says to make the table; from then on settlements move
/// there what was sent. The file does not shrink: SQLite uses the place again.
#[derive(Debug, Clone)]
pub struct SqliteArchive {
    database: Database,
    list: Sql,
    delete: Sql,
}

impl SqliteArchive {
    /// Makes it on the tables of these names.
    #[must_use]
    pub fn new(database: Database, names: &Names) -> Self {
        let names = names.on_sqlite();
        Self { list: Sql::new(&names, &LIST), delete: Sql::new(&names, &[DELETE]), database }
    }

    async fn delete(&self, before: i64, chunk: u32) -> Result<u64, StoreError> {
        let sql = self.delete.clone();
        self.database
            .write("delete from the archive", move |connection| {
                let deleted = connection.prepare_cached(sql.as_str())?.execute([before, chunk.into()])?;
                Ok(u64::try_from(deleted).unwrap_or(u64::MAX))
            })
            .await
    }
}

impl Archive for SqliteArchive {
    async fn list(&self, filter: &ArchiveFilter, limit: u32) -> Result<Vec<Archived>, StoreError> {
        const OP: &str = "list sent messages";
        check_limit(OP, limit)?;
        let (sql, conditions) = (self.list.clone(), conditions(filter, limit));
        let list = move |connection: &Connection| {
            let mut list = connection.prepare_cached(sql.as_str())?;
            let rows = list.query_map(params_from_iter(conditions), archived)?;
            rows.collect()
        };
        self.database.read(OP, list).await
    }

    async fn maintain(&self, upkeep: &Upkeep) -> Result<Maintained, StoreError> {
        let before = cutoff(self.database.clock().now(), upkeep);
        match self.delete(before, upkeep.chunk).await {
            Ok(deleted) => {
                let more = deleted >= u64::from(upkeep.chunk);
                Ok(Maintained { deleted, more, ..Maintained::default() })
            }
            Err(error) if is_busy(&error) => Ok(Maintained { postponed: 1, ..Maintained::default() }),
            Err(error) => Err(error),
        }
    }
}

/// Returns the first moment that is kept: when a day began in UTC.
fn cutoff(now: Timestamp, upkeep: &Upkeep) -> i64 {
    let day = now.as_micros().div_euclid(MICROS_PER_DAY) - i64::from(upkeep.days_kept);
    day.saturating_mul(MICROS_PER_DAY)
}

fn conditions(filter: &ArchiveFilter, limit: u32) -> [Value; 8] {
    let text = |text: Option<&str>| text.map_or(Value::Null, |text| Value::Text(text.to_owned()));
    let integer = |number: Option<i64>| number.map_or(Value::Null, Value::Integer);
    [
        filter.ids.as_deref().map_or(Value::Null, |ids| Value::Text(id_list(ids))),
        text(filter.kind.as_deref()),
        text(filter.key.as_ref().map(OrderingKey::as_str)),
        Value::Integer(filter.first().map_or(i64::MIN, Timestamp::as_micros)),
        integer(filter.until.map(Timestamp::as_micros)),
        integer(filter.after.map(|(at, _)| at.as_micros())),
        integer(filter.after.map(|(_, seq)| seq.0)),
        limit.into(),
    ]
}

fn archived(row: &rusqlite::Row<'_>) -> SqlResult<Archived> {
    let raw = RawMessage::read(row)?;
    Ok(Archived {
        seq: raw.row.seq,
        id: raw.id,
        message: raw.message.ok(),
        attempts: raw.attempts,
        added_at: raw.added_at,
        sent_at: Timestamp::from_micros(row.get(RawMessage::WIDTH)?),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn days_begin_at_midnight_in_utc_before_1970_too() {
        let upkeep = |days_kept| Upkeep { days_ahead: 1, days_kept, chunk: 1, lock_timeout: Duration::ZERO };
        let noon = Timestamp::from_micros(10 * MICROS_PER_DAY + MICROS_PER_DAY / 2);
        assert_eq!(cutoff(noon, &upkeep(0)), 10 * MICROS_PER_DAY);
        assert_eq!(cutoff(noon, &upkeep(3)), 7 * MICROS_PER_DAY);
        assert_eq!(cutoff(Timestamp::from_micros(-1), &upkeep(0)), -MICROS_PER_DAY);
        assert_eq!(cutoff(Timestamp::from_micros(i64::MIN), &upkeep(9)), i64::MIN);
    }
}
