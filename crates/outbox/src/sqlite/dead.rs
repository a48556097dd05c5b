use relaykit_pipeline_traits::uuid::Uuid;
use relaykit_pipeline_traits::{MessageId, OrderingKey, Timestamp};
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult, params, params_from_iter};
use relaykit_sql_store::sqlite::{CountedShards, PARKED, RawMessage, until};
use relaykit_sql_store::{Names, Shards, Sql};

use super::page::NOT_BLOCKED;
use super::schema::COLUMNS;
use super::settle::BURY;
use crate::dead::{BlockedKey, DeadFilter, DeadLetter, DeadReason};
use crate::store::{Depth, Seq};

const WIDTH: usize = RawMessage::WIDTH;

/// What every listing asks for, with the parameters of [`DeadFilter::sqlite_parameters`].
const MATCHING: &str = " from {dead} m where m.seq > ?1
and (?2 is null or m.message_id in (select unhex(value) from json_each(?2)))
and (?3 is null or m.kind = ?3)
and (?4 is null or m.ordering_key = ?4)
and (?5 is null or m.reason = ?5 or (?5 = 'unknown' and m.reason not in ('rejected', 'exhausted', 'unreadable', 'crashed', 'skipped')))
order by m.seq";

const LIST: [&str; 4] = [COLUMNS, ", m.reason, m.error, m.died_at", MATCHING, " limit ?6"];

const PURGE: [&str; 4] = ["delete from {dead} where seq in (", "select m.seq", MATCHING, " limit ?6)"];

/// An id may have been added again since; that message is the one that counts, and the letter stays.
const REPLAY: &str = "insert into {messages} (seq, shard, message_id, kind, ordering_key, payload, headers,
  occurred_at, added_at, retry_at)
select seq, shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at, ?2
from {dead} where seq = ?1
on conflict (message_id) do nothing";

const FORGET: &str = "delete from {dead} where seq = ?1";

const BLOCKED: [&str; 4] = [
    COLUMNS,
    ", m.retry_at, m.last_error from {messages} m where m.retry_at is not null and m.retry_at > ?2",
    NOT_BLOCKED,
    " order by m.seq limit ?1",
];

/// The first rows of a key.
const FIRST: &str = "select seq, message_id from {messages} indexed by {=messages_shard}
where shard = ?1 and ordering_key = ?2 order by seq limit ?3";

const WAIT: &str = "update {messages} set retry_at = ?2 where seq = ?1";

const DELETE: &str = "delete from {messages} where seq = ?1";

/// What operators do.
#[derive(Debug, Clone)]
pub(super) struct Operate {
    list: Sql,
    purge: Sql,
    every: Sql,
    replay: Sql,
    forget: Sql,
    blocked: Sql,
    shards: CountedShards,
    first: Sql,
    wait: Sql,
    bury: Sql,
    delete: Sql,
}

impl Operate {
    pub(super) fn new(names: &Names, shards: Shards) -> Self {
        let sql = |parts: &[&'static str]| Sql::new(names, parts);
        Self {
            list: sql(&LIST),
            purge: sql(&PURGE),
            every: sql(&LIST[..3]),
            replay: sql(&[REPLAY]),
            forget: sql(&[FORGET]),
            blocked: sql(&BLOCKED),
            shards: CountedShards::new(names, shards),
            first: sql(&[FIRST]),
            wait: sql(&[WAIT]),
            bury: sql(&[BURY]),
            delete: sql(&[DELETE]),
        }
    }

    pub(super) fn list(
        &self,
        connection: &Connection,
        filter: &DeadFilter,
        limit: u32,
    ) -> SqlResult<Vec<DeadLetter>> {
        let mut list = connection.prepare_cached(self.list.as_str())?;
        let mut rows =
            list.query(params_from_iter(filter.sqlite_parameters().into_iter().chain([limit.into()])))?;
        let mut letters = Vec::new();
        while let Some(row) = rows.next()? {
            let raw = RawMessage::read(row)?;
            let reason: String = row.get(WIDTH)?;
            letters.push(DeadLetter::new(
                raw.row.seq,
                raw.id,
                raw.message.ok(),
                DeadReason::parse(&reason),
                row.get(WIDTH + 1)?,
                raw.attempts,
                raw.added_at,
                raw.first_failed_at,
                Timestamp::from_micros(row.get(WIDTH + 2)?),
            ));
        }
        Ok(letters)
    }

    pub(super) fn replay(
        &self,
        connection: &Connection,
        filter: &DeadFilter,
        limit: u32,
        now: Timestamp,
    ) -> SqlResult<Vec<MessageId>> {
        let letters = self.readable(connection, filter, limit)?;
        let mut replay = connection.prepare_cached(self.replay.as_str())?;
        let mut forget = connection.prepare_cached(self.forget.as_str())?;
        let mut replayed = Vec::new();
        for (seq, id) in letters {
            if replay.execute(params![seq.0, now.as_micros()])? > 0 {
                forget.execute([seq.0])?;
                replayed.push(id);
            }
        }
        Ok(replayed)
    }

    /// Looks for the first letters that can be read.
    fn readable(
        &self,
        connection: &Connection,
        filter: &DeadFilter,
        limit: u32,
    ) -> SqlResult<Vec<(Seq, MessageId)>> {
        let mut list = connection.prepare_cached(self.every.as_str())?;
        let mut rows = list.query(params_from_iter(filter.sqlite_parameters()))?;
        let mut letters = Vec::new();
        while letters.len() < usize::try_from(limit).unwrap_or(usize::MAX)
            && let Some(row) = rows.next()?
        {
            let raw = RawMessage::read(row)?;
            if raw.message.is_ok() {
                letters.push((raw.row.seq, raw.id));
            }
        }
        Ok(letters)
    }

    pub(super) fn purge(&self, connection: &Connection, filter: &DeadFilter, limit: u32) -> SqlResult<u64> {
        let mut purge = connection.prepare_cached(self.purge.as_str())?;
        let purged =
            purge.execute(params_from_iter(filter.sqlite_parameters().into_iter().chain([limit.into()])))?;
        Ok(u64::try_from(purged).unwrap_or(u64::MAX))
    }

    pub(super) fn blocked(
        &self,
        connection: &Connection,
        limit: u32,
        now: Timestamp,
    ) -> SqlResult<Vec<BlockedKey>> {
        let mut blocked = connection.prepare_cached(self.blocked.as_str())?;
        let heads = blocked.query_map(params![limit, now.as_micros()], |row| {
            let raw = RawMessage::read(row)?;
            let retry_at: i64 = row.get(WIDTH)?;
            let due_in = (retry_at != PARKED).then(|| until(now, retry_at));
            let (error, age) = (row.get(WIDTH + 1)?, now.since(raw.added_at));
            Ok(BlockedKey::new(raw.key, raw.id, raw.row.seq, raw.attempts, error, age, due_in))
        })?;
        heads.collect()
    }

    pub(super) fn skip(
        &self,
        connection: &Connection,
        key: &OrderingKey,
        now: Timestamp,
    ) -> SqlResult<Option<MessageId>> {
        let Some(shard) = self.shard(connection, key)? else { return Ok(None) };
        let first = self.first(connection, shard, key, 2)?;
        let Some((seq, id)) = first.first() else { return Ok(None) };
        let (none, reason) = (None::<i64>, DeadReason::Skipped.as_str());
        let mut bury = connection.prepare_cached(self.bury.as_str())?;
        bury.execute(params![seq, shard, now.as_micros(), none, reason, none])?;
        connection.prepare_cached(self.delete.as_str())?.execute([seq])?;
        if let Some((next, _)) = first.get(1) {
            self.wait(connection, *next, now.as_micros())?;
        }
        Ok(Some(*id))
    }

    pub(super) fn park(&self, connection: &Connection, key: &OrderingKey) -> SqlResult<Option<MessageId>> {
        self.head_waits(connection, key, PARKED)
    }

    pub(super) fn resume(
        &self,
        connection: &Connection,
        key: &OrderingKey,
        now: Timestamp,
    ) -> SqlResult<Option<MessageId>> {
        self.head_waits(connection, key, now.as_micros())
    }

    fn head_waits(
        &self,
        connection: &Connection,
        key: &OrderingKey,
        at: i64,
    ) -> SqlResult<Option<MessageId>> {
        let Some(shard) = self.shard(connection, key)? else { return Ok(None) };
        let Some((seq, id)) = self.first(connection, shard, key, 1)?.pop() else { return Ok(None) };
        self.wait(connection, seq, at)?;
        Ok(Some(id))
    }

    /// Returns the key's shard, by the tables' own count.
    fn shard(&self, connection: &Connection, key: &OrderingKey) -> SqlResult<Option<u16>> {
        let shards = Shards::new(self.shards.count(connection)?).ok();
        Ok(shards.map(|shards| shards.of(key.as_str().as_bytes()).number()))
    }

    fn first(
        &self,
        connection: &Connection,
        shard: u16,
        key: &OrderingKey,
        limit: u32,
    ) -> SqlResult<Vec<(i64, MessageId)>> {
        let mut first = connection.prepare_cached(self.first.as_str())?;
        let rows = first.query_map(params![shard, key.as_str(), limit], |row| {
            Ok((row.get(0)?, MessageId::from_uuid(Uuid::from_bytes(row.get(1)?))))
        })?;
        rows.collect()
    }

    fn wait(&self, connection: &Connection, seq: i64, until: i64) -> SqlResult<()> {
        connection.prepare_cached(self.wait.as_str())?.execute([seq, until]).map(drop)
    }
}

pub(super) const DEPTH: &str = "select (select count(*) from {messages}),
(select added_at from {messages} order by seq limit 1), (select count(*) from {dead})";

pub(super) fn depth(connection: &Connection, sql: &Sql, now: Timestamp) -> SqlResult<Depth> {
    connection.prepare_cached(sql.as_str())?.query_row([], |row| {
        let oldest: Option<i64> = row.get(1)?;
        let count = |column| row.get(column).map(|count: i64| u64::try_from(count).unwrap_or(0));
        Ok(Depth {
            pending: count(0)?,
            oldest: oldest.map(|added| now.since(Timestamp::from_micros(added))),
            dead: count(2)?,
        })
    })
}
