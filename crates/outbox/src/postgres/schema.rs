use relaykit_sql_store::postgres::stream::{BY_INDEX, BY_INDEX_END};
use relaykit_sql_store::postgres::{
    Guarded, LEASE_MIGRATION, LEASE_TABLES, Migrated, check_shards, migrate, migration_sql, verify,
};
use relaykit_sql_store::{
    Difference, FENCE, Migration, Names, SHARD_OF, Schema, Shards, StoreError, TableForm,
};

use super::archive::{ARCHIVE_MIGRATIONS, ARCHIVE_TABLES};
use super::queries;

/// How the tables of an outbox are called, and into how many shards they divide their messages.
///
/// ```
/// use relaykit_outbox::postgres::PgSchema;
/// use relaykit_sql_store::{Names, Shards};
///
/// let schema = PgSchema::new(Names::new("outbox")?.in_schema("billing")?).shards(Shards::new(128)?);
/// assert!(schema.migration_sql().contains(r#"create table "billing"."outbox_messages""#));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct PgSchema {
    names: Names,
    shards: Shards,
    archive: bool,
}

impl PgSchema {
    /// Names the tables.
    pub fn new(names: Names) -> Self {
        Self { names, shards: Shards::default(), archive: false }
    }

    /// Sets the number of shards. Default: 64. It is fixed once the tables are made.
    pub const fn shards(mut self, shards: Shards) -> Self {
        self.shards = shards;
        self
    }

    /// Sets whether sent messages are kept in an archive, until [`Retention`](crate::Retention) drops them. Default: no, they are deleted
    /// as they are sent.
    ///
    /// It is a part of its own, with its own version, and may be asked for at any time, while relays run: from then on they
    /// archive. An archive that is there stays in use, also if this says no.
    pub const fn archive(mut self, yes: bool) -> Self {
        self.archive = yes;
        self
    }

    /// Returns the names.
    #[must_use]
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// Makes the tables, or brings them to this version. Any number of instances may do so at once. The answer is about the tables
    /// without the archive, which follows in a transaction of its own.
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
        if let Some(archive) = self.archive_schema() {
            migrate(pool, &archive).await?;
        }
        check_shards(pool, &self.names, self.shards).await?;
        Ok(migrated)
    }

    /// Writes the SQL that [`migrate`](Self::migrate) runs, for another tool. It is one transaction, and one for the archive, and may be
    /// run again.
    #[must_use]
    pub fn migration_sql(&self) -> String {
        let archive = self.archive_schema().map(|archive| migration_sql(&archive, 0));
        migration_sql(&self.schema(), 0) + archive.as_deref().unwrap_or_default()
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
        let mut differences = verify(pool, &self.schema()).await?;
        if let Some(archive) = self.archive_schema() {
            differences.extend(verify(pool, &archive).await?);
        }
        if differences.is_empty() {
            check_shards(pool, &self.names, self.shards).await?;
        }
        Ok(differences)
    }

    fn schema(&self) -> Schema {
        Schema::new(self.names.clone(), &MIGRATIONS, &TABLES)
            .with_number("shards", self.shards.count().into())
    }

    fn archive_schema(&self) -> Option<Schema> {
        let schema = || Schema::new(self.names.clone(), &ARCHIVE_MIGRATIONS, &ARCHIVE_TABLES);
        self.archive.then(|| schema().versions_in("archive_version"))
    }
}

// A later one that changes what settles must do so with an archive, too: see `SETTLE_ARCHIVED`.
static MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    name: "outbox",
    parts: &[
        LEASE_MIGRATION,
        MESSAGES,
        "create function {shard_of}(key bytea) returns int language sql immutable parallel safe return ",
        SHARD_OF,
        ";
        ",
        ADD,
        queries::ADD_NEW,
        queries::CREATE_KNOWN,
        BY_INDEX,
        queries::KNOWN,
        BY_INDEX_END,
        queries::CREATE_PAGE,
        BY_INDEX,
        queries::PAGE,
        BY_INDEX_END,
        queries::CREATE_SETTLE,
        BY_INDEX,
        FENCE,
        queries::SETTLE[0],
        queries::SETTLE[1],
        queries::SETTLE[2],
        BY_INDEX_END,
        queries::CREATE_SUSPECT,
        BY_INDEX,
        FENCE,
        queries::SUSPECT,
        BY_INDEX_END,
    ],
}];

// A transaction gets its number (xid) before it draws a place, never after: what `Snapshot::mark` says of rows that are not
// in sight rests on it. An identity column would draw first. `case` keeps the order.
//
// Vacuum comes early, since each message leaves a dead row; by a count, since the table's size tells nothing. The
// costs of a scan of a table that was empty when it was last analyzed would mislead; so that comes early, too.
const MESSAGES: &str = "create sequence {messages_seq} as bigint cache 1;
    create table {messages} (
      seq bigint not null default case when pg_current_xact_id() is not null then nextval('{messages_seq}') end,
      shard int not null,
      message_id uuid not null,
      kind text not null,
      ordering_key text,
      payload bytea not null,
      headers text not null default '{}',
      occurred_at timestamptz not null,
      added_at timestamptz not null default clock_timestamp(),
      retry_at timestamptz,
      attempts int not null default 0,
      first_failed_at timestamptz,
      last_failed_at timestamptz,
      last_error text,
      suspicion smallint not null default 0,
      constraint {=messages_pkey} primary key (shard, seq),
      constraint {=messages_id} unique (message_id)
    ) with (
      autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
      autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
      autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000,
      autovacuum_vacuum_cost_delay = 1
    );
    alter sequence {messages_seq} owned by {messages}.seq;
    create index {=messages_waiting} on {messages} (shard, ordering_key, seq) include (retry_at) where retry_at is not null;
    create index {=messages_due} on {messages} (shard, retry_at, seq) include (ordering_key) where retry_at is not null;
    create table {dead} (
      seq bigint not null,
      shard int not null,
      message_id uuid not null,
      kind text not null,
      ordering_key text,
      payload bytea not null,
      headers text not null,
      occurred_at timestamptz not null,
      added_at timestamptz not null,
      attempts int not null,
      first_failed_at timestamptz,
      last_failed_at timestamptz,
      reason text not null,
      error text not null,
      died_at timestamptz not null default clock_timestamp(),
      constraint {=dead_pkey} primary key (seq)
    );
    create index {=dead_id} on {dead} (message_id);
    ";

const ADD: &str = r"create function {add}(
      message_id uuid, kind text, ordering_key text, payload bytea, headers jsonb default '{}',
      occurred_at timestamptz default clock_timestamp(), delay interval default null
    ) returns boolean language plpgsql volatile security invoker set search_path = pg_catalog, pg_temp
    set enable_seqscan = off as $relaykit_add$
    #variable_conflict use_variable
    declare
      control constant text := '[\x01-\x1f\x7f-\x9f]';
      same boolean;
    begin
      if kind is null or octet_length(kind) not between 1 and 255 or kind ~ control then
        raise invalid_parameter_value using message = 'kind must have 1 to 255 bytes and no control characters';
      end if;
      if ordering_key is not null and (octet_length(ordering_key) not between 1 and 512 or ordering_key ~ control) then
        raise invalid_parameter_value
          using message = 'ordering_key must have 1 to 512 bytes and no control characters, or be null';
      end if;
      if headers is null or jsonb_typeof(headers) <> 'object'
        or exists (select from jsonb_each(headers) as h where jsonb_typeof(h.value) <> 'string') then
        raise invalid_parameter_value using message = 'headers must be a JSON object of strings';
      end if;
      for try in 1..5 loop
        insert into {messages} (shard, message_id, kind, ordering_key, payload, headers, occurred_at, retry_at)
        values (
          {shard_of}(convert_to(coalesce(ordering_key, message_id::text), 'UTF8')), message_id, kind, ordering_key, payload,
          headers::text, occurred_at, clock_timestamp() + delay
        ) on conflict do nothing;
        if found then
          return true;
        end if;
        select m.kind = {=add}.kind and m.ordering_key is not distinct from {=add}.ordering_key
          and m.payload = {=add}.payload and m.headers::jsonb = {=add}.headers
        into same from {messages} m where m.message_id = {=add}.message_id;
        if found then
          if same then
            return false;
          end if;
          raise unique_violation
            using message = format('another message has the id %s already, with other content', message_id);
        end if;
        -- It was there, and has been sent since.
      end loop;
      raise serialization_failure
        using message = format('the message %s comes and goes', message_id);
    end $relaykit_add$;
    ";

static TABLES: [TableForm; 4] = [
    LEASE_TABLES[0],
    LEASE_TABLES[1],
    TableForm {
        name: "messages",
        columns: &[
            ("seq", "bigint"),
            ("shard", "integer"),
            ("message_id", "uuid"),
            ("kind", "text"),
            ("ordering_key", "text"),
            ("payload", "bytea"),
            ("headers", "text"),
            ("occurred_at", "timestamp with time zone"),
            ("added_at", "timestamp with time zone"),
            ("retry_at", "timestamp with time zone"),
            ("attempts", "integer"),
            ("first_failed_at", "timestamp with time zone"),
            ("last_failed_at", "timestamp with time zone"),
            ("last_error", "text"),
            ("suspicion", "smallint"),
        ],
        indexes: &["messages_pkey", "messages_id", "messages_waiting", "messages_due"],
    },
    TableForm {
        name: "dead",
        columns: &[
            ("seq", "bigint"),
            ("shard", "integer"),
            ("message_id", "uuid"),
            ("kind", "text"),
            ("ordering_key", "text"),
            ("payload", "bytea"),
            ("headers", "text"),
            ("occurred_at", "timestamp with time zone"),
            ("added_at", "timestamp with time zone"),
            ("attempts", "integer"),
            ("first_failed_at", "timestamp with time zone"),
            ("last_failed_at", "timestamp with time zone"),
            ("reason", "text"),
            ("error", "text"),
            ("died_at", "timestamp with time zone"),
        ],
        indexes: &["dead_pkey", "dead_id"],
    },
];
