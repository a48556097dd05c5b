use relaykit_sql_store::sqlite::PageQueries;
use relaykit_sql_store::{Names, Sql};

use super::schema::COLUMNS;

/// Says that no earlier row of `m`'s key still waits at `?2`.
pub(super) const NOT_BLOCKED: &str = " and not exists (
  select 1 from {messages} b where b.shard = m.shard and b.ordering_key = m.ordering_key and b.seq < m.seq
  and b.retry_at is not null and b.retry_at > ?2
)";

const ROWS: [&str; 4] = [
    COLUMNS,
    ", m.retry_at, m.suspicion from {messages} m indexed by {=messages_shard}
where m.shard = ?1 and m.seq > ?3 and (m.retry_at is null or m.retry_at <= ?2)",
    NOT_HELD,
    " order by m.seq limit ?4",
];

/// Says also that none has waited that lies at or before `?3`, and so is not on the page.
const NOT_HELD: &str = " and not exists (
  select 1 from {messages} b where b.shard = m.shard and b.ordering_key = m.ordering_key and b.seq < m.seq
  and b.retry_at is not null and (b.retry_at > ?2 or b.seq <= ?3)
)";

/// Says whether any row waits, or has waited.
pub(super) const WAITS: &str = "select exists (select 1 from {messages} where retry_at is not null)";

const DUE: [&str; 2] = [
    "select min(m.seq) from {messages} m
where m.shard = ?1 and m.retry_at is not null and m.retry_at <= ?2",
    NOT_BLOCKED,
];

const NEXT_DUE: &str = "select min(retry_at) from {messages}
where shard = ?1 and retry_at is not null and retry_at > ?2 and retry_at < ?3";

/// Returns how pages are read.
pub(super) fn pages(names: &Names) -> PageQueries {
    PageQueries {
        rows: Sql::new(names, &ROWS),
        waits: Sql::new(names, &[WAITS]),
        due: Sql::new(names, &DUE),
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
