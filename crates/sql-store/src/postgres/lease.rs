use std::time::Duration;

use sqlx::{PgConnection, Row};

use super::codec::PgUuid;
use super::pool::Guarded;
use super::statement::Statement;
use crate::{
    Instance, Lease, LeaseStore, Membership, Migration, Names, Shard, Sql, StoreError, TableForm, View,
};

/// The SQL of the tables that leases need; a part of a store's first migration. It asks for the number `shards`.
///
/// The rows are few and updated often, so pages keep room for new versions, and vacuum comes early.
pub const LEASE_MIGRATION: &str = "create table {members} (
      instance uuid primary key,
      until timestamptz not null
    ) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
    create table {shards} (
      shard int primary key,
      owner uuid,
      token bigint not null default 0,
      until timestamptz
    ) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
    insert into {shards} (shard) select generate_series(0, {#shards} - 1);
";

/// How those tables must look.
pub const LEASE_TABLES: [TableForm; 2] = [
    TableForm {
        name: "members",
        columns: &[("instance", "uuid"), ("until", "timestamp with time zone")],
        indexes: &["members_pkey"],
    },
    TableForm {
        name: "shards",
        columns: &[
            ("shard", "integer"),
            ("owner", "uuid"),
            ("token", "bigint"),
            ("until", "timestamp with time zone"),
        ],
        indexes: &["shards_pkey"],
    },
];

// Members that have expired are deleted on the way; the locks of two that meet there are skipped, so they cannot
// wait for each other. Ends are counted from a moment before any lock is waited for, never later.
const HEARTBEAT: &str = "with t as materialized (select pg_catalog.clock_timestamp() as now),
alive as (
    insert into {members} as m (instance, until)
    select $1, t.now + $2::bigint * interval '1 microsecond' from t
    on conflict (instance) do update set until = excluded.until
),
gone as (
    delete from {members} m where m.instance in (
        select g.instance from {members} g, t where g.until < t.now and g.instance <> $1 for update of g skip locked
    )
),
mine as (
    update {shards} s set until = t.now + $2::bigint * interval '1 microsecond' from t
    where s.owner = $1 returning s.shard, s.token
)
select
    array(select shard from mine order by shard),
    array(select token from mine order by shard),
    array(
        select s.shard from {shards} s, t
        where (s.owner is null or s.until < t.now) and s.owner is distinct from $1 order by s.shard
    ),
    (select count(*) + 1 from {members} m, t where m.until >= t.now and m.instance <> $1),
    (select count(*) from {members} m, t where m.until >= t.now and m.instance < $1),
    (select count(*) from {shards}),
    array(
        select s.shard from {shards} s, t
        where s.owner is not null and s.until < t.now and s.owner <> $1 order by s.shard
    )";

const TAKE: &str = "with t as materialized (select pg_catalog.clock_timestamp() as now),
free as (
    select s.shard from {shards} s, t
    where s.shard = any($3::int[]) and (s.owner is null or s.until < t.now)
    order by s.shard for update of s skip locked
)
update {shards} s
set owner = $1, token = s.token + 1, until = t.now + $2::bigint * interval '1 microsecond'
from t, free f where s.shard = f.shard
returning s.shard, s.token";

const GIVE_BACK: &str = "update {shards} s set owner = null, until = null
from unnest($2::int[], $3::bigint[]) as given(shard, token)
where s.shard = given.shard and s.token = given.token and s.owner = $1";

const LEAVE: &str = "delete from {members} where instance = $1";

/// A [`LeaseStore`] in Postgres, whose clock decides.
///
/// If that clock jumps forward, leases may run out early there, and two instances may believe to hold one shard
/// for up to a lease; the older one's token settles nothing then.
#[derive(Debug, Clone)]
pub struct PgLeaseStore {
    pool: Guarded,
    heartbeat: Statement,
    take: Statement,
    give_back: Statement,
    leave: Statement,
}

impl PgLeaseStore {
    /// Makes a store on the tables of these names, which [`LEASE_MIGRATION`] has made.
    #[must_use]
    pub fn new(pool: Guarded, names: &Names) -> Self {
        let names = names.on_postgres();
        let sql = |text| pool.statement(Sql::new(&names, &[text]));
        Self {
            heartbeat: sql(HEARTBEAT),
            take: sql(TAKE),
            give_back: sql(GIVE_BACK),
            leave: sql(LEAVE),
            pool,
        }
    }

    /// Returns a migration that makes these tables alone, for stores that need no others.
    #[must_use]
    pub const fn migration() -> Migration {
        Migration { version: 1, name: "leases", parts: &[LEASE_MIGRATION] }
    }
}

impl LeaseStore for PgLeaseStore {
    async fn heartbeat(&self, instance: Instance, lease: Duration) -> Result<View, StoreError> {
        let sql = self.heartbeat.clone();
        let (id, micros) = (PgUuid(instance.as_uuid()), micros(lease));
        self.pool
            .run("renew leases", move |conn: &mut PgConnection| {
                let sql = sql.clone();
                Box::pin(async move {
                    let row = sql.query().bind(id).bind(micros).fetch_one(conn).await?;
                    let (shards, tokens): (Vec<i32>, Vec<i64>) = (row.try_get(0)?, row.try_get(1)?);
                    let (free, expired): (Vec<i32>, Vec<i32>) = (row.try_get(2)?, row.try_get(6)?);
                    let count = |column: usize| -> Result<u32, sqlx::Error> {
                        Ok(u32::try_from(row.try_get::<i64, _>(column)?).unwrap_or(u32::MAX))
                    };
                    Ok(View {
                        held: leases(shards.into_iter().zip(tokens))?,
                        free: free.into_iter().map(shard).collect::<Result<_, _>>()?,
                        expired: expired.into_iter().map(shard).collect::<Result<_, _>>()?,
                        membership: Membership { members: count(3)?, rank: count(4)? },
                        shards: u16::try_from(count(5)?).unwrap_or(u16::MAX),
                    })
                })
            })
            .await
    }

    async fn take(
        &self,
        instance: Instance,
        lease: Duration,
        shards: &[Shard],
    ) -> Result<Vec<Lease>, StoreError> {
        let sql = self.take.clone();
        let (id, micros) = (PgUuid(instance.as_uuid()), micros(lease));
        let shards: Vec<i32> = shards.iter().map(|shard| shard.number().into()).collect();
        let mut taken = self
            .pool
            .run("take leases", move |conn: &mut PgConnection| {
                let (sql, shards) = (sql.clone(), shards.clone());
                Box::pin(async move {
                    let rows = sql.query().bind(id).bind(micros).bind(shards).fetch_all(conn).await?;
                    let pairs = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
                    leases(pairs.collect::<Result<Vec<_>, sqlx::Error>>()?)
                })
            })
            .await?;
        taken.sort_unstable();
        Ok(taken)
    }

    async fn give_back(&self, instance: Instance, leases: &[Lease]) -> Result<(), StoreError> {
        let sql = self.give_back.clone();
        let id = PgUuid(instance.as_uuid());
        let (shards, tokens): (Vec<i32>, Vec<i64>) =
            leases.iter().map(|lease| (i32::from(lease.shard.number()), lease.token)).unzip();
        self.pool
            .run("give leases back", move |conn: &mut PgConnection| {
                let (sql, shards, tokens) = (sql.clone(), shards.clone(), tokens.clone());
                Box::pin(async move {
                    sql.query().bind(id).bind(shards).bind(tokens).execute(conn).await?;
                    Ok(())
                })
            })
            .await
    }

    async fn leave(&self, instance: Instance) -> Result<(), StoreError> {
        let sql = self.leave.clone();
        let id = PgUuid(instance.as_uuid());
        self.pool
            .run("leave", move |conn: &mut PgConnection| {
                let sql = sql.clone();
                Box::pin(async move {
                    sql.query().bind(id).execute(conn).await?;
                    Ok(())
                })
            })
            .await
    }
}

fn micros(lease: Duration) -> i64 {
    i64::try_from(lease.as_micros()).unwrap_or(i64::MAX)
}

fn shard(number: i32) -> Result<Shard, sqlx::Error> {
    u16::try_from(number).map(Shard::new).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn leases(pairs: impl IntoIterator<Item = (i32, i64)>) -> Result<Vec<Lease>, sqlx::Error> {
    pairs.into_iter().map(|(number, token)| Ok(Lease { shard: shard(number)?, token })).collect()
}
