use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, InvalidSetting, Recorder};
use tracing::{info, warn};

use self::machine::{Limits, Machine, Outcome, Ticket};
use crate::metrics::Meter;

mod machine;

/// Stops calling a service that keeps failing, and finds out when it works again.
///
/// *Closed*, it lets every call through. After some failures in a row it is *open* and lets none through for a
/// while. Then it is *half-open* and lets a few probes through: the first success closes it, a failure opens it
/// again. Results of calls that began before the last change count for nothing. Share one breaker per service
/// called.
///
/// ```
/// use relaykit_pipeline_traits::SystemClock;
/// use relaykit_retry::CircuitBreaker;
///
/// # fn call() -> Result<u32, std::io::Error> { Ok(42) }
/// let breaker = CircuitBreaker::builder(SystemClock::new()).failures(3).build()?;
/// let permit = breaker.try_acquire()?;
/// match call() {
///     Ok(_) => permit.success(),
///     Err(_) => permit.failure(),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CircuitBreaker {
    clock: Arc<dyn Clock>,
    machine: Mutex<Machine>,
    meter: Meter,
}

/// Builds a [`CircuitBreaker`].
#[derive(Debug)]
#[must_use = "a description does nothing until `build`"]
pub struct CircuitBreakerBuilder {
    clock: Arc<dyn Clock>,
    limits: Limits,
    meter: Meter,
}

/// What a [`CircuitBreaker`] does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// Every call goes through.
    Closed,
    /// No call goes through.
    Open,
    /// A few calls go through as probes.
    HalfOpen,
}

/// The circuit breaker lets no call through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the circuit is open for another {retry_in:?}")]
#[non_exhaustive]
pub struct Open {
    /// When it lets a call through, at the latest. It may be sooner if a probe that is under way succeeds.
    pub retry_in: Duration,
}

/// The right to make one call. Dropped without a result, by a panic or a cancelled future, it counts as neither
/// success nor failure and frees its place.
#[derive(Debug)]
#[must_use = "a permit dropped without `success` or `failure` tells the breaker nothing"]
pub struct Permit<'a> {
    breaker: &'a CircuitBreaker,
    ticket: Ticket,
    outcome: Outcome,
}

impl CircuitBreaker {
    /// Describes a breaker that tells time by `clock`.
    pub fn builder(clock: impl Clock) -> CircuitBreakerBuilder {
        CircuitBreakerBuilder {
            clock: Arc::new(clock),
            limits: Limits { failures: 5, open_for: Duration::from_secs(30), probes: 1 },
            meter: Meter::default(),
        }
    }

    /// Lets a call through, or says how long the circuit stays open.
    ///
    /// # Errors
    ///
    /// [`Open`] if the circuit is open, or half-open with all its probes under way.
    pub fn try_acquire(&self) -> Result<Permit<'_>, Open> {
        let now = self.clock.monotonic();
        let ticket = self.change(|machine| machine.acquire(now)).map_err(|retry_in| Open { retry_in })?;
        Ok(Permit { breaker: self, ticket, outcome: Outcome::Unknown })
    }

    /// Returns what it does with a call now.
    pub fn state(&self) -> BreakerState {
        let now = self.clock.monotonic();
        self.change(|machine| machine.kind(now))
    }

    /// Returns how long the circuit stays open, or `None` if it is closed or half-open.
    pub fn open_for_another(&self) -> Option<Duration> {
        let now = self.clock.monotonic();
        self.change(|machine| machine.open_for_another(now))
    }

    fn settle(&self, ticket: Ticket, outcome: Outcome) {
        let now = self.clock.monotonic();
        self.change(|machine| machine.settle(ticket, outcome, now));
    }

    /// Acts on the machine and logs when the circuit opens or closes.
    fn change<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        let (result, change) = {
            let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
            let before = machine.opened();
            let result = act(&mut machine);
            let after = machine.opened();
            (result, (before != after).then_some(after))
        };
        match change {
            Some(true) => {
                warn!("circuit opened");
                self.meter.circuit_opened();
            }
            Some(false) => info!("circuit closed"),
            None => {}
        }
        if let Some(open) = change {
            self.meter.circuit(open);
        }
        result
    }
}

impl CircuitBreakerBuilder {
    /// Sets how many failures in a row open the circuit. Default: 5; at least 1.
    pub const fn failures(mut self, failures: u32) -> Self {
        self.limits.failures = failures;
        self
    }

    /// Sets how long the circuit stays open before probes go through. Default: 30 s; more than 0 s.
    ///
    /// A probe without a result for as long loses its place to another, so that one hung call does not keep
    /// the circuit open.
    pub const fn open_for(mut self, wait: Duration) -> Self {
        self.limits.open_for = wait;
        self
    }

    /// Sets how many probes are under way at once while half-open. Default: 1; at least 1.
    pub const fn probes(mut self, probes: u32) -> Self {
        self.limits.probes = probes;
        self
    }

    /// Sets where the breaker's numbers go, [`METRICS`](crate::METRICS), and the value of their label `circuit`. Default:
    /// nowhere.
    pub fn recorder(mut self, circuit: impl Into<String>, recorder: impl Recorder + 'static) -> Self {
        self.meter = Meter::new(circuit.into(), Arc::new(recorder));
        self
    }

    /// Makes the breaker, closed.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] names the setting that is out of bounds.
    pub fn build(self) -> Result<CircuitBreaker, InvalidSetting> {
        if self.limits.failures == 0 {
            return Err(InvalidSetting::new("failures", 0, "at least 1"));
        }
        if self.limits.open_for.is_zero() {
            return Err(InvalidSetting::new("open_for", "0 s", "more than 0 s"));
        }
        if self.limits.probes == 0 {
            return Err(InvalidSetting::new("probes", 0, "at least 1"));
        }
        self.meter.circuit(false);
        let machine = Mutex::new(Machine::new(self.limits));
        Ok(CircuitBreaker { clock: self.clock, machine, meter: self.meter })
    }
}

impl Permit<'_> {
    /// Tells that the call succeeded.
    pub fn success(mut self) {
        self.outcome = Outcome::Success;
    }

    /// Tells that the call failed in a way that says something about the service.
    pub fn failure(mut self) {
        self.outcome = Outcome::Failure;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.breaker.settle(self.ticket, self.outcome);
    }
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::{ManualClock, MemoryRecorder};

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(30);

    fn breaker(clock: &ManualClock) -> CircuitBreaker {
        CircuitBreaker::builder(clock.clone()).failures(2).build().unwrap()
    }

    fn open(breaker: &CircuitBreaker) {
        for _ in 0..2 {
            breaker.try_acquire().unwrap().failure();
        }
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn failures_in_a_row_open_it_and_time_lets_a_probe_through() {
        let clock = ManualClock::new();
        let breaker = breaker(&clock);
        open(&breaker);
        assert_eq!(breaker.try_acquire().unwrap_err(), Open { retry_in: OPEN_FOR });
        clock.advance(OPEN_FOR);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.try_acquire().unwrap().success();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn a_probe_that_panics_frees_its_place() {
        let clock = ManualClock::new();
        let breaker = breaker(&clock);
        open(&breaker);
        clock.advance(OPEN_FOR);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _permit = breaker.try_acquire().unwrap();
            assert!(breaker.try_acquire().is_err(), "one probe at a time");
            panic!("the call fell over");
        }));
        assert!(caught.is_err());
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.try_acquire().unwrap().success();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let clock = ManualClock::new();
        let breaker = breaker(&clock);
        assert_eq!(breaker.open_for_another(), None);
        open(&breaker);
        clock.advance(Duration::from_secs(10));
        assert_eq!(breaker.open_for_another(), Some(Duration::from_secs(20)));
        let refused = breaker.try_acquire().unwrap_err();
        assert_eq!(refused.to_string(), "the circuit is open for another 20s");
    }

    #[test]
    fn an_operator_sees_when_the_circuit_opens_and_closes() {
        let (clock, recorder) = (ManualClock::new(), MemoryRecorder::new());
        let builder = CircuitBreaker::builder(clock.clone()).failures(2);
        let breaker = builder.recorder("mail", recorder.clone()).build().unwrap();
        assert_eq!(recorder.value("retry_circuit_open", &["mail"]), Some(0.0));
        open(&breaker);
        assert_eq!(recorder.value("retry_circuit_open", &["mail"]), Some(1.0));
        assert_eq!(recorder.value("retry_circuit_opened_total", &["mail"]), Some(1.0));
        clock.advance(OPEN_FOR);
        breaker.try_acquire().unwrap().success();
        assert_eq!(recorder.value("retry_circuit_open", &["mail"]), Some(0.0));
    }

    #[test]
    fn settings_out_of_bounds_are_refused() {
        let new = || CircuitBreaker::builder(ManualClock::new());
        let message = |builder: CircuitBreakerBuilder| builder.build().unwrap_err().to_string();
        assert_eq!(message(new().failures(0)), "failures is 0, but must be at least 1");
        assert_eq!(message(new().open_for(Duration::ZERO)), "open_for is 0 s, but must be more than 0 s");
        assert_eq!(message(new().probes(0)), "probes is 0, but must be at least 1");
    }
}
