use relaykit_pipeline_traits::{MessageId, OrderingKey};
use relaykit_sql_store::postgres::row::{RawMessage, attempts, count, duration, message_id};
use relaykit_sql_store::postgres::stream::{
    PageColumns, SettlementColumns, bind_filter, lease_columns, read_page, read_rows, read_settled, readable,
    row_columns,
};
use relaykit_sql_store::postgres::{Finish, Guarded, PgLeaseStore, PgTimestamp, Statement};
use relaykit_sql_store::{Lease, Names, Sql, StoreError};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::queries;
use crate::dead::{BlockedKey, DeadFilter, DeadLetter, DeadReason, check_limit};
use crate::store::{
    Depth, OpenTransactions, OutboxStore, Page, ReadFrom, RowId, Seq, Settled, Settlement, Suspicion,
};

/// An outbox's messages in Postgres, for the relay and for operators. Cheap to clone.
///
/// The server's clock decides what is due. Every call is one statement (but for a replay), and none needs anything of its
/// session, so all work through a pooler in transaction mode.
#[derive(Debug, Clone)]
pub struct PgOutboxStore {
    leases: PgLeaseStore,
    page: Statement,
    settle: Statement,
    suspect: Statement,
    depth: Statement,
    dead: Statement,
    lock_dead: Statement,
    replay: Statement,
    purge: Statement,
    blocked: Statement,
    skip: Statement,
    park: Statement,
    resume: Statement,
    pool: Guarded,
}

impl PgOutboxStore {
    /// Makes a store on the tables of these names, which [`PgSchema`](super::PgSchema) has made.
    #[must_use]
    pub fn new(pool: Guarded, names: &Names) -> Self {
        let tables = names.on_postgres();
        let sql = |parts: &[&'static str]| pool.statement(Sql::new(&tables, parts));
        Self {
            leases: PgLeaseStore::new(pool.clone(), names),
            page: sql(&[queries::CALL_PAGE]),
            settle: sql(&[queries::CALL_SETTLE]),
            suspect: sql(&[queries::CALL_SUSPECT]),
            depth: sql(&[queries::DEPTH]),
            dead: sql(&queries::DEAD),
            lock_dead: sql(&queries::LOCK_DEAD),
            replay: sql(&[queries::REPLAY]),
            purge: sql(&queries::PURGE),
            blocked: sql(&[queries::BLOCKED]),
            skip: sql(&queries::SKIP),
            park: sql(&queries::PARK),
            resume: sql(&queries::RESUME),
            pool,
        }
    }

    /// Runs a statement about the first message of a key.
    async fn on_head(
        &self,
        op: &'static str,
        sql: &Statement,
        key: &OrderingKey,
        reason: Option<DeadReason>,
    ) -> Result<Option<MessageId>, StoreError> {
        let (sql, key) = (sql.clone(), key.clone());
        self.pool
            .run(op, move |conn: &mut PgConnection| {
                let (sql, key) = (sql.clone(), key.clone());
                Box::pin(async move {
                    let mut query = sql.query().bind(key.as_str().to_owned());
                    if let Some(reason) = reason {
                        query = query.bind(reason.as_str());
                    }
                    query.fetch_optional(conn).await?.as_ref().map(|row| message_id(row, 0)).transpose()
                })
            })
            .await
    }
}

impl OutboxStore for PgOutboxStore {
    type Leases = PgLeaseStore;

    fn leases(&self) -> PgLeaseStore {
        self.leases.clone()
    }

    async fn page(&self, from: &[ReadFrom], open: &OpenTransactions, limit: u32) -> Result<Page, StoreError> {
        let (sql, columns) = (self.page.clone(), PageColumns::new(from, open, limit));
        self.pool
            .run("read messages", move |conn: &mut PgConnection| {
                let query = columns.bind(sql.query());
                Box::pin(async move { read_page(&query.fetch_all(conn).await?) })
            })
            .await
    }

    async fn suspect(
        &self,
        leases: &[Lease],
        rows: &[RowId],
        suspicion: Suspicion,
    ) -> Result<Settled, StoreError> {
        let sql = self.suspect.clone();
        let (held, tokens) = lease_columns(leases);
        let (shards, seqs) = row_columns(rows);
        self.pool
            .run("note what is sent", move |conn: &mut PgConnection| {
                let (sql, held, tokens) = (sql.clone(), held.clone(), tokens.clone());
                let (shards, seqs) = (shards.clone(), seqs.clone());
                Box::pin(async move {
                    let query = sql.query().bind(held).bind(tokens).bind(shards).bind(seqs);
                    read_settled(&query.bind(suspicion.as_number()).fetch_one(conn).await?)
                })
            })
            .await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let (sql, columns) = (self.settle.clone(), std::sync::Arc::new(SettlementColumns::new(settlement)));
        self.pool
            .run("settle messages", move |conn: &mut PgConnection| {
                let (sql, columns) = (sql.clone(), std::sync::Arc::clone(&columns));
                Box::pin(async move {
                    let row = columns.bind(sql.query()).fetch_one(conn).await?;
                    Ok(Settled { waited: read_rows(&row, 2)?, ..read_settled(&row)? })
                })
            })
            .await
    }

    async fn depth(&self) -> Result<Depth, StoreError> {
        let sql = self.depth.clone();
        self.pool
            .run("count messages", move |conn: &mut PgConnection| {
                let sql = sql.clone();
                Box::pin(async move {
                    let row = sql.query().fetch_one(conn).await?;
                    Ok(Depth {
                        pending: count(&row, 0)?,
                        oldest: row.try_get::<Option<i64>, _>(1)?.map(duration),
                        dead: count(&row, 2)?,
                    })
                })
            })
            .await
    }

    async fn dead_letters(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        const OP: &str = "list dead letters";
        let (sql, filter, limit) = (self.dead.clone(), filter.clone(), checked(OP, limit)?);
        self.pool
            .run(OP, move |conn: &mut PgConnection| {
                let (sql, filter) = (sql.clone(), filter.clone());
                Box::pin(async move {
                    let rows = bind_filter(sql.query(), &filter, limit).fetch_all(conn).await?;
                    rows.iter().map(dead_letter).collect()
                })
            })
            .await
    }

    async fn replay(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<MessageId>, StoreError> {
        const OP: &str = "replay dead letters";
        let limit = checked(OP, limit)?;
        let (lock, replay, filter) = (self.lock_dead.clone(), self.replay.clone(), filter.clone());
        self.pool
            .transaction(OP, move |conn: &mut PgConnection| {
                let (lock, replay, mut filter) = (lock.clone(), replay.clone(), filter.clone());
                Box::pin(async move {
                    let mut replayed = Vec::new();
                    // Those that stay make room for others behind them.
                    loop {
                        let left = limit - i64::try_from(replayed.len()).unwrap_or(limit);
                        let rows = bind_filter(lock.query(), &filter, left).fetch_all(&mut *conn).await?;
                        let Some(last) = rows.last() else { break };
                        filter.after = Some(Seq(last.try_get(0)?));
                        let readable = readable(&rows)?;
                        let back = replay.query().bind(readable).fetch_all(&mut *conn).await?;
                        for row in &back {
                            replayed.push(message_id(row, 0)?);
                        }
                        if back.len() == rows.len() {
                            break;
                        }
                    }
                    Ok(Finish::Commit(replayed))
                })
            })
            .await
    }

    async fn purge(&self, filter: &DeadFilter, limit: u32) -> Result<u64, StoreError> {
        const OP: &str = "purge dead letters";
        let (sql, filter, limit) = (self.purge.clone(), filter.clone(), checked(OP, limit)?);
        self.pool
            .run(OP, move |conn: &mut PgConnection| {
                let (sql, filter) = (sql.clone(), filter.clone());
                Box::pin(async move {
                    Ok(bind_filter(sql.query(), &filter, limit).execute(conn).await?.rows_affected())
                })
            })
            .await
    }

    async fn blocked(&self, limit: u32) -> Result<Vec<BlockedKey>, StoreError> {
        const OP: &str = "list blocked keys";
        let (sql, limit) = (self.blocked.clone(), checked(OP, limit)?);
        self.pool
            .run(OP, move |conn: &mut PgConnection| {
                let sql = sql.clone();
                Box::pin(async move {
                    let rows = sql.query().bind(limit).fetch_all(conn).await?;
                    rows.iter().map(blocked_key).collect()
                })
            })
            .await
    }

    async fn skip(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        self.on_head("skip a message", &self.skip, key, Some(DeadReason::Skipped)).await
    }

    async fn park(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        self.on_head("park a message", &self.park, key, None).await
    }

    async fn resume(&self, key: &OrderingKey) -> Result<Option<MessageId>, StoreError> {
        self.on_head("resume a message", &self.resume, key, None).await
    }
}

fn dead_letter(row: &PgRow) -> Result<DeadLetter, sqlx::Error> {
    let raw = RawMessage::read(row, 1)?;
    Ok(DeadLetter::new(
        Seq(row.try_get(0)?),
        raw.id(),
        raw.message().ok(),
        DeadReason::parse(row.try_get(7)?),
        row.try_get(8)?,
        attempts(row.try_get(9)?),
        row.try_get::<PgTimestamp, _>(10)?.0,
        row.try_get::<Option<PgTimestamp>, _>(11)?.map(|at| at.0),
        row.try_get::<PgTimestamp, _>(12)?.0,
    ))
}

fn blocked_key(row: &PgRow) -> Result<BlockedKey, sqlx::Error> {
    Ok(BlockedKey::new(
        row.try_get::<Option<String>, _>(0)?.and_then(|key| OrderingKey::new(key).ok()),
        message_id(row, 1)?,
        Seq(row.try_get(2)?),
        attempts(row.try_get(3)?),
        row.try_get(4)?,
        duration(row.try_get(5)?),
        row.try_get::<Option<i64>, _>(6)?.map(duration),
    ))
}

/// Checks how many a call asks for.
fn checked(op: &'static str, limit: u32) -> Result<i64, StoreError> {
    check_limit(op, limit)?;
    Ok(limit.into())
}
