//! Each public async function is dropped after its first poll, its second, and so on, until it comes to its end.
//! Whatever it had begun by then, nothing may be lost and nothing may stay taken.

use std::time::Duration;

use relaykit_batch_core::{Cause, Overflow};
use relaykit_pipeline_traits::ManualClock;

use crate::common::{
    Batcher, Gate, HOUR, Reaction, SECOND, Script, add_all, all_done, assert_books_balance, assert_room,
    batcher, dropped_after_polls, gate, idle, poll_once, run_out, started,
};

const CAPACITY: usize = 4;

/// A processor with a full buffer, whose only worker is busy with item 0 until the gate opens.
struct World {
    clock: ManualClock,
    script: Script,
    gate: Gate,
    processor: Batcher,
}

impl World {
    async fn new() -> Self {
        let (gate, clock) = (gate(), ManualClock::new());
        let script = {
            let gate = gate.clone();
            Script::new(move |batch, _| all_done(batch).behind(&gate))
        };
        let builder =
            batcher(&script, &clock).concurrency(1).max_items(1).capacity(CAPACITY).timeout(HOUR * 9);
        // One item weighs as much as a quarter of the buffer.
        let processor = started(builder.max_bytes(5, |_| 5).capacity_bytes(5 * CAPACITY));
        processor.send(0).await.unwrap();
        script.until_calls(1).await;
        while processor.try_send(1).is_ok() {}
        Self { clock, script, gate, processor }
    }

    /// Makes room after so many turns: whatever is being dropped meanwhile meets it at another point.
    fn make_room_after(&self, turns: usize) {
        let gate = self.gate.clone();
        tokio::spawn(async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            gate.add_permits(1);
        });
    }

    /// Asserts that nothing was lost and that nothing stays taken, and that 77 was lent as often as it was accepted.
    async fn assert_unharmed(self, accepted: usize, label: &str) {
        idle().await;
        self.gate.add_permits(99);
        self.processor.flush().await.unwrap();
        assert_books_balance(&self.processor);
        let lent = self.script.lent().concat();
        assert_eq!(lent.iter().filter(|item| **item == 77).count(), accepted, "{label}");
        self.gate.forget_permits(99);
        self.processor.send(0).await.unwrap();
        self.script.until_calls(lent.len() + 1).await;
        assert_room(&self.processor, CAPACITY);
        self.gate.add_permits(99);
        assert!(run_out(&self.clock, self.processor.stop(HOUR)).await.is_clean(), "{label}");
        assert_books_balance(&self.processor);
    }
}

/// Runs the scenario for each number of polls after which a future may be dropped, until it comes to its end. The
/// scenario says whether it did.
async fn drop_at_every_poll(scenario: impl AsyncFn(usize, usize) -> bool) {
    // Room comes early, late, and in between.
    for turns in [0, 1, 2, 3, 5, 8] {
        let mut ended = false;
        for polls in 0..50 {
            ended = scenario(polls, turns).await;
            if ended {
                assert!(polls > 0);
                break;
            }
        }
        assert!(ended, "it never came to its end, with room after {turns} turns");
    }
}

#[tokio::test]
async fn a_dropped_add_leaves_nothing_behind() {
    drop_at_every_poll(async |polls, turns| {
        let world = World::new().await;
        world.make_room_after(turns);
        let added = dropped_after_polls(polls, world.processor.add(77)).await;
        let ended = added.is_some();
        if let Some(ticket) = added {
            drop(ticket.unwrap());
        }
        world.assert_unharmed(usize::from(ended), &format!("{polls} polls, {turns} turns")).await;
        ended
    })
    .await;
}

#[tokio::test]
async fn a_dropped_add_with_a_timeout_leaves_nothing_behind() {
    drop_at_every_poll(async |polls, turns| {
        let world = World::new().await;
        world.make_room_after(turns);
        let added = dropped_after_polls(polls, world.processor.add_timeout(77, HOUR)).await;
        let ended = added.is_some();
        if let Some(ticket) = added {
            drop(ticket.unwrap());
        }
        world.assert_unharmed(usize::from(ended), &format!("{polls} polls, {turns} turns")).await;
        ended
    })
    .await;
}

#[tokio::test]
async fn an_add_whose_time_is_up_just_when_room_comes_leaves_nothing_behind() {
    for turns in 0..10 {
        for ticks in 0..10 {
            let world = World::new().await;
            world.make_room_after(turns);
            let clock = world.clock.clone();
            tokio::spawn(async move {
                for _ in 0..ticks {
                    tokio::task::yield_now().await;
                }
                clock.advance(SECOND);
            });
            let accepted = match world.processor.add_timeout(77, SECOND).await {
                Ok(_ticket) => 1,
                Err(rejected) => {
                    assert_eq!(rejected.item, 77);
                    0
                }
            };
            world.assert_unharmed(accepted, &format!("{turns} turns, {ticks} ticks")).await;
        }
    }
}

#[tokio::test]
async fn a_dropped_send_leaves_nothing_behind() {
    drop_at_every_poll(async |polls, turns| {
        let world = World::new().await;
        world.make_room_after(turns);
        let sent = dropped_after_polls(polls, world.processor.send(77)).await;
        let ended = sent.is_some();
        world.assert_unharmed(usize::from(ended), &format!("{polls} polls, {turns} turns")).await;
        ended
    })
    .await;
}

#[tokio::test]
async fn a_dropped_reserve_leaves_nothing_behind() {
    drop_at_every_poll(async |polls, turns| {
        let world = World::new().await;
        world.make_room_after(turns);
        let processor = world.processor.clone();
        let reserved = dropped_after_polls(polls, processor.reserve()).await;
        let ended = reserved.is_some();
        // An even number of polls: the permit is used, otherwise dropped.
        let used = ended && polls % 2 == 0;
        if used {
            drop(reserved.unwrap().unwrap().add(77).unwrap());
        } else {
            drop(reserved);
        }
        world.assert_unharmed(usize::from(used), &format!("{polls} polls, {turns} turns")).await;
        ended
    })
    .await;
}

#[tokio::test]
async fn adds_dropped_in_the_middle_of_the_line_let_the_others_pass() {
    for dropped in 0..3 {
        let world = World::new().await;
        let mut line: Vec<_> =
            [77, 88, 99].into_iter().map(|item| Box::pin(world.processor.add(item))).collect();
        for add in &mut line {
            assert!(poll_once(add.as_mut()).is_pending());
        }
        drop(line.remove(dropped));
        world.gate.add_permits(2);
        for add in line {
            drop(add.await.unwrap());
        }
        world.assert_unharmed(usize::from(dropped != 0), &format!("{dropped} dropped")).await;
    }
}

#[tokio::test]
async fn a_dropped_flush_leaves_the_items_on_their_way() {
    drop_at_every_poll(async |polls, turns| {
        let world = World::new().await;
        for more in 0..=CAPACITY {
            world.make_room_after(turns + more);
        }
        let flushed = dropped_after_polls(polls, world.processor.flush()).await;
        if flushed.is_some() {
            assert_eq!(world.processor.stats().done, 1 + CAPACITY as u64);
        }
        world.assert_unharmed(0, &format!("{polls} polls, {turns} turns")).await;
        flushed.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_dropped_stop_leaves_the_rest_to_the_next_one() {
    // A second passes at one turn or another, and then another: the deadline, and the grace.
    drop_at_every_poll(async |polls, turns| {
        let clock = ManualClock::new();
        let script = Script::new(|batch, _| if batch[0] % 2 == 0 { Reaction::Hang } else { all_done(batch) });
        let builder = batcher(&script, &clock).max_items(1).concurrency(2).capacity(9).timeout(HOUR * 9);
        let processor = started(builder.linger(Duration::ZERO));
        let tickets = add_all(&processor, 0..6).await;
        let time = tokio::spawn({
            let clock = clock.clone();
            async move {
                for _ in 0..8 {
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                    clock.advance(SECOND / 4);
                }
            }
        });
        let first = dropped_after_polls(polls, processor.stop(SECOND)).await;
        time.await.unwrap();
        if polls > 0 {
            // It takes no more, whether or not anybody waits for the end.
            assert!(processor.try_add(9).is_err());
        }
        let second = run_out(&clock, processor.stop(SECOND)).await;
        let ended = first.is_some();
        assert!(!ended || second.is_clean());
        let report = first.unwrap_or(second);
        let mut returned = [report.unsent, report.in_doubt].concat();
        returned.sort_unstable();
        let mut stopped = Vec::new();
        for (item, ticket) in (0..).zip(tickets) {
            match ticket.await {
                Ok(output) => assert_eq!(output, item),
                Err(failed) => {
                    assert!(matches!(failed.cause, Cause::Stopped), "{}", failed.cause);
                    stopped.push(item);
                }
            }
        }
        assert_eq!(returned, stopped, "{polls} polls, {turns} turns");
        assert_books_balance(&processor);
        processor.start().unwrap();
        assert_room(&processor, 9);
        ended
    })
    .await;
}

#[tokio::test]
async fn a_dropped_wait_for_a_ticket_loses_no_answer() {
    drop_at_every_poll(async |polls, turns| {
        let world = World::new().await;
        world.gate.add_permits(1);
        let mut ticket = world.processor.add(77).await.unwrap();
        for more in 0..=CAPACITY {
            world.make_room_after(turns + more);
        }
        let answer = dropped_after_polls(polls, &mut ticket).await;
        let ended = answer.is_some();
        let answer = match answer {
            Some(answer) => answer,
            None => ticket.await,
        };
        assert_eq!(answer.unwrap(), 77);
        ended
    })
    .await;
}

#[tokio::test]
async fn a_dropped_wait_for_a_response_takes_none() {
    drop_at_every_poll(async |polls, turns| {
        let clock = ManualClock::new();
        let script = Script::done();
        let builder = batcher(&script, &clock).max_items(1).linger(Duration::ZERO);
        let (processor, mut responses) = builder.build_with_responses(1, Overflow::Wait).unwrap();
        processor.start().unwrap();
        let sender = tokio::spawn(async move {
            for item in 0..3 {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                processor.send(item).await.unwrap();
            }
        });
        let first = dropped_after_polls(polls, responses.recv()).await.flatten();
        let ended = first.is_some();
        let mut items: Vec<u32> = first.into_iter().map(|response| response.item).collect();
        while let Some(response) = responses.recv().await {
            items.push(response.item);
        }
        sender.await.unwrap();
        items.sort_unstable();
        assert_eq!(items, [0, 1, 2], "{polls} polls, {turns} turns");
        ended
    })
    .await;
}
