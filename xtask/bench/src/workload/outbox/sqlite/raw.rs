use anyhow::Context;
use relaykit_outbox::sqlite::rusqlite::{Connection, params};
use relaykit_pipeline_traits::{Message, OrderingKey};
use relaykit_sql_store::Shards;
use tokio::task::JoinSet;

use super::super::common::Arrivals;
use super::super::database::SHARDS;
use super::super::setting::Setting;
use super::file::{File, MESSAGES};

/// The plain table.
pub(super) const TABLE: &str = "t_raw";

pub(super) const CREATE: &str = "create table t_raw (
  seq integer primary key autoincrement,
  shard integer not null,
  message_id blob not null unique,
  kind text not null,
  ordering_key text,
  payload blob not null,
  headers text not null,
  occurred_at integer not null,
  added_at integer not null
) strict";

/// Writes a plain insert.
pub(super) fn insert_into(table: &str) -> String {
    format!(
        "insert into {table} (shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
    )
}

/// Inserts rows into the outbox's own table, row by row, as one does with SQLite.
///
/// # Errors
///
/// SQLite fails.
pub(super) fn insert(connection: &Connection, messages: &[Message]) -> anyhow::Result<()> {
    let mut insert = connection.prepare_cached(&insert_into(MESSAGES))?;
    let shards = Shards::new(SHARDS)?;
    for message in messages {
        let (at, key) = (message.occurred_at().as_micros(), message.ordering_key().map(OrderingKey::as_str));
        let shard = shards.of(key.unwrap_or_default().as_bytes()).number();
        insert.execute(params![
            shard,
            message.id().as_bytes(),
            message.kind(),
            key,
            &message.payload()[..],
            "{}",
            at,
            at
        ])?;
    }
    Ok(())
}

const DELETE: &str = "delete from t_raw where seq in (select seq from t_raw order by seq limit ?1)
returning seq, message_id, kind, ordering_key, payload, headers, occurred_at";

/// Loops that delete a backlog page by page, each on a thread and a connection of its own.
pub(super) struct Loops {
    batch: u32,
    connections: Vec<Connection>,
}

impl Loops {
    pub(super) fn open(file: &File, setting: &Setting) -> anyhow::Result<Self> {
        let connections = (0..setting.workers).map(|_| file.connect()).collect::<anyhow::Result<_>>()?;
        Ok(Self { batch: setting.batch, connections })
    }

    /// Runs until nothing is left.
    ///
    /// # Errors
    ///
    /// SQLite fails.
    pub(super) async fn run(self, arrivals: &Arrivals) -> anyhow::Result<()> {
        let mut tasks = JoinSet::new();
        for connection in self.connections {
            let (batch, arrivals) = (self.batch, arrivals.clone());
            tasks.spawn_blocking(move || pages(&connection, batch, &arrivals));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a loop panicked")??;
        }
        Ok(())
    }
}

fn pages(connection: &Connection, batch: u32, arrivals: &Arrivals) -> anyhow::Result<()> {
    let mut delete = connection.prepare(DELETE)?;
    loop {
        let rows = delete.query_map([batch], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(4)?)))?;
        let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
        if rows.is_empty() {
            return Ok(());
        }
        rows.sort_unstable_by_key(|(seq, _)| *seq);
        arrivals.add(rows.iter().map(|(_, payload)| &payload[..]));
    }
}
