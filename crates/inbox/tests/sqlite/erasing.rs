use std::time::Duration;

use proptest::prelude::*;
use relaykit_inbox::{
    DeadFilter, DeadReason, Erased, InboxStore as _, Received, Retention, Route, Routes, Seq,
};

use crate::common::{Harness, SECOND, crm, mail, route};

const PAYLOADS: Duration = Duration::from_secs(100);

fn windows() -> Retention {
    Retention::off().payloads(Some(PAYLOADS)).dead(Some(2 * PAYLOADS)).ids(Some(3 * PAYLOADS))
}

fn erased(payloads: u64, dead: u64, ids: u64) -> Erased {
    Erased { payloads, dead, ids }
}

#[tokio::test]
async fn first_the_payload_goes_and_much_later_the_id() {
    let mut h = Harness::new().await;
    let message = h.receive("star", "a", "1").await;
    h.done(&[1]).await;
    h.clock.advance(PAYLOADS);
    assert_eq!(h.store.erase(&windows(), 10).await.unwrap(), Erased::default());
    h.clock.advance(Duration::from_micros(1));
    assert_eq!(h.store.erase(&windows(), 10).await.unwrap(), erased(1, 0, 0));
    assert_eq!(h.number("select count(*) from inbox_messages where payload is null and headers = '{}'"), 1);
    assert_eq!(h.receive_all(std::slice::from_ref(&message)).await, [Ok(Received::AlreadyKnown)]);
    let other = relaykit_pipeline_traits::Message::builder(message.id(), "star", message.occurred_at());
    assert!(
        h.receive_all(&[other.payload("2").build().unwrap()]).await[0].is_err(),
        "conflicts are seen still"
    );
    h.clock.advance(2 * PAYLOADS);
    assert_eq!(h.store.erase(&windows(), 10).await.unwrap(), erased(0, 0, 1));
    assert_eq!(h.receive_all(&[message]).await, [Ok(Received::Stored)], "it is forgotten");
}

#[tokio::test]
async fn nothing_unfinished_is_erased_however_old_it_is() {
    let mut h = Harness::new().await;
    h.receive("push", "a", "one of two is done").await;
    h.receive("star", "b", "dead").await;
    h.receive("fork", "a", "unrouted").await;
    h.receive("star", "c", "waits").await;
    h.done(&[1]).await;
    h.retry(4, 1, 100_000 * SECOND).await;
    h.kill(3, DeadReason::Rejected).await;
    h.clock.advance(10_000 * SECOND);
    let keep_dead = windows().dead(None);
    assert_eq!(h.store.erase(&keep_dead, 10).await.unwrap(), Erased::default());
    assert_eq!(h.store.erase(&windows(), 10).await.unwrap().dead, 1);
    h.store.erase(&windows(), 10).await.unwrap();
    assert_eq!(h.number("select count(*) from inbox_messages"), 3, "without its dead letter it is finished");
    assert_eq!(h.store.erase(&Retention::off(), 10).await.unwrap(), Erased::default());
}

#[tokio::test]
async fn what_is_erased_at_a_time_is_bounded() {
    let mut h = Harness::new().await;
    for number in 0..25 {
        h.receive("push", "a", &number.to_string()).await;
        h.done(&[2 * number + 1]).await;
        h.kill(2 * number + 2, DeadReason::Rejected).await;
    }
    h.clock.advance(4 * PAYLOADS);
    let mut all = Erased::default();
    loop {
        let once = h.store.erase(&windows(), 10).await.unwrap();
        assert!(once.most() <= 10, "{once:?}");
        if once == Erased::default() {
            break;
        }
        all.add(once);
    }
    assert_eq!(all, erased(25, 25, 25));
    assert_eq!(h.number("select count(*) from inbox_messages"), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Receive {
        kind: usize,
    },
    /// What becomes of one of the deliveries.
    Done {
        which: usize,
    },
    Die {
        which: usize,
    },
    Wait {
        which: usize,
    },
    Replay,
    Purge,
    Route,
    CatchUp,
    Pass {
        seconds: u64,
    },
    Erase {
        windows: [u64; 3],
        limit: u32,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3_usize).prop_map(|kind| Step::Receive { kind }),
        4 => any::<usize>().prop_map(|which| Step::Done { which }),
        1 => any::<usize>().prop_map(|which| Step::Die { which }),
        1 => any::<usize>().prop_map(|which| Step::Wait { which }),
        1 => Just(Step::Replay),
        1 => Just(Step::Purge),
        1 => Just(Step::Route),
        1 => Just(Step::CatchUp),
        2 => (0..20_u64).prop_map(|seconds| Step::Pass { seconds }),
        4 => ([0..20_u64, 0..20, 0..20], 1..4_u32).prop_map(|(windows, limit)| Step::Erase { windows, limit }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// All that is not finished: which handler is still to get which message, or could not handle it, and what has no handler.
fn unfinished(h: &Harness) -> Vec<String> {
    let rows = "select d.seq || ' ' || d.handler || ' open ' || hex(m.payload) || m.headers from inbox_deliveries d
          left join inbox_messages m on m.seq = d.message_seq
        union all select d.seq || ' ' || d.handler || ' dead ' || hex(m.payload) || m.headers from inbox_dead d
          left join inbox_messages m on m.seq = d.message_seq
        union all select seq || ' unrouted ' || hex(payload) || headers from inbox_messages where handlers = '[]'
        order by 1";
    let mut select = h.application.prepare(rows).unwrap();
    let read = select.query_map([], |row| row.get::<_, Option<String>>(0)).unwrap();
    read.map(|text| text.unwrap().expect("the message is there with its payload")).collect()
}

async fn nth(h: &Harness, which: usize) -> Option<i64> {
    let mut all = Vec::new();
    for handler in [crm(), mail(), late()] {
        all.extend(h.page(&handler).await.rows.iter().map(|stored| stored.row.seq.0));
    }
    (!all.is_empty()).then(|| all[which % all.len()])
}

fn late() -> Route {
    route("audit", false)
}

async fn run(steps: Vec<Step>) {
    let mut h = Harness::new().await;
    let mut forks = Routes::new();
    forks.add("fork", mail()).unwrap();
    for step in steps {
        match step {
            Step::Receive { kind } => drop(h.receive(["push", "star", "fork"][kind], "", "some").await),
            Step::Done { which } => {
                if let Some(seq) = nth(&h, which).await {
                    h.done(&[seq]).await;
                }
            }
            Step::Die { which } => {
                if let Some(seq) = nth(&h, which).await {
                    h.kill(seq, DeadReason::Rejected).await;
                }
            }
            Step::Wait { which } => {
                if let Some(seq) = nth(&h, which).await {
                    h.retry(seq, 1, 5 * SECOND).await;
                }
            }
            Step::Replay => drop(h.store.replay(None, &DeadFilter::all(), 1).await.unwrap()),
            Step::Purge => drop(h.store.purge(None, &DeadFilter::all(), 1).await.unwrap()),
            Step::Route => drop(h.store.route(&forks, 1).await.unwrap()),
            Step::CatchUp => drop(h.store.catch_up("star", &late(), Seq(0), 1).await.unwrap()),
            Step::Pass { seconds } => h.clock.advance(Duration::from_secs(seconds)),
            Step::Erase { windows: [payloads, dead, ids], limit } => {
                let before = unfinished(&h);
                let window = |seconds| Some(Duration::from_secs(seconds));
                let base = Retention::off().payloads(window(payloads)).ids(window(ids));
                h.store.erase(&base, limit).await.unwrap();
                assert_eq!(unfinished(&h), before);
                let erased = h.store.erase(&base.dead(window(dead)), limit).await.unwrap();
                let gone = before.len() - unfinished(&h).len();
                assert_eq!(u64::try_from(gone).unwrap(), erased.dead, "dead letters alone");
            }
        }
        unfinished(&h);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// A failing run prints its steps.
    #[test]
    fn whatever_happens_nothing_unfinished_is_ever_erased(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(steps));
    }
}
