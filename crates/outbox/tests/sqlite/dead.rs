use relaykit_outbox::{Added, BlockedKey, DeadFilter, DeadLetter, DeadReason, OutboxStore as _, Seq};
use relaykit_pipeline_traits::{Clock as _, Message};

use crate::common::{Harness, SECOND, key};

async fn letters(h: &Harness, filter: DeadFilter) -> Vec<i64> {
    h.store.dead_letters(&filter, 100).await.unwrap().iter().map(|letter| letter.seq.0).collect()
}

fn five(h: &mut Harness) {
    for (key, payload) in [("a", "1"), ("b", "2"), ("a", "3"), ("", "4"), ("c", "5")] {
        h.add(key, payload);
    }
}

#[tokio::test]
async fn a_dead_letter_tells_everything() {
    let mut h = Harness::new().await;
    let (message, added_at) = (h.message("a", "1"), h.clock.now());
    h.outbox.add(&h.application, &message).unwrap();
    h.clock.advance(SECOND);
    let failed_at = h.clock.now();
    h.retry(1, 1, SECOND).await;
    h.clock.advance(SECOND);
    h.kill(1, DeadReason::Rejected).await;
    let letter = DeadLetter::new(
        Seq(1),
        message.id(),
        Some(message),
        DeadReason::Rejected,
        "rejected for good".into(),
        3,
        added_at,
        Some(failed_at),
        h.clock.now(),
    );
    assert_eq!(h.store.dead_letters(&DeadFilter::all(), 10).await.unwrap(), [letter]);
}

#[tokio::test]
async fn dead_letters_are_found_by_everything_a_filter_says() {
    let mut h = Harness::new().await;
    five(&mut h);
    let ids: Vec<_> = h.page().await.rows.iter().map(|stored| stored.message.id()).collect();
    for seq in 1..=4 {
        h.kill(seq, if seq < 3 { DeadReason::Rejected } else { DeadReason::Exhausted }).await;
    }
    h.application.execute_batch("update outbox_dead set kind = 'other' where seq = 2; update outbox_dead set reason = 'novel' where seq = 4").unwrap();
    assert_eq!(letters(&h, DeadFilter::all()).await, [1, 2, 3, 4]);
    assert_eq!(letters(&h, DeadFilter::all().after(Seq(2))).await, [3, 4]);
    assert_eq!(letters(&h, DeadFilter::all().kind("other")).await, [2]);
    assert_eq!(letters(&h, DeadFilter::all().key(key("a"))).await, [1, 3]);
    assert_eq!(letters(&h, DeadFilter::all().reason(DeadReason::Rejected)).await, [1, 2]);
    assert_eq!(letters(&h, DeadFilter::all().reason(DeadReason::Unknown)).await, [4]);
    assert_eq!(letters(&h, DeadFilter::all().ids([ids[3], ids[0], ids[4]])).await, [1, 4]);
    assert_eq!(letters(&h, DeadFilter::all().ids([])).await, [0; 0]);
    assert_eq!(letters(&h, DeadFilter::all().key(key("a")).reason(DeadReason::Exhausted)).await, [3]);
    let page = h.store.dead_letters(&DeadFilter::all().after(Seq(1)), 2).await.unwrap();
    assert_eq!(page.iter().map(|letter| letter.seq.0).collect::<Vec<_>>(), [2, 3]);
}

#[tokio::test]
async fn a_replayed_letter_takes_its_old_place_and_is_due() {
    let mut h = Harness::new().await;
    five(&mut h);
    let id = h.page().await.rows[0].message.id();
    h.clock.advance(SECOND);
    h.retry(1, 2, SECOND).await;
    h.kill(1, DeadReason::Exhausted).await;
    h.kill(2, DeadReason::Exhausted).await;
    assert_eq!(h.ready().await, ["3", "4", "5"]);
    assert_eq!(h.store.replay(&DeadFilter::all(), 1).await.unwrap(), [id]);
    let page = h.page_after(4, 10).await;
    assert_eq!(page.due.iter().map(|row| row.seq).collect::<Vec<_>>(), [Seq(1)]);
    assert_eq!(h.ready().await, ["1", "3", "4", "5"]);
    let stored = &h.page().await.rows[0];
    assert_eq!((stored.attempts, stored.failing_for, stored.waited, stored.age), (0, None, true, SECOND));
    assert_eq!(letters(&h, DeadFilter::all()).await, [2]);
    h.add("a", "6");
    assert_eq!(h.page().await.rows.last().unwrap().row.seq, Seq(6), "replays give no place away");
}

#[tokio::test]
async fn a_letter_stays_that_cannot_be_read_or_whose_id_was_added_again() {
    let mut h = Harness::new().await;
    five(&mut h);
    let again: Message = h.page().await.rows[1].message.clone();
    let third = h.page().await.rows[2].message.id();
    for seq in 1..=3 {
        h.kill(seq, DeadReason::Rejected).await;
    }
    h.application.execute_batch("update outbox_dead set headers = '[]' where seq = 1").unwrap();
    assert_eq!(h.outbox.add(&h.application, &again).unwrap(), Added::Added);
    let list = h.store.dead_letters(&DeadFilter::all(), 1).await.unwrap();
    assert!(list[0].message.is_none() && list[0].seq == Seq(1));
    assert_eq!(
        h.store.replay(&DeadFilter::all(), 2).await.unwrap(),
        [third],
        "the unreadable one does not count"
    );
    assert_eq!(letters(&h, DeadFilter::all()).await, [1, 2]);
    assert_eq!(h.ready().await, ["3", "4", "5", "2"]);
}

#[tokio::test]
async fn purged_letters_are_gone_the_first_first() {
    let mut h = Harness::new().await;
    five(&mut h);
    for seq in 1..=4 {
        h.kill(seq, DeadReason::Rejected).await;
    }
    assert_eq!(h.store.purge(&DeadFilter::all().key(key("a")), 1).await.unwrap(), 1);
    assert_eq!(letters(&h, DeadFilter::all()).await, [2, 3, 4]);
    assert_eq!(h.store.purge(&DeadFilter::all().after(Seq(2)), 10).await.unwrap(), 2);
    assert_eq!(letters(&h, DeadFilter::all()).await, [2]);
    assert_eq!(h.ready().await, ["5"], "what is to be sent is never purged");
}

#[tokio::test]
async fn a_skipped_head_is_a_dead_letter_and_the_next_one_is_due() {
    let mut h = Harness::new().await;
    five(&mut h);
    let first = h.page().await.rows[0].message.id();
    h.retry(1, 2, 100 * SECOND).await;
    assert_eq!(h.store.skip(&key("a")).await.unwrap(), Some(first));
    let page = h.page_after(5, 10).await;
    assert_eq!(page.due.iter().map(|row| row.seq).collect::<Vec<_>>(), [Seq(3)]);
    assert_eq!(h.ready().await, ["2", "3", "4", "5"]);
    let letter = &h.store.dead_letters(&DeadFilter::all(), 10).await.unwrap()[0];
    assert_eq!((letter.seq, letter.reason, letter.attempts), (Seq(1), DeadReason::Skipped, 2));
    assert_eq!(letter.error, "refused");
    assert!(h.store.skip(&key("a")).await.unwrap().is_some());
    assert_eq!(h.store.skip(&key("a")).await.unwrap(), None, "none is left");
    assert_eq!(h.store.park(&key("a")).await.unwrap(), None);
    assert_eq!(h.store.resume(&key("a")).await.unwrap(), None);
}

#[tokio::test]
async fn blocked_keys_are_listed_by_their_heads() {
    let mut h = Harness::new().await;
    five(&mut h);
    let heads: Vec<_> = h.page().await.rows.iter().map(|stored| stored.message.id()).collect();
    h.clock.advance(SECOND);
    h.retry(1, 2, 9 * SECOND).await;
    h.retry(3, 1, 5 * SECOND).await;
    h.retry(4, 1, 7 * SECOND).await;
    h.store.park(&key("c")).await.unwrap();
    h.clock.advance(SECOND);
    let age = 2 * SECOND;
    let error = Some("refused".to_owned());
    let wanted = [
        BlockedKey::new(Some(key("a")), heads[0], Seq(1), 2, error.clone(), age, Some(8 * SECOND)),
        BlockedKey::new(None, heads[3], Seq(4), 1, error, age, Some(6 * SECOND)),
        BlockedKey::new(Some(key("c")), heads[4], Seq(5), 0, None, age, None),
    ];
    assert_eq!(h.store.blocked(10).await.unwrap(), wanted);
    assert_eq!(h.store.blocked(1).await.unwrap(), wanted[..1]);
    h.store.resume(&key("a")).await.unwrap();
    assert_eq!(h.store.blocked(1).await.unwrap()[0].seq, Seq(3), "the next of the key still waits");
}
