use std::sync::Arc;

use proptest::prelude::*;
use relaykit_pipeline_traits::ManualClock;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(millis: u64) -> Monotonic {
    Monotonic::from_origin(Duration::from_millis(millis))
}

fn gate(requests: u32) -> Arc<Gate> {
    Arc::new(Gate::new(Some(Rate::per_second(requests))))
}

/// Lets the tasks that can run do so.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_token_comes_back_a_span_after_it_was_taken() {
    let mut window = Window::new(Some(Rate::per_second(2)));
    assert_eq!(window.take(at(0)), Ok(()));
    assert_eq!(window.take(at(400)), Ok(()));
    assert_eq!(window.take(at(500)), Err(Duration::from_millis(500)));
    assert_eq!(window.take(at(1000)), Ok(()));
    assert_eq!(window.take(at(1000)), Err(Duration::from_millis(400)));
    assert_eq!(window.take(at(1400)), Ok(()));
}

#[test]
fn a_pause_holds_the_tokens_back_and_the_later_one_counts() {
    let mut window = Window::new(Some(Rate::per_second(2)));
    window.pause(at(5000));
    window.pause(at(3000));
    assert_eq!(window.take(at(4000)), Err(SECOND));
    assert_eq!(window.take(at(5000)), Ok(()));
}

#[test]
fn a_gate_without_rate_is_open_until_it_is_paused() {
    let mut window = Window::new(None);
    for _ in 0..10_000 {
        assert_eq!(window.take(at(0)), Ok(()));
    }
    assert!(window.taken.is_empty());
    window.pause(at(10));
    assert_eq!(window.take(at(0)), Err(Duration::from_millis(10)));
}

proptest! {
    /// A failing case prints the waits, which are all its input.
    #[test]
    fn no_span_sees_more_requests_than_the_rate_allows(
        requests in 1_u32..8,
        waits in proptest::collection::vec(0_u64..700, 1..200),
    ) {
        let mut window = Window::new(Some(Rate::per_second(requests)));
        let mut now = at(0);
        let mut taken = Vec::new();
        for wait in waits {
            now = now + Duration::from_millis(wait);
            match window.take(now) {
                Ok(()) => taken.push(now),
                Err(wait) => {
                    prop_assert!(wait > Duration::ZERO && wait <= SECOND);
                    // A wait that was told is long enough, and one shorter is not.
                    let early = now + wait - Duration::from_nanos(1);
                    prop_assert!(window.take(early).is_err());
                    now = now + wait;
                    prop_assert!(window.take(now).is_ok());
                    taken.push(now);
                }
            }
        }
        for (index, first) in taken.iter().enumerate() {
            let within = taken[index..].iter().take_while(|at| at.since(*first) < SECOND).count();
            prop_assert!(within <= requests as usize, "{within} requests within a second");
        }
    }
}

#[tokio::test]
async fn callers_come_in_the_order_of_their_arrival() {
    let (clock, gate) = (ManualClock::new(), gate(1));
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut callers = Vec::new();
    for number in 0..4 {
        let (clock, gate, order) = (clock.clone(), Arc::clone(&gate), Arc::clone(&order));
        callers.push(tokio::spawn(async move {
            gate.acquire(&clock, SECOND * 60).await.unwrap();
            order.lock().unwrap().push(number);
        }));
        settle().await;
    }
    for passed in 1..=4 {
        assert_eq!(order.lock().unwrap().len(), passed);
        clock.advance(SECOND);
        settle().await;
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(clock.sleepers(), 0);
}

#[tokio::test]
async fn a_caller_that_stops_waiting_gives_its_place_back() {
    let (clock, gate) = (ManualClock::new(), gate(1));
    gate.acquire(&clock, SECOND).await.unwrap();
    let wait = |clock: ManualClock, gate: Arc<Gate>| {
        tokio::spawn(async move { gate.acquire(&clock, SECOND * 60).await })
    };
    let first = wait(clock.clone(), Arc::clone(&gate));
    clock.until_sleepers(1).await;
    let second = wait(clock.clone(), Arc::clone(&gate));
    let third = wait(clock.clone(), Arc::clone(&gate));
    clock.until_sleepers(3).await;
    // One that has the turn, and one that queues for it.
    first.abort();
    second.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert!(second.await.unwrap_err().is_cancelled());
    settle().await;
    clock.advance(SECOND);
    third.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_wait_known_to_be_too_long_is_refused_at_once() {
    let (clock, gate) = (ManualClock::new(), gate(1));
    gate.window().pause(clock.monotonic() + SECOND * 600);
    assert_eq!(gate.acquire(&clock, SECOND * 30).await, Err(SECOND * 600));
    assert_eq!(clock.sleepers(), 0);
}

#[tokio::test]
async fn a_caller_behind_others_waits_no_longer_than_it_may() {
    let (clock, gate) = (ManualClock::new(), gate(1));
    gate.acquire(&clock, SECOND).await.unwrap();
    let patient = tokio::spawn({
        let (clock, gate) = (clock.clone(), Arc::clone(&gate));
        async move { gate.acquire(&clock, SECOND * 60).await }
    });
    clock.until_sleepers(1).await;
    let hasty = tokio::spawn({
        let (clock, gate) = (clock.clone(), Arc::clone(&gate));
        async move { gate.acquire(&clock, SECOND / 2).await }
    });
    clock.until_sleepers(2).await;
    clock.advance(SECOND / 2);
    assert_eq!(hasty.await.unwrap(), Err(SECOND / 2));
    assert!(!patient.is_finished());
    clock.advance(SECOND / 2);
    patient.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_pause_reaches_those_who_already_wait() {
    let (clock, gate) = (ManualClock::new(), gate(1));
    gate.acquire(&clock, SECOND).await.unwrap();
    let waiting = tokio::spawn({
        let (clock, gate) = (clock.clone(), Arc::clone(&gate));
        async move { gate.acquire(&clock, SECOND * 60).await }
    });
    clock.until_sleepers(1).await;
    gate.window().pause(clock.monotonic() + SECOND * 10);
    clock.advance(SECOND);
    settle().await;
    assert!(!waiting.is_finished());
    clock.advance(SECOND * 9);
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn endpoints_do_not_wait_for_each_other() {
    let clock = ManualClock::new();
    let limiter = Limiter::new(|_| Some(Rate::per_second(1)));
    limiter.pause(Endpoint::TrackEvents, clock.monotonic() + SECOND);
    assert!(limiter.acquire(Endpoint::TrackEvents, &clock, SECOND / 2).await.is_err());
    for endpoint in Endpoint::ALL.into_iter().filter(|endpoint| *endpoint != Endpoint::TrackEvents) {
        limiter.acquire(endpoint, &clock, SECOND / 2).await.unwrap();
    }
}
