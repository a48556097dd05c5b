use relaykit_inbox::{DeadFilter, DeadReason, InboxStore as _, RowId, Settlement, Waiting};
use relaykit_pipeline_traits::Clock as _;
use relaykit_sql_store::{Dying, Shard};

use crate::common::{Harness, SECOND, crm, mail, row};

#[tokio::test]
async fn each_row_becomes_what_was_decided_and_no_other_handlers_row() {
    let mut h = three().await;
    let settled = h.store.settle(&everything(&h)).await.unwrap();
    assert_eq!((settled.stale, settled.written), (vec![], 3));
    assert_eq!(h.ready(&crm()).await, [""; 0]);
    assert_eq!(h.ready(&mail()).await, ["1", "2", "3"]);
    assert_eq!(h.page(&crm()).await.next_due, Some(7 * SECOND));
    let dead = h.store.dead_letters(None, &DeadFilter::all(), 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].seq.0, dead[0].reason, dead[0].attempts), (5, DeadReason::Exhausted, 9));
    assert_eq!((dead[0].error.as_str(), dead[0].died_at), ("gave up", h.clock.now()));
    h.receive("star", "k", "4").await;
    assert_eq!(h.page(&crm()).await.rows[0].row, row(7), "a place is never given twice");
}

async fn three() -> Harness {
    let mut h = Harness::new().await;
    for payload in ["1", "2", "3"] {
        h.receive("push", payload, payload).await;
    }
    h
}

fn everything(h: &Harness) -> Settlement {
    let waiting = Waiting {
        row: row(3),
        attempts: 4,
        wait: 7 * SECOND,
        fresh: false,
        suspect: false,
        error: "later".into(),
    };
    let dying = Dying { row: row(5), attempts: 9, reason: DeadReason::Exhausted, error: "gave up".into() };
    Settlement { done: vec![row(1)], retry: vec![waiting], dead: vec![dying], ..h.settlement() }
}

#[tokio::test]
async fn what_was_settled_already_is_left_alone() {
    let h = three().await;
    h.store.settle(&everything(&h)).await.unwrap();
    let before = dump(&h);
    let settled = h.store.settle(&everything(&h)).await.unwrap();
    assert!(settled.stale.is_empty());
    assert_eq!(dump(&h), before);
    // However late it is repeated, the wait does not begin anew.
    h.clock.advance(5 * SECOND);
    h.store.settle(&everything(&h)).await.unwrap();
    assert_eq!(h.page(&crm()).await.next_due, Some(2 * SECOND));
}

fn dump(h: &Harness) -> Vec<String> {
    let columns = "select seq || ' ' || handler || attempts || ' ' || coalesce(retry_at, 0) || coalesce(last_error || first_failed_at, '') from inbox_deliveries
        union all select 'dead ' || seq || ' ' || handler || attempts || ' ' || reason || ' ' || error || died_at from inbox_dead order by 1";
    let mut select = h.application.prepare(columns).unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[tokio::test]
async fn what_is_settled_under_a_stale_token_settles_nothing() {
    let mut h = Harness::with_shards(2).await;
    for number in 0..20 {
        h.receive("star", &format!("k{number}"), "x").await;
    }
    let rows: Vec<RowId> = h.page(&crm()).await.rows.iter().map(|stored| stored.row).collect();
    let fresh = h.lose_leases().await;
    let leases = [h.leases[0], fresh[1]];
    let of = |shard| rows.iter().filter(|row| row.shard == Shard::new(shard)).count();
    assert!(of(0) > 0 && of(1) > 0);
    let waiting = |row: &RowId| Waiting {
        row: *row,
        attempts: 1,
        wait: SECOND,
        fresh: false,
        suspect: false,
        error: String::new(),
    };
    let dying =
        |row: &RowId| Dying { row: *row, attempts: 1, reason: DeadReason::Rejected, error: String::new() };
    let base = Settlement { leases: h.leases.clone(), ..Settlement::default() };
    let late = [
        Settlement { done: rows.clone(), ..base.clone() },
        Settlement { retry: rows.iter().map(waiting).collect(), ..base.clone() },
        Settlement { dead: rows.iter().map(dying).collect(), ..base },
    ];
    let before = dump(&h);
    for settlement in late {
        let settled = h.store.settle(&settlement).await.unwrap();
        assert_eq!((settled.stale, settled.written), (vec![Shard::new(0), Shard::new(1)], 0));
        assert_eq!(dump(&h), before);
    }
    let half = Settlement { leases: leases.to_vec(), done: rows.clone(), ..Settlement::default() };
    let settled = h.store.settle(&half).await.unwrap();
    assert_eq!((settled.stale, settled.written), (vec![Shard::new(0)], of(1) as u64));
    assert_eq!(h.page(&crm()).await.rows.len(), of(0));
}

#[tokio::test]
async fn the_first_failure_is_remembered_until_attempts_begin_anew() {
    let mut h = Harness::new().await;
    h.receive("star", "a", "1").await;
    for (attempts, fresh, failing_for) in [(1, false, 1), (2, false, 2), (1, true, 1)] {
        let retry = vec![Waiting {
            row: row(1),
            attempts,
            wait: SECOND,
            fresh,
            suspect: false,
            error: "again".into(),
        }];
        h.store.settle(&Settlement { retry, ..h.settlement() }).await.unwrap();
        h.clock.advance(SECOND);
        let stored = &h.page(&crm()).await.rows[0];
        assert_eq!((stored.attempts, stored.failing_for), (attempts, Some(failing_for * SECOND)));
    }
}
