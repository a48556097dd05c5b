use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, Monotonic, Rng, Sleep, SystemClock, Timestamp};

use super::place::Place;
use super::plan::{Plan, Role, Trouble};

/// A clock whose wall time jumps by up to an hour, to and fro. Waits go on as they should.
#[derive(Debug, Clone)]
pub(crate) struct JumpingClock {
    real: SystemClock,
    /// `None` once it has come to rest.
    seed: Option<u64>,
}

/// How long it stays where it is.
pub(crate) const STAYS: Duration = Duration::from_millis(250);

/// How far it jumps at most.
const FAR: Duration = Duration::from_secs(3_600);

impl JumpingClock {
    /// Makes one; those of one seed jump together.
    pub(crate) fn new(seed: u64) -> Self {
        Self { real: SystemClock::new(), seed: Some(seed) }
    }

    /// Makes one that has come to rest, as far ahead as any ever was: whatever waits by it is due.
    fn at_rest() -> Self {
        Self { real: SystemClock::new(), seed: None }
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        let real = self.real.now();
        self.seed.map_or(real + FAR, |seed| shown(seed, real))
    }

    fn monotonic(&self) -> Monotonic {
        self.real.monotonic()
    }

    fn sleep_until(&self, at: Monotonic) -> Sleep {
        self.real.sleep_until(at)
    }
}

/// What is shown at this moment.
fn shown(seed: u64, real: Timestamp) -> Timestamp {
    let stay = real.as_micros() / i64::try_from(STAYS.as_micros()).unwrap_or(i64::MAX);
    let far = u64::try_from(FAR.as_micros()).unwrap_or(u64::MAX);
    let ahead = Rng::seeded(seed ^ stay.cast_unsigned()).below(2 * far);
    Timestamp::from_micros(real.as_micros() + ahead.cast_signed() - far.cast_signed())
}

/// The clock of a child process. Who shares a file shares a machine, and its clock; each of the others has one of its own.
pub(crate) fn clock(plan: &Plan) -> Arc<dyn Clock> {
    match (plan.trouble, &plan.place) {
        // What waits in a file waits by the wall clock: until that is there again.
        (Trouble::Clocks, Place::Sqlite { .. }) if plan.role == Role::Drain => {
            Arc::new(JumpingClock::at_rest())
        }
        (Trouble::Clocks, Place::Sqlite { .. }) => Arc::new(JumpingClock::new(0)),
        (Trouble::Clocks, Place::Postgres { .. }) => Arc::new(JumpingClock::new(plan.seed)),
        _ => Arc::new(SystemClock::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_goes_on_while_it_stays_and_jumps_by_an_hour_at_most() {
        let at = |micros| shown(7, Timestamp::from_micros(micros)).as_micros();
        let stays = i64::try_from(STAYS.as_micros()).unwrap();
        assert_eq!(at(stays + 10) - at(stays), 10);
        let off: Vec<_> = (1..100).map(|stay| at(stay * stays) - stay * stays).collect();
        assert!(off.iter().all(|off| off.abs() <= 3_600_000_000), "{off:?}");
        assert!(off.windows(2).all(|pair| pair[0] != pair[1]), "{off:?}");
        assert_ne!(shown(8, Timestamp::from_micros(0)), shown(7, Timestamp::from_micros(0)));
    }
}
