use relaykit_pipeline_traits::{MessageId, Timestamp};
use relaykit_sql_store::sqlite::RawMessage;
use relaykit_sql_store::sqlite::rusqlite::types::Value;
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult, params, params_from_iter};
use relaykit_sql_store::{DeadFilter, DeadReason, Names, Sql};

use super::page::COLUMNS;
use super::row::{handler, scope};
use crate::dead::DeadLetter;
use crate::name::HandlerKey;

/// What every listing asks for, with the parameters of [`DeadFilter::sqlite_parameters`] and the handler.
const MATCHING: &str = " from {dead} d cross join {messages} m on m.seq = d.message_seq where d.seq > ?1
and (?2 is null or m.message_id in (select unhex(value) from json_each(?2)))
and (?3 is null or m.kind = ?3)
and (?4 is null or m.ordering_key = ?4)
and (?5 is null or d.reason = ?5 or (?5 = 'unknown' and d.reason not in ('rejected', 'exhausted', 'unreadable', 'crashed', 'skipped')))
and (?6 is null or d.handler = ?6)
order by d.seq limit ?7";

const LIST: [&str; 3] = [COLUMNS, ", d.reason, d.error, d.died_at, d.handler, m.scope", MATCHING];

const PURGE: [&str; 4] = ["delete from {dead} where seq in (", "select d.seq", MATCHING, ")"];

const REPLAY: &str = "insert into {deliveries} (seq, shard, handler, message_seq, ordering_key, retry_at)
select seq, shard, handler, message_seq, ordering_key, ?2 from {dead} where seq = ?1";

const FORGET: &str = "delete from {dead} where seq = ?1";

/// What operators do with dead letters.
#[derive(Debug, Clone)]
pub(super) struct Letters {
    list: Sql,
    purge: Sql,
    replay: Sql,
    forget: Sql,
}

impl Letters {
    pub(super) fn new(names: &Names) -> Self {
        let sql = |parts: &[&'static str]| Sql::new(names, parts);
        Self { list: sql(&LIST), purge: sql(&PURGE), replay: sql(&[REPLAY]), forget: sql(&[FORGET]) }
    }

    pub(super) fn list(
        &self,
        connection: &Connection,
        of: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> SqlResult<Vec<DeadLetter>> {
        const WIDTH: usize = RawMessage::WIDTH;
        let mut list = connection.prepare_cached(self.list.as_str())?;
        let letters = list.query_map(params_from_iter(meant(of, filter, limit.into())), |row| {
            let raw = RawMessage::read(row)?;
            let reason: String = row.get(WIDTH)?;
            Ok(DeadLetter::new(
                raw.row.seq,
                handler(row, WIDTH + 3)?,
                scope(row, WIDTH + 4)?,
                raw.id,
                raw.message.ok(),
                DeadReason::parse(&reason),
                row.get(WIDTH + 1)?,
                raw.attempts,
                raw.added_at,
                raw.first_failed_at,
                Timestamp::from_micros(row.get(WIDTH + 2)?),
            ))
        })?;
        letters.collect()
    }

    /// Replays the first letters that can be read.
    pub(super) fn replay(
        &self,
        connection: &Connection,
        of: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
        now: Timestamp,
    ) -> SqlResult<Vec<MessageId>> {
        let letters = self.readable(connection, of, filter, limit)?;
        let mut replay = connection.prepare_cached(self.replay.as_str())?;
        let mut forget = connection.prepare_cached(self.forget.as_str())?;
        for (seq, _) in &letters {
            replay.execute(params![seq, now.as_micros()])?;
            forget.execute([seq])?;
        }
        Ok(letters.into_iter().map(|(_, id)| id).collect())
    }

    fn readable(
        &self,
        connection: &Connection,
        of: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> SqlResult<Vec<(i64, MessageId)>> {
        let mut list = connection.prepare_cached(self.list.as_str())?;
        let mut rows = list.query(params_from_iter(meant(of, filter, i64::MAX)))?;
        let mut letters = Vec::new();
        while letters.len() < usize::try_from(limit).unwrap_or(usize::MAX)
            && let Some(row) = rows.next()?
        {
            let raw = RawMessage::read(row)?;
            if raw.message.is_ok() {
                letters.push((raw.row.seq.0, raw.id));
            }
        }
        Ok(letters)
    }

    pub(super) fn purge(
        &self,
        connection: &Connection,
        of: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> SqlResult<u64> {
        let mut purge = connection.prepare_cached(self.purge.as_str())?;
        let purged = purge.execute(params_from_iter(meant(of, filter, limit.into())))?;
        Ok(u64::try_from(purged).unwrap_or(u64::MAX))
    }
}

/// The parameters of [`MATCHING`].
fn meant(of: Option<&HandlerKey>, filter: &DeadFilter, limit: i64) -> impl Iterator<Item = Value> {
    let handler = of.map_or(Value::Null, |key| Value::Text(key.as_str().to_owned()));
    filter.sqlite_parameters().into_iter().chain([handler, Value::Integer(limit)])
}
