use relaykit_sql_store::sqlite::{self, LEASE_MIGRATION, LEASE_TABLES};
use relaykit_sql_store::{Migration, Names, Schema, Shards, TableForm};

/// Places are never given twice, so a delivery that was replayed finds its old one free.
///
/// An index ends with the row's place. The first index of the deliveries is what pages are read by; the next two know only rows
/// that wait, or did, which are few; by the last, retention sees that a message is not finished.
const TABLES: &str = "create table {messages} (
  seq integer primary key autoincrement,
  scope text not null,
  message_id blob not null check (length(message_id) = 16),
  shard integer not null,
  kind text not null,
  ordering_key text,
  payload blob,
  headers text not null default '{}',
  occurred_at integer not null,
  received_at integer not null,
  digest blob not null check (length(digest) = 32),
  handlers text not null default '[]',
  unique (scope, message_id)
) strict;
create index {=messages_unrouted} on {messages} (seq) where handlers = '[]';
create index {=messages_unrouted_kind} on {messages} (kind) where handlers = '[]';
create index {=messages_stored} on {messages} (received_at) where payload is not null and handlers <> '[]';
create index {=messages_known} on {messages} (received_at) where payload is null;
create table {deliveries} (
  seq integer primary key autoincrement,
  shard integer not null,
  handler text not null,
  message_seq integer not null,
  ordering_key text,
  retry_at integer,
  attempts integer not null default 0,
  first_failed_at integer,
  last_failed_at integer,
  last_error text,
  suspicion integer not null default 0
) strict;
create index {=deliveries_handler} on {deliveries} (handler, shard);
create index {=deliveries_blocked} on {deliveries} (handler, shard, ordering_key, seq, retry_at) where retry_at is not null;
create index {=deliveries_due} on {deliveries} (handler, shard, retry_at) where retry_at is not null;
create index {=deliveries_message} on {deliveries} (message_seq);
create table {dead} (
  seq integer primary key,
  shard integer not null,
  handler text not null,
  message_seq integer not null,
  ordering_key text,
  attempts integer not null,
  first_failed_at integer,
  last_failed_at integer,
  reason text not null,
  error text not null,
  died_at integer not null
) strict;
create index {=dead_handler} on {dead} (handler);
create index {=dead_message} on {dead} (message_seq);
create index {=dead_died} on {dead} (died_at);
";

static MIGRATIONS: [Migration; 1] =
    [Migration { version: 1, name: "inbox", parts: &[TABLES, LEASE_MIGRATION] }];

static FORMS: [TableForm; 5] = [
    TableForm {
        name: "messages",
        columns: &[
            ("seq", "integer"),
            ("scope", "text"),
            ("message_id", "blob"),
            ("shard", "integer"),
            ("kind", "text"),
            ("ordering_key", "text"),
            ("payload", "blob"),
            ("headers", "text"),
            ("occurred_at", "integer"),
            ("received_at", "integer"),
            ("digest", "blob"),
            ("handlers", "text"),
        ],
        indexes: &["messages_unrouted", "messages_unrouted_kind", "messages_stored", "messages_known"],
    },
    TableForm {
        name: "deliveries",
        columns: &[
            ("seq", "integer"),
            ("shard", "integer"),
            ("handler", "text"),
            ("message_seq", "integer"),
            ("ordering_key", "text"),
            ("retry_at", "integer"),
            ("attempts", "integer"),
            ("first_failed_at", "integer"),
            ("last_failed_at", "integer"),
            ("last_error", "text"),
            ("suspicion", "integer"),
        ],
        indexes: &["deliveries_handler", "deliveries_blocked", "deliveries_due", "deliveries_message"],
    },
    TableForm {
        name: "dead",
        columns: &[
            ("seq", "integer"),
            ("shard", "integer"),
            ("handler", "text"),
            ("message_seq", "integer"),
            ("ordering_key", "text"),
            ("attempts", "integer"),
            ("first_failed_at", "integer"),
            ("last_failed_at", "integer"),
            ("reason", "text"),
            ("error", "text"),
            ("died_at", "integer"),
        ],
        indexes: &["dead_handler", "dead_message", "dead_died"],
    },
    LEASE_TABLES[0],
    LEASE_TABLES[1],
];

/// Describes the tables: how to make them, and how they must look.
#[must_use]
pub fn schema(names: &Names, shards: Shards) -> Schema {
    Schema::new(names.on_sqlite(), &MIGRATIONS, &FORMS).with_number("shards", shards.count().into())
}

/// Writes the SQL that makes the tables, to be run by another tool.
#[must_use]
pub fn migration_sql(names: &Names, shards: Shards) -> String {
    sqlite::migration_sql(&schema(names, shards), 0)
}
