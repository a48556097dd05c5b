use std::time::Duration;

use relaykit_pipeline_traits::{Classify, OrderingKey};
use relaykit_sql_store::postgres::row::{RawMessage, attempts};
use relaykit_sql_store::postgres::{Finish, Guarded, PgTimestamp, PgUuid, Statement};
use relaykit_sql_store::{Names, Sql, StoreError};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use crate::archive::{Archive, ArchiveFilter, Archived};
use crate::dead::check_limit;
use crate::retention::{Maintained, Upkeep, is_busy};
use crate::store::Seq;

mod plan;
mod queries;

use plan::{Partition, cutoff, is_missing, missing, past};
pub(super) use queries::{ARCHIVE_MIGRATIONS, ARCHIVE_TABLES};

/// How long a step may keep others waiting once it has its locks.
const HOLD: Duration = Duration::from_secs(2);

/// The most rows that are moved while writers of their day wait. A day with more stays in the default partition.
const MAX_MOVED: i64 = 5_000;

/// The archive of an outbox in Postgres: a table `<prefix>_archive`, with a partition for each day in UTC and a default one for what
/// has no other. Cheap to clone.
///
/// [`PgSchema::archive`](super::PgSchema::archive) makes the table, and from then on settlements move there what was sent.
/// [`Retention`](crate::Retention) makes partitions and drops them; it needs to own the table.
///
/// Partitions are found through the catalog, by their bounds, whatever they are called. One that somebody detached is nobody's but
/// theirs; one that is longer than a day is dropped when all of it is past.
///
/// No writer waits for more than the time to wait for locks, five times at most, and then the 2 s that a step may take; usually
/// it is milliseconds.
#[derive(Debug, Clone)]
pub struct PgArchive {
    pool: Guarded,
    tables: Names,
    today: Statement,
    partitions: Statement,
    count_day: Statement,
    count_default: Statement,
    drain: Statement,
    list: Statement,
}

impl PgArchive {
    /// Makes it on the tables of these names.
    #[must_use]
    pub fn new(pool: Guarded, names: &Names) -> Self {
        let tables = names.on_postgres();
        let sql = |text| pool.statement(Sql::new(&tables, &[text]));
        Self {
            today: sql(queries::TODAY),
            partitions: sql(queries::PARTITIONS),
            count_day: sql(queries::COUNT_DAY),
            count_default: sql(queries::COUNT_DEFAULT),
            drain: sql(queries::DRAIN),
            list: sql(queries::LIST),
            pool,
            tables,
        }
    }

    fn begin(&self, upkeep: &Upkeep) -> Sql {
        let numbers = [("lock", millis(upkeep.lock_timeout)), ("hold", millis(HOLD))];
        Sql::with_numbers(&self.tables, &numbers, &[queries::BEGIN])
    }

    /// Looks which partitions there are, and which day it is.
    async fn look(&self, upkeep: &Upkeep) -> Result<(i64, Vec<Partition>), StoreError> {
        let (this, begin) = (self.clone(), self.begin(upkeep));
        self.pool
            .transaction("list the archive's partitions", move |conn| {
                let (this, begin) = (this.clone(), begin.clone());
                Box::pin(async move {
                    sqlx::raw_sql(begin).execute(&mut *conn).await?;
                    Ok(Finish::Commit(this.found(conn).await?))
                })
            })
            .await
    }

    async fn found(&self, conn: &mut PgConnection) -> Result<(i64, Vec<Partition>), sqlx::Error> {
        let today = self.today.scalar().fetch_one(&mut *conn).await?;
        let rows = self.partitions.query().fetch_all(conn).await?;
        let partition = |row: &PgRow| {
            Ok(Partition { oid: row.try_get(0)?, lower: row.try_get(1)?, upper: row.try_get(2)? })
        };
        Ok((today, rows.iter().map(partition).collect::<Result<_, sqlx::Error>>()?))
    }

    /// Makes a day's partition, and moves there what is in the default one. Returns how many rows that were, or `None` if somebody else
    /// has made it, or there are too many.
    async fn make(&self, day: i64, upkeep: &Upkeep) -> Result<Option<u64>, StoreError> {
        let (this, begin) = (self.clone(), self.begin(upkeep));
        let lock = Sql::new(&self.tables, &[queries::LOCK]);
        let make = Sql::with_numbers(&self.tables, &[("day", day)], &[queries::MAKE]);
        self.pool
            .transaction("make a partition of the archive", move |conn| {
                let (this, begin, lock, make) = (this.clone(), begin.clone(), lock.clone(), make.clone());
                Box::pin(async move {
                    sqlx::raw_sql(begin).execute(&mut *conn).await?;
                    let (_, partitions) = this.found(&mut *conn).await?;
                    if !is_missing(day, &partitions) {
                        return Ok(Finish::Rollback(None));
                    }
                    sqlx::raw_sql(lock).execute(&mut *conn).await?;
                    let count = this.count_day.scalar().bind(day).bind(MAX_MOVED + 1);
                    let rows: i64 = count.fetch_one(&mut *conn).await?;
                    if rows > MAX_MOVED {
                        return Ok(Finish::Rollback(None));
                    }
                    sqlx::raw_sql(make).execute(conn).await?;
                    Ok(Finish::Commit(u64::try_from(rows).ok()))
                })
            })
            .await
    }

    /// Drops a partition, unless it is gone. Returns whether it was there.
    async fn drop(&self, oid: i64, upkeep: &Upkeep) -> Result<bool, StoreError> {
        let (this, begin, upkeep) = (self.clone(), self.begin(upkeep), *upkeep);
        let drop = Sql::with_numbers(&self.tables, &[("oid", oid)], &[queries::DROP]);
        self.pool
            .transaction("drop a partition of the archive", move |conn| {
                let (this, begin, drop) = (this.clone(), begin.clone(), drop.clone());
                Box::pin(async move {
                    sqlx::raw_sql(begin).execute(&mut *conn).await?;
                    let (today, partitions) = this.found(&mut *conn).await?;
                    if !past(today, &partitions, &upkeep).contains(&oid) {
                        return Ok(Finish::Rollback(false));
                    }
                    sqlx::raw_sql(drop).execute(conn).await?;
                    Ok(Finish::Commit(true))
                })
            })
            .await
    }

    /// Deletes rows of the default partition that are past. Returns how many.
    async fn drain(&self, before: i64, upkeep: &Upkeep) -> Result<u64, StoreError> {
        let (this, begin, chunk) = (self.clone(), self.begin(upkeep), i64::from(upkeep.chunk));
        self.pool
            .transaction("delete from the archive", move |conn| {
                let (this, begin) = (this.clone(), begin.clone());
                Box::pin(async move {
                    sqlx::raw_sql(begin).execute(&mut *conn).await?;
                    let done = this.drain.query().bind(before).bind(chunk).execute(conn).await?;
                    Ok(Finish::Commit(done.rows_affected()))
                })
            })
            .await
    }

    async fn count(&self) -> Result<u64, StoreError> {
        let sql = self.count_default.clone();
        let count: i64 = self
            .pool
            .run("count the archive's default partition", move |conn: &mut PgConnection| {
                let sql = sql.clone();
                Box::pin(async move { sql.scalar().fetch_one(conn).await })
            })
            .await?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

impl Archive for PgArchive {
    async fn list(&self, filter: &ArchiveFilter, limit: u32) -> Result<Vec<Archived>, StoreError> {
        const OP: &str = "list sent messages";
        check_limit(OP, limit)?;
        let (sql, filter) = (self.list.clone(), filter.clone());
        self.pool
            .run(OP, move |conn: &mut PgConnection| {
                let (sql, filter) = (sql.clone(), filter.clone());
                Box::pin(async move {
                    let ids = filter.ids.as_ref();
                    let ids = ids.map(|ids| ids.iter().map(|id| PgUuid(id.as_uuid())).collect::<Vec<_>>());
                    let query = sql
                        .query()
                        .bind(ids)
                        .bind(filter.kind.clone())
                        .bind(filter.key.as_ref().map(|key: &OrderingKey| key.as_str().to_owned()))
                        .bind(filter.first().map(PgTimestamp))
                        .bind(filter.until.map(PgTimestamp))
                        .bind(filter.after.map(|(at, _)| PgTimestamp(at)))
                        .bind(filter.after.map(|(_, seq)| seq.0))
                        .bind(i64::from(limit));
                    query.fetch_all(conn).await?.iter().map(archived).collect()
                })
            })
            .await
    }

    async fn maintain(&self, upkeep: &Upkeep) -> Result<Maintained, StoreError> {
        let mut pass = Pass::default();
        let looked = self.look(upkeep).await;
        let Some((today, partitions)) = pass.step(looked)? else { return Ok(pass.done) };
        for day in missing(today, &partitions, upkeep) {
            let made = self.make(day, upkeep).await;
            if let Some(Some(moved)) = pass.step(made)? {
                pass.done.made += 1;
                pass.done.moved += moved;
            }
        }
        for oid in past(today, &partitions, upkeep) {
            let dropped = self.drop(oid, upkeep).await;
            pass.done.dropped += u32::from(pass.step(dropped)? == Some(true));
        }
        let drained = self.drain(cutoff(today, upkeep), upkeep).await;
        pass.done.deleted = pass.step(drained)?.unwrap_or(0);
        pass.done.more = pass.done.deleted >= u64::from(upkeep.chunk);
        let count = self.count().await;
        pass.done.in_default = pass.step(count)?.unwrap_or(0);
        pass.failed.map_or(Ok(pass.done), Err)
    }
}

/// One time that the archive is kept.
#[derive(Debug, Default)]
struct Pass {
    done: Maintained,
    failed: Option<StoreError>,
}

impl Pass {
    /// Takes what became of a step; `None` if it came to nothing. One that cannot succeed does not keep the others from it; their error
    /// is told at the end.
    fn step<T>(&mut self, result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match result {
            Ok(done) => Ok(Some(done)),
            Err(error) if is_busy(&error) => {
                self.done.postponed += 1;
                Ok(None)
            }
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                self.failed.get_or_insert(error);
                Ok(None)
            }
        }
    }
}

fn archived(row: &PgRow) -> Result<Archived, sqlx::Error> {
    let raw = RawMessage::read(row, 1)?;
    Ok(Archived {
        seq: Seq(row.try_get(0)?),
        id: raw.id(),
        message: raw.message().ok(),
        attempts: attempts(row.try_get(7)?),
        added_at: row.try_get::<PgTimestamp, _>(8)?.0,
        sent_at: row.try_get::<PgTimestamp, _>(9)?.0,
    })
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1)
}
