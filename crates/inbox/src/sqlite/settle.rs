use relaykit_sql_store::Names;
use relaykit_sql_store::sqlite::SettleQueries;

const DONE: &str = "delete from {deliveries} where seq = ?1 and shard = ?2";

/// A row that waits already was written before, when the answer was lost; its wait stays.
const RETRY: &str = "update {deliveries} set
  attempts = ?4,
  retry_at = case when retry_at > ?3 then retry_at else ?5 end,
  first_failed_at = case when ?6 then ?3 else coalesce(first_failed_at, ?3) end,
  last_failed_at = ?3,
  last_error = ?7,
  suspicion = ?8
where seq = ?1 and shard = ?2";

/// Copies a row among the dead letters; the second step deletes it.
const BURY: &str =
    "insert or replace into {dead} (seq, shard, handler, message_seq, ordering_key, attempts, first_failed_at,
  last_failed_at, reason, error, died_at)
select seq, shard, handler, message_seq, ordering_key, ?4, coalesce(first_failed_at, ?3), ?3, ?5, ?6, ?3
from {deliveries} where seq = ?1 and shard = ?2";

const SUSPECT: &str = "update {deliveries} set suspicion = ?3 where seq = ?1 and shard = ?2";

/// Returns how deliveries are settled.
pub(super) fn settle(names: &Names) -> SettleQueries {
    SettleQueries::new(names, DONE, RETRY, BURY, SUSPECT)
}
