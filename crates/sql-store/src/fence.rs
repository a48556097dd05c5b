/// The start of a statement that settles rows under leases: `with fence as (…)`, to be followed by more.
///
/// `$1` are the shards (`int[]`) and `$2` their tokens (`bigint[]`), position by position; `fence` has a row
/// for each pair that still holds. Its rows are locked until the transaction ends, so a shard cannot change its
/// owner between the look and the write: what a stale owner settles, settles nothing. Whoever takes a shard locks its row
/// `for update`, which waits for this lock; the owner's own heartbeat does not.
///
/// ```
/// use relaykit_sql_store::{FENCE, Names, Sql};
///
/// let names = Names::new("outbox")?;
/// let sql = Sql::new(&names, &[FENCE, "delete from {messages} m using fence f where m.shard = f.shard and m.id = any($3)"]);
/// # Ok::<(), relaykit_sql_store::InvalidIdent>(())
/// ```
pub const FENCE: &str = "with fence as (
    select s.shard, s.token
    from {shards} s
    join unnest($1::int[], $2::bigint[]) as mine(shard, token) on s.shard = mine.shard and s.token = mine.token
    order by s.shard
    for key share of s
) ";

/// An SQL expression for the shard of a key: append it after `(select`, with the key, as `bytea`, called `key` and
/// the number `shards` given.
///
/// It computes what [`Shards::of`](crate::Shards::of) does. For a key that is text, pass `convert_to(key, 'UTF8')`.
pub const SHARD_OF: &str = "(('x' || pg_catalog.encode(substring(pg_catalog.sha256(key) from 1 for 4), 'hex'))::bit(32)::bigint % {#shards})::int";

/// The same of a [head](crate::Shards::head), a `bigint` that is called `head`.
pub const SHARD_OF_HEAD: &str = "(head % {#shards})::int";
