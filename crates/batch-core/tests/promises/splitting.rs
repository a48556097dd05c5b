use std::collections::BTreeSet;

use relaykit_batch_core::{Cause, Recovery};
use relaykit_pipeline_traits::{BatchOutcome, ManualClock, Verdict};

use crate::common::{
    Answer, HOUR, Oops, Reaction, SECOND, Script, Times, add_all, all_done, answers, assert_books_balance,
    batcher, each, run_out, started,
};

/// Cannot take a batch that holds a poison item, and cannot tell which one it is.
fn poisoned_by(poison: impl Into<BTreeSet<u32>>) -> Script {
    let poison = poison.into();
    Script::new(move |batch, _| match batch {
        batch if !batch.iter().any(|item| poison.contains(item)) => all_done(batch),
        [_] => each(batch, |_| Verdict::Dead(Oops::Bad)),
        _ => Reaction::Answer(BatchOutcome::Split(Oops::Bad)),
    })
}

/// Sends the items as one batch and returns the answers.
async fn batch_of(script: &Script, recovery: Recovery, items: u32) -> Vec<Answer> {
    let clock = ManualClock::new();
    let size = items as usize;
    let processor = started(batcher(script, &clock).max_items(size).capacity(size).recovery(recovery));
    let tickets = add_all(&processor, 0..items).await;
    processor.flush().await.unwrap();
    assert_books_balance(&processor);
    answers(tickets).await
}

fn assert_only_these_are_dead(answers: &[Answer], poison: &[u32]) {
    for (item, answer) in (0..).zip(answers) {
        match answer {
            Ok(output) => assert!(*output == item && !poison.contains(&item), "{item} is done"),
            Err(failed) => assert!(failed.cause.is_dead() && poison.contains(&item), "{item} is not done"),
        }
    }
}

#[tokio::test]
async fn one_poison_item_in_500_is_isolated_in_19_calls_wherever_it_is() {
    for poison in 0..500 {
        let script = poisoned_by([poison]);
        let answers = batch_of(&script, Recovery::Bisect, 500).await;
        assert_only_these_are_dead(&answers, &[poison]);
        // 2·log₂ 500 is 17.9.
        assert!(script.calls() <= 19, "{} calls for poison at {poison}", script.calls());
    }
}

#[tokio::test]
async fn two_poison_items_take_nobody_along() {
    for (a, b) in [(0, 1), (0, 499), (249, 250), (17, 18), (100, 400), (498, 499)] {
        let script = poisoned_by([a, b]);
        let answers = batch_of(&script, Recovery::Bisect, 500).await;
        assert_only_these_are_dead(&answers, &[a, b]);
        assert!(script.calls() <= 37, "{} calls for poison at {a} and {b}", script.calls());
    }
}

#[tokio::test]
async fn a_batch_of_poison_is_dead_to_the_last_item_and_no_more() {
    let everything: Vec<u32> = (0..33).collect();
    let script = poisoned_by(everything.iter().copied().collect::<BTreeSet<_>>());
    assert_only_these_are_dead(&batch_of(&script, Recovery::Bisect, 33).await, &everything);
    // A binary tree with 33 leaves.
    assert_eq!(script.calls(), 65);
}

#[tokio::test]
async fn one_by_one_a_poison_item_costs_a_call_for_each() {
    let script = poisoned_by([7]);
    let answers = batch_of(&script, Recovery::Individual { concurrency: 3 }, 20).await;
    assert_only_these_are_dead(&answers, &[7]);
    assert_eq!(script.calls(), 21);
}

#[tokio::test]
async fn only_the_items_that_could_not_be_judged_are_lent_again() {
    for recovery in [Recovery::Bisect, Recovery::Individual { concurrency: 2 }] {
        let script = Script::new(|batch, _| match batch.len() {
            1 | 2 => all_done(batch),
            _ => each(
                batch,
                |item| if item % 4 == 0 { Verdict::Isolate(Oops::Bad) } else { Verdict::Done(item) },
            ),
        });
        let answers = batch_of(&script, recovery, 16).await;
        assert_only_these_are_dead(&answers, &[]);
        let again = script.lent()[1..].to_vec();
        let expected = if recovery == Recovery::Bisect {
            vec![vec![0, 4], vec![8, 12]]
        } else {
            vec![vec![0], vec![4], vec![8], vec![12]]
        };
        assert_eq!(again, expected, "{recovery:?}");
    }
}

#[tokio::test]
async fn splitting_spends_no_attempt() {
    let script = Script::new(|batch, _| match batch.len() {
        1 => each(batch, |_| Verdict::Dead(Oops::Bad)),
        _ => Reaction::Answer(BatchOutcome::Split(Oops::Bad)),
    });
    for answer in batch_of(&script, Recovery::Bisect, 8).await {
        assert_eq!(answer.unwrap_err().attempts, 1);
    }
    assert!(script.attempts().iter().all(|attempt| *attempt == 1), "{:?}", script.attempts());
}

#[tokio::test]
async fn without_recovery_they_are_answered_as_not_isolated_with_the_error() {
    let script = poisoned_by([3]);
    for (item, answer) in (0..).zip(batch_of(&script, Recovery::Off, 8).await) {
        let failed = answer.unwrap_err();
        assert_eq!((failed.item, failed.attempts), (Some(item), 0));
        assert!(matches!(&failed.cause, Cause::NotIsolated(error) if **error == Oops::Bad));
    }
    assert_eq!(script.calls(), 1);
}

#[tokio::test]
async fn an_item_that_is_alone_and_still_not_judged_is_dead_or_tried_again_by_its_errors_class() {
    for (error, calls) in [(Oops::Bad, 1), (Oops::Broken, 3)] {
        let script = Script::new(move |batch, _| each(batch, |_| Verdict::Isolate(error)));
        let clock = ManualClock::new();
        let processor = started(batcher(&script, &clock).retry(Times { attempts: 3, delay: SECOND }));
        let ticket = processor.add(1).await.unwrap();
        assert!(run_out(&clock, processor.stop(HOUR)).await.is_clean());
        let failed = ticket.await.unwrap_err();
        match failed.cause {
            Cause::Dead(cause) => assert_eq!((*cause, error), (Oops::Bad, Oops::Bad)),
            Cause::Exhausted(cause) => assert_eq!((*cause, error), (Oops::Broken, Oops::Broken)),
            other => panic!("{other:?}"),
        }
        assert_eq!(script.calls(), calls);
    }
}

#[tokio::test]
async fn parts_of_a_split_batch_are_tried_again_by_the_policy() {
    // The half without the poison fails once, for another reason.
    let script = Script::new(|batch, attempt| match (batch.len(), batch.contains(&0)) {
        (1, true) => each(batch, |_| Verdict::Dead(Oops::Bad)),
        (_, true) => Reaction::Answer(BatchOutcome::Split(Oops::Bad)),
        _ if attempt == 1 => Reaction::Answer(BatchOutcome::RetryBatch { after: None, error: Oops::Broken }),
        _ => all_done(batch),
    });
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(8).retry(Times { attempts: 2, delay: SECOND });
    let processor = started(builder);
    let tickets = add_all(&processor, 0..8).await;
    assert!(run_out(&clock, processor.stop(HOUR)).await.is_clean());
    assert_only_these_are_dead(&answers(tickets).await, &[0]);
}
