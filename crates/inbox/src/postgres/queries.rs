// Statements that read tables are functions with settings for the planner, as `BY_INDEX` says; those that only insert have
// nothing that could be planned badly.

pub(super) const CREATE_RECEIVE_ONE: &str =
    "create function {receive}(text, uuid, bigint, text, text, bytea, text, timestamptz, bytea, text[], bool[])
    returns table (out_id uuid, out_digest bytea)";

/// Stores a message with its deliveries, and returns its id; with the digest of the one that is there, if the id is known. No row, if that
/// has been forgotten in between. `$3` is the [head](relaykit_sql_store::Shards::head) of its shard. Its handlers are `$10`,
/// and `$11` says which of them keep order.
///
/// What is known is looked up by a statement of its own, which sees what was committed while the insert waited. A function,
/// so that it is one round trip all the same.
pub(super) const RECEIVE_ONE: &str = " language plpgsql volatile security invoker as $relaykit_fn$
declare
  new_seq bigint;
  its_shard int;
begin
  insert into {messages}
    (scope, message_id, shard, kind, ordering_key, payload, headers, occurred_at, digest, handlers)
  values ($1, $2, {shard_of}($3), $4, $5, $6, $7, $8, $9, $10)
  on conflict (scope, message_id) do nothing
  returning seq, shard into new_seq, its_shard;
  if new_seq is null then
    return query select k.* from {known}($1, array[$2]) as k;
    return;
  end if;
  insert into {deliveries} (shard, handler, message_seq, ordering_key)
  select its_shard, r.handler, new_seq, case when r.ordered then $5 end
  from rows from (pg_catalog.unnest($10), pg_catalog.unnest($11)) as r(handler, ordered);
  return query select $2, null::bytea;
end $relaykit_fn$;
";

pub(super) const CALL_RECEIVE_ONE: &str =
    "select * from {receive}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

pub(super) const CREATE_RECEIVE_ALL: &str = "create function {receive_all}(
      text, uuid[], bigint[], text[], text[], bytea[], text[], timestamptz[], bytea[], text[], text[], bool[]
    ) returns table (out_id uuid, out_digest bytea)";

/// Stores messages in their order, as [`RECEIVE_ONE`] does one. `$10` to `$12` are routes.
pub(super) const RECEIVE_ALL: &str = " language plpgsql volatile security invoker as $relaykit_fn$
declare
  new_ids uuid[];
begin
  with routes as materialized (
      select * from rows from (pg_catalog.unnest($10), pg_catalog.unnest($11), pg_catalog.unnest($12))
        with ordinality as r(kind, handler, ordered, n)
  ),
  kinds as materialized (
      select r.kind, pg_catalog.array_agg(r.handler order by r.n) as handlers from routes r group by r.kind
  ),
  stored as (
      insert into {messages}
        (scope, message_id, shard, kind, ordering_key, payload, headers, occurred_at, digest, handlers)
      select $1, a.message_id, {shard_of}(a.head), a.kind, a.ordering_key, a.payload, a.headers, a.occurred_at, a.digest,
        coalesce(k.handlers, '{}')
      from rows from (
          pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5), pg_catalog.unnest($6),
          pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9)
        ) with ordinality as a(message_id, head, kind, ordering_key, payload, headers, occurred_at, digest, n)
      left join kinds k on k.kind = a.kind
      order by a.n
      on conflict (scope, message_id) do nothing
      returning seq, message_id, shard, kind, ordering_key
  ),
  led as (
      insert into {deliveries} (shard, handler, message_seq, ordering_key)
      select s.shard, r.handler, s.seq, case when r.ordered then s.ordering_key end
      from stored s join routes r on r.kind = s.kind order by s.seq, r.n
  )
  select coalesce(pg_catalog.array_agg(s.message_id), '{}') into new_ids from stored s;
  return query select n.id, null::bytea from pg_catalog.unnest(new_ids) as n(id);
  if pg_catalog.cardinality(new_ids) < pg_catalog.cardinality($2) then
    return query select k.* from {known}(
      $1, array(select a.id from pg_catalog.unnest($2) as a(id) where a.id <> all (new_ids))
    ) as k;
  end if;
end $relaykit_fn$;
";

pub(super) const CALL_RECEIVE_ALL: &str =
    "select * from {receive_all}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

pub(super) const CREATE_KNOWN: &str =
    "create function {known}(text, uuid[]) returns table (out_id uuid, out_digest bytea)";

/// Looks up the digests of the messages whose ids are there.
pub(super) const KNOWN: &str =
    "select m.message_id, m.digest from unnest($2::uuid[]) as a(id) cross join lateral (
    select m.message_id, m.digest from {messages} m where m.scope = $1 and m.message_id = a.id limit 1
) m";

pub(super) const CREATE_PAGE: &str =
    "create function {page}(text, int[], bigint[], int, bigint[], bigint[], bigint, bigint)
    returns table (out_shard int, out_seq bigint, out_id uuid, out_kind text, out_key text, out_payload bytea,
      out_headers text, out_occurred_at timestamptz, out_attempts int, out_age bigint, out_failing bigint,
      out_waited bool, out_due_shards int[], out_due_seqs bigint[], out_next_due bigint, out_running bigint[],
      out_next bigint, out_mark bigint, out_mark_place bigint, out_from bigint, out_suspicion smallint)";

pub(super) const CALL_PAGE: &str = "select * from {page}($1, $2, $3, $4, $5, $6, $7, $8)";

pub(super) const CREATE_SETTLE: &str = "create function {settle}(
      int[], bigint[], int[], bigint[], int[], bigint[], int[], bigint[], bool[], text[],
      int[], bigint[], int[], text[], text[], bool[]
    ) returns table (out_stale int[], out_written bigint)";

pub(super) const CALL_SETTLE: &str =
    "select * from {settle}($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";

pub(super) const CREATE_SUSPECT: &str = "create function {suspect}(int[], bigint[], bigint[], smallint)
    returns table (out_stale int[], out_written bigint)";

pub(super) const CALL_SUSPECT: &str = "select * from {suspect}($1, $2, $3, $4)";

pub(super) const CREATE_FINISH: &str = "create function {finish}(int[], bigint[], bigint)
    returns table (out_holds bool, out_gone bool)";

pub(super) const CALL_FINISH: &str = "select * from {finish}($1, $2, $3)";

/// Reads pages of the handler `$1`, what is due, when more is, and who adds what is not in sight, all of one snapshot.
///
/// It begins before the place that is asked for if a transaction has ended that was open before, and adds there.
///
/// The mark is a transaction number drawn after the snapshot was taken and after the place was read that was given last. Whoever adds
/// a delivery has its number before the delivery's place, so all transactions from the mark on add behind that place.
/// (The snapshot's own `xmax` is no such bound: it lies behind the last transaction that *ended*, and those that
/// run may have higher numbers.) Without deliveries nothing depends on it, and an idle worker draws no numbers.
///
/// `seq + 0` is what the index of pages has: by `seq`, the planner would now and then follow the primary key, through the
/// deliveries of all other handlers.
pub(super) const PAGE: &str = "with t as materialized (select pg_catalog.clock_timestamp() as now),
s as materialized (select pg_catalog.pg_current_snapshot() as now),
came as materialized (
    select min(o.place) as place from (
        select o.place from s, unnest($5::bigint[], $6::bigint[]) as o(number, place)
        where pg_catalog.pg_visible_in_snapshot(o.number::text::xid8, s.now)
        union all
        select $8::bigint from s where pg_catalog.pg_snapshot_xmax(s.now)::text::bigint > $7::bigint
    ) o
),
asked as materialized (
    select f.shard, least(f.after, c.place) as after
    from unnest($2::int[], $3::bigint[]) as f(shard, after), came c
),
page as materialized (
    select d.* from asked f cross join t cross join lateral (
        select d.* from {deliveries} d
        where d.handler = $1 and d.shard = f.shard and d.seq + 0 > f.after
          and (d.retry_at is null or d.retry_at <= t.now)
          and not exists (
            select from {deliveries} w where w.handler = $1 and w.shard = d.shard and w.ordering_key = d.ordering_key
              and w.seq < d.seq and w.retry_at is not null and (w.retry_at > t.now or w.seq <= f.after)
          )
        order by d.seq + 0 limit $4::int
    ) d
),
ready as materialized (
    select w.shard, w.seq, w.ordering_key from asked f cross join t cross join lateral (
        select w.shard, w.seq, w.ordering_key from {deliveries} w
        where w.handler = $1 and w.shard = f.shard and w.retry_at is not null and w.retry_at <= t.now
        order by w.handler, w.shard, w.retry_at
    ) w
),
due as materialized (
    select r.shard, min(r.seq) as seq from ready r cross join t
    where not exists (
        select from {deliveries} w where w.handler = $1 and w.shard = r.shard and w.ordering_key = r.ordering_key
          and w.seq < r.seq and w.retry_at is not null and w.retry_at > t.now
    )
    group by r.shard
),
next as materialized (
    select min(w.retry_at) as at from asked f cross join t cross join lateral (
        select w.retry_at from {deliveries} w
        where w.handler = $1 and w.shard = f.shard and w.retry_at is not null and w.retry_at > t.now
          and w.retry_at < 'infinity'
        order by w.handler, w.shard, w.retry_at limit 1
    ) w
),
mark as materialized (
    select q.last_value as place, case when q.last_value is not null then pg_catalog.pg_current_xact_id() end as number
    from {deliveries_seq} q where exists (select from page)
)
select null::int, null::bigint, null::uuid, null::text, null::text, null::bytea, null::text, null::timestamptz,
  null::int, null::bigint, null::bigint, null::bool,
  array(select shard from due order by shard), array(select seq from due order by shard),
  (select ceil(extract(epoch from n.at - t.now) * 1000000)::bigint from next n, t),
  array(select x::text::bigint from s, pg_catalog.pg_snapshot_xip(s.now) as x),
  (select pg_catalog.pg_snapshot_xmax(s.now)::text::bigint from s),
  (select number::text::bigint from mark), (select place from mark), (select place from came), null::smallint
union all
(select p.shard, p.seq, m.message_id, m.kind, m.ordering_key, m.payload, m.headers, m.occurred_at,
  p.attempts, (extract(epoch from t.now - m.received_at) * 1000000)::bigint,
  (extract(epoch from t.now - p.first_failed_at) * 1000000)::bigint, p.retry_at is not null,
  null::int[], null::bigint[], null::bigint, null::bigint[], null::bigint, null::bigint, null::bigint, null::bigint,
  p.suspicion
from page p cross join t cross join lateral (
    select m.* from {messages} m where m.seq = p.message_seq limit 1
) m order by p.shard, p.seq)";

/// Follows [`FENCE`](relaykit_sql_store::FENCE).
///
/// A row that waits already with these attempts was written before, and the answer was lost.
///
/// Places are found by `any` alone, and what is written by its number in the list: a join with the list would be planned by
/// the size that the table is thought to have, and now and then begin with all of its rows.
/// `shard + 0` is what no index has: a table that is thought to be empty would be gone through by the index of pages, which begins with
/// the handler, since a shard is one look into it and a list of places many.
pub(super) const SETTLE: &str = ", t as materialized (select pg_catalog.clock_timestamp() as now),
done as (
    delete from {deliveries} d
    where d.seq = any($4::bigint[]) and d.shard + 0 = any(array(select f.shard from fence f))
    returning 1
),
retried as (
    update {deliveries} d set (attempts, retry_at, last_error, first_failed_at, last_failed_at, suspicion) = (
      select ($7::int[])[r.n], t.now + ($8::bigint[])[r.n] * interval '1 microsecond', ($10::text[])[r.n],
        case when ($9::bool[])[r.n] then t.now else coalesce(d.first_failed_at, t.now) end, t.now,
        ($16::bool[])[r.n]::int
      from (select array_position($6::bigint[], d.seq) as n) as r, t
    )
    where d.seq = any($6::bigint[]) and d.shard + 0 = any(array(select f.shard from fence f))
      and (d.retry_at is null or d.retry_at <= (select t.now from t)
        or d.attempts <> ($7::int[])[array_position($6::bigint[], d.seq)])
    returning 1
),
dying as (
    delete from {deliveries} d
    where d.seq = any($12::bigint[]) and d.shard + 0 = any(array(select f.shard from fence f))
    returning d.seq, d.shard, d.handler, d.message_seq, d.ordering_key, d.first_failed_at,
      array_position($12::bigint[], d.seq) as n
),
died as (
    insert into {dead} (seq, shard, handler, message_seq, ordering_key, attempts, first_failed_at, last_failed_at,
      reason, error, died_at)
    select d.seq, d.shard, d.handler, d.message_seq, d.ordering_key, ($13::int[])[d.n], coalesce(d.first_failed_at, t.now),
      t.now, ($14::text[])[d.n], ($15::text[])[d.n], t.now
    from dying d, t
    returning 1
)
select
  array(select g.shard from unnest($1::int[]) as g(shard)
    where not exists (select from fence f where f.shard = g.shard) order by g.shard),
  (select count(*) from done) + (select count(*) from retried) + (select count(*) from died)";

/// Follows [`FENCE`](relaykit_sql_store::FENCE).
pub(super) const SUSPECT: &str = ", noted as (
    update {deliveries} d set suspicion = $4::smallint
    where d.seq = any($3::bigint[]) and d.shard + 0 = any(array(select f.shard from fence f))
    returning 1
)
select
  array(select g.shard from unnest($1::int[]) as g(shard)
    where not exists (select from fence f where f.shard = g.shard) order by g.shard),
  (select count(*) from noted)";

/// Follows [`FENCE`](relaykit_sql_store::FENCE): ends the delivery `$3`, and says whether the lease holds and whether it was there.
pub(super) const FINISH: &str = ", gone as (
    delete from {deliveries} d using fence f where d.shard + 0 = f.shard and d.seq = $3 returning 1
)
select exists (select from fence), exists (select from gone)";

/// Leads messages to handlers that they were not led to before; `$1` to `$3` are routes.
const ROUTES: &str = "with routes as materialized (
    select * from rows from
      (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::bool[]))
      with ordinality as r(kind, handler, ordered, n)
),";

/// Whoever routes the same messages at the same time waits here, so that those of a key are led in their order.
pub(super) const ROUTE: [&str; 2] = [
    ROUTES,
    "open as materialized (
    select m.seq, m.shard, m.kind, m.ordering_key from {messages} m
    where m.handlers = '{}' and m.payload is not null and m.kind = any($1::text[])
    order by m.seq limit $4::bigint for update of m
),
routed as (
    update {messages} m set handlers = array(select r.handler from routes r where r.kind = o.kind order by r.n)
    from open o where m.seq = o.seq
),
led as (
    insert into {deliveries} (shard, handler, message_seq, ordering_key)
    select o.shard, r.handler, o.seq, case when r.ordered then o.ordering_key end
    from open o join routes r on r.kind = o.kind order by o.seq, r.n
)
select pg_catalog.count(*) from open",
];

/// Looks at up to `$6` messages behind `$4`, of which up to `$5` are led to the handler: the first of the routes.
pub(super) const CATCH_UP: [&str; 2] = [
    ROUTES,
    "looked as materialized (
    select m.seq from {messages} m where m.seq > $4::bigint order by m.seq limit $6::bigint
),
missed as materialized (
    select m.seq, m.shard, m.ordering_key from {messages} m join routes r on r.kind = m.kind
    where m.seq > $4 and m.seq <= (select pg_catalog.max(l.seq) from looked l)
      and m.payload is not null and not (r.handler = any(m.handlers))
    order by m.seq limit $5::bigint for update of m
),
caught as (
    update {messages} m set handlers = pg_catalog.array_append(m.handlers, r.handler)
    from missed o, routes r where m.seq = o.seq
),
led as (
    insert into {deliveries} (shard, handler, message_seq, ordering_key)
    select o.shard, r.handler, o.seq, case when r.ordered then o.ordering_key end
    from missed o cross join routes r order by o.seq
)
select case when m.count = $5::bigint then m.last else l.last end, m.count from
  (select pg_catalog.max(seq) as last from looked) as l,
  (select pg_catalog.count(*) as count, pg_catalog.max(seq) as last from missed) as m
where l.last is not null",
];

/// Whoever writes to a table locks it before it is given a place there, until its transaction ends. (Numbers of transactions come
/// later: an insert may have its place before.)
pub(super) const WRITING: &str = "select l.virtualtransaction from pg_catalog.pg_locks l
where l.locktype = 'relation' and l.relation = '{messages}'::pg_catalog.regclass and l.mode = 'RowExclusiveLock' and l.granted
  and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database())";

/// The oldest is the first that was stored: places and times of receipt grow together, but for what is stored at the same moment.
pub(super) const DEPTH: &str = "select p.pending,
  (select (extract(epoch from pg_catalog.clock_timestamp() - m.received_at) * 1000000)::bigint
    from {messages} m where m.seq = p.first),
  (select pg_catalog.count(*) from {dead} where handler = $1::text)
from (
    select pg_catalog.count(*) as pending, pg_catalog.min(message_seq) as first
    from {deliveries} where handler = $1
) as p";

pub(super) const UNROUTED: &str = "select m.seq, m.scope, m.message_id, m.kind,
  (extract(epoch from pg_catalog.clock_timestamp() - m.received_at) * 1000000)::bigint
from {messages} m where m.handlers = '{}' and m.seq > $1::bigint order by m.seq limit $2::bigint";

/// Which dead letters are meant: `$1` to `$6` are ids, kind, key, reason, place, limit, and `$7` is the handler.
const FILTER: &str = "from {dead} d join {messages} m on m.seq = d.message_seq
where ($7::text is null or d.handler = $7)
  and ($1::uuid[] is null or m.message_id = any($1)) and ($2::text is null or m.kind = $2)
  and ($3::text is null or m.ordering_key = $3) and ($4::text is null or d.reason = $4)
  and d.seq > $5::bigint
order by d.seq limit $6::bigint";

pub(super) const DEAD: [&str; 2] = [
    "select d.seq, m.message_id, m.kind, m.ordering_key, m.payload, m.headers, m.occurred_at,
  d.handler, m.scope, d.reason, d.error, d.attempts, m.received_at, d.first_failed_at, d.died_at ",
    FILTER,
];

pub(super) const LOCK_DEAD: [&str; 3] = [
    "select d.seq, m.message_id, m.kind, m.ordering_key, m.payload, m.headers, m.occurred_at ",
    FILTER,
    " for update of d",
];

pub(super) const PURGE: [&str; 3] = [
    "with meant as materialized (select d.seq ",
    FILTER,
    " for update of d) delete from {dead} d using meant where d.seq = meant.seq",
];

/// `$1` are places of dead letters that are locked.
pub(super) const REPLAY: &str = "with gone as (
    delete from {dead} d where d.seq = any($1::bigint[])
    returning d.seq, d.shard, d.handler, d.message_seq, d.ordering_key
),
back as (
    insert into {deliveries} (seq, shard, handler, message_seq, ordering_key, retry_at)
    select g.seq, g.shard, g.handler, g.message_seq, g.ordering_key, pg_catalog.clock_timestamp() from gone g order by g.seq
)
select m.message_id from gone g join {messages} m on m.seq = g.message_seq order by g.seq";

/// `$1` is the window in microseconds, here and in what follows, and `$2` how many.
pub(super) const ERASE_DEAD: &str = "delete from {dead} d where d.seq in (
    select o.seq from {dead} o
    where o.died_at <= pg_catalog.clock_timestamp() - $1::bigint * interval '1 microsecond'
    order by o.died_at limit $2::bigint for update of o skip locked
)";

const UNFINISHED: &str = "(m.handlers = '{}'
    or exists (select from {deliveries} d where d.message_seq = m.seq)
    or exists (select from {dead} d where d.message_seq = m.seq))";

/// Locks messages that seem to be finished, so that they are led to no other handler any more.
pub(super) const LOCK_FINISHED: [&str; 3] = [
    "select m.seq from {messages} m
where m.payload is not null and m.received_at <= pg_catalog.clock_timestamp() - $1::bigint * interval '1 microsecond'
  and not ",
    UNFINISHED,
    " order by m.received_at limit $2::bigint for update of m skip locked",
];

/// Looks again, now that they are locked: one of them may have been led elsewhere before it was.
pub(super) const ERASE_PAYLOADS: [&str; 2] = [
    "update {messages} m set payload = null, headers = '{}'
where m.seq = any($1::bigint[]) and m.payload is not null and not ",
    UNFINISHED,
];

/// Whose payload is erased is finished, and is led nowhere any more.
pub(super) const ERASE_IDS: &str = "delete from {messages} m where m.seq in (
    select o.seq from {messages} o
    where o.payload is null and o.received_at <= pg_catalog.clock_timestamp() - $1::bigint * interval '1 microsecond'
    order by o.received_at limit $2::bigint for update of o skip locked
)";
