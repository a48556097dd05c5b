use std::time::Duration;

use relaykit_pipeline_traits::uuid::Uuid;
use relaykit_pipeline_traits::{Clock, Monotonic};
use rusqlite::{Connection, Result as SqlResult, params};

use super::Database;
use crate::{
    Instance, Lease, LeaseStore, Membership, Migration, Names, Shard, Sql, StoreError, TableForm, View,
};

/// The SQL of the tables that leases need; a part of a store's first migration. It asks for the number `shards`.
pub const LEASE_MIGRATION: &str = "create table {members} (
  instance blob primary key,
  since integer not null,
  until integer not null
) strict, without rowid;
create table {shards} (
  shard integer primary key,
  owner blob,
  token integer not null default 0,
  since integer,
  until integer
) strict;
with recursive n(shard) as (select 0 union all select shard + 1 from n where shard + 1 < {#shards})
insert into {shards} (shard) select shard from n;
";

/// How those tables must look.
pub const LEASE_TABLES: [TableForm; 2] = [
    TableForm {
        name: "members",
        columns: &[("instance", "blob"), ("since", "integer"), ("until", "integer")],
        indexes: &[],
    },
    TableForm {
        name: "shards",
        columns: &[
            ("shard", "integer"),
            ("owner", "blob"),
            ("token", "integer"),
            ("since", "integer"),
            ("until", "integer"),
        ],
        indexes: &[],
    },
];

// What was renewed later than now was so before the machine was started the last time.
const FORGET: &str = "delete from {members} where (until < ?2 or since > ?2) and instance <> ?1";

const LIVE: &str = "insert into {members} (instance, since, until) values (?1, ?2, ?3)
on conflict (instance) do update set since = excluded.since, until = excluded.until";

const RENEW: &str = "update {shards} set since = ?2, until = ?3 where owner = ?1";

const HELD: &str = "select shard, token from {shards} where owner = ?1 order by shard";

const FREE: &str = "select shard, owner is not null from {shards}
where (owner is null or until < ?2 or since > ?2) and owner is not ?1 order by shard";

const COUNT: &str =
    "select (select count(*) from {members}), (select count(*) from {members} where instance < ?1),
(select count(*) from {shards})";

const TAKE: &str = "update {shards} set owner = ?1, token = token + 1, since = ?2, until = ?3
where shard = ?4 and (owner is null or until < ?2 or since > ?2) returning token";

const GIVE_BACK: &str = "update {shards} set owner = null, since = null, until = null where shard = ?2 and token = ?3 and owner = ?1";

const LEAVE: &str = "delete from {members} where instance = ?1";

/// A [`LeaseStore`] in a SQLite file. The monotonic clock of each process decides; of
/// [`SystemClock`](relaykit_pipeline_traits::SystemClock)s, those of one machine agree. So no step of the wall clock ends a lease, or
/// makes it longer. A lease of before the machine was started has ended, unless less time has passed since than had then: in that
/// case it lasts as long as it would have.
#[derive(Debug, Clone)]
pub struct SqliteLeaseStore {
    database: Database,
    heartbeat: Heartbeat,
    take: Sql,
    give_back: Sql,
    leave: Sql,
}

#[derive(Debug, Clone)]
struct Heartbeat {
    forget: Sql,
    live: Sql,
    renew: Sql,
    held: Sql,
    free: Sql,
    count: Sql,
}

impl SqliteLeaseStore {
    /// Makes a store on the tables of these names, which [`LEASE_MIGRATION`] has made.
    #[must_use]
    pub fn new(database: Database, names: &Names) -> Self {
        let names = names.on_sqlite();
        let sql = |text| Sql::new(&names, &[text]);
        let heartbeat = Heartbeat {
            forget: sql(FORGET),
            live: sql(LIVE),
            renew: sql(RENEW),
            held: sql(HELD),
            free: sql(FREE),
            count: sql(COUNT),
        };
        Self { database, heartbeat, take: sql(TAKE), give_back: sql(GIVE_BACK), leave: sql(LEAVE) }
    }

    /// Returns a migration that makes these tables alone, for stores that need no others.
    #[must_use]
    pub const fn migration() -> Migration {
        Migration { version: 1, name: "leases", parts: &[LEASE_MIGRATION] }
    }
}

/// When a lease is renewed, and when it ends: in microseconds of monotonic time.
struct Span {
    now: i64,
    until: i64,
}

impl Span {
    fn from_now(clock: &dyn Clock, lease: Duration) -> Self {
        let now = clock.monotonic();
        let micros = |at: Monotonic| {
            let since = at.since(Monotonic::from_origin(Duration::ZERO));
            i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
        };
        Self { now: micros(now), until: micros(now + lease) }
    }
}

impl Heartbeat {
    fn run(&self, connection: &Connection, id: Uuid, Span { now, until }: Span) -> SqlResult<View> {
        let id = id.as_bytes();
        let prepare = |sql: &Sql| connection.prepare_cached(sql.as_str());
        prepare(&self.forget)?.execute(params![id, now])?;
        prepare(&self.live)?.execute(params![id, now, until])?;
        prepare(&self.renew)?.execute(params![id, now, until])?;
        let held = prepare(&self.held)?
            .query_map([id], |row| Ok(Lease { shard: Shard::new(row.get(0)?), token: row.get(1)? }))?
            .collect::<SqlResult<_>>()?;
        let free = prepare(&self.free)?
            .query_map(params![id, now], |row| Ok((Shard::new(row.get(0)?), row.get(1)?)))?
            .collect::<SqlResult<Vec<(Shard, bool)>>>()?;
        let expired = free.iter().filter(|(_, expired)| *expired).map(|(shard, _)| *shard).collect();
        prepare(&self.count)?.query_row([id], |row| {
            Ok(View {
                held,
                free: free.into_iter().map(|(shard, _)| shard).collect(),
                expired,
                membership: Membership { members: row.get(0)?, rank: row.get(1)? },
                shards: row.get(2)?,
            })
        })
    }
}

impl LeaseStore for SqliteLeaseStore {
    async fn heartbeat(&self, instance: Instance, lease: Duration) -> Result<View, StoreError> {
        let (sql, clock) = (self.heartbeat.clone(), self.database.clock().clone());
        let beat = move |connection: &Connection| {
            sql.run(connection, instance.as_uuid(), Span::from_now(&*clock, lease))
        };
        self.database.write("renew leases", beat).await
    }

    async fn take(
        &self,
        instance: Instance,
        lease: Duration,
        shards: &[Shard],
    ) -> Result<Vec<Lease>, StoreError> {
        let (sql, clock, mut shards) = (self.take.clone(), self.database.clock().clone(), shards.to_vec());
        shards.sort_unstable();
        let take = move |connection: &Connection| {
            let (id, Span { now, until }) = (instance.as_uuid(), Span::from_now(&*clock, lease));
            let mut taken = Vec::new();
            let mut take = connection.prepare_cached(sql.as_str())?;
            for shard in &shards {
                let mut rows = take.query(params![id.as_bytes(), now, until, shard.number()])?;
                while let Some(row) = rows.next()? {
                    taken.push(Lease { shard: *shard, token: row.get(0)? });
                }
            }
            Ok(taken)
        };
        self.database.write("take leases", take).await
    }

    async fn give_back(&self, instance: Instance, leases: &[Lease]) -> Result<(), StoreError> {
        let (sql, leases) = (self.give_back.clone(), leases.to_vec());
        let give = move |connection: &Connection| {
            let id = instance.as_uuid();
            let mut give = connection.prepare_cached(sql.as_str())?;
            for lease in &leases {
                give.execute(params![id.as_bytes(), lease.shard.number(), lease.token])?;
            }
            Ok(())
        };
        self.database.write("give leases back", give).await
    }

    async fn leave(&self, instance: Instance) -> Result<(), StoreError> {
        let sql = self.leave.clone();
        let leave = move |connection: &Connection| {
            connection.prepare_cached(sql.as_str())?.execute([instance.as_uuid().as_bytes()]).map(drop)
        };
        self.database.write("leave", leave).await
    }
}
