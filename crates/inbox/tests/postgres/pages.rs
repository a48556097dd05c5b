use std::time::Duration;

use relaykit_inbox::{
    DeadFilter, DeadReason, InboxStore, OpenTransactions, ReadFrom, Seq, Settled, Settlement, Waiting,
};
use relaykit_sql_store::{Dying, Lease, Suspicion};
use sqlx::Connection;

use crate::common::{
    HOUR, Inbox, WAITS, from_the_beginning, handler, ids, keyed, message, on_page, scope, shards, take_all,
    waiting,
};

#[tokio::test]
async fn a_delivery_that_waits_holds_the_later_ones_of_its_key_and_ordered_handler_alone() {
    let Some(i) = Inbox::new().await else { return };
    let a = i.receive_of("a", 3).await;
    let b = i.receive_of("b", 1).await;
    let bare: Vec<_> = [(); 2].map(|()| message("push").build().unwrap()).into();
    i.receive(&bare).await;
    for key in ["crm", "mail"] {
        i.retry(key, &a[1], 1, HOUR).await;
        i.retry(key, &bare[0], 1, HOUR).await;
    }
    let sorted = |mut ids: Vec<_>| {
        ids.sort();
        ids
    };
    assert_eq!(sorted(i.ids("crm").await), sorted(ids([&a[0], &b[0], &bare[1]])));
    assert_eq!(sorted(i.ids("mail").await), sorted(ids([&a[0], &a[2], &b[0], &bare[1]])));

    i.let_waits_end().await;
    let page = i.page("crm").await;
    assert_eq!(page.rows.len(), 6);
    let retried = page.rows.iter().find(|stored| stored.message.id() == a[1].id()).unwrap();
    assert_eq!((retried.attempts, retried.waited, retried.failing_for.is_some()), (1, true, true));
    // One that is due but lies before the place from which the shard is read holds them as well.
    let from = ReadFrom { shard: retried.row.shard, after: retried.row.seq };
    let behind = i.store.page(&handler("crm"), &[from], &OpenTransactions::default(), 10).await.unwrap();
    assert!(!behind.rows.iter().any(|row| row.message.id() == a[2].id()));
    assert!(behind.due.contains(&retried.row) || behind.due[0].seq < retried.row.seq);
    let behind = i.store.page(&handler("mail"), &[from], &OpenTransactions::default(), 10).await.unwrap();
    assert!(behind.rows.iter().any(|row| row.message.id() == a[2].id()));
    i.clean().await;
}

#[tokio::test]
async fn what_one_handler_does_not_get_done_holds_up_no_other() {
    let Some(i) = Inbox::new().await else { return };
    let a = i.receive_of("a", 2).await;
    i.kill("crm", &a[0], DeadReason::Rejected).await;
    i.retry("crm", &a[1], 1, HOUR).await;
    assert_eq!((i.ids("crm").await, i.ids("mail").await), (vec![], ids(&a)));
    assert_eq!(i.page("mail").await.next_due, None);
    assert!(i.page("crm").await.next_due.unwrap() <= HOUR);
    i.finish("mail", &a[0]).await;
    assert_eq!(i.ids("mail").await, [a[1].id()]);
    let (crm, mail) =
        (i.store.depth(&handler("crm")).await.unwrap(), i.store.depth(&handler("mail")).await.unwrap());
    assert_eq!((crm.pending, crm.dead, mail.pending, mail.dead), (1, 1, 1, 0));
    i.clean().await;
}

#[tokio::test]
async fn due_is_the_first_of_a_shard_whose_wait_is_over_and_that_nobody_holds() {
    let Some(i) = Inbox::new().await else { return };
    assert_eq!((i.page("crm").await.due, i.page("crm").await.next_due), (vec![], None));
    let a = i.receive_of("a", 3).await;
    i.retry("crm", &a[0], 1, HOUR).await;
    i.retry("crm", &a[1], 1, Duration::ZERO).await;
    assert_eq!(i.page("crm").await.due, []);
    i.let_waits_end().await;
    let first = i.row("crm", &a[0]).await;
    let far = ReadFrom { shard: first.shard, after: Seq(i64::MAX) };
    let page = i.store.page(&handler("crm"), &[far], &OpenTransactions::default(), 10).await.unwrap();
    assert_eq!((page.rows.len(), page.due, page.next_due), (0, vec![first], None));
    i.clean().await;
}

#[tokio::test]
async fn a_page_reads_each_shard_behind_its_place_up_to_its_limit() {
    let Some(i) = Inbox::new().await else { return };
    let messages: Vec<_> = (0..200).map(|n| keyed(&format!("key-{n}"))).collect();
    i.receive(&messages).await;
    let rows: Vec<_> = i.page("mail").await.rows.iter().map(|stored| stored.row).collect();
    assert_eq!(rows.len(), 200);
    assert!(rows.is_sorted());
    let page =
        i.store.page(&handler("mail"), &from_the_beginning(), &OpenTransactions::default(), 7).await.unwrap();
    for shard in shards().all() {
        let of_shard: Vec<_> = rows.iter().filter(|row| row.shard == shard).copied().collect();
        let told: Vec<_> = page.rows.iter().map(|row| row.row).filter(|row| row.shard == shard).collect();
        assert_eq!(told, of_shard[..7]);
        let from = ReadFrom { shard, after: of_shard[6].seq };
        let next = i.store.page(&handler("mail"), &[from], &OpenTransactions::default(), 7).await.unwrap();
        assert_eq!(next.rows.iter().map(|row| row.row).collect::<Vec<_>>(), of_shard[7..14]);
    }
    assert_eq!(i.store.page(&handler("mail"), &[], &OpenTransactions::default(), 7).await.unwrap().rows, []);
    assert_eq!(
        i.store
            .page(&handler("nobody"), &from_the_beginning(), &OpenTransactions::default(), 7)
            .await
            .unwrap()
            .rows,
        []
    );
    i.clean().await;
}

/// The transaction with the higher number (xid) has the lower place, and outlives the other.
#[tokio::test]
async fn a_delivery_that_comes_late_is_on_the_next_page_wherever_that_begins() {
    let Some(i) = Inbox::new().await else { return };
    let (mut old, mut young) = (i.connection().await, i.connection().await);
    let (first, second, third) = (keyed("k"), keyed("k"), keyed("k"));
    let mut older = old.begin().await.unwrap();
    sqlx::query("select pg_current_xact_id()").execute(&mut *older).await.unwrap();
    let mut younger = young.begin().await.unwrap();
    i.inbox.receive(&mut younger, &scope(), &first).await.unwrap();
    i.inbox.receive(&mut older, &scope(), &second).await.unwrap();
    older.commit().await.unwrap();

    let mut open = OpenTransactions::default();
    let page = i.page_behind("crm", Seq(0), &mut open).await;
    assert_eq!(on_page(&page), [second.id()]);
    let seen = page.rows[0].row.seq;
    assert!(!on_page(&i.page_behind("crm", seen, &mut open).await).contains(&first.id()));
    younger.commit().await.unwrap();
    i.receive(std::slice::from_ref(&third)).await;
    let page = i.page_behind("crm", seen, &mut open).await;
    assert!(page.snapshot.from.is_some_and(|from| from < seen), "{page:?}");
    assert_eq!(on_page(&page), [first.id(), second.id(), third.id()]);
    i.clean().await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named_and_holds_up_no_other() {
    let Some(i) = Inbox::new().await else { return };
    let (broken, erased, good) = (keyed("one"), keyed("two"), keyed("three"));
    for message in [&broken, &erased, &good] {
        i.receive(std::slice::from_ref(message)).await;
    }
    i.db.execute("update {messages} set headers = 'no json' where ordering_key = 'one'").await;
    i.db.execute("update {messages} set payload = null where ordering_key = 'two'").await;
    let page = i.page("mail").await;
    assert_eq!(page.rows.iter().map(|row| row.message.id()).collect::<Vec<_>>(), [good.id()]);
    let mut rows: Vec<_> = page.unreadable.iter().map(|row| row.row).collect();
    rows.sort();
    let mut expected = [i.row("mail", &broken).await, i.row("mail", &erased).await];
    expected.sort();
    assert_eq!(rows, expected);
    i.clean().await;
}

#[tokio::test]
async fn what_is_written_may_be_written_again() {
    let Some(i) = Inbox::new().await else { return };
    let a = i.receive_of("a", 3).await;
    let rows = [i.row("crm", &a[0]).await, i.row("crm", &a[1]).await, i.row("crm", &a[2]).await];
    let settlement = Settlement {
        done: vec![rows[0]],
        retry: vec![waiting(rows[1], 1, HOUR)],
        dead: vec![Dying {
            row: rows[2],
            attempts: 2,
            reason: DeadReason::Exhausted,
            error: "no".to_owned(),
        }],
        ..i.settlement()
    };
    assert_eq!(i.settle(settlement.clone()).await, 3);
    assert_eq!(i.settle(settlement).await, 0);
    assert_eq!((i.ids("crm").await, i.ids("mail").await), (vec![], ids(&a)));
    assert_eq!(i.store.settle(&i.settlement()).await.unwrap(), Settled::default());
    let again = vec![waiting(rows[1], 2, Duration::ZERO)];
    assert_eq!(i.settle(Settlement { retry: again, ..i.settlement() }).await, 1);
    let stored = &i.page("crm").await.rows[0];
    assert_eq!((stored.attempts, stored.row), (2, rows[1]));
    i.clean().await;
}

#[tokio::test]
async fn under_a_stale_token_nothing_of_its_shard_is_written() {
    let Some(i) = Inbox::new().await else { return };
    let [done, failed, refused] = ["done", "failed", "refused"].map(keyed);
    i.receive(&[done.clone(), failed.clone(), refused.clone()]).await;
    let mut settlement = Settlement {
        done: vec![i.row("crm", &done).await],
        retry: vec![waiting(i.row("crm", &failed).await, 1, HOUR)],
        dead: vec![Dying {
            row: i.row("crm", &refused).await,
            attempts: 1,
            reason: DeadReason::Rejected,
            error: String::new(),
        }],
        ..i.settlement()
    };
    // Another has taken all shards, since the leases have run out.
    i.db.execute("update {shards} set until = now() - interval '1 second'").await;
    let theirs = take_all(&i.store).await;
    let all: Vec<_> = i.leases.iter().map(|lease| lease.shard).collect();
    assert_eq!(
        i.store.settle(&settlement).await.unwrap(),
        Settled { stale: all.clone(), ..Settled::default() }
    );
    assert_eq!(i.ids("crm").await.len(), 3);

    // Of several leases, one may hold.
    let shard = settlement.done[0].shard;
    for lease in settlement.leases.iter_mut().filter(|lease| lease.shard == shard) {
        *lease = *theirs.iter().find(|other| other.shard == shard).unwrap();
    }
    let settled = i.store.settle(&settlement).await.unwrap();
    assert_eq!(settled.stale, all.into_iter().filter(|other| *other != shard).collect::<Vec<_>>());
    assert!(settled.written >= 1 && !i.ids("crm").await.contains(&done.id()));
    // Without a lease of its shard, a row is left alone.
    let settlement = Settlement { leases: vec![], ..settlement };
    assert_eq!(i.store.settle(&settlement).await.unwrap(), Settled::default());
    i.clean().await;
}

/// The lease is taken while the settlement waits for the row of the shard.
#[tokio::test]
async fn a_lease_that_is_taken_meanwhile_counts_as_lost() {
    let Some(i) = Inbox::new().await else { return };
    let a = i.receive_of("a", 1).await;
    let mut taker = i.connection().await;
    let mut tx = taker.begin().await.unwrap();
    for take in ["select from {shards} for update", "update {shards} set token = token + 1"] {
        let take = relaykit_sql_store::Sql::new(&i.db.names("t"), &[take]);
        sqlx::query(take).execute(&mut *tx).await.unwrap();
    }
    let (store, settlement) =
        (i.store.clone(), Settlement { done: vec![i.row("crm", &a[0]).await], ..i.settlement() });
    let settling = tokio::spawn(async move { store.settle(&settlement).await });
    while i.number(WAITS).await == 0 {
        assert!(!settling.is_finished(), "it did not wait");
    }
    tx.commit().await.unwrap();
    let settled = settling.await.unwrap().unwrap();
    assert_eq!((settled.stale.len(), settled.written), (4, 0));
    assert_eq!(i.ids("crm").await, ids(&a));
    i.clean().await;
}

#[tokio::test]
async fn depth_tells_how_long_the_oldest_waits() {
    let Some(i) = Inbox::new().await else { return };
    let a = i.receive_of("a", 3).await;
    i.db.execute("update {messages} set received_at = now() - interval '1 hour' where seq = 1").await;
    let depth = i.store.depth(&handler("crm")).await.unwrap();
    assert_eq!((depth.pending, depth.dead), (3, 0));
    assert!((HOUR..HOUR * 2).contains(&depth.oldest.unwrap()));
    assert!(i.page("crm").await.rows[0].age >= HOUR);
    i.finish("crm", &a[0]).await;
    assert!(i.store.depth(&handler("crm")).await.unwrap().oldest.unwrap() < HOUR);
    assert_eq!(i.store.depth(&handler("nobody")).await.unwrap(), relaykit_inbox::Depth::default());
    i.clean().await;
}

#[tokio::test]
async fn what_is_noted_of_a_delivery_is_read_again_and_gone_once_it_is_replayed() {
    let Some(i) = Inbox::new().await else { return };
    let a = i.receive_of("a", 2).await;
    let row = i.row("crm", &a[0]).await;
    for noted in [Suspicion::Alone, Suspicion::Company, Suspicion::Clear, Suspicion::Alone] {
        assert_eq!(i.store.suspect(&i.leases, &[row], noted).await.unwrap().written, 1);
        let page = i.page("crm").await;
        assert_eq!(page.rows.iter().map(|row| row.suspicion).collect::<Vec<_>>(), [noted, Suspicion::Clear]);
    }
    assert_eq!(i.page("mail").await.rows[0].suspicion, Suspicion::Clear);
    let stale = Lease { token: 0, ..*i.leases.iter().find(|lease| lease.shard == row.shard).unwrap() };
    let settled = i.store.suspect(&[stale], &[row], Suspicion::Clear).await.unwrap();
    assert_eq!(settled, Settled { stale: vec![row.shard], ..Settled::default() });
    let retry = vec![Waiting { suspect: true, ..waiting(row, 1, Duration::ZERO) }];
    assert_eq!(i.settle(Settlement { retry, ..i.settlement() }).await, 1);
    assert_eq!(i.page("crm").await.rows[0].suspicion, Suspicion::Company);
    i.kill("crm", &a[0], DeadReason::Exhausted).await;
    i.store.replay(None, &DeadFilter::all(), 1).await.unwrap();
    assert_eq!(i.page("crm").await.rows[0].suspicion, Suspicion::Clear);
    i.clean().await;
}
