use std::collections::HashSet;

use relaykit_outbox::postgres::{PgOutboxStore, PgSchema};
use relaykit_outbox::sqlite::SqliteOutboxStore;
use relaykit_outbox::{Depth, OutboxStore as _};

use super::child;
use crate::history::{Event, Id};
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

    async fn make(ground: &Ground) -> anyhow::Result<Self> {
        let names = ground.names();
        let outbox = match ground {
            Ground::Sqlite { file } => {
                let store = SqliteOutboxStore::new(database(file)?, &names, shards());
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

    async fn testimony(&self, _: &Ground) -> anyhow::Result<Vec<Event>> {
        Ok(Vec::new())
    }
}
