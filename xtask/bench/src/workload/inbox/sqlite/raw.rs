use anyhow::Context;
use relaykit_inbox::sqlite::rusqlite::{Connection, TransactionBehavior, params};
use relaykit_pipeline_traits::{Message, OrderingKey};
use relaykit_sql_store::Shards;
use tokio::task::JoinSet;

use super::super::SHARDS;
use super::super::setting::{Setting, Work};
use super::file::File;

pub(super) const CREATE: &str = "create table t_raw (
  seq integer primary key autoincrement,
  scope text not null,
  message_id blob not null,
  shard integer not null,
  kind text not null,
  ordering_key text,
  payload blob,
  headers text not null,
  occurred_at integer not null,
  received_at integer not null,
  digest blob not null,
  handlers text not null,
  unique (scope, message_id)
) strict";

const INSERT: &str = "insert into t_raw
  (scope, message_id, shard, kind, ordering_key, payload, headers, occurred_at, received_at, digest, handlers)
values ('bench', ?1, ?2, ?3, ?4, ?5, '{}', ?6, ?6, ?7, '[\"h0\"]') on conflict (scope, message_id) do nothing";

/// Inserts rows, row by row, as one does with SQLite, and passes over what is known.
///
/// # Errors
///
/// SQLite fails.
pub(super) fn insert(connection: &Connection, messages: &[Message]) -> anyhow::Result<()> {
    let mut insert = connection.prepare_cached(INSERT)?;
    let shards = Shards::new(SHARDS)?;
    for message in messages {
        let (id, key) = (message.id(), message.ordering_key().map(OrderingKey::as_str));
        let shard = shards.of(key.unwrap_or_default().as_bytes()).number();
        let (at, payload) = (message.occurred_at().as_micros(), &message.payload()[..]);
        insert.execute(params![id.as_bytes(), shard, message.kind(), key, payload, at, payload.get(..32)])?;
    }
    Ok(())
}

const DELETE: &str = "delete from t_raw where seq in (select seq from t_raw order by seq limit ?1)
returning seq, message_id, kind, ordering_key, payload, headers, occurred_at";

const SELECT_ONE: &str = "select seq, message_id, kind, ordering_key, payload, headers, occurred_at
from t_raw order by seq limit 1";

const DELETE_ONE: &str = "delete from t_raw where seq = ?1";

/// Loops that delete a backlog, each on a thread and a connection of its own: page by page, one for each handler; or one alone row
/// by row, each in a transaction of its own.
pub(super) struct Loops {
    setting: Setting,
    connections: Vec<Connection>,
}

impl Loops {
    pub(super) fn open(file: &File, setting: &Setting) -> anyhow::Result<Self> {
        // One writes at a time.
        let loops = if setting.work == Work::Transactional { 1 } else { setting.handlers() };
        let connections = (0..loops).map(|_| file.connect()).collect::<anyhow::Result<_>>()?;
        Ok(Self { setting: *setting, connections })
    }

    /// Runs until nothing is left.
    ///
    /// # Errors
    ///
    /// SQLite fails.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let (transactional, page) = (self.setting.work == Work::Transactional, self.setting.page());
        let mut tasks = JoinSet::new();
        for connection in self.connections {
            tasks.spawn_blocking(move || {
                if transactional { one_by_one(connection) } else { pages(&connection, page) }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a loop panicked")??;
        }
        Ok(())
    }
}

fn pages(connection: &Connection, page: u32) -> anyhow::Result<()> {
    let mut delete = connection.prepare(DELETE)?;
    loop {
        let rows = delete.query_map([page], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(4)?)))?;
        let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
        if rows.is_empty() {
            return Ok(());
        }
        rows.sort_unstable_by_key(|(seq, _)| *seq);
        std::hint::black_box(rows);
    }
}

fn one_by_one(mut connection: Connection) -> anyhow::Result<()> {
    loop {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let row = {
            let mut select = tx.prepare_cached(SELECT_ONE)?;
            let mut rows = select.query([])?;
            rows.next()?.map(|row| Ok::<_, anyhow::Error>((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(4)?)))
        };
        let Some(row) = row else { return Ok(()) };
        let (seq, payload) = row?;
        std::hint::black_box(payload);
        tx.prepare_cached(DELETE_ONE)?.execute([seq])?;
        tx.commit()?;
    }
}
