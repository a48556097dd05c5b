use std::cell::{Cell, RefCell};

use relaykit_pipeline_traits::{DurableDecision, Failure, GiveUp, ManualClock, MemoryRecorder};
use tokio::sync::oneshot;

use super::*;
use relaykit_pipeline_traits::MAX_FREE_ROUNDS;

use crate::{Backoff, BreakerState, Jitter, Policy};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("call {call} failed")]
struct Failed {
    call: u32,
    class: ErrorClass,
    hint: Option<Duration>,
}

impl Classify for Failed {
    fn class(&self) -> ErrorClass {
        self.class
    }
    fn retry_after(&self) -> Option<Duration> {
        self.hint
    }
}

const fn failure(class: ErrorClass) -> Result<u32, Failed> {
    Err(Failed { call: 0, class, hint: None })
}

const TRANSIENT: Result<u32, Failed> = failure(ErrorClass::Transient);
const THROTTLED: Result<u32, Failed> = failure(ErrorClass::Throttled);
const PERMANENT: Result<u32, Failed> = failure(ErrorClass::Permanent);
const SPENT: StopReason = StopReason::Exhausted(GiveUp::attempts());

/// An operation that gives the answers of a script, the last one for ever, and remembers when it was called
/// with which attempt.
struct Script {
    clock: ManualClock,
    answers: Vec<Result<u32, Failed>>,
    calls: RefCell<Vec<(Duration, u32)>>,
}

impl Script {
    fn new(clock: &ManualClock, answers: &[Result<u32, Failed>]) -> Self {
        Self { clock: clock.clone(), answers: answers.to_vec(), calls: RefCell::default() }
    }

    /// Answers, with the number of the call in the error.
    fn answer(&self, attempt: u32) -> std::future::Ready<Result<u32, Failed>> {
        let mut calls = self.calls.borrow_mut();
        let index = calls.len().min(self.answers.len() - 1);
        calls.push((self.clock.monotonic().since_origin(), attempt));
        let call = u32::try_from(calls.len()).unwrap();
        std::future::ready(self.answers[index].map_err(|error| Failed { call, ..error }))
    }

    fn seconds(&self) -> Vec<u64> {
        self.calls.borrow().iter().map(|(at, _)| at.as_secs()).collect()
    }

    fn attempts(&self) -> Vec<u32> {
        self.calls.borrow().iter().map(|(_, attempt)| *attempt).collect()
    }
}

/// Runs a future and moves the clock to the next moment somebody waits for, until it ends.
async fn drive<F: Future>(clock: &ManualClock, future: F) -> F::Output {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            assert!(clock.advance_to_next_sleeper().is_some(), "it waits, but for no moment");
        }
    })
    .await
}

fn doubling(attempts: u32) -> Policy {
    Backoff::exponential(SECOND).jitter(Jitter::None).max_attempts(attempts).build().unwrap()
}

#[tokio::test]
async fn a_success_ends_it_without_a_wait() {
    let clock = ManualClock::new();
    let script = Script::new(&clock, &[Ok(7)]);
    let answer = retry(doubling(5), clock.clone(), |attempt| script.answer(attempt)).await;
    assert_eq!(answer, Ok(7));
    assert_eq!(script.seconds(), [0]);
}

#[tokio::test]
async fn failures_are_tried_again_after_the_waits_of_the_policy() {
    let clock = ManualClock::new();
    let script = Script::new(&clock, &[TRANSIENT, TRANSIENT, TRANSIENT, Ok(7)]);
    let answer = drive(&clock, retry(doubling(5), clock.clone(), |attempt| script.answer(attempt))).await;
    assert_eq!(answer, Ok(7));
    assert_eq!(script.seconds(), [0, 1, 3, 7]);
    assert_eq!(script.attempts(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn no_wait_follows_the_last_failure() {
    let clock = ManualClock::new();
    let script = Script::new(&clock, &[TRANSIENT]);
    let error = drive(&clock, retry(doubling(3), clock.clone(), |attempt| script.answer(attempt))).await;
    assert_eq!(
        error,
        Err(RetryError::Failed {
            error: Failed { call: 3, class: ErrorClass::Transient, hint: None },
            attempts: 3,
            calls: 3,
            elapsed: 3 * SECOND,
            reason: SPENT,
        })
    );
    assert_eq!(clock.monotonic().since_origin(), 3 * SECOND);
}

#[tokio::test]
async fn a_permanent_error_is_returned_at_once() {
    let clock = ManualClock::new();
    let script = Script::new(&clock, &[TRANSIENT, PERMANENT]);
    let error =
        drive(&clock, retry(doubling(5), clock.clone(), |attempt| script.answer(attempt))).await.unwrap_err();
    assert_eq!((error.reason(), error.attempts()), (StopReason::Permanent, 2));
    assert_eq!(error.error().unwrap().call, 2);
}

#[tokio::test]
async fn a_hint_is_waited_out() {
    let clock = ManualClock::new();
    let hint = Some(90 * SECOND);
    let asked = TRANSIENT.map_err(|error| Failed { hint, ..error });
    let script = Script::new(&clock, &[asked, TRANSIENT, Ok(7)]);
    let answer = drive(&clock, retry(doubling(5), clock.clone(), |attempt| script.answer(attempt))).await;
    assert_eq!(answer, Ok(7));
    assert_eq!(script.seconds(), [0, 90, 92]);
}

#[tokio::test]
async fn a_throttled_call_spends_no_attempt() {
    let clock = ManualClock::new();
    let script = Script::new(&clock, &[THROTTLED, THROTTLED, TRANSIENT, THROTTLED, TRANSIENT]);
    let error =
        drive(&clock, retry(doubling(2), clock.clone(), |attempt| script.answer(attempt))).await.unwrap_err();
    assert_eq!((error.reason(), error.attempts(), error.calls()), (SPENT, 2, 5));
    assert_eq!(script.attempts(), [1, 1, 1, 2, 2]);
}

#[tokio::test]
async fn throttling_without_end_does_end() {
    let clock = ManualClock::new();
    let script = Script::new(&clock, &[THROTTLED]);
    let error =
        drive(&clock, retry(doubling(2), clock.clone(), |attempt| script.answer(attempt))).await.unwrap_err();
    assert_eq!((error.reason(), error.calls()), (SPENT, MAX_FREE_ROUNDS + 2));
}

#[tokio::test]
async fn the_time_allowed_counts_from_the_first_call_to_the_end_of_the_last() {
    let clock = ManualClock::new();
    clock.advance(1000 * SECOND);
    let policy = Backoff::fixed(SECOND).jitter(Jitter::None).max_elapsed(10 * SECOND).build().unwrap();
    let calls = Cell::new(0);
    let slow = retry(policy, clock.clone(), |_| {
        calls.set(calls.get() + 1);
        let sleep = clock.sleep(4 * SECOND);
        async move {
            sleep.await;
            TRANSIENT
        }
    });
    let error = drive(&clock, slow).await.unwrap_err();
    // Two calls and two waits make ten seconds; the third call ends at 14.
    assert_eq!((calls.get(), error.elapsed()), (3, 14 * SECOND));
    assert_eq!(error.reason(), StopReason::Exhausted(GiveUp::elapsed()));
}

#[tokio::test]
async fn a_step_of_the_wall_clock_changes_nothing() {
    let clock = ManualClock::new();
    let policy = Backoff::fixed(SECOND).jitter(Jitter::None).max_elapsed(3 * SECOND).build().unwrap();
    let script = Script::new(&clock, &[TRANSIENT, TRANSIENT, Ok(7)]);
    let answer = drive(
        &clock,
        retry(policy, clock.clone(), |attempt| {
            let step = if attempt == 1 { i64::MAX } else { 0 };
            clock.set_wall(relaykit_pipeline_traits::Timestamp::from_micros(step));
            script.answer(attempt)
        }),
    )
    .await;
    assert_eq!(answer, Ok(7));
    assert_eq!(script.seconds(), [0, 1, 2]);
}

/// The loop in memory and a row that stores the attempts, the last wait and when it was first tried.
#[tokio::test]
async fn attempts_are_never_counted_twice() {
    for jitter in [Jitter::None, Jitter::Full, Jitter::Equal, Jitter::Proportional(0.3), Jitter::Decorrelated]
    {
        let policy = Backoff::exponential(SECOND)
            .factor(1.7)
            .jitter(jitter)
            .max_attempts(9)
            .max_elapsed(60 * SECOND)
            .build()
            .unwrap();
        let seed = 0xfeed;

        let clock = ManualClock::new();
        let script = Script::new(&clock, &[TRANSIENT]);
        let run =
            Retry::new(policy, clock.clone()).rng(Rng::seeded(seed)).run(|attempt| script.answer(attempt));
        let error = drive(&clock, run).await.unwrap_err();

        // Timestamps are exact to the microsecond, so each moment is compared to it.
        let first_at = ManualClock::new().now();
        let (mut now, mut rng, mut row) = (first_at, Rng::seeded(seed), Failure::of_attempt(0));
        let mut moments = vec![Duration::ZERO];
        let give_up = loop {
            row.attempt += 1;
            match policy.decide_at(&row, first_at, now, &mut rng) {
                DurableDecision::RetryAt(at) => {
                    row.previous_delay = Some(at.since(now));
                    now = at;
                    moments.push(now.since(first_at));
                }
                DurableDecision::GiveUp(give_up) => break give_up,
            }
        };
        assert_eq!(error.reason(), StopReason::Exhausted(give_up), "{jitter:?}, seed {seed}");
        assert_eq!(error.attempts(), row.attempt, "{jitter:?}, seed {seed}");
        let calls = script.calls.borrow();
        assert_eq!(calls.len(), moments.len(), "{jitter:?}, seed {seed}");
        for ((at, _), moment) in calls.iter().zip(moments) {
            let apart = at.abs_diff(moment);
            assert!(apart < Duration::from_millis(1), "{jitter:?}, seed {seed}: {at:?}, {moment:?}");
        }
    }
}

#[tokio::test]
async fn whoever_listens_hears_of_each_failure_before_its_wait() {
    let clock = ManualClock::new();
    let script = Script::new(&clock, &[TRANSIENT, THROTTLED, TRANSIENT]);
    let mut heard = Vec::new();
    let run = Retry::new(doubling(2), clock.clone())
        .notify(|error: &Failed, notice: &Notice| heard.push((error.call, *notice)))
        .run(|attempt| script.answer(attempt));
    drive(&clock, run).await.unwrap_err();
    let notice = |attempt, class, elapsed, wait| Notice {
        attempt,
        class,
        elapsed: elapsed * SECOND,
        wait: wait * SECOND,
    };
    assert_eq!(
        heard,
        [(1, notice(1, ErrorClass::Transient, 0, 1)), (2, notice(2, ErrorClass::Throttled, 1, 1)),],
        "the last failure is returned instead"
    );
}

#[tokio::test]
async fn a_stop_ends_the_wait_at_once() {
    let clock = ManualClock::new();
    let script = Script::new(&clock, &[TRANSIENT]);
    let (stop, stopped) = oneshot::channel::<()>();
    let run = Retry::new(doubling(5), clock.clone()).until(stopped).run(|attempt| script.answer(attempt));
    let signal = async {
        clock.until_sleepers(1).await;
        stop.send(()).unwrap();
    };
    let (result, ()) = tokio::join!(run, signal);
    let error = result.unwrap_err();
    assert_eq!((error.reason(), error.attempts()), (StopReason::Stopped, 1));
    assert_eq!(error.into_error().unwrap().call, 1);
    assert_eq!(clock.sleepers(), 0);
}

#[tokio::test]
async fn a_stop_before_the_first_call_prevents_it() {
    let clock = ManualClock::new();
    let script = Script::new(&clock, &[Ok(7)]);
    let run = Retry::new(doubling(5), clock.clone())
        .until(std::future::ready(()))
        .run(|attempt| script.answer(attempt));
    let reason = StopReason::Stopped;
    assert_eq!(run.await, Err(RetryError::NotTried { reason }));
    assert!(script.seconds().is_empty());
}

#[tokio::test]
async fn a_stop_lets_the_call_under_way_finish() {
    let clock = ManualClock::new();
    for answer in [Ok(7), TRANSIENT] {
        let (stop, stopped) = oneshot::channel::<()>();
        let stop = Cell::new(Some(stop));
        let run = Retry::new(doubling(5), clock.clone()).until(stopped).run(|_| {
            stop.take().expect("called once").send(()).unwrap();
            async move {
                tokio::task::yield_now().await;
                answer
            }
        });
        match run.await {
            Ok(value) => assert_eq!(value, 7),
            Err(error) => assert_eq!((error.reason(), error.calls()), (StopReason::Stopped, 1)),
        }
    }
}

#[tokio::test]
async fn a_dropped_run_leaves_no_timer_and_no_probe_behind() {
    let clock = ManualClock::new();
    let breaker =
        Arc::new(CircuitBreaker::builder(clock.clone()).failures(1).open_for(SECOND).build().unwrap());
    // Dropped while waiting:
    let waiting = tokio::spawn(retry(doubling(5), clock.clone(), |_| async { TRANSIENT }));
    clock.until_sleepers(1).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    assert_eq!(clock.sleepers(), 0);

    // Dropped while its call, the only probe, is under way:
    breaker.try_acquire().unwrap().failure();
    clock.advance(SECOND);
    let (begun, has_begun) = oneshot::channel();
    let mut begun = Some(begun);
    let run = Retry::new(doubling(5), clock.clone()).breaker(Arc::clone(&breaker)).run(move |_| {
        begun.take().expect("called once").send(()).unwrap();
        std::future::pending::<Result<u32, Failed>>()
    });
    let calling = tokio::spawn(run);
    has_begun.await.unwrap();
    assert!(breaker.try_acquire().is_err(), "the probe is taken");
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    assert_eq!(breaker.state(), BreakerState::HalfOpen);
    assert!(breaker.try_acquire().is_ok(), "the probe is free again");
}

#[tokio::test]
async fn a_call_that_panics_frees_its_probe() {
    let clock = ManualClock::new();
    let breaker = Arc::new(CircuitBreaker::builder(clock.clone()).failures(1).build().unwrap());
    breaker.try_acquire().unwrap().failure();
    clock.advance(30 * SECOND);
    let run = Retry::new(doubling(5), clock.clone())
        .breaker(Arc::clone(&breaker))
        .run(|_| async { TRANSIENT.map_err(|error| -> Failed { panic!("fell over: {error}") }) });
    assert!(tokio::spawn(run).await.unwrap_err().is_panic());
    assert!(breaker.try_acquire().is_ok());
}

#[tokio::test]
async fn an_empty_budget_ends_the_run_without_a_wait() {
    let clock = ManualClock::new();
    let budget = RetryBudget::builder(clock.clone()).min_per_second(2).ratio(0.0).build();
    let budget = Arc::new(budget.unwrap());
    let policy =
        Backoff::fixed(Duration::from_millis(1)).jitter(Jitter::None).max_attempts(10).build().unwrap();
    let script = Script::new(&clock, &[TRANSIENT]);
    let run = Retry::new(policy, clock.clone()).budget(budget).run(|attempt| script.answer(attempt));
    let error = drive(&clock, run).await.unwrap_err();
    assert_eq!((error.reason(), error.attempts()), (StopReason::Budget, 3));
    assert_eq!(error.into_error().unwrap().call, 3);
    assert_eq!(clock.monotonic().since_origin(), Duration::from_millis(2));
}

#[tokio::test]
async fn each_first_call_pays_into_the_budget() {
    let clock = ManualClock::new();
    let budget = RetryBudget::builder(clock.clone()).min_per_second(0).ratio(0.5).build();
    let budget = Arc::new(budget.unwrap());
    for _ in 0..6 {
        let fine = Retry::new(doubling(5), clock.clone()).budget(Arc::clone(&budget));
        assert_eq!(fine.run(|_| async { Ok::<_, Failed>(1) }).await, Ok(1));
    }
    assert_eq!(budget.available(), 3);
}

#[tokio::test]
async fn nested_loops_do_not_multiply_beyond_a_shared_budget() {
    let clock = ManualClock::new();
    let budget = RetryBudget::builder(clock.clone()).min_per_second(0).ratio(0.1).build();
    let budget = Arc::new(budget.unwrap());
    let calls = Cell::new(0_u32);
    let policy = Backoff::fixed(Duration::ZERO).build().unwrap();
    let call = || async {
        calls.set(calls.get() + 1);
        TRANSIENT
    };
    for _ in 0..500 {
        let outer = Retry::new(policy, clock.clone()).budget(Arc::clone(&budget)).run(|_| {
            let inner = Retry::new(policy, clock.clone()).budget(Arc::clone(&budget));
            inner.run(|_| call())
        });
        outer.await.unwrap_err();
    }
    // Without a budget: 500 · 5 · 5. Each outer run pays for itself and for its inner ones.
    assert!(calls.get() <= 500 * 13 / 10, "{} calls", calls.get());
    assert!(calls.get() > 500, "{} calls", calls.get());
}

fn breaker(clock: &ManualClock, failures: u32) -> Arc<CircuitBreaker> {
    let breaker = CircuitBreaker::builder(clock.clone()).failures(failures);
    Arc::new(breaker.build().unwrap())
}

#[tokio::test]
async fn an_open_circuit_prevents_the_first_call() {
    let clock = ManualClock::new();
    let breaker = breaker(&clock, 1);
    breaker.try_acquire().unwrap().failure();
    let script = Script::new(&clock, &[Ok(7)]);
    let run = Retry::new(doubling(5), clock.clone()).breaker(breaker).run(|attempt| script.answer(attempt));
    let retry_in = 30 * SECOND;
    let reason = StopReason::CircuitOpen { retry_in };
    assert_eq!(run.await, Err(RetryError::NotTried { reason }));
    assert!(script.seconds().is_empty());
}

#[tokio::test]
async fn a_circuit_that_opens_for_longer_than_the_wait_ends_the_run_without_it() {
    let clock = ManualClock::new();
    let script = Script::new(&clock, &[TRANSIENT]);
    let run = Retry::new(doubling(9), clock.clone())
        .breaker(breaker(&clock, 3))
        .run(|attempt| script.answer(attempt));
    let error = drive(&clock, run).await.unwrap_err();
    let retry_in = 30 * SECOND;
    assert_eq!(error.reason(), StopReason::CircuitOpen { retry_in });
    assert_eq!(error.error().unwrap().call, 3);
    assert_eq!(clock.monotonic().since_origin(), 3 * SECOND);
}

#[tokio::test]
async fn a_wait_as_long_as_the_circuit_is_open_leads_to_a_probe() {
    let clock = ManualClock::new();
    let script = Script::new(&clock, &[TRANSIENT, Ok(7)]);
    let policy = Backoff::fixed(30 * SECOND).jitter(Jitter::None).build().unwrap();
    let breaker = breaker(&clock, 1);
    let run =
        Retry::new(policy, clock.clone()).breaker(Arc::clone(&breaker)).run(|attempt| script.answer(attempt));
    assert_eq!(drive(&clock, run).await, Ok(7));
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test]
async fn a_circuit_that_others_open_during_the_wait_ends_the_run_after_it() {
    let clock = ManualClock::new();
    let breaker = breaker(&clock, 2);
    let script = Script::new(&clock, &[TRANSIENT]);
    let run = Retry::new(doubling(5), clock.clone())
        .breaker(Arc::clone(&breaker))
        .run(|attempt| script.answer(attempt));
    let others = async {
        clock.until_sleepers(1).await;
        breaker.try_acquire().unwrap().failure();
        clock.advance(SECOND);
    };
    let (result, ()) = tokio::join!(run, others);
    let retry_in = 29 * SECOND;
    assert_eq!(result.unwrap_err().reason(), StopReason::CircuitOpen { retry_in });
    assert_eq!(script.seconds(), [0]);
}

#[tokio::test]
async fn only_transient_errors_count_against_the_circuit() {
    let clock = ManualClock::new();
    let breaker = breaker(&clock, 2);
    for (answers, state) in [
        (&[TRANSIENT, PERMANENT][..], BreakerState::Closed),
        (&[TRANSIENT, THROTTLED, PERMANENT], BreakerState::Closed),
        (&[TRANSIENT, THROTTLED, TRANSIENT], BreakerState::Open),
    ] {
        let script = Script::new(&clock, answers);
        let run = Retry::new(doubling(9), clock.clone())
            .breaker(Arc::clone(&breaker))
            .run(|attempt| script.answer(attempt));
        drive(&clock, run).await.unwrap_err();
        assert_eq!(breaker.state(), state, "{answers:?}");
        assert_eq!(script.seconds().len(), answers.len());
    }
}

#[tokio::test]
async fn a_run_can_be_sent_to_another_thread() {
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    let clock = ManualClock::new();
    let run = Retry::new(doubling(5), clock.clone())
        .breaker(breaker(&clock, 1))
        .until(std::future::pending::<()>())
        .notify(|_: &Failed, _: &Notice| {})
        .run(|_| async { Ok::<_, Failed>(7) });
    assert_eq!(assert_send(run).await, Ok(7));
}

#[tokio::test]
async fn an_operator_sees_calls_waits_and_why_runs_ended() {
    let (clock, recorder) = (ManualClock::new(), MemoryRecorder::new());
    let policy = Backoff::fixed(2 * SECOND).jitter(Jitter::None).max_attempts(2).build().unwrap();
    for answers in [&[TRANSIENT, THROTTLED, Ok(1)][..], &[TRANSIENT], &[PERMANENT]] {
        let script = Script::new(&clock, answers);
        let run = Retry::new(policy, clock.clone()).recorder("mail", recorder.clone());
        let _ = drive(&clock, run.run(|attempt| script.answer(attempt))).await;
    }
    let count = |name, outcome| recorder.value(name, &["mail", outcome]);
    assert_eq!(count("retry_calls_total", "transient"), Some(3.0));
    assert_eq!(count("retry_calls_total", "throttled"), Some(1.0));
    assert_eq!(count("retry_calls_total", "permanent"), Some(1.0));
    assert_eq!(count("retry_calls_total", "ok"), Some(1.0));
    for outcome in ["ok", "exhausted", "permanent"] {
        assert_eq!(count("retry_runs_total", outcome), Some(1.0), "{outcome}");
    }
    assert_eq!(recorder.times("retry_wait_seconds", &["mail"]), 3);
    assert_eq!(recorder.value("retry_wait_seconds", &["mail"]), Some(6.0));
}
