use relaykit_outbox::{DeadFilter, DeadReason, OutboxStore};
use relaykit_pipeline_traits::{Message, MessageId};

use crate::common::{HOUR, Outbox, id, key, keyed, message};

async fn listed(o: &Outbox, filter: DeadFilter) -> Vec<MessageId> {
    let letters = o.store.dead_letters(&filter, 1000).await.unwrap();
    letters.iter().map(|letter| letter.id).collect()
}

/// Kills messages of two keys and kinds for several reasons: rejected a, exhausted b, rejected other.
async fn graves(o: &Outbox) -> [Message; 3] {
    let other = message().ordering_key("b").build().unwrap();
    let other = Message::builder(other.id(), "other", other.occurred_at()).ordering_key("b").build().unwrap();
    let dead = [keyed("a"), keyed("b"), other];
    let reasons = [DeadReason::Rejected, DeadReason::Exhausted, DeadReason::Rejected];
    for (message, reason) in dead.iter().zip(reasons) {
        o.add(message).await;
        o.kill(message, reason).await;
    }
    dead
}

#[tokio::test]
async fn dead_letters_are_filtered_and_paged_in_their_order() {
    let Some(o) = Outbox::new().await else { return };
    let [a, b, other] = graves(&o).await.map(|message| id(&message));
    assert_eq!(listed(&o, DeadFilter::all()).await, [a, b, other]);
    assert_eq!(listed(&o, DeadFilter::all().kind("other")).await, [other]);
    assert_eq!(listed(&o, DeadFilter::all().key(key("b"))).await, [b, other]);
    assert_eq!(listed(&o, DeadFilter::all().key(key("b")).reason(DeadReason::Rejected)).await, [other]);
    assert_eq!(listed(&o, DeadFilter::all().ids([other, a])).await, [a, other]);
    assert_eq!(listed(&o, DeadFilter::all().ids([])).await, []);
    let mut filter = DeadFilter::all();
    for expected in [a, b, other] {
        let page = o.store.dead_letters(&filter, 1).await.unwrap();
        assert_eq!(page[0].id, expected);
        filter = filter.after(page[0].seq);
    }
    assert_eq!(listed(&o, filter).await, []);
    assert!(o.store.dead_letters(&DeadFilter::all(), 0).await.is_err());
    assert!(o.store.purge(&DeadFilter::all(), 1001).await.is_err());
    o.clean().await;
}

#[tokio::test]
async fn what_is_replayed_takes_its_old_place_and_is_due() {
    let Some(o) = Outbox::new().await else { return };
    let a = o.add_to("a", 3).await;
    let place = o.row(&a[0]).await;
    o.retry(&a[0], 2, HOUR).await;
    o.kill(&a[0], DeadReason::Exhausted).await;
    assert_eq!(o.ids().await, [a[1].id(), a[2].id()]);
    assert_eq!(o.store.replay(&DeadFilter::all(), 10).await.unwrap(), [a[0].id()]);
    let page = o.page().await;
    assert_eq!(page.due, [place]);
    let stored = &page.rows[0];
    assert_eq!((stored.row, &stored.message), (place, &a[0]));
    assert_eq!((stored.attempts, stored.failing_for, stored.waited), (0, None, true));
    assert_eq!(o.store.depth().await.unwrap().dead, 0);
    assert_eq!(o.store.replay(&DeadFilter::all(), 10).await.unwrap(), []);
    // It may die again.
    o.kill(&a[0], DeadReason::Rejected).await;
    assert_eq!(listed(&o, DeadFilter::all()).await, [a[0].id()]);
    o.clean().await;
}

#[tokio::test]
async fn a_replay_takes_what_is_meant_up_to_its_limit_and_passes_over_what_cannot_be_read() {
    let Some(o) = Outbox::new().await else { return };
    let a = o.add_to("a", 5).await;
    for message in &a {
        o.kill(message, DeadReason::Rejected).await;
    }
    o.db.execute(
        "update {dead} set headers = 'broken' where seq in (select seq from {dead} order by seq limit 2)",
    )
    .await;
    let letters = o.store.dead_letters(&DeadFilter::all(), 10).await.unwrap();
    assert!(letters[..2].iter().all(|letter| letter.message.is_none()) && letters[2].message.is_some());
    assert_eq!(o.store.replay(&DeadFilter::all(), 2).await.unwrap(), [a[2].id(), a[3].id()]);
    assert_eq!(listed(&o, DeadFilter::all()).await, [a[0].id(), a[1].id(), a[4].id()]);
    assert_eq!(o.store.replay(&DeadFilter::all().kind("none"), 2).await.unwrap(), []);
    assert_eq!(o.store.replay(&DeadFilter::all(), 10).await.unwrap(), [a[4].id()]);
    o.clean().await;
}

#[tokio::test]
async fn a_dead_letter_whose_id_is_pending_again_stays_dead() {
    let Some(o) = Outbox::new().await else { return };
    let (a, b) = (keyed("a"), keyed("b"));
    for message in [&a, &b] {
        o.add(message).await;
        o.kill(message, DeadReason::Rejected).await;
    }
    o.add(&a).await;
    assert_eq!(o.store.replay(&DeadFilter::all(), 10).await.unwrap(), [b.id()]);
    assert_eq!(listed(&o, DeadFilter::all()).await, [a.id()]);
    assert_eq!(o.store.depth().await.unwrap().pending, 2);
    o.clean().await;
}

#[tokio::test]
async fn a_purge_deletes_the_first_that_are_meant() {
    let Some(o) = Outbox::new().await else { return };
    let [a, b, other] = graves(&o).await.map(|message| id(&message));
    assert_eq!(o.store.purge(&DeadFilter::all().reason(DeadReason::Rejected), 1).await.unwrap(), 1);
    assert_eq!(listed(&o, DeadFilter::all()).await, [b, other]);
    assert_eq!(o.store.purge(&DeadFilter::all().ids([a]), 10).await.unwrap(), 0);
    assert_eq!(o.store.purge(&DeadFilter::all(), 10).await.unwrap(), 2);
    o.clean().await;
}

#[tokio::test]
async fn the_head_of_a_key_is_skipped_and_the_next_is_due() {
    let Some(o) = Outbox::new().await else { return };
    let a = o.add_to("a", 3).await;
    o.retry(&a[0], 2, HOUR).await;
    assert_eq!(o.ids().await, []);
    assert_eq!(o.store.skip(&key("a")).await.unwrap(), Some(a[0].id()));
    let page = o.page().await;
    assert_eq!(page.due, [o.row(&a[1]).await]);
    assert_eq!(page.rows.len(), 2);
    let letters = o.store.dead_letters(&DeadFilter::all(), 10).await.unwrap();
    assert_eq!((letters[0].reason, letters[0].attempts), (DeadReason::Skipped, 2));
    assert_eq!(letters[0].error, "busy");
    assert_eq!(o.store.skip(&key("nobody")).await.unwrap(), None);
    for expected in &a[1..] {
        assert_eq!(o.store.skip(&key("a")).await.unwrap(), Some(expected.id()));
    }
    assert_eq!(o.store.skip(&key("a")).await.unwrap(), None);
    o.clean().await;
}

#[tokio::test]
async fn a_parked_key_waits_until_it_is_resumed() {
    let Some(o) = Outbox::new().await else { return };
    let a = o.add_to("a", 2).await;
    assert_eq!(o.store.park(&key("a")).await.unwrap(), Some(a[0].id()));
    assert_eq!(o.ids().await, []);
    assert_eq!(o.store.resume(&key("a")).await.unwrap(), Some(a[0].id()));
    let page = o.page().await;
    assert_eq!(page.due, [o.row(&a[0]).await]);
    assert_eq!(page.rows.len(), 2);
    assert_eq!(o.store.park(&key("nobody")).await.unwrap(), None);
    assert_eq!(o.store.resume(&key("nobody")).await.unwrap(), None);
    o.clean().await;
}

#[tokio::test]
async fn blocked_keys_are_listed_by_their_heads() {
    let Some(o) = Outbox::new().await else { return };
    let a = o.add_to("a", 3).await;
    let b = o.add_to("b", 1).await;
    let bare = message().build().unwrap();
    o.add(&bare).await;
    o.add_to("free", 1).await;
    assert_eq!(o.store.blocked(10).await.unwrap(), []);
    o.retry(&a[1], 2, HOUR).await;
    o.retry(&a[0], 4, HOUR).await;
    o.retry(&bare, 1, HOUR).await;
    o.store.park(&key("b")).await.unwrap();
    let blocked = o.store.blocked(10).await.unwrap();
    let heads: Vec<_> = blocked.iter().map(|blocked| (blocked.key.clone(), blocked.head)).collect();
    assert_eq!(heads, [(Some(key("a")), a[0].id()), (Some(key("b")), b[0].id()), (None, bare.id())]);
    assert_eq!((blocked[0].attempts, blocked[0].error.as_deref()), (4, Some("busy")));
    assert!(blocked[0].due_in.unwrap() <= HOUR && blocked[1].due_in.is_none());
    assert_eq!(o.store.blocked(1).await.unwrap().len(), 1);
    o.clean().await;
}
