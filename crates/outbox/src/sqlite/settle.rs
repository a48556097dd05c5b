use relaykit_sql_store::Names;
use relaykit_sql_store::sqlite::SettleQueries;

use super::page::WAITS;

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

const WAITED: &str =
    "select exists (select 1 from {messages} where seq = ?1 and shard = ?2 and retry_at is not null)";

/// Returns how rows are settled.
pub(super) fn settle(names: &Names) -> SettleQueries {
    SettleQueries::new(names, DONE, RETRY, BURY, SUSPECT).telling_what_waited(names, WAITS, WAITED)
}
