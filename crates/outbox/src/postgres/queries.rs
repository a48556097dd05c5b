pub(super) const CREATE_KNOWN: &str = "create function {known}(uuid[], text[], text[], bytea[])
    returns table (out_n bigint, out_same bool, out_headers text)";

pub(super) const CALL_KNOWN: &str = "select * from {known}($1, $2, $3, $4)";

pub(super) const CREATE_PAGE: &str =
    "create function {page}(int[], bigint[], int, bigint[], bigint[], bigint, bigint)
    returns table (out_shard int, out_seq bigint, out_id uuid, out_kind text, out_key text, out_payload bytea,
      out_headers text, out_occurred_at timestamptz, out_attempts int, out_age bigint, out_failing bigint,
      out_waited bool, out_due_shards int[], out_due_seqs bigint[], out_next_due bigint, out_running bigint[],
      out_next bigint, out_mark bigint, out_mark_place bigint, out_from bigint, out_suspicion smallint)";

pub(super) const CALL_PAGE: &str = "select * from {page}($1, $2, $3, $4, $5, $6, $7)";

pub(super) const CREATE_SETTLE: &str = "create or replace function {settle}(
      int[], bigint[], int[], bigint[], int[], bigint[], int[], bigint[], bool[], text[],
      int[], bigint[], int[], text[], text[], bool[]
    ) returns table (out_stale int[], out_written bigint, out_waited_shards int[], out_waited_seqs bigint[])";

pub(super) const CALL_SETTLE: &str =
    "select * from {settle}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";

pub(super) const CREATE_SUSPECT: &str =
    "create function {suspect}(int[], bigint[], int[], bigint[], smallint)
    returns table (out_stale int[], out_written bigint)";

pub(super) const CALL_SUSPECT: &str = "select * from {suspect}($1, $2, $3, $4, $5)";

/// Adds a message unless one has its id. Nothing is read, so there is nothing that could be planned badly. `$1` is what its
/// shard is computed from.
pub(super) const ADD_ONE: &str =
    "insert into {messages} (shard, message_id, kind, ordering_key, payload, headers, occurred_at, retry_at)
values ({shard_of}($1::bytea), $2, $3, $4, $5, $6, $7,
  pg_catalog.clock_timestamp() + $8::bigint * interval '1 microsecond')
on conflict (message_id) do nothing";

/// Adds messages in their order and returns true, or adds none and returns false if one of their ids is there.
///
/// The block is a subtransaction, which costs a list less than `on conflict` does for each of its rows.
pub(super) const ADD_NEW: &str =
    "create function {add_new}(uuid[], text[], text[], bytea[], text[], timestamptz[])
returns bool language plpgsql volatile security invoker as $relaykit_add_new$ begin
    insert into {messages} (shard, message_id, kind, ordering_key, payload, headers, occurred_at)
    select {shard_of}(pg_catalog.convert_to(coalesce(a.ordering_key, a.message_id::text), 'UTF8')),
      a.message_id, a.kind, a.ordering_key, a.payload, a.headers, a.occurred_at
    from unnest($1, $2, $3, $4, $5, $6) with ordinality
      as a(message_id, kind, ordering_key, payload, headers, occurred_at, n)
    order by a.n;
    return true;
exception when unique_violation then
    return false;
end $relaykit_add_new$;
";

pub(super) const CALL_ADD_NEW: &str = "select {add_new}($1, $2, $3, $4, $5, $6)";

/// Says which messages have an id that is there: their numbers, whether kind, key and payload are the same, and the
/// headers that are there.
pub(super) const KNOWN: &str = "select a.n, m.same, m.headers
from unnest($1, $2, $3, $4) with ordinality as a(message_id, kind, ordering_key, payload, n)
cross join lateral (
    select m.headers, m.kind = a.kind and m.ordering_key is not distinct from a.ordering_key
      and m.payload = a.payload as same
    from {messages} m where m.message_id = a.message_id limit 1
) m";

/// Adds messages for any driver: one parameter, a JSON array.
pub(super) const ADD_JSON: &str =
    "insert into {messages} (shard, message_id, kind, ordering_key, payload, headers, occurred_at)
select {shard_of}(pg_catalog.convert_to(coalesce(a.key, a.id::text), 'UTF8')),
  a.id, a.kind, a.key, pg_catalog.decode(a.payload, 'hex'), a.headers,
  timestamptz 'epoch' + a.hours * interval '1 hour' + a.micros * interval '1 microsecond'
from pg_catalog.json_to_recordset($1::text::json)
  as a(n int, id uuid, kind text, key text, payload text, headers text, hours bigint, micros bigint)
order by a.n
on conflict do nothing
returning message_id::text";

/// Reads pages, what is due, when more is, and who adds what is not in sight, all of one snapshot.
///
/// It begins before the place that is asked for if a transaction has ended that was open before, and adds there.
///
/// The mark is a transaction number drawn after the snapshot was taken and after the place was read that was given last. Whoever adds
/// a row has its number before the row's place, so all transactions from the mark on add behind that place.
/// (The snapshot's own `xmax` is no such bound: it lies behind the last transaction that *ended*, and those that
/// run may have higher numbers.) Without rows nothing depends on it, and an idle relay draws no numbers.
pub(super) const PAGE: &str = "with t as materialized (select pg_catalog.clock_timestamp() as now),
s as materialized (select pg_catalog.pg_current_snapshot() as now),
came as materialized (
    select min(o.place) as place from (
        select o.place from s, unnest($4::bigint[], $5::bigint[]) as o(number, place)
        where pg_catalog.pg_visible_in_snapshot(o.number::text::xid8, s.now)
        union all
        select $7::bigint from s where pg_catalog.pg_snapshot_xmax(s.now)::text::bigint > $6::bigint
    ) o
),
asked as materialized (
    select f.shard, least(f.after, c.place) as after
    from unnest($1::int[], $2::bigint[]) as f(shard, after), came c
),
page as materialized (
    select m.* from asked f cross join t cross join lateral (
        select m.* from {messages} m
        where m.shard = f.shard and m.seq > f.after and (m.retry_at is null or m.retry_at <= t.now)
          and not exists (
            select from {messages} w where w.shard = m.shard and w.ordering_key = m.ordering_key
              and w.seq < m.seq and w.retry_at is not null and (w.retry_at > t.now or w.seq <= f.after)
          )
        order by m.seq limit $3::int
    ) m
),
ready as materialized (
    select w.shard, w.seq, w.ordering_key from asked f cross join t cross join lateral (
        select w.shard, w.seq, w.ordering_key from {messages} w
        where w.shard = f.shard and w.retry_at is not null and w.retry_at <= t.now
        order by w.shard, w.retry_at
    ) w
),
due as materialized (
    select r.shard, min(r.seq) as seq from ready r cross join t
    where not exists (
        select from {messages} w where w.shard = r.shard and w.ordering_key = r.ordering_key
          and w.seq < r.seq and w.retry_at is not null and w.retry_at > t.now
    )
    group by r.shard
),
next as materialized (
    select min(w.retry_at) as at from asked f cross join t cross join lateral (
        select w.retry_at from {messages} w
        where w.shard = f.shard and w.retry_at is not null and w.retry_at > t.now and w.retry_at < 'infinity'
        order by w.shard, w.retry_at limit 1
    ) w
),
mark as materialized (
    select q.last_value as place, case when q.last_value is not null then pg_catalog.pg_current_xact_id() end as number
    from {messages_seq} q where exists (select from page)
)
select null::int, null::bigint, null::uuid, null::text, null::text, null::bytea, null::text, null::timestamptz,
  null::int, null::bigint, null::bigint, null::bool,
  array(select shard from due order by shard), array(select seq from due order by shard),
  (select ceil(extract(epoch from n.at - t.now) * 1000000)::bigint from next n, t),
  array(select x::text::bigint from s, pg_catalog.pg_snapshot_xip(s.now) as x),
  (select pg_catalog.pg_snapshot_xmax(s.now)::text::bigint from s),
  (select number::text::bigint from mark), (select place from mark), (select place from came), null::smallint
union all
(select p.shard, p.seq, p.message_id, p.kind, p.ordering_key, p.payload, p.headers, p.occurred_at,
  p.attempts, (extract(epoch from t.now - p.added_at) * 1000000)::bigint,
  (extract(epoch from t.now - p.first_failed_at) * 1000000)::bigint, p.retry_at is not null,
  null::int[], null::bigint[], null::bigint, null::bigint[], null::bigint, null::bigint, null::bigint, null::bigint,
  p.suspicion
from page p cross join t order by p.shard, p.seq)";

/// Follows [`FENCE`](relaykit_sql_store::FENCE).
///
/// A row that waits already with these attempts was written before, and the answer was lost. One that was parked while
/// it was on its way stays parked.
///
/// A row is found by `any` of one shard, not by the same shard. A merge of the list with the table by equal shards would look cheap
/// when the table is thought to hold a row or two, and read all of it for as long as the plan is kept.
///
/// What was sent is deleted here, or moved to the archive if there is one: then the migration that makes the archive replaces the
/// function, so nothing has to ask each time.
pub(super) const SETTLE: [&str; 3] =
    [DONE, " returning m.shard, m.seq, m.retry_at is not null as waited)", SETTLE_REST];

/// The same beside an archive. The row goes to the partition of its day, or to the default one, so that this cannot fail.
pub(super) const SETTLE_ARCHIVED: [&str; 3] = [
    DONE,
    " returning m.seq, m.shard, m.message_id, m.kind, m.ordering_key, m.payload, m.headers, m.occurred_at, m.added_at,
      m.attempts, m.first_failed_at, m.retry_at is not null as waited
),
kept as (
    insert into {archive} (seq, shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at,
      attempts, first_failed_at, sent_at)
    select d.seq, d.shard, d.message_id, d.kind, d.ordering_key, d.payload, d.headers, d.occurred_at, d.added_at,
      d.attempts, d.first_failed_at, t.now
    from done d, t
)",
    SETTLE_REST,
];

const DONE: &str = ", t as materialized (select pg_catalog.clock_timestamp() as now),
done as (
    delete from {messages} m using unnest($3::int[], $4::bigint[]) as d(shard, seq)
    where d.shard = any(array(select f.shard from fence f)) and m.shard = any(array[d.shard]) and m.seq = d.seq";

const SETTLE_REST: &str = ",
retried as (
    update {messages} m set
      attempts = r.attempts,
      retry_at = case when m.retry_at = 'infinity' then m.retry_at
        else t.now + r.wait * interval '1 microsecond' end,
      last_error = r.error,
      first_failed_at = case when r.fresh then t.now else coalesce(m.first_failed_at, t.now) end,
      last_failed_at = t.now,
      suspicion = r.suspect::int
    from unnest($5::int[], $6::bigint[], $7::int[], $8::bigint[], $9::bool[], $10::text[], $16::bool[])
        as r(shard, seq, attempts, wait, fresh, error, suspect), t
    where r.shard = any(array(select f.shard from fence f)) and m.shard = any(array[r.shard]) and m.seq = r.seq
      and (m.retry_at is null or m.retry_at <= t.now or m.attempts <> r.attempts
        or (m.retry_at = 'infinity' and m.last_error is distinct from r.error))
    returning 1
),
dying as (
    delete from {messages} m using
      unnest($11::int[], $12::bigint[], $13::int[], $14::text[], $15::text[]) as d(shard, seq, attempts, reason, error)
    where d.shard = any(array(select f.shard from fence f)) and m.shard = any(array[d.shard]) and m.seq = d.seq
    returning m.seq, m.shard, m.message_id, m.kind, m.ordering_key, m.payload, m.headers, m.occurred_at, m.added_at,
      d.attempts, m.first_failed_at, m.last_failed_at, d.reason, d.error, m.retry_at is not null as waited
),
died as (
    insert into {dead} (seq, shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at,
      attempts, first_failed_at, last_failed_at, reason, error, died_at)
    select d.seq, d.shard, d.message_id, d.kind, d.ordering_key, d.payload, d.headers, d.occurred_at, d.added_at,
      d.attempts, coalesce(d.first_failed_at, t.now), t.now, d.reason, d.error, t.now
    from dying d, t
    returning 1
),
waited as materialized (
    select d.shard, d.seq from done d where d.waited union all select d.shard, d.seq from dying d where d.waited
)
select
  array(select g.shard from unnest($1::int[]) as g(shard)
    where g.shard <> all(array(select f.shard from fence f)) order by g.shard),
  (select count(*) from done) + (select count(*) from retried) + (select count(*) from died),
  array(select w.shard from waited w order by w.seq), array(select w.seq from waited w order by w.seq)";

/// Follows [`FENCE`](relaykit_sql_store::FENCE). Rows are found as by [`SETTLE`].
pub(super) const SUSPECT: &str = ", noted as (
    update {messages} m set suspicion = $5::smallint
    from unnest($3::int[], $4::bigint[]) as r(shard, seq)
    where r.shard = any(array(select f.shard from fence f)) and m.shard = any(array[r.shard]) and m.seq = r.seq
    returning 1
)
select
  array(select g.shard from unnest($1::int[]) as g(shard)
    where g.shard <> all(array(select f.shard from fence f)) order by g.shard),
  (select count(*) from noted)";

pub(super) const DEPTH: &str = "select p.pending, p.oldest, (select count(*) from {dead})
from (
    select count(*) as pending,
      (extract(epoch from pg_catalog.clock_timestamp() - min(added_at)) * 1000000)::bigint as oldest
    from {messages}
) as p";

/// Which dead letters are meant: `$1` to `$6` are ids, kind, key, reason, place, limit.
const FILTER: &str = "from {dead} d
where ($1::uuid[] is null or d.message_id = any($1)) and ($2::text is null or d.kind = $2)
  and ($3::text is null or d.ordering_key = $3) and ($4::text is null or d.reason = $4)
  and d.seq > $5::bigint
order by d.seq limit $6::bigint";

pub(super) const DEAD: [&str; 2] = [
    "select d.seq, d.message_id, d.kind, d.ordering_key, d.payload, d.headers, d.occurred_at,
  d.reason, d.error, d.attempts, d.added_at, d.first_failed_at, d.died_at ",
    FILTER,
];

pub(super) const LOCK_DEAD: [&str; 3] = [
    "select d.seq, d.message_id, d.kind, d.ordering_key, d.payload, d.headers, d.occurred_at ",
    FILTER,
    " for update of d",
];

pub(super) const PURGE: [&str; 3] = [
    "with meant as materialized (select d.seq ",
    FILTER,
    " for update of d) delete from {dead} d using meant where d.seq = meant.seq",
];

/// A message whose id another one has taken since stays a dead letter.
pub(super) const REPLAY: &str = "with back as (
    insert into {messages} (seq, shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at, retry_at)
    select d.seq, d.shard, d.message_id, d.kind, d.ordering_key, d.payload, d.headers, d.occurred_at, d.added_at,
      pg_catalog.clock_timestamp()
    from {dead} d where d.seq = any($1::bigint[]) order by d.seq
    on conflict do nothing
    returning seq
),
gone as (delete from {dead} d using back where d.seq = back.seq returning d.seq, d.message_id)
select message_id from gone order by seq";

pub(super) const BLOCKED: &str = "with t as materialized (select pg_catalog.clock_timestamp() as now)
select w.ordering_key, w.message_id, w.seq, w.attempts, w.last_error,
  (extract(epoch from t.now - w.added_at) * 1000000)::bigint,
  case when w.retry_at < 'infinity' then ceil(extract(epoch from w.retry_at - t.now) * 1000000)::bigint end
from {messages} w, t
where w.retry_at is not null and w.retry_at > t.now
  and not exists (
    select from {messages} e where e.shard = w.shard and e.ordering_key = w.ordering_key
      and e.seq < w.seq and e.retry_at is not null and e.retry_at > t.now
  )
order by w.seq limit $1::bigint";

/// The first message of the key `$1`.
const HEAD: &str = "with head as materialized (
    select m.shard, m.seq from {messages} m
    where m.shard = {shard_of}(pg_catalog.convert_to($1::text, 'UTF8')) and m.ordering_key = $1
    order by m.shard, m.seq limit 1 for update of m
)";

pub(super) const PARK: [&str; 2] = [
    HEAD,
    " update {messages} m set retry_at = 'infinity' from head
where m.shard = head.shard and m.seq = head.seq returning m.message_id",
];

pub(super) const RESUME: [&str; 2] = [
    HEAD,
    " update {messages} m set retry_at = pg_catalog.clock_timestamp() from head
where m.shard = head.shard and m.seq = head.seq returning m.message_id",
];

pub(super) const SKIP: [&str; 2] = [
    HEAD,
    ", gone as (
    delete from {messages} m using head where m.shard = head.shard and m.seq = head.seq returning m.*
),
buried as (
    insert into {dead} (seq, shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at,
      attempts, first_failed_at, last_failed_at, reason, error)
    select seq, shard, message_id, kind, ordering_key, payload, headers, occurred_at, added_at,
      attempts, first_failed_at, last_failed_at, $2::text, coalesce(last_error, 'skipped')
    from gone
),
second as materialized (
    select m.shard, m.seq from {messages} m, head
    where m.shard = head.shard and m.ordering_key = $1 and m.seq > head.seq order by m.seq limit 1
),
woken as (
    update {messages} m set retry_at = pg_catalog.clock_timestamp() from second
    where m.shard = second.shard and m.seq = second.seq and m.retry_at is null
)
select message_id from gone",
];
