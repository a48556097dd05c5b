use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, Monotonic, Rng, Sleep, SystemClock, Timestamp};

use super::place::Place;
use super::plan::{Plan, Trouble};

/// A clock whose wall time jumps by up to an hour, to and fro. Waits go on as they should.
#[derive(Debug, Clone)]
pub(crate) struct JumpingClock {
    real: SystemClock,
    seed: u64,
}

/// How long it stays where it is.
pub(crate) const STAYS: Duration = Duration::from_millis(250);

/// How far it jumps at most.
const FAR: Duration = Duration::from_secs(3_600);

impl JumpingClock {
    /// Makes one; those of one seed jump together.
    pub(crate) fn new(seed: u64) -> Self {
        Self { real: SystemClock::new(), seed }
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        let real = self.real.now();
        let stay = real.as_micros() / i64::try_from(STAYS.as_micros()).unwrap_or(i64::MAX);
        let far = u64::try_from(FAR.as_micros()).unwrap_or(u64::MAX);
        let ahead = Rng::seeded(self.seed ^ stay.cast_unsigned()).below(2 * far);
        Timestamp::from_micros(real.as_micros() + ahead.cast_signed() - far.cast_signed())
    }

    fn monotonic(&self) -> Monotonic {
        self.real.monotonic()
    }

    fn sleep_until(&self, at: Monotonic) -> Sleep {
        self.real.sleep_until(at)
    }
}

/// The clock of a child process. Who shares a file shares a machine, and its clock; each of the others has one of its own.
pub(crate) fn clock(plan: &Plan) -> Arc<dyn Clock> {
    match (plan.trouble, &plan.place) {
        (Trouble::Clocks, Place::Sqlite { .. }) => Arc::new(JumpingClock::new(0)),
        (Trouble::Clocks, Place::Postgres { .. }) => Arc::new(JumpingClock::new(plan.seed)),
        _ => Arc::new(SystemClock::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_stays_within_an_hour_and_those_of_one_seed_agree() {
        let (real, one, same) = (SystemClock::new(), JumpingClock::new(7), JumpingClock::new(7));
        let off = one.now().as_micros().abs_diff(real.now().as_micros());
        assert!(off <= 3_601_000_000, "{off}");
        // The second may begin another stay; a third one then agrees with it.
        let pairs = [(one.now(), same.now()), (one.now(), same.now())];
        let near = |(a, b): &(Timestamp, Timestamp)| a.as_micros().abs_diff(b.as_micros()) < 100_000;
        assert!(pairs.iter().any(near), "{pairs:?}");
    }
}
