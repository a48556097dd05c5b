use std::time::Duration;

use relaykit_outbox::{DeadFilter, DeadReason, Dying, OutboxStore, Settled, Settlement, Waiting};
use relaykit_sql_store::Lease;

use crate::common::{HOUR, Outbox, key, keyed, take_all, waiting};

#[tokio::test]
async fn what_was_sent_is_gone_and_the_rest_stays() {
    let Some(o) = Outbox::new().await else { return };
    let a = o.add_to("a", 3).await;
    let done = vec![o.row(&a[0]).await, o.row(&a[1]).await];
    let settlement = Settlement { done, ..o.settlement() };
    assert_eq!(o.settle(settlement.clone()).await, 2);
    assert_eq!(o.ids().await, [a[2].id()]);
    // The answer may have been lost.
    assert_eq!(o.settle(settlement).await, 0);
    assert_eq!(o.ids().await, [a[2].id()]);
    assert_eq!(o.store.settle(&o.settlement()).await.unwrap(), Settled::default());
    o.clean().await;
}

#[tokio::test]
async fn under_a_stale_token_nothing_of_its_shard_is_written() {
    let Some(o) = Outbox::new().await else { return };
    let [sent, failed, refused] = ["sent", "failed", "refused"].map(keyed);
    for message in [&sent, &failed, &refused] {
        o.add(message).await;
    }
    let mut settlement = Settlement {
        done: vec![o.row(&sent).await],
        retry: vec![waiting(o.row(&failed).await, 1, HOUR)],
        dead: vec![Dying {
            row: o.row(&refused).await,
            attempts: 1,
            reason: DeadReason::Rejected,
            error: String::new(),
        }],
        ..o.settlement()
    };
    // Another has taken all shards, since the leases have run out.
    o.db.execute("update {shards} set until = now() - interval '1 second'").await;
    let theirs = take_all(&o.store).await;
    assert_eq!(theirs.len(), 4);
    let all: Vec<_> = o.leases.iter().map(|lease| lease.shard).collect();
    let settled = o.store.settle(&settlement).await.unwrap();
    assert_eq!(settled, Settled { stale: all.clone(), ..Settled::default() });
    assert_eq!(o.ids().await.len(), 3);
    assert_eq!(o.number("select count(*) from {dead}").await, 0);

    // Of several leases, one may hold.
    let shard = settlement.done[0].shard;
    let newer = |lease: &Lease| *theirs.iter().find(|other| other.shard == lease.shard).unwrap();
    for lease in settlement.leases.iter_mut().filter(|lease| lease.shard == shard) {
        *lease = newer(lease);
    }
    let of_shard =
        settlement.retry.iter().map(|row| row.row).chain(settlement.dead.iter().map(|row| row.row));
    let written = 1 + of_shard.filter(|row| row.shard == shard).count() as u64;
    let settled = o.store.settle(&settlement).await.unwrap();
    let stale: Vec<_> = all.into_iter().filter(|other| *other != shard).collect();
    assert_eq!(settled, Settled { stale, written, waited: Vec::new() });
    assert!(!o.ids().await.contains(&sent.id()));
    o.clean().await;
}

/// The lease is taken while the settlement waits for the row of the shard.
#[tokio::test]
async fn a_lease_that_is_taken_meanwhile_counts_as_lost() {
    let Some(o) = Outbox::new().await else { return };
    let a = keyed("a");
    o.add(&a).await;
    let row = o.row(&a).await;
    let mut taker = o.connection().await;
    let mut tx = sqlx::Connection::begin(&mut taker).await.unwrap();
    // As a taker does: it locks the rows first.
    for take in ["select from {shards} for update", "update {shards} set token = token + 1"] {
        let take = relaykit_sql_store::Sql::new(&o.db.names("t"), &[take]);
        sqlx::query(take).execute(&mut *tx).await.unwrap();
    }
    let (store, settlement) = (o.store.clone(), Settlement { done: vec![row], ..o.settlement() });
    let settling = tokio::spawn(async move { store.settle(&settlement).await });
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name = trim('\"' from '{@schema}')";
    while o.number(waits).await == 0 {
        assert!(!settling.is_finished(), "it did not wait");
    }
    tx.commit().await.unwrap();
    let settled = settling.await.unwrap().unwrap();
    assert_eq!((settled.stale.len(), settled.written), (4, 0));
    assert_eq!(o.ids().await, [a.id()]);
    o.clean().await;
}

/// A settlement on its way keeps nobody from renewing the lease, and everybody from taking the shard.
#[tokio::test]
async fn a_settlement_does_not_hold_up_its_owners_heartbeat() {
    use relaykit_sql_store::LeaseStore as _;

    let Some(o) = Outbox::new().await else { return };
    let mut settler = o.connection().await;
    let mut tx = sqlx::Connection::begin(&mut settler).await.unwrap();
    let fence = relaykit_sql_store::Sql::new(
        &o.db.names("t"),
        &[relaykit_sql_store::FENCE, "select count(*) from fence"],
    );
    let shards: Vec<i32> = o.leases.iter().map(|lease| lease.shard.number().into()).collect();
    let tokens: Vec<i64> = o.leases.iter().map(|lease| lease.token).collect();
    let held: i64 = sqlx::query_scalar(fence).bind(shards).bind(tokens).fetch_one(&mut *tx).await.unwrap();
    assert_eq!(held, 4);
    // Were it to wait for the settlement, this would end in a timeout.
    o.db.execute("set lock_timeout = '2s'; update {shards} set until = until").await;
    let clock = relaykit_pipeline_traits::SystemClock::new();
    let other = relaykit_sql_store::Instance::new(
        relaykit_pipeline_traits::Clock::now(&clock),
        &mut relaykit_pipeline_traits::Rng::from_entropy(),
    );
    o.db.execute("update {shards} set until = '-infinity'").await;
    let all: Vec<_> = o.leases.iter().map(|lease| lease.shard).collect();
    let taken = o.store.leases().take(other, Duration::from_secs(30), &all).await.unwrap();
    assert_eq!(taken, [], "nobody takes a shard while its owner settles");
    tx.commit().await.unwrap();
    let taken = o.store.leases().take(other, Duration::from_secs(30), &all).await.unwrap();
    assert_eq!(taken.len(), 4);
    o.clean().await;
}

#[tokio::test]
async fn rows_without_a_lease_of_their_shard_are_left_alone() {
    let Some(o) = Outbox::new().await else { return };
    let a = keyed("a");
    o.add(&a).await;
    let row = o.row(&a).await;
    let leases = o.leases.iter().copied().filter(|lease| lease.shard != row.shard).collect();
    let settled = o.store.settle(&Settlement { leases, done: vec![row], ..Settlement::default() }).await;
    assert_eq!(settled.unwrap(), Settled::default());
    assert_eq!(o.ids().await, [a.id()]);
    o.clean().await;
}

#[tokio::test]
async fn a_failed_row_keeps_when_it_failed_first_and_what_was_said_last() {
    let Some(o) = Outbox::new().await else { return };
    let a = keyed("a");
    o.add(&a).await;
    o.retry(&a, 1, Duration::ZERO).await;
    let first = o.page().await.rows[0].failing_for.unwrap();
    let row = o.row(&a).await;
    let long = format!("\0{}", "ü".repeat(5000));
    let retry = vec![Waiting { error: long, ..waiting(row, 2, Duration::ZERO) }];
    assert_eq!(o.settle(Settlement { retry, ..o.settlement() }).await, 1);
    let stored = &o.page().await.rows[0];
    assert_eq!(stored.attempts, 2);
    assert!(stored.failing_for.unwrap() > first);
    assert_eq!(o.number("select octet_length(last_error) from {messages}").await, 4095);
    assert_eq!(o.number("select (first_failed_at < last_failed_at)::int from {messages}").await, 1);

    let fresh = vec![Waiting { fresh: true, ..waiting(row, 1, HOUR) }];
    let settlement = Settlement { retry: fresh, ..o.settlement() };
    assert_eq!(o.settle(settlement.clone()).await, 1);
    assert_eq!(o.number("select (first_failed_at = last_failed_at)::int from {messages}").await, 1);
    // Said again, it does not begin to wait anew.
    assert_eq!(o.settle(settlement).await, 0);
    o.clean().await;
}

#[tokio::test]
async fn a_row_that_was_parked_on_its_way_stays_parked() {
    let Some(o) = Outbox::new().await else { return };
    let a = keyed("a");
    o.add(&a).await;
    let row = o.row(&a).await;
    o.store.park(&key("a")).await.unwrap();
    let settlement = Settlement { retry: vec![waiting(row, 1, Duration::ZERO)], ..o.settlement() };
    assert_eq!(o.settle(settlement.clone()).await, 1);
    assert_eq!(o.settle(settlement).await, 0);
    let blocked = o.store.blocked(10).await.unwrap();
    assert_eq!(
        (blocked[0].due_in, blocked[0].attempts, blocked[0].error.as_deref()),
        (None, 1, Some("busy"))
    );
    o.clean().await;
}

#[tokio::test]
async fn a_dead_row_moves_with_all_that_is_known() {
    let Some(o) = Outbox::new().await else { return };
    let a = keyed("a");
    o.add(&a).await;
    o.retry(&a, 2, Duration::ZERO).await;
    let row = o.row(&a).await;
    let dead = vec![Dying { row, attempts: 3, reason: DeadReason::Exhausted, error: "no\0".to_owned() }];
    let settlement = Settlement { dead, ..o.settlement() };
    assert_eq!(o.settle(settlement.clone()).await, 1);
    assert_eq!(o.settle(settlement).await, 0);
    assert_eq!(o.ids().await, []);
    let letters = o.store.dead_letters(&DeadFilter::all(), 10).await.unwrap();
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!(letter.message.as_ref(), Some(&a));
    assert_eq!((letter.seq, letter.attempts, letter.reason), (row.seq, 3, DeadReason::Exhausted));
    assert_eq!(letter.error, "no\u{fffd}");
    assert!(letter.added_at < letter.first_failed_at.unwrap());
    assert!(letter.first_failed_at.unwrap() < letter.died_at);
    let depth = o.store.depth().await.unwrap();
    assert_eq!((depth.pending, depth.oldest, depth.dead), (0, None, 1));
    o.clean().await;
}

#[tokio::test]
async fn depth_counts_what_waits_and_how_long() {
    let Some(o) = Outbox::new().await else { return };
    o.add_to("a", 3).await;
    o.db.execute("update {messages} set added_at = now() - interval '1 hour' where seq = 2").await;
    let depth = o.store.depth().await.unwrap();
    assert_eq!((depth.pending, depth.dead), (3, 0));
    assert!((HOUR..HOUR * 2).contains(&depth.oldest.unwrap()));
    o.clean().await;
}
