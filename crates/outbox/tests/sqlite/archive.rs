//! What is kept of what was sent, and what is deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use relaykit_outbox::sqlite::{SqliteArchive, SqliteOutboxStore, archive_migration_sql};
use relaykit_outbox::{
    Archive, ArchiveFilter, Archived, DeadFilter, DeadReason, Maintained, OutboxStore as _, Retention,
    RetentionBuilder,
};
use relaykit_pipeline_traits::{Clock as _, Rng};
use relaykit_sql_store::StoreError;

use crate::common::{Harness, SECOND, database, key, names};

const DAY: Duration = Duration::from_secs(86_400);

async fn archiving() -> Harness {
    let h = Harness::new().await;
    h.store.clone().with_archive().migrate().await.unwrap();
    h
}

fn keep(h: &Harness) -> RetentionBuilder<SqliteArchive> {
    Retention::builder(h.store.archive())
}

async fn list(h: &Harness, filter: ArchiveFilter) -> Vec<i64> {
    h.store.archive().list(&filter, 100).await.unwrap().iter().map(|sent| sent.seq.0).collect()
}

#[tokio::test]
async fn what_was_sent_is_kept_and_what_was_not_is_not() {
    let mut h = archiving().await;
    let (message, added_at) = (h.message("a", "1"), h.clock.now());
    h.outbox.add(&h.application, &message).unwrap();
    h.add("a", "2");
    h.add("b", "3");
    h.clock.advance(SECOND);
    h.retry(1, 2, Duration::ZERO).await;
    assert_eq!(h.done(&[1]).await.written, 1);
    h.retry(2, 1, SECOND).await;
    h.kill(3, DeadReason::Rejected).await;
    let kept = h.store.archive().list(&ArchiveFilter::all(), 10).await.unwrap();
    let [sent] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!((sent.id, sent.message.as_ref(), sent.attempts), (message.id(), Some(&message), 2));
    assert_eq!((sent.added_at, sent.sent_at), (added_at, h.clock.now()));
    assert_eq!(h.done(&[1]).await.written, 0, "repeated, it is written no more");
    assert_eq!(list(&h, ArchiveFilter::all()).await, [1]);
}

#[tokio::test]
async fn an_archive_can_be_asked_for_later_and_every_process_fills_it() {
    let mut h = Harness::new().await;
    h.add("a", "1");
    h.add("a", "2");
    assert_eq!(h.done(&[1]).await.written, 1);
    assert!(matches!(h.store.archive().list(&ArchiveFilter::all(), 1).await, Err(StoreError::Schema { .. })));
    let asking = h.store.clone().with_archive();
    assert!(matches!(asking.verify().await, Err(StoreError::Schema { .. })));
    asking.migrate().await.unwrap();
    assert_eq!(asking.migrate().await.unwrap().from, 1);
    assert_eq!(asking.verify().await.unwrap(), []);
    // The store that was made before, and did not ask.
    assert_eq!(h.done(&[2]).await.written, 1);
    assert_eq!(list(&h, ArchiveFilter::all()).await, [2]);
    assert_eq!(h.store.verify().await.unwrap(), []);
    h.application.execute_batch("drop index outbox_archive_sent").unwrap();
    assert_eq!(asking.verify().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_exported_sql_makes_the_same_archive() {
    let h = Harness::new().await;
    h.application.execute_batch(&archive_migration_sql(&names())).unwrap();
    let store = SqliteOutboxStore::new(database(&h.path(), &h.clock), &names(), h.shards).with_archive();
    assert_eq!(store.verify().await.unwrap(), []);
}

#[tokio::test]
async fn what_is_past_is_deleted_in_chunks_and_days_are_those_of_utc() {
    let mut h = archiving().await;
    // Just before midnight.
    let now = h.clock.now().as_micros();
    let rest = 86_400_000_000 - now.rem_euclid(86_400_000_000);
    h.clock.advance(Duration::from_micros(rest.unsigned_abs() - 1));
    for seq in 1..=5 {
        h.add("a", "x");
        h.done(&[seq]).await;
    }
    h.clock.advance(Duration::from_micros(1));
    h.add("a", "x");
    h.done(&[6]).await;
    let pass = async |h: &Harness| keep(h).chunk(2).days_kept(1).build().unwrap().run_once().await.unwrap();
    assert_eq!(pass(&h).await, Maintained::default());
    h.clock.advance(DAY.saturating_sub(Duration::from_micros(1)));
    assert_eq!(pass(&h).await, Maintained::default(), "one day is kept to its end");
    h.clock.advance(Duration::from_micros(1));
    assert_eq!(pass(&h).await.deleted, 5);
    assert_eq!(list(&h, ArchiveFilter::all()).await, [6]);
    let today_only = keep(&h).days_kept(0).build().unwrap();
    assert_eq!(today_only.run_once().await.unwrap().deleted, 1);
}

#[tokio::test]
async fn while_another_connection_writes_it_is_put_off() {
    let mut h = archiving().await;
    h.add("a", "1");
    h.done(&[1]).await;
    h.clock.advance(30 * DAY);
    h.application.execute_batch("begin immediate").unwrap();
    let done = keep(&h).build().unwrap().run_once().await.unwrap();
    assert_eq!((done.deleted, done.postponed), (0, 1));
    h.application.execute_batch("rollback").unwrap();
    let done = keep(&h).build().unwrap().run_once().await.unwrap();
    assert_eq!((done.deleted, done.postponed), (1, 0));
}

#[tokio::test]
async fn the_archive_is_listed_by_everything_a_filter_says_and_page_by_page() {
    let mut h = archiving().await;
    let mut ids = Vec::new();
    for (key, payload) in [("a", "1"), ("b", "2"), ("a", "3"), ("", "4")] {
        ids.push(h.add(key, payload));
    }
    let at = h.clock.now();
    h.done(&[2, 3]).await;
    h.clock.advance(SECOND);
    h.done(&[1, 4]).await;
    h.application.execute_batch("update outbox_archive set kind = 'other' where seq = 4").unwrap();
    assert_eq!(list(&h, ArchiveFilter::all()).await, [2, 3, 1, 4]);
    assert_eq!(list(&h, ArchiveFilter::all().key(key("a"))).await, [3, 1]);
    assert_eq!(list(&h, ArchiveFilter::all().kind("other")).await, [4]);
    assert_eq!(list(&h, ArchiveFilter::all().ids([ids[0], ids[1]])).await, [2, 1]);
    assert_eq!(list(&h, ArchiveFilter::all().ids([])).await, [0; 0]);
    assert_eq!(list(&h, ArchiveFilter::all().from(at + SECOND)).await, [1, 4]);
    assert_eq!(list(&h, ArchiveFilter::all().until(at + SECOND)).await, [2, 3]);
    let (mut filter, mut pages) = (ArchiveFilter::all(), Vec::new());
    loop {
        let page: Vec<Archived> = h.store.archive().list(&filter, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        filter = filter.after(last);
        pages.extend(page.iter().map(|sent| sent.seq.0));
    }
    assert_eq!(pages, [2, 3, 1, 4]);
    for limit in [0, 1_001] {
        let refused = h.store.archive().list(&filter, limit).await;
        assert!(matches!(refused, Err(StoreError::Rejected { .. })));
    }
}

#[tokio::test]
async fn a_message_that_was_sent_can_be_added_again() {
    let mut h = archiving().await;
    let message = h.message("a", "1");
    for seq in 1..=2 {
        h.outbox.add(&h.application, &message).unwrap();
        assert_eq!(h.done(&[seq]).await.written, 1);
    }
    assert_eq!(list(&h, ArchiveFilter::all().ids([message.id()])).await, [1, 2]);
}

#[tokio::test]
async fn retention_at_any_moment_drops_nothing_that_is_pending_or_dead() {
    for seed in 0..20 {
        let mut h = archiving().await;
        let mut rng = Rng::seeded(seed);
        let (mut pending, mut dead, mut sent) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for seq in 1..=60 {
            h.add(["a", "b", ""][usize::try_from(rng.below(3)).unwrap()], "x");
            let today = h.clock.now().as_micros().div_euclid(86_400_000_000);
            match rng.below(5) {
                0 | 1 => {
                    h.done(&[seq]).await;
                    sent.push((seq, today));
                }
                2 => {
                    h.kill(seq, DeadReason::Exhausted).await;
                    dead.insert(seq);
                }
                3 => {
                    h.retry(seq, 1, DAY).await;
                    pending.insert(seq);
                }
                _ => {
                    pending.insert(seq);
                }
            }
            h.clock.advance(DAY.mul_f64(rng.unit()));
            if rng.chance(0.3) {
                let days = u16::try_from(rng.below(4)).unwrap();
                keep(&h).days_kept(days).chunk(1).build().unwrap().run_once().await.unwrap();
                let first = h.clock.now().as_micros().div_euclid(86_400_000_000) - i64::from(days);
                sent.retain(|(_, day)| *day >= first);
            }
            let kept: Vec<_> = sent.iter().map(|(seq, _)| *seq).collect();
            assert_eq!(list(&h, ArchiveFilter::all()).await, kept, "seed {seed}");
            let letters = h.store.dead_letters(&DeadFilter::all(), 100).await.unwrap();
            assert_eq!(
                letters.iter().map(|letter| letter.seq.0).collect::<BTreeSet<_>>(),
                dead,
                "seed {seed}"
            );
            let found: i64 = h.number("select count(*) from outbox_messages");
            assert_eq!(usize::try_from(found).unwrap(), pending.len(), "seed {seed}");
        }
    }
}
