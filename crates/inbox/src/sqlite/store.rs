use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use relaykit_pipeline_traits::{BatchContext, Message, MessageId};
use relaykit_sql_store::sqlite::{Database, PageQueries, SettleQueries, SqliteLeaseStore, Tables};
use relaykit_sql_store::{
    DeadFilter, Depth, Difference, Lease, Limits, Migrated, Names, OpenTransactions, Page, ReadFrom, RowId,
    Seq, Settled, Settlement, Shards, StoreError, Suspicion, check_limit,
};

use super::dead::Letters;
use super::handle::{Asked, Call, Deliveries, SqliteTransactional};
use super::page::pages;
use super::receive::{Failed, OP, SqliteInbox, Store};
use super::retain::Retain;
use super::route::Lead;
use super::schema::schema;
use super::settle::settle;
use crate::dead::DeadLetter;
use crate::name::{HandlerKey, Scope};
use crate::received::{IdConflict, ReceiveError, Received};
use crate::retention::{Erased, Retention};
use crate::routes::{Route, Routes};
use crate::store::{Committed, Delivery, InboxStore, Unrouted};

/// Messages in a SQLite file that the application writes too, through connections of its own. Cheap to clone.
///
/// Pages are read on a connection of its own, so polling takes no write lock. Transactional handlers run on the connection
/// that writes: see [`TransactionalHandler`](super::TransactionalHandler).
#[derive(Debug, Clone)]
pub struct SqliteInboxStore {
    tables: Tables,
    limits: Limits,
    store: Store,
    pages: PageQueries,
    settle: SettleQueries,
    deliveries: Deliveries,
    lead: Lead,
    letters: Letters,
    retain: Retain,
}

impl SqliteInboxStore {
    /// Makes a store on the tables of these names, which [`migrate`](Self::migrate) makes for so many shards.
    #[must_use]
    pub fn new(database: Database, names: &Names, shards: Shards) -> Self {
        let names = names.on_sqlite();
        Self {
            limits: Limits::default(),
            store: Store::new(&names, shards),
            pages: pages(&names),
            settle: settle(&names),
            deliveries: Deliveries::new(&names),
            lead: Lead::new(&names),
            letters: Letters::new(&names),
            retain: Retain::new(&names),
            tables: Tables::new(database, schema(&names, shards), shards),
        }
    }

    /// Sets how large a message may be that is received. Default: 256 KiB of payload.
    #[must_use]
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Returns what receives messages into the same tables, in transactions of the application's own connections and by the system's
    /// clock.
    #[must_use]
    pub fn inbox(&self, routes: Routes) -> SqliteInbox {
        SqliteInbox::new(self.tables.schema().names(), self.tables.shards(), routes, self.limits)
    }

    /// Makes the tables, or brings them to this version. The number of shards is fixed with that.
    ///
    /// # Errors
    ///
    /// Those of [`Tables::migrate`].
    ///
    /// # Cancel safety
    ///
    /// A dropped migration is done as a whole, or not at all.
    pub async fn migrate(&self) -> Result<Migrated, StoreError> {
        self.tables.migrate().await
    }

    /// Lists how the tables differ from what this version needs; nothing, if they are fine.
    ///
    /// # Errors
    ///
    /// Those of [`Tables::verify`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    pub async fn verify(&self) -> Result<Vec<Difference>, StoreError> {
        self.tables.verify().await
    }
}

impl InboxStore for SqliteInboxStore {
    type Leases = SqliteLeaseStore;
    type Transactional = SqliteTransactional;

    fn leases(&self) -> SqliteLeaseStore {
        SqliteLeaseStore::new(self.tables.database().clone(), self.tables.schema().names())
    }

    async fn receive(
        &self,
        scope: &Scope,
        messages: &[Message],
        routes: &Routes,
    ) -> Result<Vec<Result<Received, IdConflict>>, ReceiveError> {
        let arrivals = self.store.prepare(scope, messages, routes, self.limits)?;
        let store = self.store.clone();
        let write =
            self.tables.write(OP, move |connection, now| match store.write(connection, &arrivals, now) {
                Ok(received) => Ok(Ok(received)),
                Err(Failed::Sqlite(error)) => Err(error),
                Err(rejected @ Failed::Rejected(_)) => Ok(Err(rejected.into_error())),
            });
        Ok(write.await??)
    }

    async fn page(
        &self,
        handler: &HandlerKey,
        from: &[ReadFrom],
        _: &OpenTransactions,
        limit: u32,
    ) -> Result<Page, StoreError> {
        let (pages, handler, from) = (self.pages.clone(), handler.clone(), from.to_vec());
        let read = self.tables.read("read messages", move |connection, now| {
            pages.read(connection, Some(handler.as_str()), &from, limit, now)
        });
        read.await
    }

    async fn suspect(
        &self,
        leases: &[Lease],
        rows: &[RowId],
        suspicion: Suspicion,
    ) -> Result<Settled, StoreError> {
        let (settle, leases, rows) = (self.settle.clone(), leases.to_vec(), rows.to_vec());
        let write = self.tables.write("note what is handled", move |connection, _| {
            settle.suspect(connection, &leases, &rows, suspicion)
        });
        write.await
    }

    async fn settle(&self, settlement: &Settlement) -> Result<Settled, StoreError> {
        let (settle, settlement) = (self.settle.clone(), settlement.clone());
        self.tables
            .write("settle messages", move |connection, now| settle.run(connection, &settlement, now, None))
            .await
    }

    async fn handle(
        &self,
        handler: &SqliteTransactional,
        delivery: &Delivery,
        context: &BatchContext,
        limit: Duration,
    ) -> Result<Committed, StoreError> {
        let database = self.tables.database();
        let Asked(call) = &Asked(Arc::new(Call::new(handler, delivery, context, limit, database.clock())));
        let (asked, deliveries) = (Arc::downgrade(call), self.deliveries.clone());
        let database = database.with_call_timeout(database.call_timeout().saturating_add(limit));
        let write = database.write("handle a message", move |connection| match asked.upgrade() {
            Some(call) => call.run(&deliveries, connection),
            // Whoever asked is gone.
            None => Ok(Committed::Stale),
        });
        let written = match select(pin!(write), pin!(call.watch())).await {
            Either::Left((written, _)) => written,
            Either::Right((never, _)) => match never {},
        };
        call.judge(written)
    }

    async fn route(&self, routes: &Routes, limit: u32) -> Result<u64, StoreError> {
        check_limit("route messages", limit)?;
        let (lead, routes) = (self.lead.clone(), routes.clone());
        self.tables.write("route messages", move |connection, _| lead.route(connection, &routes, limit)).await
    }

    async fn catch_up(
        &self,
        kind: &str,
        route: &Route,
        after: Seq,
        limit: u32,
    ) -> Result<Option<(Seq, u64)>, StoreError> {
        check_limit("catch up on messages", limit)?;
        let (lead, kind, route) = (self.lead.clone(), kind.to_owned(), route.clone());
        let write = self.tables.write("catch up on messages", move |connection, _| {
            lead.catch_up(connection, &kind, &route, after, limit)
        });
        write.await
    }

    async fn depth(&self, handler: &HandlerKey) -> Result<Depth, StoreError> {
        let (retain, handler) = (self.retain.clone(), handler.clone());
        self.tables
            .read("count messages", move |connection, now| retain.depth(connection, &handler, now))
            .await
    }

    async fn unrouted(&self, after: Seq, limit: u32) -> Result<Vec<Unrouted>, StoreError> {
        check_limit("list unrouted messages", limit)?;
        let lead = self.lead.clone();
        let read = self.tables.read("list unrouted messages", move |connection, now| {
            lead.unrouted(connection, after, limit, now)
        });
        read.await
    }

    async fn dead_letters(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        check_limit("list dead letters", limit)?;
        let (letters, handler, filter) = (self.letters.clone(), handler.cloned(), filter.clone());
        let read = self.tables.read("list dead letters", move |connection, _| {
            letters.list(connection, handler.as_ref(), &filter, limit)
        });
        read.await
    }

    async fn replay(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> Result<Vec<MessageId>, StoreError> {
        check_limit("replay dead letters", limit)?;
        let (letters, handler, filter) = (self.letters.clone(), handler.cloned(), filter.clone());
        let write = self.tables.write("replay dead letters", move |connection, now| {
            letters.replay(connection, handler.as_ref(), &filter, limit, now)
        });
        write.await
    }

    async fn purge(
        &self,
        handler: Option<&HandlerKey>,
        filter: &DeadFilter,
        limit: u32,
    ) -> Result<u64, StoreError> {
        check_limit("purge dead letters", limit)?;
        let (letters, handler, filter) = (self.letters.clone(), handler.cloned(), filter.clone());
        let write = self.tables.write("purge dead letters", move |connection, _| {
            letters.purge(connection, handler.as_ref(), &filter, limit)
        });
        write.await
    }

    async fn erase(&self, retention: &Retention, limit: u32) -> Result<Erased, StoreError> {
        check_limit("erase what is past its time", limit)?;
        let (retain, retention) = (self.retain.clone(), *retention);
        self.tables
            .write("erase messages", move |connection, now| retain.erase(connection, &retention, limit, now))
            .await
    }
}
