use std::collections::BTreeMap;

use relaykit_pipeline_traits::Timestamp;
use rusqlite::{CachedStatement, Connection, Result as SqlResult, params};

use super::row::due_at;
use crate::{Lease, Names, RowId, Settled, Settlement, Shard, Sql, Suspicion, error_text};

const FENCE: &str = "select exists (select 1 from {shards} where shard = ?1 and token = ?2)";

/// How rows are settled.
#[derive(Debug, Clone)]
pub struct SettleQueries {
    fence: Sql,
    done: Sql,
    retry: Sql,
    bury: Sql,
    suspect: Sql,
    waits: Option<[Sql; 2]>,
}

impl SettleQueries {
    /// Takes the statements. In each, `?1` is a row's place and `?2` its shard.
    ///
    /// - `done` deletes the row.
    /// - `retry` makes it wait: `?3` is now, `?4` the attempts spent, `?5` when its wait is over, `?6` whether its attempts begin
    ///   anew, `?7` what was said last, `?8` what is noted of it. A row that waits already is written again, but its wait stays: it was written
    ///   before, when the answer was lost.
    /// - `bury` copies it among the dead letters: `?3` is now, `?4` the attempts spent, `?5` the reason, `?6` what was said last.
    /// - `suspect` notes the number `?3` of it.
    #[must_use]
    pub fn new(
        names: &Names,
        done: &'static str,
        retry: &'static str,
        bury: &'static str,
        suspect: &'static str,
    ) -> Self {
        let sql = |text| Sql::new(names, &[text]);
        let (done, retry, bury, suspect) = (sql(done), sql(retry), sql(bury), sql(suspect));
        Self { fence: sql(FENCE), done, retry, bury, suspect, waits: None }
    }

    /// Tells of rows that leave whether they waited. `any` says whether a row does, and `one` whether the row at the place `?1` in the
    /// shard `?2` does.
    #[must_use]
    pub fn telling_what_waited(self, names: &Names, any: &'static str, one: &'static str) -> Self {
        Self { waits: Some([any, one].map(|text| Sql::new(names, &[text]))), ..self }
    }

    /// Settles within a transaction, so that no shard changes its owner meanwhile. `keep` runs for a row that is done before it is
    /// deleted, with its place, its shard and the time.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub fn run(
        &self,
        connection: &Connection,
        settlement: &Settlement,
        now: Timestamp,
        mut keep: Option<CachedStatement<'_>>,
    ) -> SqlResult<Settled> {
        let done = settlement.done.iter();
        let retry = settlement.retry.iter().map(|one| &one.row);
        let dead = settlement.dead.iter().map(|one| &one.row);
        let held = self.held(connection, &settlement.leases, done.chain(retry).chain(dead))?;
        let holds = |row: &RowId| held.get(&row.shard).copied().unwrap_or(false);
        let dead = settlement.dead.iter().map(|one| &one.row);
        let leaving = settlement.done.iter().chain(dead).filter(|row| holds(row));
        let waited = self.waited(connection, leaving)?;
        let mut written = 0;
        let at = now.as_micros();
        let mut done = connection.prepare_cached(self.done.as_str())?;
        for row in settlement.done.iter().filter(|row| holds(row)) {
            if let Some(keep) = &mut keep {
                keep.execute(params![row.seq.0, row.shard.number(), at])?;
            }
            written += done.execute(params![row.seq.0, row.shard.number()])?;
        }
        let mut retry = connection.prepare_cached(self.retry.as_str())?;
        for one in settlement.retry.iter().filter(|one| holds(&one.row)) {
            let (seq, shard) = (one.row.seq.0, one.row.shard.number());
            let due = due_at(now, one.wait);
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
        Ok(Settled { waited, ..settled(held, written) })
    }

    /// Returns those of the rows that wait, or have waited.
    fn waited<'r>(
        &self,
        connection: &Connection,
        rows: impl Iterator<Item = &'r RowId>,
    ) -> SqlResult<Vec<RowId>> {
        let Some([any, one]) = &self.waits else { return Ok(Vec::new()) };
        let mut waited = Vec::new();
        if connection.prepare_cached(any.as_str())?.query_row([], |row| row.get(0))? {
            let mut one = connection.prepare_cached(one.as_str())?;
            for row in rows {
                if one.query_row(params![row.seq.0, row.shard.number()], |row| row.get(0))? {
                    waited.push(*row);
                }
            }
        }
        Ok(waited)
    }

    /// Notes within a transaction that rows are about to be sent, or takes that back.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub fn suspect(
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
        Ok(settled(held, written))
    }

    /// Deletes a row that is done. Returns whether it was there.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub fn done(&self, connection: &Connection, row: RowId) -> SqlResult<bool> {
        let mut done = connection.prepare_cached(self.done.as_str())?;
        Ok(done.execute(params![row.seq.0, row.shard.number()])? > 0)
    }

    /// Returns whether a lease still holds. Within a transaction that writes, it does until the end.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub fn holds(&self, connection: &Connection, lease: &Lease) -> SqlResult<bool> {
        let mut fence = connection.prepare_cached(self.fence.as_str())?;
        fence.query_row(params![lease.shard.number(), lease.token], |row| row.get(0))
    }

    /// Says of each shard among the rows and leases whether it is still held.
    fn held<'r>(
        &self,
        connection: &Connection,
        leases: &[Lease],
        rows: impl Iterator<Item = &'r RowId>,
    ) -> SqlResult<BTreeMap<Shard, bool>> {
        let mut held: BTreeMap<_, _> = rows.map(|row| (row.shard, false)).collect();
        for lease in leases {
            *held.entry(lease.shard).or_default() |= self.holds(connection, lease)?;
        }
        Ok(held)
    }
}

fn settled(held: BTreeMap<Shard, bool>, written: usize) -> Settled {
    let stale = held.into_iter().filter(|(_, holds)| !holds).map(|(shard, _)| shard).collect();
    Settled { stale, written: u64::try_from(written).unwrap_or(u64::MAX), waited: Vec::new() }
}
