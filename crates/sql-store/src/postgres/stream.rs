use relaykit_pipeline_traits::OrderingKey;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row};

use super::codec::PgUuid;
use super::row::{RawMessage, attempts, count, duration, micros, row_id, shard, stored_attempts};
use crate::{
    DeadFilter, DeadReason, Lease, OpenTransactions, Page, ReadFrom, RowId, Seq, Settled, Settlement, Shard,
    Snapshot, Stored, Suspicion, Unreadable, error_text,
};

/// What begins the body of a function that reads or writes rows of a stream: the statement follows, then [`BY_INDEX_END`].
///
/// The statistics of a table that fills and empties all day are never right, and by those the planner would now and
/// then read all of a shard and sort it, or all of the table for each row, for as long as a prepared plan lives. Settings
/// of a session would be lost behind a pooler, so a function carries them. Only the server's own names are found, and rows are
/// found by index. (A plan that must scan all the same is thought to be dear enough to be compiled, which takes longer than any; and
/// planning anew for each call takes longer than a call.)
pub const BY_INDEX: &str = " language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp
    set enable_seqscan = off set enable_bitmapscan = off set jit = off
    set plan_cache_mode = force_generic_plan as $relaykit_fn$ begin return query
";

/// Ends what [`BY_INDEX`] begins.
pub const BY_INDEX_END: &str = "; end $relaykit_fn$;
";

/// A settlement's rows, column by column.
#[derive(Debug)]
pub struct SettlementColumns {
    leases: (Vec<i32>, Vec<i64>),
    done: (Vec<i32>, Vec<i64>),
    retry: (Vec<i32>, Vec<i64>),
    retry_attempts: Vec<i32>,
    waits: Vec<i64>,
    fresh: Vec<bool>,
    suspect: Vec<bool>,
    retry_errors: Vec<String>,
    dead: (Vec<i32>, Vec<i64>),
    dead_attempts: Vec<i32>,
    reasons: Vec<&'static str>,
    dead_errors: Vec<String>,
}

impl SettlementColumns {
    /// Takes a settlement apart.
    #[must_use]
    pub fn new(settlement: &Settlement) -> Self {
        let Settlement { leases, done, retry, dead } = settlement;
        Self {
            leases: lease_columns(leases),
            done: row_columns(done),
            retry: row_columns(retry.iter().map(|waiting| &waiting.row)),
            retry_attempts: retry.iter().map(|waiting| stored_attempts(waiting.attempts)).collect(),
            waits: retry.iter().map(|waiting| micros(waiting.wait)).collect(),
            fresh: retry.iter().map(|waiting| waiting.fresh).collect(),
            suspect: retry.iter().map(|waiting| waiting.suspect).collect(),
            retry_errors: retry.iter().map(|waiting| error_text(&waiting.error)).collect(),
            dead: row_columns(dead.iter().map(|dying| &dying.row)),
            dead_attempts: dead.iter().map(|dying| stored_attempts(dying.attempts)).collect(),
            reasons: dead.iter().map(|dying| dying.reason.as_str()).collect(),
            dead_errors: dead.iter().map(|dying| error_text(&dying.error)).collect(),
        }
    }

    /// Binds the sixteen columns: shards and tokens of the leases; shards and places of what is done; of what waits those,
    /// attempts, microseconds, whether it is fresh, and errors; of what dies shards, places, attempts, reasons and errors; and of
    /// what waits whether it stays a suspect.
    pub fn bind(
        &self,
        query: Query<'static, Postgres, PgArguments>,
    ) -> Query<'static, Postgres, PgArguments> {
        query
            .bind(&self.leases.0)
            .bind(&self.leases.1)
            .bind(&self.done.0)
            .bind(&self.done.1)
            .bind(&self.retry.0)
            .bind(&self.retry.1)
            .bind(&self.retry_attempts)
            .bind(&self.waits)
            .bind(&self.fresh)
            .bind(&self.retry_errors)
            .bind(&self.dead.0)
            .bind(&self.dead.1)
            .bind(&self.dead_attempts)
            .bind(&self.reasons)
            .bind(&self.dead_errors)
            .bind(&self.suspect)
    }
}

/// Binds what a filter asks for: ids, kind, key, reason, the place behind which it looks; and how many are meant.
pub fn bind_filter(
    query: Query<'static, Postgres, PgArguments>,
    filter: &DeadFilter,
    limit: i64,
) -> Query<'static, Postgres, PgArguments> {
    let ids = filter.ids.as_ref().map(|ids| ids.iter().map(|id| PgUuid(id.as_uuid())).collect::<Vec<_>>());
    query
        .bind(ids)
        .bind(filter.kind.as_deref())
        .bind(filter.key.as_ref().map(OrderingKey::as_str))
        .bind(filter.reason.map(DeadReason::as_str))
        .bind(filter.after.map_or(i64::MIN, |after| after.0))
        .bind(limit)
}

/// What a page is asked for with, column by column.
#[derive(Debug)]
pub struct PageColumns {
    from: (Vec<i32>, Vec<i64>),
    limit: i32,
    open: (Vec<i64>, Vec<i64>),
    next: (Option<i64>, Option<i64>),
}

impl PageColumns {
    /// Takes apart what is asked for.
    #[must_use]
    pub fn new(from: &[ReadFrom], open: &OpenTransactions, limit: u32) -> Self {
        let columns_of = |(number, place): (u64, Seq)| (number.cast_signed(), place.0);
        Self {
            from: columns(from.iter().map(|from| (from.shard, from.after))),
            limit: i32::try_from(limit).unwrap_or(i32::MAX),
            open: open.running().map(columns_of).unzip(),
            next: open.next().map(columns_of).unzip(),
        }
    }

    /// Binds the seven columns: shards and the places behind which to read; how many rows of each; the transactions that ran, and
    /// behind which place each adds; and from which number on none had ended, and behind which place those add.
    pub fn bind(
        &self,
        query: Query<'static, Postgres, PgArguments>,
    ) -> Query<'static, Postgres, PgArguments> {
        query
            .bind(&self.from.0)
            .bind(&self.from.1)
            .bind(self.limit)
            .bind(&self.open.0)
            .bind(&self.open.1)
            .bind(self.next.0)
            .bind(self.next.1)
    }
}

fn columns(rows: impl Iterator<Item = (Shard, Seq)>) -> (Vec<i32>, Vec<i64>) {
    rows.map(|(shard, seq)| (i32::from(shard.number()), seq.0)).unzip()
}

/// Takes leases apart into shards and tokens.
#[must_use]
pub fn lease_columns(leases: &[Lease]) -> (Vec<i32>, Vec<i64>) {
    leases.iter().map(|lease| (i32::from(lease.shard.number()), lease.token)).unzip()
}

/// Takes the names of rows apart into shards and places.
#[must_use]
pub fn row_columns<'r>(rows: impl IntoIterator<Item = &'r RowId>) -> (Vec<i32>, Vec<i64>) {
    columns(rows.into_iter().map(|row| (row.shard, row.seq)))
}

/// Reads what a settlement answers: the stale shards, and how many rows were written.
///
/// # Errors
///
/// A column is of another type.
pub fn read_settled(row: &PgRow) -> Result<Settled, sqlx::Error> {
    let stale: Vec<i32> = row.try_get(0)?;
    let stale = stale.into_iter().map(shard).collect::<Result<_, _>>()?;
    Ok(Settled { stale, written: count(row, 1)?, waited: Vec::new() })
}

/// Reads the names of rows: a column of shards, and one of places behind it.
///
/// # Errors
///
/// A column is of another type.
pub fn read_rows(row: &PgRow, column: usize) -> Result<Vec<RowId>, sqlx::Error> {
    let (shards, seqs): (Vec<i32>, Vec<i64>) = (row.try_get(column)?, row.try_get(column + 1)?);
    shards.into_iter().zip(seqs).map(|(shard, seq)| row_id(shard, seq)).collect()
}

/// Reads a page.
///
/// Each row has shard, place, the six columns of a [`RawMessage`], attempts, age, microseconds since the first failure,
/// whether it waited, and at the end its suspicion; one row without a shard has between those the shards and places that are
/// due, microseconds until the next is due, and of the snapshot which transactions run, the next, the mark with its place, and from
/// where the page was read.
///
/// # Errors
///
/// A column is of another type.
pub fn read_page(rows: &[PgRow]) -> Result<Page, sqlx::Error> {
    let mut page = Page::default();
    for row in rows {
        if let Some(shard) = row.try_get(0)? {
            read_row(row, row_id(shard, row.try_get(1)?)?, &mut page)?;
        } else {
            page.due = read_rows(row, 12)?;
            page.next_due = row.try_get::<Option<i64>, _>(14)?.map(duration);
            page.snapshot = read_snapshot(row)?;
        }
    }
    Ok(page)
}

fn read_snapshot(row: &PgRow) -> Result<Snapshot, sqlx::Error> {
    let number = |number: i64| u64::try_from(number).map_err(|error| sqlx::Error::Decode(error.into()));
    let running: Vec<i64> = row.try_get(15)?;
    let mark = match (row.try_get::<Option<i64>, _>(17)?, row.try_get::<Option<i64>, _>(18)?) {
        (Some(mark), Some(place)) => Some((number(mark)?, Seq(place))),
        _ => None,
    };
    Ok(Snapshot {
        running: running.into_iter().map(number).collect::<Result<_, _>>()?,
        next: count(row, 16)?,
        mark,
        from: row.try_get::<Option<i64>, _>(19)?.map(Seq),
    })
}

fn read_row(row: &PgRow, id: RowId, page: &mut Page) -> Result<(), sqlx::Error> {
    let raw = RawMessage::read(row, 2)?;
    let key = raw.key();
    match raw.message() {
        Ok(message) => page.rows.push(Stored {
            row: id,
            message,
            attempts: attempts(row.try_get(8)?),
            age: duration(row.try_get(9)?),
            failing_for: row.try_get::<Option<i64>, _>(10)?.map(duration),
            waited: row.try_get(11)?,
            suspicion: Suspicion::from_number(row.try_get(20)?),
        }),
        Err(error) => page.unreadable.push(Unreadable { row: id, key, error }),
    }
    Ok(())
}

/// Returns the places of the rows that are messages. Each row has a place and the six columns of a [`RawMessage`].
///
/// # Errors
///
/// A column is of another type.
pub fn readable(rows: &[PgRow]) -> Result<Vec<i64>, sqlx::Error> {
    let mut seqs = Vec::with_capacity(rows.len());
    for row in rows {
        if RawMessage::read(row, 1)?.message().is_ok() {
            seqs.push(row.try_get(0)?);
        }
    }
    Ok(seqs)
}
