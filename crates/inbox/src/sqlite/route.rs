use std::collections::BTreeSet;

use relaykit_pipeline_traits::MessageId;
use relaykit_pipeline_traits::Timestamp;
use relaykit_pipeline_traits::uuid::Uuid;
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult, Row, params};
use relaykit_sql_store::{Names, Seq, Sql};
use serde_json::Value;

use super::row::scope;
use crate::routes::{Route, Routes};
use crate::store::Unrouted;

const ADD: &str =
    "insert into {deliveries} (shard, handler, message_seq, ordering_key) values (?1, ?2, ?3, ?4)";

const LED: &str = "update {messages} set handlers = (
  select json_group_array(value) from (select value from json_each(handlers) union all select value from json_each(?2))
) where seq = ?1";

/// The oldest of a kind.
const OF_KIND: &str = "select seq, shard, ordering_key from {messages} indexed by {=messages_unrouted_kind}
where handlers = '[]' and kind = ?1 order by seq limit ?2";

const UNROUTED: &str =
    "select seq, scope, message_id, kind, received_at from {messages} indexed by {=messages_unrouted}
where handlers = '[]' and seq > ?1 order by seq limit ?2";

const NEVER_LED: &str = "select seq, shard, ordering_key from {messages}
where seq > ?1 and seq <= ?2 and kind = ?3 and payload is not null
and not exists (select 1 from json_each(handlers) where value = ?4)
order by seq limit ?5";

const LAST: &str = "select coalesce(max(seq), 0) from {messages}";

/// How many places a step of catching up passes at the most, so that others may write in between.
const STEP: i64 = 10_000;

/// How messages get to their handlers.
#[derive(Debug, Clone)]
pub(super) struct Lead {
    add: Sql,
    led: Sql,
    of_kind: Sql,
    unrouted: Sql,
    never_led: Sql,
    last: Sql,
}

/// A message that is to be led somewhere.
struct Found {
    seq: i64,
    shard: u16,
    key: Option<String>,
}

impl Found {
    fn read(row: &Row<'_>) -> SqlResult<Self> {
        Ok(Self { seq: row.get(0)?, shard: row.get(1)?, key: row.get(2)? })
    }
}

impl Lead {
    pub(super) fn new(names: &Names) -> Self {
        let sql = |text| Sql::new(names, &[text]);
        Self {
            add: sql(ADD),
            led: sql(LED),
            of_kind: sql(OF_KIND),
            unrouted: sql(UNROUTED),
            never_led: sql(NEVER_LED),
            last: sql(LAST),
        }
    }

    /// Writes which handlers a message is led to, as its row has it.
    pub(super) fn list(routes: &[Route]) -> String {
        let keys = routes.iter().map(|route| Value::from(route.handler.as_str()));
        Value::Array(keys.collect()).to_string()
    }

    /// Adds a delivery. It has a key only if the handler is ordered.
    pub(super) fn add(
        &self,
        connection: &Connection,
        shard: u16,
        message: i64,
        key: Option<&str>,
        route: &Route,
    ) -> SqlResult<()> {
        let key = key.filter(|_| route.ordered);
        let mut add = connection.prepare_cached(self.add.as_str())?;
        add.execute(params![shard, route.handler.as_str(), message, key]).map(drop)
    }

    fn lead(&self, connection: &Connection, found: &Found, routes: &[Route]) -> SqlResult<()> {
        for route in routes {
            self.add(connection, found.shard, found.seq, found.key.as_deref(), route)?;
        }
        let mut led = connection.prepare_cached(self.led.as_str())?;
        led.execute(params![found.seq, Self::list(routes)]).map(drop)
    }

    pub(super) fn route(&self, connection: &Connection, routes: &Routes, limit: u32) -> SqlResult<u64> {
        let kinds: BTreeSet<&str> = routes.iter().map(|(kind, _)| kind).collect();
        let mut of_kind = connection.prepare_cached(self.of_kind.as_str())?;
        let mut found = Vec::new();
        for kind in kinds {
            let rows = of_kind.query_map(params![kind, limit], Found::read)?;
            for row in rows {
                found.push((row?, kind));
            }
        }
        found.sort_unstable_by_key(|(found, _)| found.seq);
        found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        for (message, kind) in &found {
            self.lead(connection, message, routes.of(kind))?;
        }
        Ok(u64::try_from(found.len()).unwrap_or(u64::MAX))
    }

    pub(super) fn catch_up(
        &self,
        connection: &Connection,
        kind: &str,
        route: &Route,
        after: Seq,
        limit: u32,
    ) -> SqlResult<Option<(Seq, u64)>> {
        let end: i64 = connection.prepare_cached(self.last.as_str())?.query_row([], |row| row.get(0))?;
        let until = after.0.saturating_add(STEP);
        let mut never_led = connection.prepare_cached(self.never_led.as_str())?;
        let found: Vec<_> = never_led
            .query_map(params![after.0, until, kind, route.handler.as_str(), limit], Found::read)?
            .collect::<SqlResult<_>>()?;
        for message in &found {
            self.lead(connection, message, std::slice::from_ref(route))?;
        }
        Ok(match found.last() {
            Some(last) => Some((Seq(last.seq), u64::try_from(found.len()).unwrap_or(u64::MAX))),
            None if until < end => Some((Seq(until), 0)),
            None => None,
        })
    }

    pub(super) fn unrouted(
        &self,
        connection: &Connection,
        after: Seq,
        limit: u32,
        now: Timestamp,
    ) -> SqlResult<Vec<Unrouted>> {
        let mut unrouted = connection.prepare_cached(self.unrouted.as_str())?;
        let rows = unrouted.query_map(params![after.0, limit], |row| {
            let id = MessageId::from_uuid(Uuid::from_bytes(row.get(2)?));
            let age = now.since(Timestamp::from_micros(row.get(4)?));
            Ok(Unrouted::new(Seq(row.get(0)?), scope(row, 1)?, id, row.get(3)?, age))
        })?;
        rows.collect()
    }
}
