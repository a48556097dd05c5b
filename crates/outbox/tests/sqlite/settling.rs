use relaykit_outbox::{DeadFilter, DeadReason, Dying, OutboxStore as _, RowId, Settlement, Waiting};
use relaykit_pipeline_traits::Clock as _;
use relaykit_sql_store::{Instance, Lease, LeaseStore as _, Shard};

use crate::common::{Harness, SECOND, key, row};

#[tokio::test]
async fn each_row_becomes_what_was_decided() {
    let mut h = Harness::new().await;
    for payload in ["1", "2", "3"] {
        h.add(payload, payload);
    }
    let settled = h.store.settle(&everything(&h)).await.unwrap();
    assert_eq!((settled.stale, settled.written), (vec![], 3));
    assert_eq!(h.ready().await, [""; 0]);
    assert_eq!(h.page().await.next_due, Some(7 * SECOND));
    let dead = h.store.dead_letters(&DeadFilter::all(), 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].seq.0, dead[0].reason, dead[0].attempts), (3, DeadReason::Exhausted, 9));
    assert_eq!((dead[0].error.as_str(), dead[0].died_at), ("gave up", h.clock.now()));
}

fn everything(h: &Harness) -> Settlement {
    Settlement {
        done: vec![row(1)],
        retry: vec![Waiting {
            row: row(2),
            attempts: 4,
            wait: 7 * SECOND,
            fresh: false,
            suspect: false,
            error: "later".into(),
        }],
        dead: vec![Dying {
            row: row(3),
            attempts: 9,
            reason: DeadReason::Exhausted,
            error: "gave up".into(),
        }],
        ..h.settlement()
    }
}

#[tokio::test]
async fn what_was_settled_already_is_left_alone() {
    let mut h = Harness::new().await;
    for payload in ["1", "2", "3"] {
        h.add(payload, payload);
    }
    h.store.settle(&everything(&h)).await.unwrap();
    let before = dump(&h);
    let settled = h.store.settle(&everything(&h)).await.unwrap();
    assert!(settled.stale.is_empty());
    assert_eq!(dump(&h), before);
    // However late it is repeated, the wait does not begin anew.
    h.clock.advance(5 * SECOND);
    h.store.settle(&everything(&h)).await.unwrap();
    assert_eq!(h.page().await.next_due, Some(2 * SECOND));
}

fn dump(h: &Harness) -> Vec<String> {
    let columns = "select seq || ' ' || attempts || ' ' || coalesce(retry_at, 0) || ' ' || last_error || first_failed_at from outbox_messages
        union all select 'dead ' || seq || ' ' || attempts || ' ' || reason || ' ' || error || died_at from outbox_dead order by 1";
    let mut select = h.application.prepare(columns).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn what_is_settled_under_a_stale_token_settles_nothing() {
    let mut h = Harness::with_shards(2).await;
    let mut numbers = 0_u32..;
    // Some messages in each shard.
    while h
        .page()
        .await
        .rows
        .iter()
        .map(|stored| stored.row.shard)
        .collect::<std::collections::BTreeSet<_>>()
        .len()
        < 2
    {
        h.add(&format!("k{}", numbers.next().unwrap()), "x");
    }
    let rows: Vec<RowId> = h.page().await.rows.iter().map(|stored| stored.row).collect();
    h.clock.advance(2_000 * SECOND);
    let other = Instance::new(h.clock.now(), &mut h.rng);
    let taken = h.store.leases().take(other, SECOND, &[Shard::new(1)]).await.unwrap();
    assert_eq!(taken, [Lease { shard: Shard::new(1), token: 2 }]);
    let all = |leases: &[Lease]| Settlement {
        leases: leases.to_vec(),
        done: rows.clone(),
        ..Settlement::default()
    };
    let settled = h.store.settle(&all(&h.leases)).await.unwrap();
    let of = |shard| rows.iter().filter(|row| row.shard == Shard::new(shard)).count();
    assert_eq!(settled.stale, [Shard::new(1)]);
    assert_eq!(settled.written, of(0) as u64);
    assert_eq!(h.page().await.rows.len(), of(1));
    let retry = vec![Waiting {
        row: *rows.last().unwrap(),
        attempts: 1,
        wait: SECOND,
        fresh: false,
        suspect: false,
        error: String::new(),
    }];
    let dead = vec![Dying {
        row: *rows.last().unwrap(),
        attempts: 1,
        reason: DeadReason::Rejected,
        error: String::new(),
    }];
    let late = Settlement { leases: h.leases.clone(), retry, dead, ..Settlement::default() };
    assert_eq!(h.store.settle(&late).await.unwrap().written, 0);
    assert_eq!(
        h.store.settle(&all(&[])).await.unwrap().stale,
        [Shard::new(0), Shard::new(1)],
        "no lease at all"
    );
    assert_eq!(h.page().await.rows.len(), of(1));
    assert_eq!(h.store.settle(&all(&taken)).await.unwrap().written, of(1) as u64);
    assert_eq!(h.ready().await, [""; 0]);
}

#[tokio::test]
async fn a_row_is_settled_in_its_own_shard_only() {
    let mut h = Harness::with_shards(2).await;
    h.add("a", "1");
    let right = h.page().await.rows[0].row;
    let wrong = RowId { shard: Shard::new(1 - right.shard.number()), ..right };
    let settlement = Settlement { done: vec![wrong], ..h.settlement() };
    assert_eq!(h.store.settle(&settlement).await.unwrap().written, 0);
    assert_eq!(h.ready().await, ["1"]);
}

#[tokio::test]
async fn the_first_failure_is_remembered_until_attempts_begin_anew() {
    let mut h = Harness::new().await;
    h.add("a", "1");
    let failing_for = async |h: &Harness| h.page().await.rows[0].failing_for;
    h.retry(1, 1, SECOND).await;
    h.clock.advance(SECOND);
    assert_eq!(failing_for(&h).await, Some(SECOND));
    h.retry(1, 2, SECOND).await;
    h.clock.advance(SECOND);
    assert_eq!(failing_for(&h).await, Some(2 * SECOND));
    let retry = vec![Waiting {
        row: row(1),
        attempts: 1,
        wait: SECOND,
        fresh: true,
        suspect: false,
        error: "again".into(),
    }];
    h.store.settle(&Settlement { retry, ..h.settlement() }).await.unwrap();
    h.clock.advance(SECOND);
    assert_eq!(failing_for(&h).await, Some(SECOND));
}

#[tokio::test]
async fn a_long_error_is_cut() {
    let mut h = Harness::new().await;
    h.add("a", "1");
    let error = format!("x{}", "ü".repeat(4096));
    let retry = vec![Waiting { row: row(1), attempts: 1, wait: SECOND, fresh: false, suspect: false, error }];
    h.store.settle(&Settlement { retry, ..h.settlement() }).await.unwrap();
    let kept = h.store.blocked(1).await.unwrap()[0].error.clone().unwrap();
    assert_eq!(kept.len(), 4095, "a character is not cut in two");
}

#[tokio::test]
async fn a_key_that_is_parked_while_its_message_is_sent_stays_parked() {
    let mut h = Harness::new().await;
    h.add("a", "1");
    h.store.park(&key("a")).await.unwrap();
    h.retry(1, 1, SECOND).await;
    h.clock.advance(2 * SECOND);
    assert_eq!(h.ready().await, [""; 0]);
    assert_eq!(h.store.blocked(1).await.unwrap()[0].attempts, 1);
}
