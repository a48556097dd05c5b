use std::time::Duration;

use relaykit_pipeline_traits::Monotonic;

use super::BreakerState;

/// The state machine of a circuit breaker: no clock, no lock.
#[derive(Debug)]
pub(super) struct Machine {
    limits: Limits,
    state: State,
    /// Grows with every change of state. A result that carries an older one comes too late to count.
    epoch: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) failures: u32,
    pub(super) open_for: Duration,
    pub(super) probes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Monotonic },
    HalfOpen { under_way: u32, latest: Monotonic },
}

/// Says in which epoch a call began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    Failure,
    Unknown,
}

impl Machine {
    pub(super) const fn new(limits: Limits) -> Self {
        Self { limits, state: State::Closed { failures: 0 }, epoch: 0 }
    }

    /// Lets a call through, or returns how long none goes through.
    pub(super) fn acquire(&mut self, now: Monotonic) -> Result<Ticket, Duration> {
        match self.state {
            State::Closed { .. } => {}
            State::Open { until } if now < until => return Err(until.since(now)),
            State::Open { .. } => self.probe(now),
            State::HalfOpen { under_way, latest } if under_way >= self.limits.probes => {
                let overdue = latest + self.limits.open_for;
                if now < overdue {
                    return Err(overdue.since(now));
                }
                self.probe(now);
            }
            State::HalfOpen { under_way, .. } => {
                let (under_way, latest) = (under_way + 1, now);
                self.state = State::HalfOpen { under_way, latest };
            }
        }
        Ok(Ticket(self.epoch))
    }

    /// Takes the result of a call.
    pub(super) fn settle(&mut self, ticket: Ticket, outcome: Outcome, now: Monotonic) {
        if ticket != Ticket(self.epoch) {
            return;
        }
        match (&mut self.state, outcome) {
            (State::Closed { failures }, Outcome::Success) => *failures = 0,
            (State::Closed { failures }, Outcome::Failure) => {
                *failures += 1;
                if *failures >= self.limits.failures {
                    self.open(now);
                }
            }
            (State::HalfOpen { .. }, Outcome::Success) => self.enter(State::Closed { failures: 0 }),
            (State::HalfOpen { .. }, Outcome::Failure) => self.open(now),
            (State::HalfOpen { under_way, .. }, Outcome::Unknown) => *under_way -= 1,
            // No ticket is of an open epoch.
            (State::Closed { .. }, Outcome::Unknown) | (State::Open { .. }, _) => {}
        }
    }

    pub(super) fn kind(&self, now: Monotonic) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until } if now < until => BreakerState::Open,
            State::Open { .. } | State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    pub(super) fn open_for_another(&self, now: Monotonic) -> Option<Duration> {
        match self.state {
            State::Open { until } if now < until => Some(until.since(now)),
            _ => None,
        }
    }

    /// Returns whether it has opened and not closed again.
    pub(super) const fn opened(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    fn open(&mut self, now: Monotonic) {
        self.enter(State::Open { until: now + self.limits.open_for });
    }

    fn probe(&mut self, now: Monotonic) {
        self.enter(State::HalfOpen { under_way: 1, latest: now });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.epoch = self.epoch.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::Rng;

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(30);

    fn machine(probes: u32) -> Machine {
        Machine::new(Limits { failures: 3, open_for: OPEN_FOR, probes })
    }

    const fn at(seconds: u64) -> Monotonic {
        Monotonic::from_origin(Duration::from_secs(seconds))
    }

    fn fail(machine: &mut Machine, times: u32, now: Monotonic) {
        for _ in 0..times {
            let ticket = machine.acquire(now).unwrap();
            machine.settle(ticket, Outcome::Failure, now);
        }
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let mut machine = machine(1);
        for _ in 0..10 {
            fail(&mut machine, 2, at(0));
            let ticket = machine.acquire(at(0)).unwrap();
            machine.settle(ticket, Outcome::Success, at(0));
        }
        assert_eq!(machine.kind(at(0)), BreakerState::Closed);
        fail(&mut machine, 3, at(0));
        assert_eq!(machine.kind(at(0)), BreakerState::Open);
    }

    #[test]
    fn a_call_without_a_result_does_not_break_a_row_of_failures() {
        let mut machine = machine(1);
        fail(&mut machine, 2, at(0));
        let ticket = machine.acquire(at(0)).unwrap();
        machine.settle(ticket, Outcome::Unknown, at(0));
        fail(&mut machine, 1, at(0));
        assert_eq!(machine.kind(at(0)), BreakerState::Open);
    }

    #[test]
    fn a_failed_probe_opens_it_for_the_whole_time_again() {
        let mut machine = machine(1);
        fail(&mut machine, 3, at(0));
        assert_eq!(machine.acquire(at(29)), Err(Duration::from_secs(1)));
        fail(&mut machine, 1, at(40));
        assert_eq!(machine.acquire(at(40)), Err(OPEN_FOR));
        assert!(machine.acquire(at(70)).is_ok());
    }

    #[test]
    fn no_more_probes_are_under_way_than_allowed() {
        let mut machine = machine(2);
        fail(&mut machine, 3, at(0));
        let first = machine.acquire(at(30)).unwrap();
        machine.acquire(at(31)).unwrap();
        assert_eq!(machine.acquire(at(32)), Err(Duration::from_secs(29)));
        machine.settle(first, Outcome::Unknown, at(33));
        assert!(machine.acquire(at(33)).is_ok());
        assert!(machine.acquire(at(33)).is_err());
    }

    #[test]
    fn the_first_success_closes_it_and_later_probes_count_for_nothing() {
        let mut machine = machine(2);
        fail(&mut machine, 3, at(0));
        let (first, second) = (machine.acquire(at(30)).unwrap(), machine.acquire(at(30)).unwrap());
        machine.settle(first, Outcome::Success, at(31));
        machine.settle(second, Outcome::Failure, at(31));
        fail(&mut machine, 2, at(31));
        assert_eq!(machine.kind(at(31)), BreakerState::Closed, "two failures, not three");
    }

    #[test]
    fn a_success_from_before_it_opened_does_not_close_it() {
        let mut machine = machine(1);
        let old = machine.acquire(at(0)).unwrap();
        fail(&mut machine, 3, at(0));
        machine.settle(old, Outcome::Success, at(1));
        assert_eq!(machine.kind(at(1)), BreakerState::Open);
        let probe = machine.acquire(at(30)).unwrap();
        machine.settle(old, Outcome::Success, at(30));
        assert_eq!(machine.kind(at(30)), BreakerState::HalfOpen);
        machine.settle(probe, Outcome::Success, at(30));
        assert_eq!(machine.kind(at(30)), BreakerState::Closed);
    }

    #[test]
    fn a_hung_probe_loses_its_place() {
        let mut machine = machine(1);
        fail(&mut machine, 3, at(0));
        let hung = machine.acquire(at(30)).unwrap();
        assert_eq!(machine.acquire(at(59)), Err(Duration::from_secs(1)));
        let second = machine.acquire(at(60)).unwrap();
        machine.settle(hung, Outcome::Failure, at(61));
        assert_eq!(machine.kind(at(61)), BreakerState::HalfOpen);
        machine.settle(second, Outcome::Success, at(61));
        assert_eq!(machine.kind(at(61)), BreakerState::Closed);
    }

    #[test]
    fn nothing_overflows_at_the_end_of_time() {
        let mut machine = Machine::new(Limits { failures: 1, open_for: Duration::MAX, probes: 1 });
        fail(&mut machine, 1, at(1));
        assert!(machine.acquire(at(2)).is_err());
        assert!(machine.acquire(Monotonic::NEVER).is_ok());
    }

    /// Random calls that end in random order, checked against what the docs promise.
    #[test]
    fn whatever_happens_an_open_circuit_lets_only_probes_through() {
        for seed in 0..200 {
            let mut rng = Rng::seeded(seed);
            let mut machine = machine(2);
            let (mut now, mut calls) = (at(0), Vec::new());
            for _ in 0..500 {
                now = now + Duration::from_secs(rng.below(10));
                let before = machine.kind(now);
                if rng.chance(0.5) {
                    match machine.acquire(now) {
                        Ok(ticket) => {
                            assert_ne!(before, BreakerState::Open, "seed {seed}");
                            calls.push(ticket);
                        }
                        Err(wait) => {
                            assert_ne!(before, BreakerState::Closed, "seed {seed}");
                            assert!(!wait.is_zero() && wait <= OPEN_FOR, "seed {seed}: {wait:?}");
                        }
                    }
                } else if !calls.is_empty() {
                    let index = usize::try_from(rng.below(calls.len() as u64)).unwrap();
                    let outcome = [Outcome::Success, Outcome::Failure, Outcome::Unknown]
                        [usize::try_from(rng.below(3)).unwrap()];
                    machine.settle(calls.swap_remove(index), outcome, now);
                }
                if machine.kind(now) == BreakerState::HalfOpen {
                    let current = Ticket(machine.epoch);
                    let probes = calls.iter().filter(|ticket| **ticket == current).count();
                    assert!(probes <= 2, "seed {seed}: {probes} probes at once");
                }
            }
        }
    }
}
