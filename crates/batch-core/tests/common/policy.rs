use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_pipeline_traits::{Failure, GiveUp, RetryDecision, RetryPolicy, Rng};

/// Tries so many times, with the same delay or the hint where that is longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) attempts: u32,
    pub(crate) delay: Duration,
}

impl RetryPolicy for Times {
    fn decide(&self, failure: &Failure, _rng: &mut Rng) -> RetryDecision {
        if failure.attempt < self.attempts {
            RetryDecision::RetryAfter(failure.at_least(self.delay))
        } else {
            RetryDecision::GiveUp(GiveUp::attempts())
        }
    }
}

/// Decides as [`Times`] and remembers what it was told.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) times: Times,
    pub(crate) told: Arc<Mutex<Vec<Failure>>>,
}

impl Recorded {
    pub(crate) fn new(times: Times) -> Self {
        Self { times, told: Arc::default() }
    }

    pub(crate) fn told(&self) -> Vec<Failure> {
        self.told.lock().unwrap().clone()
    }
}

impl RetryPolicy for Recorded {
    fn decide(&self, failure: &Failure, rng: &mut Rng) -> RetryDecision {
        self.told.lock().unwrap().push(*failure);
        self.times.decide(failure, rng)
    }
}
