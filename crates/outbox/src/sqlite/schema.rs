use relaykit_sql_store::sqlite::{self, LEASE_MIGRATION, LEASE_TABLES};
use relaykit_sql_store::{Migration, Names, Schema, Shards, TableForm};

/// The columns that are read as a message, of a table called `m`.
pub(super) const COLUMNS: &str =
    "select m.shard, m.seq, m.message_id, m.kind, m.ordering_key, m.payload, m.headers,
m.occurred_at, m.added_at, m.attempts, m.first_failed_at";

/// Places are never given twice, so a message that was replayed finds its old one free.
///
/// The first index is what pages are read by: an index ends with the row's place. The others know only rows that wait,
/// or did, which are few.
const TABLES: &str = "create table {messages} (
  seq integer primary key autoincrement,
  shard integer not null,
  message_id blob not null unique check (length(message_id) = 16),
  kind text not null,
  ordering_key text,
  payload blob not null,
  headers text not null default '{}',
  occurred_at integer not null,
  added_at integer not null,
  retry_at integer,
  attempts integer not null default 0,
  first_failed_at integer,
  last_failed_at integer,
  last_error text,
  suspicion integer not null default 0
) strict;
create index {=messages_shard} on {messages} (shard);
create index {=messages_blocked} on {messages} (shard, ordering_key, seq, retry_at) where retry_at is not null;
create index {=messages_due} on {messages} (shard, retry_at) where retry_at is not null;
create table {dead} (
  seq integer primary key,
  shard integer not null,
  message_id blob not null check (length(message_id) = 16),
  kind text not null,
  ordering_key text,
  payload blob not null,
  headers text not null,
  occurred_at integer not null,
  added_at integer not null,
  attempts integer not null,
  first_failed_at integer,
  last_failed_at integer,
  reason text not null,
  error text not null,
  died_at integer not null
) strict;
create index {=dead_message_id} on {dead} (message_id);
";

static MIGRATIONS: [Migration; 1] =
    [Migration { version: 1, name: "outbox", parts: &[TABLES, LEASE_MIGRATION] }];

/// Rows are found by when they were sent, to be listed and deleted, or by id.
const ARCHIVE: &str = "create table {archive} (
  seq integer primary key,
  shard integer not null,
  message_id blob not null check (length(message_id) = 16),
  kind text not null,
  ordering_key text,
  payload blob not null,
  headers text not null,
  occurred_at integer not null,
  added_at integer not null,
  attempts integer not null,
  first_failed_at integer,
  sent_at integer not null
) strict;
create index {=archive_sent} on {archive} (sent_at);
create index {=archive_message_id} on {archive} (message_id);
";

static ARCHIVE_MIGRATIONS: [Migration; 1] = [Migration { version: 1, name: "archive", parts: &[ARCHIVE] }];

static ARCHIVE_FORMS: [TableForm; 1] = [TableForm {
    name: "archive",
    columns: &[
        ("seq", "integer"),
        ("shard", "integer"),
        ("message_id", "blob"),
        ("kind", "text"),
        ("ordering_key", "text"),
        ("payload", "blob"),
        ("headers", "text"),
        ("occurred_at", "integer"),
        ("added_at", "integer"),
        ("attempts", "integer"),
        ("first_failed_at", "integer"),
        ("sent_at", "integer"),
    ],
    indexes: &["archive_sent", "archive_message_id"],
}];

static FORMS: [TableForm; 4] = [
    TableForm {
        name: "messages",
        columns: &[
            ("seq", "integer"),
            ("shard", "integer"),
            ("message_id", "blob"),
            ("kind", "text"),
            ("ordering_key", "text"),
            ("payload", "blob"),
            ("headers", "text"),
            ("occurred_at", "integer"),
            ("added_at", "integer"),
            ("retry_at", "integer"),
            ("attempts", "integer"),
            ("first_failed_at", "integer"),
            ("last_failed_at", "integer"),
            ("last_error", "text"),
            ("suspicion", "integer"),
        ],
        indexes: &["messages_shard", "messages_blocked", "messages_due"],
    },
    TableForm {
        name: "dead",
        columns: &[
            ("seq", "integer"),
            ("shard", "integer"),
            ("message_id", "blob"),
            ("kind", "text"),
            ("ordering_key", "text"),
            ("payload", "blob"),
            ("headers", "text"),
            ("occurred_at", "integer"),
            ("added_at", "integer"),
            ("attempts", "integer"),
            ("first_failed_at", "integer"),
            ("last_failed_at", "integer"),
            ("reason", "text"),
            ("error", "text"),
            ("died_at", "integer"),
        ],
        indexes: &["dead_message_id"],
    },
    LEASE_TABLES[0],
    LEASE_TABLES[1],
];

/// Describes the tables: how to make them, and how they must look.
#[must_use]
pub fn schema(names: &Names, shards: Shards) -> Schema {
    Schema::new(names.on_sqlite(), &MIGRATIONS, &FORMS).with_number("shards", shards.count().into())
}

/// Describes the table of the archive, a part of its own, which settlements fill if it is there.
#[must_use]
pub fn archive_schema(names: &Names) -> Schema {
    Schema::new(names.on_sqlite(), &ARCHIVE_MIGRATIONS, &ARCHIVE_FORMS).versions_in("archive_version")
}

/// Writes the SQL that makes the tables, without those of an archive, to be run by another tool.
#[must_use]
pub fn migration_sql(names: &Names, shards: Shards) -> String {
    sqlite::migration_sql(&schema(names, shards), 0)
}

/// Writes the SQL that makes the archive, to be run by another tool.
#[must_use]
pub fn archive_migration_sql(names: &Names) -> String {
    sqlite::migration_sql(&archive_schema(names), 0)
}
