use std::time::Duration;

use relaykit_batch_core::{Builder, NotRunning, RejectReason, Rejected};
use relaykit_pipeline_traits::ManualClock;

use crate::common::{
    Batcher, Gate, HOUR, SECOND, Script, all_done, answers, assert_books_balance, assert_room, batcher, gate,
    idle, outputs, run_out, started,
};

/// A processor whose only worker is busy with item 0, so that whatever is added stays in the buffer.
struct Busy {
    clock: ManualClock,
    script: Script,
    gate: Gate,
    processor: Batcher,
}

impl Busy {
    /// One item a call, and room for four.
    async fn new() -> Self {
        Self::with(|builder| builder.max_items(1).capacity(4)).await
    }

    async fn with(settings: impl FnOnce(Builder<u32, Script>) -> Builder<u32, Script>) -> Self {
        let (gate, clock) = (gate(), ManualClock::new());
        let script = {
            let gate = gate.clone();
            Script::new(move |batch, _| all_done(batch).behind(&gate))
        };
        let builder = batcher(&script, &clock).concurrency(1).linger(Duration::ZERO).timeout(HOUR * 1000);
        let processor = started(settings(builder));
        processor.send(0).await.unwrap();
        script.until_calls(1).await;
        Self { clock, script, gate, processor }
    }

    /// Fills the buffer with ones.
    fn fill(&self) {
        while self.processor.try_send(1).is_ok() {}
    }
}

#[tokio::test]
async fn adding_to_a_full_buffer_waits_first_come_first_served() {
    let busy = Busy::new().await;
    busy.fill();
    let mut adding = Vec::new();
    for item in 10..15 {
        let processor = busy.processor.clone();
        adding.push(tokio::spawn(async move { processor.add(item).await.unwrap().await.unwrap() }));
        idle().await;
    }
    assert_eq!(busy.processor.stats().accepted, 5);
    busy.gate.add_permits(1);
    idle().await;
    // One call ended, one batch was taken: room for exactly one more.
    assert_eq!(busy.processor.stats().accepted, 6);
    busy.gate.add_permits(99);
    for (item, adding) in (10..15).zip(adding) {
        assert_eq!(adding.await.unwrap(), item);
    }
    assert_eq!(busy.script.lent().concat(), [0, 1, 1, 1, 1, 10, 11, 12, 13, 14]);
}

#[tokio::test]
async fn whoever_comes_later_does_not_pass_those_who_wait() {
    let busy = Busy::new().await;
    busy.fill();
    let waiting = tokio::spawn({
        let processor = busy.processor.clone();
        async move { processor.add(10).await.map(drop) }
    });
    idle().await;
    busy.gate.add_permits(1);
    busy.script.until_calls(2).await;
    assert_eq!(busy.processor.try_add(11).unwrap_err().reason, RejectReason::Full);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn trying_to_add_to_a_full_buffer_hands_the_item_back() {
    let busy = Busy::new().await;
    busy.fill();
    let Rejected { item, reason } = busy.processor.try_add(10).unwrap_err();
    assert_eq!((item, reason), (10, RejectReason::Full));
    let Rejected { item, reason } = busy.processor.try_send(11).unwrap_err();
    assert_eq!((item, reason), (11, RejectReason::Full));
    assert_eq!(busy.processor.stats().buffered, 4);
}

#[tokio::test]
async fn adding_with_a_timeout_hands_the_item_back_when_the_time_is_up() {
    let busy = Busy::new().await;
    busy.fill();
    let sleepers = busy.clock.sleepers();
    let adding = tokio::spawn({
        let processor = busy.processor.clone();
        async move { processor.add_timeout(10, 10 * SECOND).await.map(drop) }
    });
    busy.clock.until_sleepers(sleepers + 1).await;
    busy.clock.advance(9 * SECOND);
    idle().await;
    assert!(!adding.is_finished());
    busy.clock.advance(SECOND);
    let Rejected { item, reason } = adding.await.unwrap().unwrap_err();
    assert_eq!((item, reason), (10, RejectReason::TimedOut { waited: 10 * SECOND }));
    assert_eq!(reason.to_string(), "the buffer stayed full for 10s");
}

#[tokio::test]
async fn adding_with_a_timeout_takes_the_room_that_comes_in_time() {
    let busy = Busy::new().await;
    busy.fill();
    let sleepers = busy.clock.sleepers();
    let adding = tokio::spawn({
        let processor = busy.processor.clone();
        async move { processor.add_timeout(10, 10 * SECOND).await.unwrap().await.unwrap() }
    });
    busy.clock.until_sleepers(sleepers + 1).await;
    busy.clock.advance(9 * SECOND);
    busy.gate.add_permits(99);
    assert_eq!(adding.await.unwrap(), 10);
}

#[tokio::test]
async fn bytes_in_the_buffer_are_bounded() {
    let weigh = |item: &u32| *item as usize;
    let busy = Busy::with(|builder| builder.max_items(1).max_bytes(60, weigh).capacity_bytes(100)).await;
    busy.processor.try_send(60).unwrap();
    busy.processor.try_send(40).unwrap();
    assert_eq!(busy.processor.try_add(1).unwrap_err().reason, RejectReason::Full);
    // What weighs nothing needs no room in bytes.
    busy.processor.try_send(0).unwrap();
    let large = tokio::spawn({
        let processor = busy.processor.clone();
        async move { processor.add(50).await.unwrap().await.unwrap() }
    });
    idle().await;
    busy.gate.add_permits(1);
    busy.script.until_calls(2).await;
    idle().await;
    // 60 bytes left the buffer and 50 came in.
    assert_eq!(busy.processor.stats().buffered, 3);
    assert_eq!(busy.processor.try_add(11).unwrap_err().item, 11);
    busy.processor.try_send(10).unwrap();
    busy.gate.add_permits(99);
    assert_eq!(large.await.unwrap(), 50);
    busy.processor.flush().await.unwrap();
    for _ in 0..2 {
        busy.processor.try_send(50).unwrap();
    }
    assert_eq!(busy.processor.try_send(1).unwrap_err().reason, RejectReason::Full);
}

#[tokio::test]
async fn small_items_do_not_starve_a_large_one_that_waits() {
    let weigh = |item: &u32| *item as usize;
    let busy = Busy::with(|builder| builder.max_items(1).max_bytes(100, weigh).capacity_bytes(100)).await;
    for item in [30, 30, 40] {
        busy.processor.try_send(item).unwrap();
    }
    let large = tokio::spawn({
        let processor = busy.processor.clone();
        async move { processor.add(90).await.unwrap().await.unwrap() }
    });
    idle().await;
    busy.gate.add_permits(2);
    busy.script.until_calls(3).await;
    idle().await;
    // 60 bytes are free, but they are for the one that waits.
    assert_eq!(busy.processor.try_send(10).unwrap_err().reason, RejectReason::Full);
    busy.gate.add_permits(99);
    assert_eq!(large.await.unwrap(), 90);
}

#[tokio::test]
async fn a_permit_keeps_room_until_it_is_used_or_dropped() {
    let busy = Busy::new().await;
    let kept = busy.processor.reserve().await.unwrap();
    let dropped = busy.processor.reserve().await.unwrap();
    assert_room(&busy.processor, 2);
    drop(dropped);
    assert_room(&busy.processor, 1);
    let ticket = kept.add(10).unwrap();
    assert_room(&busy.processor, 0);
    busy.gate.add_permits(99);
    assert_eq!(ticket.await.unwrap(), 10);
}

#[tokio::test]
async fn reserving_waits_for_room() {
    let busy = Busy::new().await;
    busy.fill();
    let reserving = tokio::spawn({
        let processor = busy.processor.clone();
        async move { processor.reserve().await.unwrap().add(10).unwrap().await.unwrap() }
    });
    idle().await;
    assert!(!reserving.is_finished());
    busy.gate.add_permits(99);
    assert_eq!(reserving.await.unwrap(), 10);
}

#[tokio::test]
async fn a_permit_for_an_item_that_is_too_large_gives_its_room_back() {
    let weigh = |item: &u32| *item as usize;
    let busy =
        Busy::with(|builder| builder.max_items(1).capacity(2).max_bytes(10, weigh).capacity_bytes(10)).await;
    let permit = busy.processor.reserve().await.unwrap();
    assert_eq!(permit.add(11).unwrap_err().reason, RejectReason::TooLarge { bytes: 11, max: 10 });
    busy.processor.try_send(10).unwrap();
    busy.processor.try_send(0).unwrap();
}

#[tokio::test]
async fn items_added_through_permits_give_back_what_they_took() {
    let weigh = |item: &u32| *item as usize;
    let busy =
        Busy::with(|builder| builder.max_items(1).capacity(4).max_bytes(10, weigh).capacity_bytes(12)).await;
    busy.gate.add_permits(99);
    for item in [0, 10, 1, 5] {
        busy.processor.reserve().await.unwrap().send(item).unwrap();
        busy.processor.flush().await.unwrap();
    }
    busy.gate.forget_permits(99);
    busy.processor.send(0).await.unwrap();
    idle().await;
    // All 12 bytes are free again, and no more.
    for item in [10, 2] {
        busy.processor.try_send(item).unwrap();
    }
    assert!(busy.processor.try_send(1).is_err());
}

#[tokio::test]
async fn a_permit_outlives_a_stop_and_then_hands_the_item_back() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let processor = started(batcher(&script, &clock).max_items(1).capacity(2).concurrency(1));
    let permit = processor.reserve().await.unwrap();
    let later = processor.reserve().await.unwrap();
    assert!(processor.stop(HOUR).await.is_clean());
    let Rejected { item, reason } = permit.add(10).unwrap_err();
    assert_eq!((item, reason), (10, RejectReason::NotRunning));
    assert_eq!(processor.reserve().await.unwrap_err(), NotRunning);
    processor.start().unwrap();
    assert_eq!(later.add(11).unwrap().await.unwrap(), 11);
    assert_books_balance(&processor);
    assert_room(&processor, 2);
}

#[tokio::test]
async fn a_full_buffer_does_not_wait_for_an_endless_linger() {
    // The buffer is full of items that wait for their key, so the open batch can never fill: it must go.
    let (script, clock) = (Script::done(), ManualClock::new());
    let builder = batcher(&script, &clock).max_items(2).capacity(2).linger(Duration::MAX).concurrency(1);
    let processor = started(builder.order_by(|_| Some(())));
    let mut adding = Vec::new();
    for item in 0..9 {
        let processor = processor.clone();
        #[expect(clippy::async_yields_async, reason = "that it is accepted is the point")]
        adding.push(tokio::spawn(async move { processor.add(item).await.unwrap() }));
        idle().await;
    }
    let mut tickets = Vec::new();
    for adding in adding {
        idle().await;
        assert!(adding.is_finished(), "nobody makes room");
        tickets.push(adding.await.unwrap());
    }
    processor.flush().await.unwrap();
    assert_eq!(outputs(answers(tickets).await), (0..9).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_buffer_full_of_bytes_does_not_wait_for_an_endless_linger() {
    let (script, clock) = (Script::done(), ManualClock::new());
    let builder = batcher(&script, &clock).linger(Duration::MAX).concurrency(1).order_by(|item| Some(*item));
    let processor = started(builder.max_bytes(100, |item| *item as usize).capacity_bytes(200));
    let mut tickets = Vec::new();
    // Items of one key wait for each other, so no batch gets full; and the next item never fits beside them.
    for item in [60; 9].into_iter().chain([70; 9]).chain([100, 1, 100, 99]) {
        let adding = Box::pin(processor.add(item));
        tickets.push(run_out(&clock, adding).await.unwrap());
    }
    processor.flush().await.unwrap();
    assert_eq!(answers(tickets).await.len(), 22);
}
