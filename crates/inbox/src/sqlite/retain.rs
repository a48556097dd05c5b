use std::time::Duration;

use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult, params};
use relaykit_sql_store::{Depth, Names, Sql};

use crate::name::HandlerKey;
use crate::retention::{Erased, Retention};

/// Says that all handlers of `m` are done with it.
const FINISHED: &str = " and not exists (select 1 from {deliveries} d where d.message_seq = m.seq)
and not exists (select 1 from {dead} d where d.message_seq = m.seq)
order by m.received_at limit ?2)";

const DEAD: &str = "delete from {dead} where seq in (
select seq from {dead} where died_at < ?1 order by died_at limit ?2)";

const PAYLOADS: [&str; 2] = [
    "update {messages} set payload = null, headers = '{}' where seq in (
select m.seq from {messages} m indexed by {=messages_stored}
where m.payload is not null and m.handlers <> '[]' and m.received_at < ?1",
    FINISHED,
];

const IDS: [&str; 2] = [
    "delete from {messages} where seq in (
select m.seq from {messages} m indexed by {=messages_known} where m.payload is null and m.received_at < ?1",
    FINISHED,
];

/// How old the first in place is; a little less than the oldest, if later ones were stored before it.
const DEPTH: &str = "select p.count,
(select m.received_at from {messages} m join {deliveries} d on d.message_seq = m.seq where d.seq = p.first),
(select count(*) from {dead} where handler = ?1)
from (select count(*) as count, min(seq) as first from {deliveries} where handler = ?1) p";

/// How what is finished goes, and how much is not.
#[derive(Debug, Clone)]
pub(super) struct Retain {
    dead: Sql,
    payloads: Sql,
    ids: Sql,
    depth: Sql,
}

impl Retain {
    pub(super) fn new(names: &Names) -> Self {
        Self {
            dead: Sql::new(names, &[DEAD]),
            payloads: Sql::new(names, &PAYLOADS),
            ids: Sql::new(names, &IDS),
            depth: Sql::new(names, &[DEPTH]),
        }
    }

    /// Dead letters first: without its last, a message is finished.
    pub(super) fn erase(
        &self,
        connection: &Connection,
        retention: &Retention,
        limit: u32,
        now: Timestamp,
    ) -> SqlResult<Erased> {
        let erase = |sql: &Sql, window: Option<Duration>| -> SqlResult<u64> {
            let Some(window) = window else { return Ok(0) };
            let mut erase = connection.prepare_cached(sql.as_str())?;
            let erased = erase.execute(params![(now - window).as_micros(), limit])?;
            Ok(u64::try_from(erased).unwrap_or(u64::MAX))
        };
        Ok(Erased {
            dead: erase(&self.dead, retention.dead)?,
            ids: erase(&self.ids, retention.ids)?,
            payloads: erase(&self.payloads, retention.payloads)?,
        })
    }

    pub(super) fn depth(
        &self,
        connection: &Connection,
        handler: &HandlerKey,
        now: Timestamp,
    ) -> SqlResult<Depth> {
        connection.prepare_cached(self.depth.as_str())?.query_row([handler.as_str()], |row| {
            let oldest: Option<i64> = row.get(1)?;
            let count = |column| row.get(column).map(|count: i64| u64::try_from(count).unwrap_or(0));
            Ok(Depth {
                pending: count(0)?,
                oldest: oldest.map(|received| now.since(Timestamp::from_micros(received))),
                dead: count(2)?,
            })
        })
    }
}
