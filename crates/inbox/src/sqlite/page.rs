use relaykit_sql_store::sqlite::PageQueries;
use relaykit_sql_store::{Names, Sql};

/// The columns that are read as a message, of a delivery or dead letter called `d` and its message `m`.
pub(super) const COLUMNS: &str =
    "select d.shard, d.seq, m.message_id, m.kind, m.ordering_key, m.payload, m.headers,
m.occurred_at, m.received_at, d.attempts, d.first_failed_at";

/// The deliveries lead: messages are only looked up.
const ROWS: [&str; 2] = [
    COLUMNS,
    ", d.retry_at, d.suspicion from {deliveries} d indexed by {=deliveries_handler} cross join {messages} m on m.seq = d.message_seq
where d.handler = ?5 and d.shard = ?1 and d.seq > ?3 and (d.retry_at is null or d.retry_at <= ?2)
and not exists (
  select 1 from {deliveries} b where b.handler = d.handler and b.shard = d.shard and b.ordering_key = d.ordering_key
  and b.seq < d.seq and b.retry_at is not null and (b.retry_at > ?2 or b.seq <= ?3)
) order by d.seq limit ?4",
];

const WAITS: &str = "select exists (select 1 from {deliveries} where handler = ?1 and retry_at is not null)";

const DUE: &str = "select min(d.seq) from {deliveries} d
where d.handler = ?3 and d.shard = ?1 and d.retry_at is not null and d.retry_at <= ?2
and not exists (
  select 1 from {deliveries} b where b.handler = d.handler and b.shard = d.shard and b.ordering_key = d.ordering_key
  and b.seq < d.seq and b.retry_at is not null and b.retry_at > ?2
)";

const NEXT_DUE: &str = "select min(retry_at) from {deliveries}
where handler = ?4 and shard = ?1 and retry_at is not null and retry_at > ?2 and retry_at < ?3";

/// Returns how pages are read; the stream is the handler.
pub(super) fn pages(names: &Names) -> PageQueries {
    PageQueries {
        rows: Sql::new(names, &ROWS),
        waits: Sql::new(names, &[WAITS]),
        due: Sql::new(names, &[DUE]),
        next_due: Sql::new(names, &[NEXT_DUE]),
    }
}

/// Returns the statements that read pages, so that a test can look at their plans.
#[doc(hidden)]
#[must_use]
pub fn page_queries(names: &Names) -> Vec<(&'static str, Sql)> {
    let PageQueries { rows, waits, due, next_due } = pages(names);
    vec![("rows", rows), ("waits", waits), ("due", due), ("next_due", next_due)]
}
