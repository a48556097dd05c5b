use anyhow::Context;
use relaykit_pipeline_traits::{Message, OrderingKey};
use relaykit_sql_store::postgres::{PgTimestamp, PgUuid};
use relaykit_sql_store::{Shards, Sql};
use sqlx::{PgConnection, Row};
use tokio::task::JoinSet;

use super::common::Arrivals;
use super::database::{Database, SHARDS};
use super::setting::Setting;

/// Plain inserts into the outbox's own table.
#[derive(Debug)]
pub(super) struct Inserts {
    one: Sql,
    many: Sql,
}

const ONE: &str =
    "insert into {messages} (shard, message_id, kind, ordering_key, payload, headers, occurred_at)
values ($1, $2, $3, $4, $5, $6, $7)";

const MANY: &str =
    "insert into {messages} (shard, message_id, kind, ordering_key, payload, headers, occurred_at)
select shard, message_id, kind, ordering_key, payload, headers, occurred_at
from unnest($1::int[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::timestamptz[])
    as i(shard, message_id, kind, ordering_key, payload, headers, occurred_at)";

impl Inserts {
    pub(super) fn new(database: &Database) -> Self {
        Self { one: database.sql(&[ONE]), many: database.sql(&[MANY]) }
    }

    /// Inserts one row.
    ///
    /// # Errors
    ///
    /// The server fails.
    pub(super) async fn one(&self, tx: &mut PgConnection, message: &Message) -> anyhow::Result<()> {
        let id = message.id().as_uuid();
        let query = sqlx::query(&self.one).bind(shard(message)).bind(PgUuid(id)).bind(message.kind());
        let query = query.bind(message.ordering_key().map(OrderingKey::as_str)).bind(&message.payload()[..]);
        query.bind("{}").bind(PgTimestamp(message.occurred_at())).execute(tx).await?;
        Ok(())
    }

    /// Inserts many rows by one statement.
    ///
    /// # Errors
    ///
    /// The server fails.
    pub(super) async fn many(&self, tx: &mut PgConnection, messages: &[Message]) -> anyhow::Result<()> {
        let shards: Vec<i32> = messages.iter().map(shard).collect();
        let ids: Vec<_> = messages.iter().map(|message| PgUuid(message.id().as_uuid())).collect();
        let kinds: Vec<&str> = messages.iter().map(Message::kind).collect();
        let keys: Vec<_> =
            messages.iter().map(|message| message.ordering_key().map(OrderingKey::as_str)).collect();
        let payloads: Vec<&[u8]> = messages.iter().map(|message| &message.payload()[..]).collect();
        let times: Vec<_> = messages.iter().map(|message| PgTimestamp(message.occurred_at())).collect();
        let query = sqlx::query(&self.many).bind(shards).bind(ids).bind(kinds).bind(keys).bind(payloads);
        query.bind(vec!["{}"; messages.len()]).bind(times).execute(tx).await?;
        Ok(())
    }
}

/// Computes the shard that the outbox gives it, since rows of few shards would be cheaper to index.
fn shard(message: &Message) -> i32 {
    let key = message.ordering_key().map_or("", OrderingKey::as_str);
    Shards::new(SHARDS).map_or(0, |shards| shards.of(key.as_bytes()).number().into())
}

const DELETE: &str = "delete from {raw} where seq in (
    select seq from {raw} order by seq limit $1 for update skip locked
) returning seq, message_id, kind, ordering_key, payload, headers, occurred_at";

/// Loops that delete a backlog page by page, each on a connection of its own.
pub(super) struct Loops {
    delete: Sql,
    batch: i64,
    connections: Vec<PgConnection>,
}

impl Loops {
    pub(super) async fn open(database: &Database, setting: &Setting) -> Self {
        let mut connections = Vec::new();
        for _ in 0..setting.workers {
            connections.push(database.server.connection().await);
        }
        Self { delete: database.sql(&[DELETE]), batch: setting.batch.into(), connections }
    }

    /// Runs until nothing is left.
    ///
    /// # Errors
    ///
    /// The server fails.
    pub(super) async fn run(self, arrivals: &Arrivals) -> anyhow::Result<()> {
        let Self { delete, batch, connections } = self;
        let mut tasks: JoinSet<_> = connections
            .into_iter()
            .map(|connection| pages(connection, delete.clone(), batch, arrivals.clone()))
            .collect();
        while let Some(ended) = tasks.join_next().await {
            ended.context("a loop panicked")??;
        }
        Ok(())
    }
}

async fn pages(
    mut connection: PgConnection,
    delete: Sql,
    batch: i64,
    arrivals: Arrivals,
) -> anyhow::Result<()> {
    loop {
        let mut rows = sqlx::query(&delete).bind(batch).fetch_all(&mut connection).await?;
        if rows.is_empty() {
            return Ok(());
        }
        rows.sort_by_cached_key(|row| row.get::<i64, _>(0));
        let payloads = rows.iter().map(|row| row.try_get::<&[u8], _>(4)).collect::<Result<Vec<_>, _>>()?;
        arrivals.add(payloads.into_iter());
    }
}
