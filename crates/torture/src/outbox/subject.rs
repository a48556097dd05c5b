use std::collections::HashSet;
use std::time::Duration;

use relaykit_outbox::postgres::{PgOutbox, PgOutboxStore, PgSchema};
use relaykit_outbox::sqlite::{SqliteOutbox, SqliteOutboxStore, rusqlite};
use relaykit_outbox::{DeadFilter, DeadLetter, Depth, Limits, MAX_LISTED, OutboxStore as _};
use relaykit_pipeline_traits::SystemClock;
use relaykit_sql_store::Sql;

use super::child::{self, BUSINESS};
use super::producer::{Work, add_on_postgres, begun_on_sqlite};
use crate::history::{Event, Id};
use crate::item::Item;
use crate::stage::place::{Ground, database, shards};
use crate::stage::plan::Role;
use crate::stage::subject::Subject;

/// The parent's view of an outbox, and of the table that producers write in the same transactions.
pub(crate) enum Outbox {
    Sqlite(Box<SqliteOutboxStore>),
    Postgres(Box<PgOutboxStore>),
}

impl Subject for Outbox {
    const CHILD: &'static str = "outbox-child";

    const CAST: &'static [Role] = &[
        Role::Feed { slot: 0 },
        Role::Feed { slot: 1 },
        Role::Work { engines: 1 },
        Role::Work { engines: 2 },
        Role::Work { engines: 1 },
    ];

    const UNSETTLED: usize = child::UNSETTLED;

    const PLACES: &'static [(Role, &'static str)] =
        &[(Role::Feed { slot: 2 }, "producer.added"), (Role::Feed { slot: 3 }, "producer.committed")];

    async fn make(ground: &Ground) -> anyhow::Result<Self> {
        let names = ground.names();
        let outbox = match ground {
            Ground::Sqlite { file } => {
                let store = SqliteOutboxStore::new(database(file, SystemClock::new())?, &names, shards());
                store.migrate().await?;
                Self::Sqlite(store.into())
            }
            Ground::Postgres { db } => {
                let pool = Ground::pool(db)?;
                PgSchema::new(names.clone()).shards(shards()).migrate(&pool).await?;
                Self::Postgres(PgOutboxStore::new(pool, &names).into())
            }
        };
        ground.execute("create table {business} (id bigint primary key)").await?;
        Ok(outbox)
    }

    async fn depth(&self) -> anyhow::Result<Depth> {
        Ok(match self {
            Self::Sqlite(store) => store.depth().await?,
            Self::Postgres(store) => store.depth().await?,
        })
    }

    async fn committed(&self, ground: &Ground) -> anyhow::Result<HashSet<Id>> {
        let ids = ground.numbers("select id from {business}").await?;
        Ok(ids.into_iter().map(i64::cast_unsigned).collect())
    }

    /// Tells of the dead letters.
    async fn testimony(&self, _: &Ground) -> anyhow::Result<Vec<Event>> {
        let all = DeadFilter::all();
        let letters = match self {
            Self::Sqlite(store) => store.dead_letters(&all, MAX_LISTED).await?,
            Self::Postgres(store) => store.dead_letters(&all, MAX_LISTED).await?,
        };
        let found = |letter: DeadLetter| {
            let item: Option<Item> = serde_json::from_slice(letter.message?.payload()).ok();
            Some(Event::Found { id: item?.id })
        };
        Ok(letters.into_iter().filter_map(found).collect())
    }
}

impl Outbox {
    /// Adds messages in a transaction, as an application does that has a pool of its own.
    pub(super) async fn add(&self, ground: &Ground, work: &Work) -> anyhow::Result<()> {
        let (names, limits) = (ground.names(), Limits::default());
        let business = Sql::new(&names, &[BUSINESS]);
        match ground {
            Ground::Sqlite { file } => {
                let connection = rusqlite::Connection::open(file)?;
                connection.busy_timeout(Duration::from_secs(5))?;
                let outbox = SqliteOutbox::new(&names, shards(), limits);
                Ok(begun_on_sqlite(&connection, &outbox, &business, work)?.commit()?)
            }
            Ground::Postgres { db } => {
                let mut connection = db.connection().await;
                add_on_postgres(&mut connection, &PgOutbox::new(&names, limits), &business, 0, work).await
            }
        }
    }
}
