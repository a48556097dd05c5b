use std::pin::pin;
use std::time::Duration;

use relaykit_pipeline_traits::Clock;

use crate::Permit;

/// Whether a batch may call its handler now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// For so long at the longest.
    Go(Duration),
    /// Once its leases are renewed, if that is within so long.
    Wait(Duration),
    /// Not any more.
    Over,
}

/// What of its leases' time a batch may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// How long a call may take.
    pub(super) call: Duration,
    /// What remains of a lease when the last call must have ended, to settle.
    pub(super) reserve: Duration,
    /// Whether somebody renews the leases meanwhile.
    pub(super) renewed: bool,
}

impl Times {
    /// Decides about a call of which `answered` tells whether others of its batch were made before it, whose answers are to be settled.
    /// The leases have so long left, and had `given` when they were renewed last.
    ///
    /// A call with a small part of its time would be cut off, through no fault of its messages.
    fn turn(self, left: Duration, given: Duration, answered: bool) -> Turn {
        let usable = left.saturating_sub(self.reserve);
        let fair =
            if self.renewed { given.saturating_sub(self.reserve).min(self.call) / 2 } else { Duration::ZERO };
        let wait = if answered { usable } else { left };
        if !usable.is_zero() && usable >= fair {
            Turn::Go(usable.min(self.call))
        } else if !wait.is_zero() {
            Turn::Wait(wait)
        } else {
            Turn::Over
        }
    }

    /// Waits until a call may begin. Returns how long it may take; `None` if the leases were not renewed in time, or one is to be given
    /// back, so that others need not wait for work that has not begun.
    pub(super) async fn wait(
        self,
        permits: &[Permit],
        clock: &dyn Clock,
        answered: bool,
    ) -> Option<Duration> {
        let first = permits.first()?;
        loop {
            let mut renewal = pin!(first.renewal());
            renewal.as_mut().enable();
            let given = first.given();
            let left = permits.iter().map(Permit::remaining).min().unwrap_or_default();
            let wait = match self.turn(left, given, answered) {
                Turn::Go(limit) => return Some(limit),
                Turn::Wait(wait) if !permits.iter().any(Permit::is_retiring) => wait,
                Turn::Wait(_) | Turn::Over => return None,
            };
            tokio::select! {
                biased;
                () = renewal => {}
                () = clock.sleep(wait) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn turn(left: u64, given: u64, answered: bool) -> Turn {
        Times { call: MS(500), reserve: MS(400), renewed: true }.turn(MS(left), MS(given), answered)
    }

    #[test]
    fn a_call_begins_with_half_of_its_time_and_waits_with_less() {
        assert_eq!(turn(1_000, 1_000, false), Turn::Go(MS(500)));
        assert_eq!(turn(650, 1_000, false), Turn::Go(MS(250)));
        assert_eq!(turn(649, 1_000, false), Turn::Wait(MS(649)));
    }

    #[test]
    fn where_a_renewed_lease_gives_less_than_that_half_of_it_is_enough() {
        assert_eq!(turn(500, 600, false), Turn::Go(MS(100)));
        assert_eq!(turn(499, 600, false), Turn::Wait(MS(499)));
        assert_eq!(turn(400, 300, false), Turn::Wait(MS(400)), "none at all is not");
    }

    #[test]
    fn what_was_answered_is_settled_in_its_time_whatever_else_waits() {
        assert_eq!(turn(500, 1_000, true), Turn::Wait(MS(100)));
        assert_eq!(turn(400, 1_000, true), Turn::Over);
        assert_eq!(turn(0, 1_000, false), Turn::Over);
    }

    #[test]
    fn where_nobody_renews_a_call_takes_what_there_is() {
        let times = Times { call: MS(500), reserve: MS(400), renewed: false };
        assert_eq!(times.turn(MS(401), MS(1_000), false), Turn::Go(MS(1)));
        assert_eq!(times.turn(MS(400), MS(1_000), false), Turn::Wait(MS(400)));
    }
}
