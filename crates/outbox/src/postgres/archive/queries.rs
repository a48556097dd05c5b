use relaykit_sql_store::postgres::stream::{BY_INDEX, BY_INDEX_END};
use relaykit_sql_store::{FENCE, Migration, TableForm};

use crate::postgres::queries as outbox;

// A part of its own, since it is there only if somebody wants it. The default partition takes what has no other, so that no
// settlement can fail for want of one. Whoever may write dead letters, a relay, may write here too from the first moment on.
pub(in crate::postgres) static ARCHIVE_MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    name: "archive",
    parts: &[
        "create table {archive} (
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
      sent_at timestamptz not null
    ) partition by range (sent_at);
    create index {=archive_sent} on {archive} (sent_at, seq);
    create index {=archive_id} on {archive} (message_id);
    create table {archive_default} partition of {archive} default;
    do $relaykit_acl$ declare relay text; begin
      for relay in
        select case a.grantee when 0 then 'public' else a.grantee::regrole::text end
        from pg_class c cross join aclexplode(c.relacl) a
        where c.oid = '{dead}'::regclass and a.privilege_type = 'INSERT' and a.grantee <> c.relowner
      loop
        execute 'grant insert on {archive} to ' || relay;
      end loop;
    end $relaykit_acl$;
    ",
        outbox::CREATE_SETTLE,
        BY_INDEX,
        FENCE,
        outbox::SETTLE_ARCHIVED[0],
        outbox::SETTLE_ARCHIVED[1],
        outbox::SETTLE_ARCHIVED[2],
        BY_INDEX_END,
    ],
}];

const COLUMNS: [(&str, &str); 12] = [
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
    ("sent_at", "timestamp with time zone"),
];

pub(in crate::postgres) static ARCHIVE_TABLES: [TableForm; 2] = [
    TableForm { name: "archive", columns: &COLUMNS, indexes: &["archive_sent", "archive_id"] },
    TableForm { name: "archive_default", columns: &COLUMNS, indexes: &[] },
];

/// Begins each step: one at a time, by a lock that ends with the transaction; then no wait for the tables' locks that others would queue
/// behind for long. Dates are written, and read again, in one form only.
pub(super) const BEGIN: &str = "set local search_path = pg_catalog, pg_temp;
set local timezone = 'UTC';
set local datestyle = 'ISO';
select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('relaykit archive {archive}', 0));
set local lock_timeout = {#lock};
set local statement_timeout = {#hold};
";

/// Today, in days since 1970.
pub(super) const TODAY: &str =
    "select pg_catalog.floor(extract(epoch from pg_catalog.clock_timestamp()) / 86400)::bigint";

/// The partitions as the catalog knows them, whatever they are called, but for the default one: number, bounds in µs. An open bound
/// is null.
pub(super) const PARTITIONS: &str = r"select c.oid::bigint,
  (extract(epoch from b.lower) * 1000000)::bigint, (extract(epoch from b.upper) * 1000000)::bigint
from pg_catalog.pg_inherits i
join pg_catalog.pg_class c on c.oid = i.inhrelid
cross join lateral pg_catalog.pg_get_expr(c.relpartbound, c.oid) as e(bound)
cross join lateral (
    select pg_catalog.substring(e.bound, $$FROM \('([^']+)'\)$$)::timestamptz,
      pg_catalog.substring(e.bound, $$TO \('([^']+)'\)$$)::timestamptz
) as w(lower, upper)
cross join lateral (
    select case when pg_catalog.isfinite(w.lower) then w.lower end, case when pg_catalog.isfinite(w.upper) then w.upper end
) as b(lower, upper)
where i.inhparent = '{archive}'::pg_catalog.regclass and e.bound <> 'DEFAULT'
order by b.upper, c.oid";

/// Takes the locks that a new partition needs, in the order in which everybody takes them. Writers of the days that have a
/// partition go on.
pub(super) const LOCK: &str = "lock table only {archive} in share update exclusive mode;
lock table {archive_default} in access exclusive mode;
";

/// Counts what is in the default partition of the day `$1`, up to `$2`.
pub(super) const COUNT_DAY: &str = "select pg_catalog.count(*) from (
    select from {archive_default} d
    where d.sent_at >= pg_catalog.to_timestamp($1::bigint * 86400)
      and d.sent_at < pg_catalog.to_timestamp(($1::bigint + 1) * 86400)
    limit $2::bigint
) as counted";

/// Makes the partition of a day beside the archive, moves there what is in the default one, and attaches it. The name is only for people;
/// one that is taken is passed over.
pub(super) const MAKE: &str = "do $relaykit_do$
declare
  starts constant timestamptz := to_timestamp({#day} * 86400.0);
  ends constant timestamptz := to_timestamp(({#day} + 1) * 86400.0);
  archive record;
  part text;
begin
  select n.nspname, c.relname, pg_get_userbyid(c.relowner) as owner into strict archive
  from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = '{archive}'::regclass;
  for n in 1..10 loop
    part := format('%I.%I', archive.nspname,
      archive.relname || to_char(starts, '_\"p\"YYYYMMDD') || case n when 1 then '' else '_' || n end);
    exit when to_regclass(part) is null;
  end loop;
  execute format('create table %s (like {archive} including defaults including storage)', part);
  if archive.owner <> current_user then
    execute format('alter table %s owner to %I', part, archive.owner);
  end if;
  execute format('with moved as (
      delete from {archive_default} d where d.sent_at >= %1$L and d.sent_at < %2$L returning d.*
    ) insert into %3$s select * from moved', starts, ends, part);
  execute format('alter table {archive} attach partition %s for values from (%L) to (%L)', part, starts, ends);
end $relaykit_do$";

/// Drops a partition by its number, which nobody else can get meanwhile.
pub(super) const DROP: &str = "do $relaykit_do$ begin
  execute format('drop table %s', {#oid}::oid::regclass);
end $relaykit_do$";

/// Deletes from the default partition what was sent before the day `$1`, at most `$2` rows.
pub(super) const DRAIN: &str = "delete from {archive_default} where ctid = any(array(
    select d.ctid from {archive_default} d where d.sent_at < pg_catalog.to_timestamp($1::bigint * 86400)
    order by d.sent_at limit $2::bigint
))";

pub(super) const COUNT_DEFAULT: &str =
    "select pg_catalog.count(*) from (select from {archive_default} limit 100000) as counted";

/// Which messages are meant: `$1` to `$8` are ids, kind, key, first and last moment, the last one's moment and place, limit.
pub(super) const LIST: &str = "select a.seq, a.message_id, a.kind, a.ordering_key, a.payload, a.headers, a.occurred_at,
  a.attempts, a.added_at, a.sent_at
from {archive} a
where ($1::uuid[] is null or a.message_id = any($1)) and ($2::text is null or a.kind = $2)
  and ($3::text is null or a.ordering_key = $3)
  and a.sent_at >= coalesce($4::timestamptz, '-infinity') and a.sent_at < coalesce($5::timestamptz, 'infinity')
  and ($6::timestamptz is null or (a.sent_at, a.seq) > ($6, $7::bigint))
order by a.sent_at, a.seq limit $8::bigint";
