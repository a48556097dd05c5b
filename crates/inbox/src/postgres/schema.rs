use relaykit_sql_store::postgres::stream::{BY_INDEX, BY_INDEX_END};
use relaykit_sql_store::postgres::{
    Guarded, LEASE_MIGRATION, LEASE_TABLES, Migrated, check_shards, migrate, migration_sql, verify,
};
use relaykit_sql_store::{
    Difference, FENCE, Migration, Names, SHARD_OF, SHARD_OF_HEAD, Schema, Shards, StoreError, TableForm,
};

use super::queries;

/// How the tables of an inbox are called, and into how many shards they divide what is to be handled.
///
/// ```
/// use relaykit_inbox::postgres::PgSchema;
/// use relaykit_sql_store::{Names, Shards};
///
/// let schema = PgSchema::new(Names::new("inbox")?.in_schema("billing")?).shards(Shards::new(128)?);
/// assert!(schema.migration_sql().contains(r#"create table "billing"."inbox_messages""#));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct PgSchema {
    names: Names,
    shards: Shards,
}

impl PgSchema {
    /// Names the tables.
    pub fn new(names: Names) -> Self {
        Self { names, shards: Shards::default() }
    }

    /// Sets the number of shards. Default: 64. It is fixed once the tables are made.
    pub const fn shards(mut self, shards: Shards) -> Self {
        self.shards = shards;
        self
    }

    /// Returns the names.
    #[must_use]
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// Makes the tables, or brings them to this version. Any number of instances may do so at once.
    ///
    /// # Errors
    ///
    /// The tables are newer, or have another number of shards ([`WrongShards`](super::WrongShards), as the source of
    /// [`StoreError::Rejected`]); or any variant of [`StoreError`].
    ///
    /// # Cancel safety
    ///
    /// A dropped migration goes on to its end.
    pub async fn migrate(&self, pool: &Guarded) -> Result<Migrated, StoreError> {
        let migrated = migrate(pool, &self.schema()).await?;
        check_shards(pool, &self.names, self.shards).await?;
        Ok(migrated)
    }

    /// Writes the SQL that [`migrate`](Self::migrate) runs, for another tool. It is one transaction and may be run again.
    #[must_use]
    pub fn migration_sql(&self) -> String {
        migration_sql(&self.schema(), 0)
    }

    /// Lists how the tables differ from what this version needs; nothing, if they are fine.
    ///
    /// # Errors
    ///
    /// As [`migrate`](Self::migrate), and if the tables are older.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it changes nothing.
    pub async fn verify(&self, pool: &Guarded) -> Result<Vec<Difference>, StoreError> {
        let differences = verify(pool, &self.schema()).await?;
        if differences.is_empty() {
            check_shards(pool, &self.names, self.shards).await?;
        }
        Ok(differences)
    }

    fn schema(&self) -> Schema {
        Schema::new(self.names.clone(), &MIGRATIONS, &TABLES)
            .with_number("shards", self.shards.count().into())
    }
}

static MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    name: "inbox",
    parts: &[
        LEASE_MIGRATION,
        MESSAGES,
        DELIVERIES,
        "create function {shard_of}(key bytea) returns int language sql immutable parallel safe return ",
        SHARD_OF,
        ";
        create function {shard_of}(head bigint) returns int language sql immutable parallel safe return ",
        SHARD_OF_HEAD,
        ";
        ",
        queries::CREATE_KNOWN,
        BY_INDEX,
        queries::KNOWN,
        BY_INDEX_END,
        queries::CREATE_RECEIVE_ONE,
        queries::RECEIVE_ONE,
        queries::CREATE_RECEIVE_ALL,
        queries::RECEIVE_ALL,
        queries::CREATE_PAGE,
        BY_INDEX,
        queries::PAGE,
        BY_INDEX_END,
        queries::CREATE_SETTLE,
        BY_INDEX,
        FENCE,
        queries::SETTLE,
        BY_INDEX_END,
        queries::CREATE_SUSPECT,
        BY_INDEX,
        FENCE,
        queries::SUSPECT,
        BY_INDEX_END,
        queries::CREATE_FINISH,
        BY_INDEX,
        FENCE,
        queries::FINISH,
        BY_INDEX_END,
    ],
}];

// Payloads may be large: they are left as they came, since they are read once or twice.
const MESSAGES: &str = "create sequence {messages_seq} as bigint cache 1;
    create table {messages} (
      seq bigint not null default nextval('{messages_seq}'),
      scope text not null,
      message_id uuid not null,
      shard int not null,
      kind text not null,
      ordering_key text,
      payload bytea,
      headers text not null,
      occurred_at timestamptz not null,
      received_at timestamptz not null default clock_timestamp(),
      digest bytea not null,
      handlers text[] not null,
      constraint {=messages_pkey} primary key (seq),
      constraint {=messages_id} unique (scope, message_id)
    );
    alter sequence {messages_seq} owned by {messages}.seq;
    create index {=messages_unrouted} on {messages} (seq) where handlers = '{}';
    create index {=messages_kept} on {messages} (received_at) where payload is not null;
    create index {=messages_erased} on {messages} (received_at) where payload is null;
    ";

// A transaction gets its number (xid) before it draws a place, never after: what `Snapshot::mark` says of rows that are not
// in sight rests on it. An identity column would draw first. `case` keeps the order.
//
// Vacuum comes early, since each delivery leaves a dead row; by a count, since the table's size tells nothing. The
// costs of a scan of a table that was empty when it was last analyzed would mislead; so that comes early, too.
//
// Settling goes by the primary key, and pages by an index of their own. That has `seq + 0`, so that no order of places can be
// had from the primary key as well, whatever the planner thinks it costs.
const DELIVERIES: &str = "create sequence {deliveries_seq} as bigint cache 1;
    create table {deliveries} (
      seq bigint not null default case when pg_current_xact_id() is not null then nextval('{deliveries_seq}') end,
      shard int not null,
      handler text not null,
      message_seq bigint not null,
      ordering_key text,
      retry_at timestamptz,
      attempts int not null default 0,
      first_failed_at timestamptz,
      last_failed_at timestamptz,
      last_error text,
      suspicion smallint not null default 0,
      constraint {=deliveries_pkey} primary key (seq)
    ) with (
      autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
      autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
      autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000,
      autovacuum_vacuum_cost_delay = 1
    );
    alter sequence {deliveries_seq} owned by {deliveries}.seq;
    create index {=deliveries_page} on {deliveries} (handler, shard, (seq + 0));
    create index {=deliveries_message} on {deliveries} (message_seq);
    create index {=deliveries_waiting} on {deliveries} (handler, shard, ordering_key, seq) include (retry_at)
      where retry_at is not null;
    create index {=deliveries_due} on {deliveries} (handler, shard, retry_at, seq) include (ordering_key)
      where retry_at is not null;
    create table {dead} (
      seq bigint not null,
      shard int not null,
      handler text not null,
      message_seq bigint not null,
      ordering_key text,
      attempts int not null,
      first_failed_at timestamptz,
      last_failed_at timestamptz,
      reason text not null,
      error text not null,
      died_at timestamptz not null default clock_timestamp(),
      constraint {=dead_pkey} primary key (seq)
    );
    create index {=dead_message} on {dead} (message_seq);
    create index {=dead_died} on {dead} (died_at);
    ";

static TABLES: [TableForm; 5] = [
    LEASE_TABLES[0],
    LEASE_TABLES[1],
    TableForm {
        name: "messages",
        columns: &[
            ("seq", "bigint"),
            ("scope", "text"),
            ("message_id", "uuid"),
            ("shard", "integer"),
            ("kind", "text"),
            ("ordering_key", "text"),
            ("payload", "bytea"),
            ("headers", "text"),
            ("occurred_at", "timestamp with time zone"),
            ("received_at", "timestamp with time zone"),
            ("digest", "bytea"),
            ("handlers", "text[]"),
        ],
        indexes: &["messages_pkey", "messages_id", "messages_unrouted", "messages_kept", "messages_erased"],
    },
    TableForm {
        name: "deliveries",
        columns: &[
            ("seq", "bigint"),
            ("shard", "integer"),
            ("handler", "text"),
            ("message_seq", "bigint"),
            ("ordering_key", "text"),
            ("retry_at", "timestamp with time zone"),
            ("attempts", "integer"),
            ("first_failed_at", "timestamp with time zone"),
            ("last_failed_at", "timestamp with time zone"),
            ("last_error", "text"),
            ("suspicion", "smallint"),
        ],
        indexes: &[
            "deliveries_pkey",
            "deliveries_page",
            "deliveries_message",
            "deliveries_waiting",
            "deliveries_due",
        ],
    },
    TableForm {
        name: "dead",
        columns: &[
            ("seq", "bigint"),
            ("shard", "integer"),
            ("handler", "text"),
            ("message_seq", "bigint"),
            ("ordering_key", "text"),
            ("attempts", "integer"),
            ("first_failed_at", "timestamp with time zone"),
            ("last_failed_at", "timestamp with time zone"),
            ("reason", "text"),
            ("error", "text"),
            ("died_at", "timestamp with time zone"),
        ],
        indexes: &["dead_pkey", "dead_message", "dead_died"],
    },
];
