use std::collections::BTreeMap;
use std::time::Duration;

use relaykit_inbox::{DeadFilter, DeadReason, Erased, InboxStore, Received, Retention, Routes, Seq};
use relaykit_pipeline_traits::{Message, Rng};
use sqlx::Connection;

use crate::common::{HOUR, Inbox, WAITS, handler, keyed, message, other, route, routes, scope};

fn payloads(window: Duration) -> Retention {
    Retention::off().payloads(Some(window))
}

#[tokio::test]
async fn a_finished_message_loses_its_payload_then_its_id_and_is_known_in_between() {
    let Some(i) = Inbox::new().await else { return };
    let a = keyed("a");
    i.receive(std::slice::from_ref(&a)).await;
    i.finish("crm", &a).await;
    i.finish("mail", &a).await;
    assert_eq!(i.store.erase(&Retention::off(), 10).await.unwrap(), Erased::default());
    assert_eq!(i.store.erase(&Retention::default(), 10).await.unwrap(), Erased::default(), "it is young");
    i.db.execute("update {messages} set received_at = now() - interval '8 days'").await;
    let erased = i.store.erase(&Retention::default(), 10).await.unwrap();
    assert_eq!(erased, Erased { payloads: 1, ..Erased::default() });
    assert_eq!(i.number("select count(*) from {messages} where payload is null and headers = '{}'").await, 1);
    assert_eq!(i.receive(std::slice::from_ref(&a)).await, [Ok(Received::AlreadyKnown)]);
    assert!(i.receive(&[other(&a)]).await[0].is_err());
    i.db.execute("update {messages} set received_at = now() - interval '31 days'").await;
    let erased = i.store.erase(&Retention::default(), 10).await.unwrap();
    assert_eq!(erased, Erased { ids: 1, ..Erased::default() });
    assert_eq!(i.receive(std::slice::from_ref(&a)).await, [Ok(Received::Stored)]);
    i.clean().await;
}

#[tokio::test]
async fn a_dead_letter_keeps_its_message_until_it_is_erased_itself() {
    let Some(i) = Inbox::new().await else { return };
    let a = keyed("a");
    i.receive(std::slice::from_ref(&a)).await;
    i.finish("mail", &a).await;
    i.kill("crm", &a, DeadReason::Rejected).await;
    let none = payloads(Duration::ZERO);
    assert_eq!(i.store.erase(&none, 10).await.unwrap(), Erased::default());
    let later = Retention::off().dead(Some(HOUR));
    assert_eq!(i.store.erase(&later, 10).await.unwrap(), Erased::default());
    i.db.execute("update {dead} set died_at = now() - interval '2 hours'").await;
    let all = later.payloads(Some(Duration::ZERO)).ids(Some(Duration::ZERO));
    assert_eq!(i.store.erase(&all, 10).await.unwrap(), Erased { payloads: 1, dead: 1, ids: 0 });
    assert_eq!(i.store.erase(&all, 10).await.unwrap(), Erased { payloads: 0, dead: 0, ids: 1 });
    assert_eq!(i.number("select count(*) from {messages}").await, 0);
    i.clean().await;
}

#[tokio::test]
async fn one_call_erases_no_more_than_its_limit() {
    let Some(i) = Inbox::new().await else { return };
    let a = i.receive_of("a", 5).await;
    for message in &a {
        i.finish("crm", message).await;
        i.finish("mail", message).await;
    }
    let all = payloads(Duration::ZERO).ids(Some(Duration::ZERO));
    assert_eq!(i.store.erase(&all, 2).await.unwrap(), Erased { payloads: 2, dead: 0, ids: 0 });
    assert_eq!(i.store.erase(&all, 1).await.unwrap(), Erased { payloads: 1, dead: 0, ids: 1 });
    assert!(i.store.erase(&all, 0).await.is_err() && i.store.erase(&all, 1001).await.is_err());
    assert_eq!(i.store.erase(&all, 10).await.unwrap(), Erased { payloads: 2, dead: 0, ids: 2 });
    assert_eq!(i.store.erase(&all, 10).await.unwrap(), Erased { payloads: 0, dead: 0, ids: 2 });
    i.clean().await;
}

/// A handler catches up on a message between the moment at which it seemed finished and its erasure.
#[tokio::test]
async fn a_message_that_is_led_elsewhere_meanwhile_keeps_its_payload() {
    let Some(i) = Inbox::new().await else { return };
    let a = keyed("a");
    i.receive(std::slice::from_ref(&a)).await;
    i.finish("crm", &a).await;
    i.finish("mail", &a).await;
    // The erasure holds the message's lock, and waits to write.
    let mut conn = i.connection().await;
    let mut tx = conn.begin().await.unwrap();
    let sql = |text| relaykit_sql_store::Sql::new(&i.db.names("t"), &[text]);
    sqlx::query(sql("lock table {dead} in access exclusive mode")).execute(&mut *tx).await.unwrap();
    let store = i.store.clone();
    let erasing = tokio::spawn(async move { store.erase(&payloads(Duration::ZERO), 10).await });
    while i.number(WAITS).await == 0 {
        assert!(!erasing.is_finished());
    }
    let caught = i.store.catch_up("push", &route("late", false), Seq(0), 10).await.unwrap();
    assert_eq!(caught.unwrap().1, 1);
    tx.commit().await.unwrap();
    assert_eq!(erasing.await.unwrap().unwrap(), Erased::default());
    assert_eq!(i.page("late").await.rows[0].message, a);
    i.clean().await;
}

/// Random receiving, handling, dying, replaying, purging, routing, catching up and erasing, with windows of zero.
#[tokio::test]
async fn whatever_happens_nothing_unfinished_is_erased() {
    let Some(i) = Inbox::new().await else { return };
    let seed = Rng::from_entropy().next_u64();
    eprintln!("seed {seed}");
    let mut rng = Rng::seeded(seed);
    let erase_all = Retention::off().payloads(Some(Duration::ZERO)).ids(Some(Duration::ZERO));
    let mut sent: BTreeMap<_, Message> = BTreeMap::new();
    let pick = |rng: &mut Rng, len: usize| usize::try_from(rng.below(u64::try_from(len).unwrap())).unwrap();
    for _ in 0..150 {
        let key = ["crm", "mail", "late"][pick(&mut rng, 3)];
        match rng.below(8) {
            0 | 1 => {
                let new: Vec<_> = (0..=rng.below(3))
                    .map(|n| {
                        let kind = ["push", "star", "fork"][pick(&mut rng, 3)];
                        message(kind)
                            .ordering_key(format!("k{}", rng.below(3)))
                            .payload(format!("{n}"))
                            .build()
                            .unwrap()
                    })
                    .collect();
                i.receive(&new).await;
                sent.extend(new.into_iter().map(|message| (message.id(), message)));
            }
            2 | 3 => {
                let rows = i.page(key).await.rows;
                if !rows.is_empty() {
                    let row = &rows[pick(&mut rng, rows.len())];
                    match rng.below(3) {
                        0 => i.kill(key, &row.message, DeadReason::Rejected).await,
                        1 => i.retry(key, &row.message, row.attempts + 1, Duration::ZERO).await,
                        _ => i.finish(key, &row.message).await,
                    }
                }
            }
            4 => drop(i.store.replay(Some(&handler(key)), &DeadFilter::all(), 1).await.unwrap()),
            5 => drop(i.store.purge(Some(&handler(key)), &DeadFilter::all(), 1).await.unwrap()),
            6 if rng.chance(0.2) => {
                let mut routes = Routes::new();
                routes.add("fork", route("late", true)).unwrap();
                i.store.route(&routes, 2).await.unwrap();
            }
            6 => drop(i.store.catch_up("star", &route("late", true), Seq(0), 1).await.unwrap()),
            _ => {
                let open = [i.page("crm").await, i.page("mail").await, i.page("late").await];
                let dead = i.store.dead_letters(None, &DeadFilter::all(), 1000).await.unwrap();
                let unrouted = i.store.unrouted(Seq(0), 1000).await.unwrap();
                i.store.erase(&erase_all, 1 + u32::try_from(rng.below(5)).unwrap()).await.unwrap();
                let after = [i.page("crm").await, i.page("mail").await, i.page("late").await];
                for (before, after) in open.iter().zip(&after) {
                    assert_eq!(after.unreadable, [], "seed {seed}");
                    let all = |page: &relaykit_inbox::Page| {
                        page.rows.iter().map(|row| (row.row, row.message.clone())).collect::<Vec<_>>()
                    };
                    assert_eq!(all(after), all(before), "seed {seed}");
                    assert!(
                        after.rows.iter().all(|row| sent[&row.message.id()] == row.message),
                        "seed {seed}"
                    );
                }
                assert_eq!(i.store.dead_letters(None, &DeadFilter::all(), 1000).await.unwrap(), dead);
                assert!(dead.iter().all(|letter| letter.message.as_ref() == Some(&sent[&letter.id])));
                let left = i.store.unrouted(Seq(0), 1000).await.unwrap();
                assert_eq!(left.len(), unrouted.len(), "seed {seed}");
            }
        }
    }
    // In the end everything is finished, and everything goes.
    let mut fork = routes();
    fork.add("fork", route("late", true)).unwrap();
    i.store.route(&fork, 1000).await.unwrap();
    i.store.purge(None, &DeadFilter::all(), 1000).await.unwrap();
    i.db.execute("delete from {deliveries}").await;
    for _ in 0..2 {
        i.store.erase(&erase_all, 1000).await.unwrap();
    }
    assert_eq!(i.number("select count(*) from {messages}").await, 0, "seed {seed}");
    let again: Vec<_> = sent.into_values().take(1).collect();
    assert_eq!(i.store.receive(&scope(), &again, &routes()).await.unwrap().len(), again.len());
    i.clean().await;
}
