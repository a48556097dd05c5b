use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_batch_core::{Processor, Recovery};
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, ManualClock, Rng, Verdict};

use crate::common::{
    HOUR, Oops, Outcome, Reaction, SECOND, Script, Times, add_all, all_done, answers, batcher, gate, idle,
    outputs, run_out, started,
};

/// Items of one hundred have one key; those from 1000 have none.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "it is how a key is asked for")]
fn key(item: &u32) -> Option<u32> {
    (*item < 1000).then_some(item / 100)
}

#[tokio::test]
async fn while_an_item_is_in_flight_later_ones_of_its_key_wait_and_other_keys_go_on() {
    let closed = gate();
    let script = {
        let closed = closed.clone();
        Script::new(
            move |batch, _| if batch == [100] { all_done(batch).behind(&closed) } else { all_done(batch) },
        )
    };
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).max_items(1).concurrency(4).order_by(key));
    let waiting = add_all(&processor, [100, 101, 102]).await;
    let tickets = add_all(&processor, [200, 300, 1000, 201, 301]).await;
    assert_eq!(outputs(answers(tickets).await).len(), 5);
    idle().await;
    let lent = script.lent().concat();
    assert!(lent.contains(&100) && !lent.contains(&101) && !lent.contains(&102), "{lent:?}");
    assert_eq!((processor.stats().in_flight, processor.stats().parked), (1, 2));
    closed.add_permits(1);
    assert_eq!(outputs(answers(waiting).await), [100, 101, 102]);
    let ones: Vec<u32> = script.lent().concat().into_iter().filter(|item| item / 100 == 1).collect();
    assert_eq!(ones, [100, 101, 102]);
}

#[tokio::test]
async fn while_an_item_waits_to_be_tried_again_later_ones_of_its_key_wait() {
    let script = Script::new(|batch, attempt| {
        if batch == [100] && attempt == 1 {
            Reaction::Answer(BatchOutcome::RetryBatch { after: None, error: Oops::Broken })
        } else {
            all_done(batch)
        }
    });
    let clock = ManualClock::new();
    let builder = batcher(&script, &clock).max_items(1).concurrency(4).order_by(key);
    let processor = started(builder.retry(Times { attempts: 2, delay: SECOND }));
    let mut waiting = add_all(&processor, [100, 101]).await;
    let tickets = add_all(&processor, [200, 1000]).await;
    assert_eq!(outputs(answers(tickets).await), [200, 1000]);
    clock.until_sleepers(1).await;
    waiting.extend(add_all(&processor, [102]).await);
    idle().await;
    assert_eq!(script.calls(), 3);
    clock.advance(SECOND);
    assert_eq!(outputs(answers(waiting).await), [100, 101, 102]);
    assert_eq!(script.lent().concat()[3..], [100, 101, 102]);
}

#[tokio::test]
async fn a_dead_item_lets_the_next_one_of_its_key_go() {
    let script = Script::new(|batch, _| {
        Reaction::Answer(BatchOutcome::Each(vec![Verdict::Dead(Oops::Bad); batch.len()]))
    });
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).max_items(1).order_by(key));
    let tickets = add_all(&processor, [100, 101, 102]).await;
    assert!(answers(tickets).await.iter().all(Result::is_err));
    assert_eq!(script.lent(), [[100], [101], [102]]);
}

#[tokio::test]
async fn items_without_a_key_are_not_ordered() {
    let script = Script::new(|batch, _| if batch == [1000] { Reaction::Hang } else { all_done(batch) });
    let clock = ManualClock::new();
    let processor = started(batcher(&script, &clock).max_items(1).concurrency(2).order_by(key));
    let _hanging = processor.add(1000).await.unwrap();
    let tickets = add_all(&processor, 1001..1010).await;
    assert_eq!(outputs(answers(tickets).await).len(), 9);
}

#[tokio::test]
async fn a_key_that_was_idle_costs_nothing_and_begins_anew() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).linger(Duration::ZERO).order_by(key));
    for item in 0..1000 {
        let ticket = processor.add(item).await.unwrap();
        assert_eq!(ticket.await.unwrap(), item);
        assert_eq!(processor.stats().parked, 0);
    }
}

/// Fails at random, and watches over the order of each key.
struct Watchful {
    state: Arc<Mutex<Watch>>,
}

struct Watch {
    rng: Rng,
    running: BTreeSet<u32>,
    last: BTreeMap<u32, u32>,
    violations: Vec<String>,
}

impl Watchful {
    fn new(seed: u64) -> Self {
        let rng = Rng::seeded(seed);
        let state = Watch { rng, running: BTreeSet::new(), last: BTreeMap::new(), violations: Vec::new() };
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl Watch {
    fn begin(&mut self, batch: &[u32]) {
        for item in batch {
            let Some(key) = key(item) else { continue };
            if !self.running.insert(key) {
                self.violations.push(format!("{item} is lent while another item of its key is"));
            }
            // A retried item comes again; an earlier one that comes after a later one was overtaken.
            let last = self.last.insert(key, *item).unwrap_or(0);
            if last > *item {
                self.violations.push(format!("{item} is lent after {last}"));
            }
        }
    }

    fn end(&mut self, batch: &[u32]) {
        for key in batch.iter().filter_map(key) {
            self.running.remove(&key);
        }
    }

    fn judge(&mut self, batch: &[u32]) -> Outcome {
        match self.rng.below(20) {
            0 => BatchOutcome::Split(Oops::Bad),
            1 => BatchOutcome::RetryBatch { after: None, error: Oops::Broken },
            2 => BatchOutcome::Each(Vec::new()),
            3 => BatchOutcome::Refused(Oops::Bad),
            _ => BatchOutcome::Each(
                batch
                    .iter()
                    .map(|item| match self.rng.below(10) {
                        0 => Verdict::Retry { after: None, error: Oops::Broken },
                        1 => Verdict::Retry { after: Some(9 * SECOND), error: Oops::Throttled },
                        2 => Verdict::Dead(Oops::Bad),
                        3 => Verdict::Isolate(Oops::Broken),
                        4 => Verdict::Untried,
                        _ => Verdict::Done(*item),
                    })
                    .collect(),
            ),
        }
    }
}

impl BatchHandler<u32> for Watchful {
    type Output = u32;
    type Error = Oops;

    async fn handle(&self, batch: &[u32], _: &BatchContext) -> Outcome {
        let turns = {
            let mut state = self.state.lock().unwrap();
            state.begin(batch);
            state.rng.below(5)
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        let mut state = self.state.lock().unwrap();
        state.end(batch);
        if state.rng.chance(0.03) {
            drop(state);
            panic!("by chance");
        }
        state.judge(batch)
    }
}

#[tokio::test]
async fn the_items_of_a_key_keep_their_order_whatever_happens() {
    for seed in 0..200 {
        println!("seed {seed}");
        let mut rng = Rng::seeded(seed);
        let handler = Watchful::new(seed);
        let state = Arc::clone(&handler.state);
        let clock = ManualClock::new();
        let recovery = match rng.below(3) {
            0 => Recovery::Bisect,
            1 => Recovery::Individual { concurrency: 2 },
            _ => Recovery::Off,
        };
        let builder = Processor::builder(handler).clock(clock.clone()).rng(rng.fork());
        let builder =
            builder.max_items(1 + usize::try_from(rng.below(6)).unwrap()).concurrency(4).recovery(recovery);
        let processor =
            builder.retry(Times { attempts: 3, delay: SECOND }).order_by(key).capacity(20).build().unwrap();
        processor.start().unwrap();
        // Numbers grow within each key.
        let mut next = [0_u32, 100, 200, 300, 1000];
        let mut tickets = Vec::new();
        for _ in 0..100 {
            let slot = usize::try_from(rng.below(5)).unwrap();
            let item = next[slot];
            // Some of the hundreds overflow into the next otherwise.
            next[slot] = if item % 100 == 99 { item } else { item + 1 };
            tickets.push(run_out(&clock, processor.add(item)).await.unwrap());
        }
        assert!(run_out(&clock, processor.stop(HOUR * 24)).await.is_clean(), "seed {seed}");
        for ticket in tickets {
            let _ = ticket.await;
        }
        let violations = std::mem::take(&mut state.lock().unwrap().violations);
        assert!(violations.is_empty(), "seed {seed}: {violations:?}");
    }
}
