use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};

use crate::history::Said;

/// How a handler is: it takes its time, and fails now and then; or, in the end, neither.
pub(crate) struct Temper {
    rng: Mutex<Rng>,
    moody: bool,
}

impl Temper {
    pub(crate) fn new(rng: Rng, moody: bool) -> Self {
        Self { rng: Mutex::new(rng), moody }
    }

    /// Takes some time, one time in four, so that a process also dies here.
    pub(crate) async fn dawdle(&self) {
        if self.moody && self.below(4) == 0 {
            SystemClock::new().sleep(Duration::from_micros(self.below(8_000))).await;
        }
    }

    /// Fails one time in twenty.
    pub(crate) fn says(&self) -> Said {
        if self.moody && self.below(20) == 0 { Said::Again } else { Said::Done }
    }

    fn below(&self, end: u64) -> u64 {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).below(end)
    }
}
