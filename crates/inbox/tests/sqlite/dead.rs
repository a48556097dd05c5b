use relaykit_inbox::{DeadFilter, DeadLetter, DeadReason, InboxStore as _, Seq};
use relaykit_pipeline_traits::Clock as _;

use crate::common::{Harness, SECOND, crm, github, key, mail};

async fn letters(h: &Harness, filter: DeadFilter) -> Vec<i64> {
    h.store.dead_letters(None, &filter, 100).await.unwrap().iter().map(|letter| letter.seq.0).collect()
}

/// Places 1, 3, 5, 7 of one handler, and 2, 4, 6, 8 of the other.
async fn four() -> Harness {
    let mut h = Harness::new().await;
    for (key, payload) in [("a", "1"), ("b", "2"), ("a", "3"), ("", "4")] {
        h.receive("push", key, payload).await;
    }
    h
}

#[tokio::test]
async fn a_dead_letter_tells_everything() {
    let mut h = Harness::new().await;
    let received_at = h.clock.now();
    let message = h.receive("star", "a", "1").await;
    h.clock.advance(SECOND);
    let failed_at = h.clock.now();
    h.retry(1, 1, SECOND).await;
    h.clock.advance(SECOND);
    h.kill(1, DeadReason::Rejected).await;
    let letter = DeadLetter::new(
        Seq(1),
        crm().handler,
        github(),
        message.id(),
        Some(message),
        DeadReason::Rejected,
        "rejected for good".into(),
        3,
        received_at,
        Some(failed_at),
        h.clock.now(),
    );
    assert_eq!(h.store.dead_letters(None, &DeadFilter::all(), 10).await.unwrap(), [letter]);
}

#[tokio::test]
async fn dead_letters_are_found_by_their_handler_and_everything_a_filter_says() {
    let h = four().await;
    let ids: Vec<_> = h.page(&crm()).await.rows.iter().map(|stored| stored.message.id()).collect();
    for seq in [1, 2, 3, 5] {
        h.kill(seq, if seq < 3 { DeadReason::Rejected } else { DeadReason::Exhausted }).await;
    }
    h.application
        .execute_batch("update inbox_messages set kind = 'other' where seq = 2; update inbox_dead set reason = 'novel' where seq = 5")
        .unwrap();
    assert_eq!(letters(&h, DeadFilter::all()).await, [1, 2, 3, 5]);
    assert_eq!(letters(&h, DeadFilter::all().after(Seq(2))).await, [3, 5]);
    assert_eq!(letters(&h, DeadFilter::all().kind("other")).await, [3]);
    assert_eq!(letters(&h, DeadFilter::all().key(key("a"))).await, [1, 2, 5]);
    assert_eq!(letters(&h, DeadFilter::all().reason(DeadReason::Rejected)).await, [1, 2]);
    assert_eq!(letters(&h, DeadFilter::all().reason(DeadReason::Unknown)).await, [5]);
    assert_eq!(letters(&h, DeadFilter::all().ids([ids[2], ids[0], ids[3]])).await, [1, 2, 5]);
    assert_eq!(letters(&h, DeadFilter::all().ids([])).await, [0; 0]);
    let mails = h.store.dead_letters(Some(&mail().handler), &DeadFilter::all(), 10).await.unwrap();
    assert_eq!(mails.iter().map(|letter| letter.seq.0).collect::<Vec<_>>(), [2]);
    let page = h.store.dead_letters(Some(&crm().handler), &DeadFilter::all().after(Seq(1)), 1).await.unwrap();
    assert_eq!(page.iter().map(|letter| letter.seq.0).collect::<Vec<_>>(), [3]);
    for limit in [0, 1_001] {
        assert!(h.store.dead_letters(None, &DeadFilter::all(), limit).await.is_err());
    }
}

#[tokio::test]
async fn a_replayed_letter_takes_its_old_place_and_is_due_to_its_handler_alone() {
    let mut h = four().await;
    let id = h.page(&crm()).await.rows[0].message.id();
    h.clock.advance(SECOND);
    h.retry(1, 2, SECOND).await;
    for seq in [1, 2, 3] {
        h.kill(seq, DeadReason::Exhausted).await;
    }
    assert_eq!(h.ready(&crm()).await, ["3", "4"]);
    assert_eq!(h.store.replay(Some(&crm().handler), &DeadFilter::all(), 1).await.unwrap(), [id]);
    let page = h.page_after(&crm(), 7, 10).await;
    assert_eq!(page.due.iter().map(|row| row.seq).collect::<Vec<_>>(), [Seq(1)]);
    assert_eq!(
        (h.ready(&crm()).await, h.ready(&mail()).await),
        (["1", "3", "4"].map(String::from).into(), ["2", "3", "4"].map(String::from).into())
    );
    let stored = &h.page(&crm()).await.rows[0];
    assert_eq!((stored.attempts, stored.failing_for, stored.waited, stored.age), (0, None, true, SECOND));
    assert_eq!(letters(&h, DeadFilter::all()).await, [2, 3]);
    h.retry(1, 1, SECOND).await;
    assert_eq!(h.ready(&crm()).await, ["4"], "it holds its key again");
    h.receive("star", "a", "5").await;
    h.clock.advance(SECOND);
    assert_eq!(h.page(&crm()).await.rows.last().unwrap().row.seq, Seq(9), "replays give no place away");
}

#[tokio::test]
async fn a_letter_that_cannot_be_read_stays() {
    let h = four().await;
    let third = h.page(&crm()).await.rows[2].message.id();
    for seq in [1, 5] {
        h.kill(seq, DeadReason::Rejected).await;
    }
    h.application.execute_batch("update inbox_messages set headers = '[]' where seq = 1").unwrap();
    let list = h.store.dead_letters(None, &DeadFilter::all(), 1).await.unwrap();
    assert!(list[0].message.is_none() && list[0].seq == Seq(1));
    assert_eq!(h.store.replay(None, &DeadFilter::all(), 1).await.unwrap(), [third], "it does not count");
    assert_eq!(letters(&h, DeadFilter::all()).await, [1]);
}

#[tokio::test]
async fn purged_letters_are_gone_the_first_first() {
    let h = four().await;
    for seq in [1, 2, 3, 5] {
        h.kill(seq, DeadReason::Rejected).await;
    }
    assert_eq!(h.store.purge(Some(&crm().handler), &DeadFilter::all().key(key("a")), 1).await.unwrap(), 1);
    assert_eq!(letters(&h, DeadFilter::all()).await, [2, 3, 5]);
    assert_eq!(h.store.purge(None, &DeadFilter::all().after(Seq(2)), 10).await.unwrap(), 2);
    assert_eq!(letters(&h, DeadFilter::all()).await, [2]);
    assert_eq!(h.ready(&crm()).await, ["4"], "what is to be handled is never purged");
}
