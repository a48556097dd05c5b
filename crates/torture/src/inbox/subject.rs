use std::collections::HashSet;

use relaykit_inbox::postgres::{PgInboxStore, PgSchema};
use relaykit_inbox::sqlite::SqliteInboxStore;
use relaykit_inbox::{Depth, InboxStore};
use relaykit_pipeline_traits::SystemClock;

use super::handlers::CONCURRENCY;
use super::receiver::IN_TRANSACTIONS;
use super::stream::{calls, effects};
use crate::history::{Event, Id};
use crate::stage::place::{Ground, database, shards};
use crate::stage::plan::{IDS, Role};
use crate::stage::subject::Subject;

/// The parent's view of an inbox, of the table that some write who receive, and of the one that the transactional handler writes.
pub(crate) enum Inbox {
    Sqlite(Box<SqliteInboxStore>),
    Postgres(Box<PgInboxStore>),
}

impl Subject for Inbox {
    const CHILD: &'static str = "inbox-child";

    // Two get the same: a broker that delivers to both.
    const CAST: &'static [Role] = &[
        Role::Feed { slot: IN_TRANSACTIONS },
        Role::Feed { slot: IN_TRANSACTIONS },
        Role::Feed { slot: IN_TRANSACTIONS + 1 },
        Role::Work { engines: 1 },
        Role::Work { engines: 2 },
        Role::Work { engines: 1 },
    ];

    // A batch of four may take its time while the other three go on.
    const UNSETTLED: usize = CONCURRENCY * 4;

    const PLACES: &'static [(Role, &'static str)] = &[
        (Role::Work { engines: 1 }, "handle.wrote"),
        (Role::Work { engines: 1 }, "handle.ended"),
        (Role::Feed { slot: IN_TRANSACTIONS + 2 }, "receiver.answered"),
        (Role::Feed { slot: IN_TRANSACTIONS }, "receiver.stored"),
        (Role::Feed { slot: IN_TRANSACTIONS }, "receiver.committed"),
    ];

    async fn make(ground: &Ground) -> anyhow::Result<Self> {
        let names = ground.names();
        let (inbox, effects) = match ground {
            Ground::Sqlite { file } => {
                let store = SqliteInboxStore::new(database(file, SystemClock::new())?, &names, shards());
                store.migrate().await?;
                (
                    Self::Sqlite(store.into()),
                    "create table {effects} (n integer primary key autoincrement, id integer)",
                )
            }
            Ground::Postgres { db } => {
                let pool = Ground::pool(db)?;
                PgSchema::new(names.clone()).shards(shards()).migrate(&pool).await?;
                let store = PgInboxStore::new(pool, &names);
                (Self::Postgres(store.into()), "create table {effects} (n bigserial primary key, id bigint)")
            }
        };
        ground.execute(effects).await?;
        ground.execute("create table {business} (id bigint primary key)").await?;
        Ok(inbox)
    }

    async fn depth(&self) -> anyhow::Result<Depth> {
        match self {
            Self::Sqlite(store) => depth(&**store).await,
            Self::Postgres(store) => depth(&**store).await,
        }
    }

    async fn committed(&self, ground: &Ground) -> anyhow::Result<HashSet<Id>> {
        let ids = match self {
            Self::Sqlite(_) => "select json_extract(cast(payload as text), '$.id') from {messages}",
            Self::Postgres(_) => {
                "select (convert_from(payload, 'UTF8')::jsonb ->> 'id')::bigint from {messages}"
            }
        };
        let ids = ground.numbers(ids).await?;
        Ok(ids.into_iter().map(i64::cast_unsigned).collect())
    }

    async fn testimony(&self, ground: &Ground) -> anyhow::Result<Vec<Event>> {
        let ids = |numbers: Vec<i64>| numbers.into_iter().map(i64::cast_unsigned);
        // What was committed together is there together.
        let business: HashSet<_> = ids(ground.numbers("select id from {business}").await?).collect();
        let received = self.committed(ground).await?.into_iter();
        let received: HashSet<_> = received.filter(|id| id / IDS == IN_TRANSACTIONS).collect();
        let apart = business.symmetric_difference(&received).map(|id| Event::Wrong { id: *id });
        let effects = ids(ground.numbers("select id from {effects} order by n").await?).collect();
        Ok(apart.chain([Event::Effects { ids: effects }]).collect())
    }
}

/// Adds up what waits for each handler.
async fn depth(store: &impl InboxStore) -> anyhow::Result<Depth> {
    let mut all = store.depth(&calls()).await?;
    let other = store.depth(&effects()).await?;
    all.pending += other.pending;
    all.dead += other.dead;
    Ok(all)
}
