//! The same through `PgBouncer` in transaction mode, where a session is another's after each transaction.

use relaykit_outbox::{DeadFilter, DeadReason, OutboxStore, outbox_conformance};

use crate::common::{HOUR, Outbox, key};

outbox_conformance!(Outbox::behind_pooler());

#[tokio::test]
async fn all_of_it_works_through_a_pooler() {
    let Some(o) = Outbox::behind_pooler().await else { return };
    let o = o.leased().await;
    // More than once, since the session of the second may know the statements of the first.
    for round in 0..5 {
        let a = o.add_to("a", 4).await;
        o.add(&a[0]).await;
        o.retry(&a[0], 1, HOUR).await;
        assert_eq!(o.ids().await, [], "round {round}");
        assert_eq!(o.store.blocked(10).await.unwrap().len(), 1);
        o.store.park(&key("a")).await.unwrap();
        o.store.resume(&key("a")).await.unwrap();
        o.store.skip(&key("a")).await.unwrap();
        o.kill(&a[1], DeadReason::Rejected).await;
        assert_eq!(o.store.dead_letters(&DeadFilter::all(), 10).await.unwrap().len(), 2);
        assert_eq!(
            o.store.replay(&DeadFilter::all().reason(DeadReason::Rejected), 10).await.unwrap(),
            [a[1].id()]
        );
        assert_eq!(o.store.purge(&DeadFilter::all(), 10).await.unwrap(), 1);
        let done = o.page().await.rows.iter().map(|stored| stored.row).collect();
        assert_eq!(o.settle(relaykit_outbox::Settlement { done, ..o.settlement() }).await, 3);
        assert_eq!(o.store.depth().await.unwrap().pending, 0);
    }
    o.clean().await;
}
