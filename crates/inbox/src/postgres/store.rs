use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{BatchContext, Message, MessageId};
use relaykit_sql_store::postgres::row::{RawMessage, attempts, count, duration, message_id, micros};
use relaykit_sql_store::postgres::stream::{
    PageColumns, SettlementColumns, bind_filter, lease_columns, read_page, read_settled, readable,
    row_columns,
};
use relaykit_sql_store::postgres::{Finish, Guarded, PgLeaseStore, PgTimestamp, Statement};
use relaykit_sql_store::{
    DeadFilter, DeadReason, Depth, Lease, Limits, Names, OpenTransactions, Page, ReadFrom, RowId, Seq,
    Settled, Settlement, Sql, StoreError, Suspicion, check_limit,
};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::queries;
use super::receive::{OP as RECEIVE, Receiving, busy};
use super::transactional::{Lending, PgTransactional, failed};
use crate::dead::DeadLetter;
use crate::name::{HandlerKey, Scope};
use crate::received::{IdConflict, ReceiveError, Received};
use crate::retention::{Erased, Retention};
use crate::routes::{Route, Routes};
use crate::store::{Committed, Delivery, InboxStore, Unrouted};

/// How many messages one call looks at, of which a handler that catches up gets those that it missed.
const LOOKED_AT: i64 = 20_000;

/// An inbox's messages in Postgres. Cheap to clone.
///
/// The server's clock decides what is due and what is past its time. Nothing needs anything of its session, so all works
/// through a pooler in transaction mode.
///
/// A transactional handler has its connection for as long as it runs: the pool needs as many as handlers run at a time, and two
/// more.
///
/// ```no_run
/// # use relaykit_inbox::postgres::{PgInboxStore, PgSchema};
/// # use relaykit_pipeline_traits::SystemClock;
/// # use relaykit_sql_store::{Names, postgres::Guarded};
/// # async fn start(options: sqlx::postgres::PgConnectOptions) -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Guarded::connect(options, SystemClock::new()).max_connections(18).build()?;
/// let names = Names::new("inbox")?;
/// PgSchema::new(names.clone()).migrate(&pool).await?;
/// let store = PgInboxStore::new(pool, &names);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PgInboxStore {
    leases: PgLeaseStore,
    limits: Limits,
    receiving: Receiving,
    page: Statement,
    settle: Statement,
    suspect: Statement,
    finish: Statement,
    route: Statement,
    catch_up: Statement,
    writing: Statement,
    depth: Statement,
    unrouted: Statement,
    dead: Statement,
    lock_dead: Statement,
    replay: Statement,
    purge: Statement,
    erase_dead: Statement,
    lock_finished: Statement,
    erase_payloads: Statement,
    erase_ids: Statement,
    pool: Guarded,
}

impl PgInboxStore {
    /// Makes a store on the tables of these names, which [`PgSchema`](super::PgSchema) has made.
    #[must_use]
    pub fn new(pool: Guarded, names: &Names) -> Self {
        let tables = names.on_postgres();
        let sql = |parts: &[&'static str]| pool.statement(Sql::new(&tables, parts));
        Self {
            leases: PgLeaseStore::new(pool.clone(), names),
            limits: Limits::default(),
            receiving: Receiving::new(names, |sql| pool.statement(sql)),
            page: sql(&[queries::CALL_PAGE]),
            settle: sql(&[queries::CALL_SETTLE]),
            suspect: sql(&[queries::CALL_SUSPECT]),
            finish: sql(&[queries::CALL_FINISH]),
            route: sql(&queries::ROUTE),
            catch_up: sql(&queries::CATCH_UP),
            writing: sql(&[queries::WRITING]),
            depth: sql(&[queries::DEPTH]),
            unrouted: sql(&[queries::UNROUTED]),
            dead: sql(&queries::DEAD),
            lock_dead: sql(&queries::LOCK_DEAD),
            replay: sql(&[queries::REPLAY]),
            purge: sql(&queries::PURGE),
            erase_dead: sql(&[queries::ERASE_DEAD]),
            lock_finished: sql(&queries::LOCK_FINISHED),
            erase_payloads: sql(&queries::ERASE_PAYLOADS),
            erase_ids: sql(&[queries::ERASE_IDS]),
            pool,
        }
    }

    /// Sets how large a message may be that is received. Default: 256 KiB of payload.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Erases rows of one sort that are past their time; without a window, none.
    async fn erase_by(
        &self,
        sql: &Statement,
        window: Option<Duration>,
        limit: i64,
    ) -> Result<u64, StoreError> {
        let (Some(window), sql) = (window.map(micros), sql.clone()) else { return Ok(0) };
        self.pool
            .run(ERASE, move |conn: &mut PgConnection| {
                let sql = sql.clone();
                Box::pin(async move {
                    let erased = sql.query().bind(window).bind(limit).execute(conn).await?;
                    Ok(erased.rows_affected())
                })
            })
            .await
    }

    async fn erase_payloads(&self, window: Option<Duration>, limit: i64) -> Result<u64, StoreError> {
        let Some(window) = window.map(micros) else { return Ok(0) };
        let (lock, erase) = (self.lock_finished.clone(), self.erase_payloads.clone());
        self.pool
            .transaction(ERASE, move |conn: &mut PgConnection| {
                let (lock, erase) = (lock.clone(), erase.clone());
                Box::pin(async move {
                    let finished: Vec<i64> =
                        lock.scalar().bind(window).bind(limit).fetch_all(&mut *conn).await?;
                    let erased = erase.query().bind(finished).execute(conn).await?;
                    Ok(Finish::Commit(erased.rows_affected()))
                })
            })
            .await
    }
}

const ERASE: &str = "erase messages";

impl InboxStore for PgInboxStore {
    type Leases = PgLeaseStore;
    type Transactional = PgTransactional;

    fn leases(&self) -> PgLeaseStore {
        self.leases.clone()
    }

    async fn receive(
        &self,
        scope: &Scope,
        messages: &[Message],
        routes: &Routes,
    ) -> Result<Vec<Result<Received, IdConflict>>, ReceiveError> {
        self.limits.check_all(messages)?;
        let receiving = self.receiving.clone();
        let call = Arc::new((scope.clone(), messages.to_vec(), routes.clone()));
        let answers = self
            .pool
            .run(RECEIVE, move |conn: &mut PgConnection| {
                let (receiving, call) = (receiving.clone(), Arc::clone(&call));
                Box::pin(async move {
                    let (scope, messages, routes) = &*call;
                    receiving.receive(conn, scope, messages, routes).await
                })
            })
            .await?;
        answers.ok_or_else(|| busy().into())
    }

    async fn page(
        &self,
        handler: &HandlerKey,
        from: &[ReadFrom],
        open: &OpenTransactions,
        limit: u32,
    ) -> Result<Page, StoreError> {
        let (sql, handler) = (self.page.clone(), handler.clone());
        let columns = PageColumns::new(from, open, limit);
        self.pool
            .run("read deliveries", move |conn: &mut PgConnection| {
                let query = columns.bind(sql.query().bind(handler.as_str()));
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
        let (sql, (held, tokens), (_, seqs)) =
            (self.suspect.clone(), lease_columns(leases), row_columns(rows));
        self.pool
            .run("note what is lent", move |conn: &mut PgConnection| {
                let query = sql.query().bind(&held).bind(&tokens).bind(&seqs).bind(suspicion.as_number());
                Box::pin(async move { read_settled(&query.fetch_one(conn).await?) })
            })
            .await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let (sql, columns) = (self.settle.clone(), SettlementColumns::new(settlement));
        self.pool
            .run("settle deliveries", move |conn: &mut PgConnection| {
                let query = columns.bind(sql.query());
                Box::pin(async move { read_settled(&query.fetch_one(conn).await?) })
            })
            .await
    }

    async fn handle(
        &self,
        handler: &PgTransactional,
        delivery: &Delivery,
        context: &BatchContext,
        limit: Duration,
    ) -> Result<Committed, StoreError> {
        let asked = Arc::new(());
        let lending = Lending {
            handler: handler.clone(),
            delivery: delivery.clone(),
            context: context.clone(),
            limit,
            clock: self.pool.clock(),
            finish: self.finish.clone(),
            asked: Arc::downgrade(&asked),
        };
        let committed = self
            .pool
            .transaction_once("handle a message", limit, move |conn: &mut PgConnection| {
                Box::pin(lending.run(conn))
            })
            .await;
        drop(asked);
        match committed {
            // What the handler wrote does not hold, as a constraint that is looked at in the end has found.
            Err(StoreError::Rejected { source, .. }) => {
                Ok(failed(format!("the transaction could not commit: {source}")))
            }
            committed => committed,
        }
    }

    async fn route(&self, routes: &Routes, limit: u32) -> Result<u64, StoreError> {
        const OP: &str = "route messages";
        let (sql, columns, limit) =
            (self.route.clone(), RouteColumns::new(routes.iter()), checked(OP, limit)?);
        self.pool
            .run(OP, move |conn: &mut PgConnection| {
                let query = columns.bind(sql.query()).bind(limit);
                Box::pin(async move { count(&query.fetch_one(conn).await?, 0) })
            })
            .await
    }

    async fn catch_up(
        &self,
        kind: &str,
        route: &Route,
        after: Seq,
        limit: u32,
    ) -> Result<Option<(Seq, u64)>, StoreError> {
        const OP: &str = "catch up";
        let (sql, columns, limit) =
            (self.catch_up.clone(), RouteColumns::new([(kind, route)]), checked(OP, limit)?);
        self.pool
            .run(OP, move |conn: &mut PgConnection| {
                let query = columns.bind(sql.query()).bind(after.0).bind(limit).bind(LOOKED_AT);
                Box::pin(async move {
                    let row = query.fetch_optional(conn).await?;
                    row.map(|row| Ok((Seq(row.try_get(0)?), count(&row, 1)?))).transpose()
                })
            })
            .await
    }

    async fn writing(&self) -> Result<Vec<String>, StoreError> {
        let sql = self.writing.clone();
        self.pool
            .run("look who writes messages", move |conn: &mut PgConnection| {
                let query = sql.scalar();
                Box::pin(async move { query.fetch_all(conn).await })
            })
            .await
    }

    async fn depth(&self, handler: &HandlerKey) -> Result<Depth, StoreError> {
        let (sql, handler) = (self.depth.clone(), handler.clone());
        self.pool
            .run("count deliveries", move |conn: &mut PgConnection| {
                let query = sql.query().bind(handler.as_str());
                Box::pin(async move {
                    let row = query.fetch_one(conn).await?;
                    Ok(Depth {
                        pending: count(&row, 0)?,
                        oldest: row.try_get::<Option<i64>, _>(1)?.map(duration),
                        dead: count(&row, 2)?,
                    })
                })
            })
            .await
    }

    async fn unrouted(&self, after: Seq, limit: u32) -> Result<Vec<Unrouted>, StoreError> {
        const OP: &str = "list unrouted messages";
        let (sql, limit) = (self.unrouted.clone(), checked(OP, limit)?);
        self.pool
            .run(OP, move |conn: &mut PgConnection| {
                let query = sql.query().bind(after.0).bind(limit);
                Box::pin(async move { query.fetch_all(conn).await?.iter().map(unrouted).collect() })
            })
            .await
    }

    async fn dead_letters(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        const OP: &str = "list dead letters";
        let (sql, limit) = (self.dead.clone(), checked(OP, limit)?);
        let (handler, filter) = (handler.cloned(), filter.clone());
        self.pool
            .run(OP, move |conn: &mut PgConnection| {
                let handler = handler.as_ref().map(HandlerKey::as_str);
                let query = bind_filter(sql.query(), &filter, limit).bind(handler);
                Box::pin(async move { query.fetch_all(conn).await?.iter().map(dead_letter).collect() })
            })
            .await
    }

    async fn replay(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> Result<Vec<MessageId>, StoreError> {
        const OP: &str = "replay dead letters";
        let limit = checked(OP, limit)?;
        let (lock, replay) = (self.lock_dead.clone(), self.replay.clone());
        let (handler, filter) = (handler.cloned(), filter.clone());
        self.pool
            .transaction(OP, move |conn: &mut PgConnection| {
                let (lock, replay) = (lock.clone(), replay.clone());
                let (handler, mut filter) = (handler.clone(), filter.clone());
                Box::pin(async move {
                    let handler = handler.as_ref().map(HandlerKey::as_str);
                    let mut replayed = Vec::new();
                    // Those that cannot be read make room for others behind them.
                    loop {
                        let left = limit - i64::try_from(replayed.len()).unwrap_or(limit);
                        let query = bind_filter(lock.query(), &filter, left).bind(handler);
                        let rows = query.fetch_all(&mut *conn).await?;
                        let Some(last) = rows.last() else { break };
                        filter.after = Some(Seq(last.try_get(0)?));
                        let back = replay.query().bind(readable(&rows)?).fetch_all(&mut *conn).await?;
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

    async fn purge(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> Result<u64, StoreError> {
        const OP: &str = "purge dead letters";
        let (sql, limit) = (self.purge.clone(), checked(OP, limit)?);
        let (handler, filter) = (handler.cloned(), filter.clone());
        self.pool
            .run(OP, move |conn: &mut PgConnection| {
                let handler = handler.as_ref().map(HandlerKey::as_str);
                let query = bind_filter(sql.query(), &filter, limit).bind(handler);
                Box::pin(async move { Ok(query.execute(conn).await?.rows_affected()) })
            })
            .await
    }

    async fn erase(&self, retention: &Retention, limit: u32) -> Result<Erased, StoreError> {
        let limit = checked(ERASE, limit)?;
        let dead = self.erase_by(&self.erase_dead, retention.dead_window(), limit).await?;
        // Before the payloads, so that an id is known for a while without one.
        let ids = self.erase_by(&self.erase_ids, retention.id_window(), limit).await?;
        let payloads = self.erase_payloads(retention.payload_window(), limit).await?;
        Ok(Erased { payloads, dead, ids })
    }
}

/// Routes, column by column.
struct RouteColumns {
    kinds: Vec<String>,
    handlers: Vec<String>,
    ordered: Vec<bool>,
}

impl RouteColumns {
    fn new<'r>(routes: impl IntoIterator<Item = (&'r str, &'r Route)>) -> Self {
        let mut columns = Self { kinds: Vec::new(), handlers: Vec::new(), ordered: Vec::new() };
        for (kind, route) in routes {
            columns.kinds.push(kind.to_owned());
            columns.handlers.push(route.handler.as_str().to_owned());
            columns.ordered.push(route.ordered);
        }
        columns
    }

    fn bind(&self, query: Query) -> Query {
        query.bind(&self.kinds).bind(&self.handlers).bind(&self.ordered)
    }
}

type Query = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

fn unrouted(row: &PgRow) -> Result<Unrouted, sqlx::Error> {
    Ok(Unrouted::new(
        Seq(row.try_get(0)?),
        name(Scope::new(row.try_get::<String, _>(1)?))?,
        message_id(row, 2)?,
        row.try_get(3)?,
        duration(row.try_get(4)?),
    ))
}

fn dead_letter(row: &PgRow) -> Result<DeadLetter, sqlx::Error> {
    let raw = RawMessage::read(row, 1)?;
    Ok(DeadLetter::new(
        Seq(row.try_get(0)?),
        name(HandlerKey::new(row.try_get::<String, _>(7)?))?,
        name(Scope::new(row.try_get::<String, _>(8)?))?,
        raw.id(),
        raw.message().ok(),
        DeadReason::parse(row.try_get(9)?),
        row.try_get(10)?,
        attempts(row.try_get(11)?),
        row.try_get::<PgTimestamp, _>(12)?.0,
        row.try_get::<Option<PgTimestamp>, _>(13)?.map(|at| at.0),
        row.try_get::<PgTimestamp, _>(14)?.0,
    ))
}

/// Takes a name that was valid when it was stored.
fn name<T>(name: Result<T, relaykit_pipeline_traits::InvalidSetting>) -> Result<T, sqlx::Error> {
    name.map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Checks how many a call asks for.
fn checked(op: &'static str, limit: u32) -> Result<i64, StoreError> {
    check_limit(op, limit)?;
    Ok(limit.into())
}
