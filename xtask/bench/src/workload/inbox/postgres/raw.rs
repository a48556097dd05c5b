use anyhow::{Context, ensure};
use relaykit_pipeline_traits::{Message, OrderingKey};
use relaykit_sql_store::postgres::{PgTimestamp, PgUuid};
use relaykit_sql_store::{Shards, Sql};
use sqlx::{Connection, PgConnection, Row};
use tokio::task::JoinSet;

use super::super::SHARDS;
use super::super::setting::{Setting, Work};
use super::database::Database;

/// Plain inserts of the same columns, that pass over what is known.
#[derive(Debug)]
pub(super) struct Inserts {
    one: Sql,
    many: Sql,
}

const ONE: &str =
    "insert into {raw} (scope, message_id, shard, kind, ordering_key, payload, headers, occurred_at, digest, handlers)
values ('bench', $1, $2, $3, $4, $5, $6, $7, $8, array['h0']) on conflict (scope, message_id) do nothing";

const MANY: &str =
    "insert into {raw} (scope, message_id, shard, kind, ordering_key, payload, headers, occurred_at, digest, handlers)
select 'bench', message_id, shard, kind, ordering_key, payload, headers, occurred_at, digest, array['h0']
from unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::timestamptz[], $8::bytea[])
    as i(message_id, shard, kind, ordering_key, payload, headers, occurred_at, digest)
on conflict (scope, message_id) do nothing";

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
        let query = sqlx::query(&self.one).bind(PgUuid(message.id().as_uuid())).bind(shard(message));
        let query = query.bind(message.kind()).bind(key(message)).bind(&message.payload()[..]);
        let query = query.bind("{}").bind(PgTimestamp(message.occurred_at())).bind(digest(message));
        query.execute(tx).await?;
        Ok(())
    }

    /// Inserts many rows by one statement.
    ///
    /// # Errors
    ///
    /// The server fails.
    pub(super) async fn many(&self, tx: &mut PgConnection, messages: &[Message]) -> anyhow::Result<()> {
        fn all<'m, T>(messages: &'m [Message], part: impl Fn(&'m Message) -> T) -> Vec<T> {
            messages.iter().map(part).collect()
        }
        let query = sqlx::query(&self.many).bind(all(messages, |message| PgUuid(message.id().as_uuid())));
        let query =
            query.bind(all(messages, shard)).bind(all(messages, Message::kind)).bind(all(messages, key));
        let query =
            query.bind(all(messages, |message| &message.payload()[..])).bind(vec!["{}"; messages.len()]);
        let query = query.bind(all(messages, |message| PgTimestamp(message.occurred_at())));
        query.bind(all(messages, digest)).execute(tx).await?;
        Ok(())
    }
}

/// Computes the shard that the inbox gives it, since rows of few shards would be cheaper to index.
fn shard(message: &Message) -> i32 {
    let key = key(message).unwrap_or_default();
    Shards::new(SHARDS).map_or(0, |shards| shards.of(key.as_bytes()).number().into())
}

fn key(message: &Message) -> Option<&str> {
    message.ordering_key().map(OrderingKey::as_str)
}

/// Takes bytes that are as many as a digest's.
fn digest(message: &Message) -> &[u8] {
    message.payload().get(..32).unwrap_or_default()
}

const DELETE: &str = "delete from {raw} where seq in (
    select seq from {raw} order by seq limit $1 for update skip locked
) returning seq, message_id, kind, ordering_key, payload, headers, occurred_at";

const SELECT_ONE: &str = "select seq, message_id, kind, ordering_key, payload, headers, occurred_at
from {raw} where seq = $1 for update";

const DELETE_ONE: &str = "delete from {raw} where seq = $1";

/// Loops that delete a backlog, each on a connection of its own: page by page, one for each handler; or row by row, each in a
/// transaction of its own and each loop a part of the rows, as many as there are calls at a time.
pub(super) struct Loops {
    page: Sql,
    one: [Sql; 2],
    setting: Setting,
    /// Each connection has its own number.
    connections: Vec<PgConnection>,
}

impl Loops {
    /// Opens their connections.
    ///
    /// # Errors
    ///
    /// Never: there are few.
    pub(super) async fn open(database: &Database, setting: &Setting) -> anyhow::Result<Self> {
        let calls = if setting.work == Work::Transactional { setting.at_once } else { 1 };
        let mut connections = Vec::new();
        for _ in 0..setting.handlers() * calls {
            connections.push(database.server.connection().await);
        }
        let one = [database.sql(&[SELECT_ONE]), database.sql(&[DELETE_ONE])];
        Ok(Self { page: database.sql(&[DELETE]), one, setting: *setting, connections })
    }

    /// Runs until nothing is left.
    ///
    /// # Errors
    ///
    /// The server fails.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { page, one, setting, connections } = self;
        let (loops, rows) = (connections.len(), setting.messages() * setting.handlers());
        let mut tasks = JoinSet::new();
        for (first, connection) in (1..).zip(connections) {
            if setting.work == Work::Transactional {
                tasks.spawn(one_by_one(connection, one.clone(), first, loops, rows.into()));
            } else {
                tasks.spawn(pages(connection, page.clone(), setting.page().into()));
            }
        }
        while let Some(ended) = tasks.join_next().await {
            ended.context("a loop panicked")??;
        }
        Ok(())
    }
}

async fn pages(mut connection: PgConnection, delete: Sql, page: i64) -> anyhow::Result<()> {
    loop {
        let mut rows = sqlx::query(&delete).bind(page).fetch_all(&mut connection).await?;
        if rows.is_empty() {
            return Ok(());
        }
        rows.sort_by_cached_key(|row| row.get::<i64, _>(0));
        for row in &rows {
            std::hint::black_box(row.try_get::<&[u8], _>(4)?);
        }
    }
}

async fn one_by_one(
    mut connection: PgConnection,
    [select, delete]: [Sql; 2],
    first: i64,
    step: usize,
    last: i64,
) -> anyhow::Result<()> {
    for seq in (first..=last).step_by(step) {
        let mut tx = connection.begin().await?;
        let row = sqlx::query(&select).bind(seq).fetch_one(&mut *tx).await?;
        std::hint::black_box(row.try_get::<&[u8], _>(4)?);
        let deleted = sqlx::query(&delete).bind(seq).execute(&mut *tx).await?;
        ensure!(deleted.rows_affected() == 1, "row {seq} is gone");
        tx.commit().await?;
    }
    Ok(())
}
