use relaykit_inbox::{DeadFilter, DeadReason, InboxStore};
use relaykit_pipeline_traits::{MessageId, OrderingKey};

use crate::common::{HOUR, Inbox, handler, ids, keyed, message, scope};

async fn listed(i: &Inbox, key: Option<&str>, filter: DeadFilter) -> Vec<(String, MessageId)> {
    let letters = i.store.dead_letters(key.map(handler).as_ref(), &filter, 1000).await.unwrap();
    letters.iter().map(|letter| (letter.handler.as_str().to_owned(), letter.id)).collect()
}

#[tokio::test]
async fn a_dead_letter_has_all_that_is_known_and_can_be_filtered_and_paged() {
    let Some(i) = Inbox::new().await else { return };
    let (a, b) = (keyed("a"), keyed("b"));
    let star = message("star").ordering_key("b").build().unwrap();
    i.receive(&[a.clone(), b.clone(), star.clone()]).await;
    i.retry("crm", &a, 2, std::time::Duration::ZERO).await;
    i.kill("crm", &a, DeadReason::Exhausted).await;
    i.kill("mail", &a, DeadReason::Rejected).await;
    i.kill("mail", &b, DeadReason::Rejected).await;
    i.kill("crm", &star, DeadReason::Rejected).await;
    let letters = i.store.dead_letters(None, &DeadFilter::all(), 10).await.unwrap();
    let first = &letters[0];
    assert_eq!((first.message.as_ref(), &first.scope, first.handler.as_str()), (Some(&a), &scope(), "crm"));
    assert_eq!(
        (first.attempts, first.reason, first.error.as_str()),
        (3, DeadReason::Exhausted, "refused\u{fffd}")
    );
    assert!(first.received_at < first.first_failed_at.unwrap());
    assert!(first.first_failed_at.unwrap() < first.died_at);

    let crm = |id| ("crm".to_owned(), id);
    let mail = |id| ("mail".to_owned(), id);
    let (a, b, star) = (a.id(), b.id(), star.id());
    assert_eq!(listed(&i, None, DeadFilter::all()).await, [crm(a), mail(a), mail(b), crm(star)]);
    assert_eq!(listed(&i, Some("mail"), DeadFilter::all()).await, [mail(a), mail(b)]);
    assert_eq!(listed(&i, None, DeadFilter::all().kind("star")).await, [crm(star)]);
    // The key is the message's, also where a handler keeps no order.
    let key = OrderingKey::new("b").unwrap();
    assert_eq!(listed(&i, None, DeadFilter::all().key(key)).await, [mail(b), crm(star)]);
    assert_eq!(listed(&i, Some("crm"), DeadFilter::all().reason(DeadReason::Rejected)).await, [crm(star)]);
    assert_eq!(listed(&i, None, DeadFilter::all().ids([star, b])).await, [mail(b), crm(star)]);
    assert_eq!(listed(&i, None, DeadFilter::all().after(letters[1].seq)).await, [mail(b), crm(star)]);
    assert!(i.store.dead_letters(None, &DeadFilter::all(), 0).await.is_err());
    assert!(i.store.purge(None, &DeadFilter::all(), 1001).await.is_err());
    assert_eq!(i.store.purge(Some(&handler("mail")), &DeadFilter::all(), 1).await.unwrap(), 1);
    assert_eq!(listed(&i, None, DeadFilter::all()).await, [crm(a), mail(b), crm(star)]);
    i.clean().await;
}

#[tokio::test]
async fn what_is_replayed_takes_its_old_place_and_is_due() {
    let Some(i) = Inbox::new().await else { return };
    let a = i.receive_of("a", 3).await;
    let place = i.row("crm", &a[0]).await;
    i.retry("crm", &a[0], 2, HOUR).await;
    i.kill("crm", &a[0], DeadReason::Exhausted).await;
    i.kill("mail", &a[0], DeadReason::Exhausted).await;
    assert_eq!(i.ids("crm").await, ids(&a[1..]));
    assert_eq!(i.store.replay(Some(&handler("crm")), &DeadFilter::all(), 10).await.unwrap(), [a[0].id()]);
    let page = i.page("crm").await;
    assert_eq!((page.due, page.rows[0].row, &page.rows[0].message), (vec![place], place, &a[0]));
    let stored = &page.rows[0];
    assert_eq!((stored.attempts, stored.failing_for, stored.waited), (0, None, true));
    assert_eq!(i.ids("mail").await, ids(&a[1..]), "the other handler's is still dead");
    // It holds its key again.
    i.retry("crm", &a[0], 1, HOUR).await;
    assert_eq!(i.ids("crm").await, []);
    i.kill("crm", &a[0], DeadReason::Rejected).await;
    assert_eq!(i.store.depth(&handler("crm")).await.unwrap().dead, 1);
    i.clean().await;
}

#[tokio::test]
async fn a_replay_takes_what_is_meant_up_to_its_limit_and_passes_over_what_cannot_be_read() {
    let Some(i) = Inbox::new().await else { return };
    let a = i.receive_of("a", 5).await;
    for message in &a {
        i.kill("crm", message, DeadReason::Rejected).await;
    }
    i.db.execute("update {messages} set headers = 'broken' where seq <= 2").await;
    let letters = i.store.dead_letters(None, &DeadFilter::all(), 10).await.unwrap();
    assert!(letters[..2].iter().all(|letter| letter.message.is_none()) && letters[2].message.is_some());
    assert_eq!(i.store.replay(None, &DeadFilter::all(), 2).await.unwrap(), ids(&a[2..4]));
    assert_eq!(i.store.replay(None, &DeadFilter::all().kind("none"), 2).await.unwrap(), []);
    assert_eq!(i.store.replay(None, &DeadFilter::all(), 10).await.unwrap(), ids(&a[4..]));
    assert_eq!(i.store.depth(&handler("crm")).await.unwrap().dead, 2);
    i.clean().await;
}
