use std::time::Duration;

use relaykit_batch_core::Recovery;
use relaykit_pipeline_traits::{BatchOutcome, ManualClock, Rng, Verdict};

use crate::common::{
    HOUR, Oops, Reaction, SECOND, Script, Times, add_all, all_done, answers, batcher, each, gate, idle,
    outputs, run_out, started, until,
};

#[tokio::test]
async fn with_a_concurrency_of_1_batches_follow_each_other_in_order_retries_included() {
    let script = Script::new(|batch, attempt| {
        each(batch, |item| match item % 5 {
            3 if attempt < 3 => Verdict::Retry { after: None, error: Oops::Broken },
            4 => Verdict::Isolate(Oops::Bad),
            _ => Verdict::Done(item),
        })
        .later()
    });
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(10).concurrency(1);
    let processor = started(builder.retry(Times { attempts: 3, delay: SECOND }));
    let tickets = add_all(&processor, 0..50).await;
    assert!(run_out(&clock, processor.stop(HOUR)).await.is_clean());
    answers(tickets).await;
    assert_eq!(script.most_running(), 1);
    // A batch has come to its end, with all it was split into, before the next one begins.
    let tens: Vec<u32> = script.lent().iter().map(|items| items[0] / 10).collect();
    assert!(tens.is_sorted(), "{tens:?}");
    assert!(script.calls() > 5);
}

#[tokio::test]
async fn no_more_batches_run_at_once_than_allowed() {
    let closed = gate();
    let script = {
        let closed = closed.clone();
        Script::new(move |batch, _| all_done(batch).behind(&closed))
    };
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).max_items(1).concurrency(3).capacity(300));
    let tickets = add_all(&processor, 0..200).await;
    for done in 0..197 {
        script.until_calls(done + 3).await;
        idle().await;
        assert_eq!((script.running(), script.calls()), (3, done + 3));
        closed.add_permits(1);
    }
    closed.add_permits(3);
    assert_eq!(outputs(answers(tickets).await).len(), 200);
    assert_eq!(script.most_running(), 3);
}

#[tokio::test]
async fn no_more_calls_run_at_once_than_allowed_while_batches_are_split() {
    for seed in 0..20 {
        let script = Script::new(move |batch, _| {
            let poisoned = batch.iter().any(|item| item % 7 == 0);
            match (poisoned, batch.len()) {
                (false, _) => all_done(batch).later(),
                (true, 1) => each(batch, |_| Verdict::Dead(Oops::Bad)).later(),
                (true, _) => Reaction::Answer(BatchOutcome::Split(Oops::Bad)).later(),
            }
        });
        let clock = ManualClock::new();
        let concurrency = 1 + usize::try_from(Rng::seeded(seed).below(5)).unwrap();
        let processor = started(batcher(&script, &clock).max_items(16).concurrency(concurrency));
        let tickets = add_all(&processor, 0..320).await;
        let done = answers(tickets).await.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(done, 320 - 46, "seed {seed}");
        assert_eq!(script.most_running(), concurrency, "seed {seed}");
    }
}

#[tokio::test]
async fn the_bound_of_individual_calls_holds_over_all_batches() {
    let closed = gate();
    let script = {
        let closed = closed.clone();
        Script::new(move |batch, _| match batch.len() {
            1 => all_done(batch).behind(&closed),
            _ => Reaction::Answer(BatchOutcome::Split(Oops::Bad)),
        })
    };
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(4).concurrency(3).linger(HOUR);
    let processor = started(builder.recovery(Recovery::Individual { concurrency: 2 }));
    let tickets = add_all(&processor, 0..12).await;
    for done in 0..10 {
        // Three calls with four items each, and two with one.
        script.until_calls(3 + done + 2).await;
        idle().await;
        assert_eq!((script.running(), script.calls()), (2, 3 + done + 2));
        closed.add_permits(1);
    }
    closed.add_permits(2);
    assert_eq!(outputs(answers(tickets).await).len(), 12);
    assert_eq!(script.most_singles_running(), 2);
    assert_eq!(script.calls(), 15);
}

#[tokio::test]
async fn individual_calls_run_beside_the_batches() {
    let closed = gate();
    let script = {
        let closed = closed.clone();
        Script::new(move |batch, _| match batch {
            [0, 1] => Reaction::Answer(BatchOutcome::Split(Oops::Bad)),
            [_] => all_done(batch).behind(&closed),
            _ => all_done(batch),
        })
    };
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(2).concurrency(2);
    let processor = started(builder.recovery(Recovery::Individual { concurrency: 1 }));
    let stuck = add_all(&processor, [0, 1]).await;
    until(|| script.most_singles_running() == 1).await;
    let tickets = add_all(&processor, 2..10).await;
    assert_eq!(outputs(answers(tickets).await), (2..10).collect::<Vec<_>>());
    closed.add_permits(2);
    assert_eq!(outputs(answers(stuck).await), [0, 1]);
}

#[tokio::test]
async fn what_is_on_its_way_is_bounded_by_concurrency_and_batch_size() {
    let script = Script::new(|_, _| Reaction::Hang);
    let clock = ManualClock::new();
    let processor =
        started(batcher(&script, &clock).max_items(5).concurrency(3).capacity(10).linger(Duration::ZERO));
    script_is_busy(&processor, &script).await;
    let mut accepted = processor.stats().accepted;
    for _ in 0..10 {
        while processor.try_send(1).is_ok() {
            accepted += 1;
        }
        idle().await;
    }
    assert!(accepted <= 3 * 5 + 10, "{accepted}");
    let stats = processor.stats();
    assert!(stats.in_flight <= 15 && stats.buffered == 10, "{stats:?}");
}

async fn script_is_busy(processor: &crate::common::Batcher, script: &Script) {
    for call in 1..=3 {
        processor.send(0).await.unwrap();
        script.until_calls(call).await;
    }
}
