use std::collections::BTreeMap;

use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult, params};
use relaykit_sql_store::{Lease, Names, Shard, Sql};

use super::add::after;
use super::archive::Keep;
use crate::store::{RowId, Settled, Settlement, Suspicion};
use relaykit_sql_store::error_text;

const FENCE: &str = "select exists (select 1 from {shards} where shard = ?1 and token = ?2)";

const DONE: &str = "delete from {messages} where seq = ?1 and shard = ?2";

/// A row that waits already was written before, when the answer was lost, or parked meanwhile; its wait stays.
const RETRY: &str = "update {messages} set
  attempts = ?4,
  retry_at = case when retry_at > ?3 then retry_at else ?5 end,
  first_failed_at = case when ?6 then ?3 else coalesce(first_failed_at, ?3) end,
  last_failed_at = ?3,
  last_error = ?7,
  suspicion = ?8
where seq = ?1 and shard = ?2";

/// Copies a row among the dead letters; the second step deletes it.
pub(super) const BURY: &str =
    "insert or replace into {dead} (seq, shard, message_id, kind, ordering_key, payload, headers,
  occurred_at, added_at, attempts, first_failed_at, last_failed_at, reason, error, died_at)
select seq, shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at,
  coalesce(?4, attempts),
  case when ?5 = 'skipped' then first_failed_at else coalesce(first_failed_at, ?3) end,
  case when ?5 = 'skipped' then last_failed_at else ?3 end,
  ?5, coalesce(?6, last_error, ''), ?3
from {messages} where seq = ?1 and shard = ?2";

const SUSPECT: &str = "update {messages} set suspicion = ?3 where seq = ?1 and shard = ?2";

/// How rows are settled.
#[derive(Debug, Clone)]
pub(super) struct Settle {
    fence: Sql,
    done: Sql,
    retry: Sql,
    bury: Sql,
    suspect: Sql,
    keep: Keep,
}

impl Settle {
    pub(super) fn new(names: &Names) -> Self {
        let sql = |text| Sql::new(names, &[text]);
        Self {
            fence: sql(FENCE),
            done: sql(DONE),
            retry: sql(RETRY),
            bury: sql(BURY),
            suspect: sql(SUSPECT),
            keep: Keep::new(names),
        }
    }

    /// Settles within a transaction, so that no shard changes its owner meanwhile.
    pub(super) fn run(
        &self,
        connection: &Connection,
        settlement: &Settlement,
        now: Timestamp,
    ) -> SqlResult<Settled> {
        let done = settlement.done.iter();
        let retry = settlement.retry.iter().map(|one| &one.row);
        let dead = settlement.dead.iter().map(|one| &one.row);
        let held = self.held(connection, &settlement.leases, done.chain(retry).chain(dead))?;
        let holds = |row: &RowId| held.get(&row.shard).copied().unwrap_or(false);
        let mut written = 0;
        let at = now.as_micros();
        let mut done = connection.prepare_cached(self.done.as_str())?;
        let mut keep = self.keep.statement(connection)?;
        for row in settlement.done.iter().filter(|row| holds(row)) {
            if let Some(keep) = &mut keep {
                keep.execute(params![row.seq.0, row.shard.number(), at])?;
            }
            written += done.execute(params![row.seq.0, row.shard.number()])?;
        }
        let mut retry = connection.prepare_cached(self.retry.as_str())?;
        for one in settlement.retry.iter().filter(|one| holds(&one.row)) {
            let (seq, shard) = (one.row.seq.0, one.row.shard.number());
            let due = after(now, one.wait);
            let (suspicion, error) = (i16::from(one.suspect), error_text(&one.error));
            written +=
                retry.execute(params![seq, shard, at, one.attempts, due, one.fresh, error, suspicion])?;
        }
        let mut bury = connection.prepare_cached(self.bury.as_str())?;
        for one in settlement.dead.iter().filter(|one| holds(&one.row)) {
            let (seq, shard) = (one.row.seq.0, one.row.shard.number());
            let (reason, error) = (one.reason.as_str(), error_text(&one.error));
            written += bury.execute(params![seq, shard, at, one.attempts, reason, error])?;
            done.execute(params![seq, shard])?;
        }
        let stale = held.into_iter().filter(|(_, holds)| !holds).map(|(shard, _)| shard).collect();
        Ok(Settled { stale, written: u64::try_from(written).unwrap_or(u64::MAX) })
    }

    /// Notes within a transaction that rows are about to be sent.
    pub(super) fn suspect(
        &self,
        connection: &Connection,
        leases: &[Lease],
        rows: &[RowId],
        suspicion: Suspicion,
    ) -> SqlResult<Settled> {
        let held = self.held(connection, leases, rows.iter())?;
        let mut written = 0;
        let mut suspect = connection.prepare_cached(self.suspect.as_str())?;
        for row in rows.iter().filter(|row| held.get(&row.shard).copied().unwrap_or(false)) {
            written += suspect.execute(params![row.seq.0, row.shard.number(), suspicion.as_number()])?;
        }
        let stale = held.into_iter().filter(|(_, holds)| !holds).map(|(shard, _)| shard).collect();
        Ok(Settled { stale, written: u64::try_from(written).unwrap_or(u64::MAX) })
    }

    /// Says of each shard among the rows and leases whether it is still held.
    fn held<'r>(
        &self,
        connection: &Connection,
        leases: &[Lease],
        rows: impl Iterator<Item = &'r RowId>,
    ) -> SqlResult<BTreeMap<Shard, bool>> {
        let mut held: BTreeMap<_, _> = rows.map(|row| (row.shard, false)).collect();
        let mut fence = connection.prepare_cached(self.fence.as_str())?;
        for lease in leases {
            let holds: bool =
                fence.query_row(params![lease.shard.number(), lease.token], |row| row.get(0))?;
            *held.entry(lease.shard).or_default() |= holds;
        }
        Ok(held)
    }
}
