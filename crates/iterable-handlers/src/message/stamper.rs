use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use relaykit_pipeline_traits::{Clock, MessageId, Rng, SystemClock, Timestamp};

/// Gives requests their id and their moment, once, before they are first sent.
///
/// A request that is sent again after a lost reply is then the same request: the API updates the event it knows by
/// that id, instead of adding a second one. Copies share the clock and the source of ids.
#[derive(Clone)]
pub struct Stamper {
    clock: Arc<dyn Clock>,
    rng: Arc<Mutex<Rng>>,
}

impl Stamper {
    /// Makes a stamper that asks this clock and draws from this source.
    pub fn new(clock: impl Clock, rng: Rng) -> Self {
        Self { clock: Arc::new(clock), rng: Arc::new(Mutex::new(rng)) }
    }

    /// Makes a stamper on the machine's clock, with a seed of its own.
    #[must_use]
    pub fn system() -> Self {
        Self::new(SystemClock::new(), Rng::from_entropy())
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn id(&self) -> String {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        MessageId::new(self.clock.now(), &mut rng).to_string()
    }
}

impl Default for Stamper {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Stamper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stamper").field("clock", &self.clock).finish_non_exhaustive()
    }
}
