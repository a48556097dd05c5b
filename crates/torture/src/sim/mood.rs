use std::fmt;
use std::time::Duration;

use relaykit_pipeline_traits::{BatchOutcome, Classify, ErrorClass, Verdict};

use super::world::World;
use crate::history::Said;

/// Why a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mood {
    class: ErrorClass,
    after: Option<Duration>,
}

impl Mood {
    pub(super) const TRANSIENT: Self = Self { class: ErrorClass::Transient, after: None };
    pub(super) const PERMANENT: Self = Self { class: ErrorClass::Permanent, after: None };

    pub(super) const fn throttled(after: Duration) -> Self {
        Self { class: ErrorClass::Throttled, after: Some(after) }
    }
}

impl fmt::Display for Mood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class.as_str())
    }
}

impl Classify for Mood {
    fn class(&self) -> ErrorClass {
        self.class
    }

    fn retry_after(&self) -> Option<Duration> {
        self.after
    }
}

/// How a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Well,
    /// Some items well, each by itself.
    Partly,
    Fails,
    Throttles,
    Refuses,
    Splits,
    /// The effects happen, and an error is what comes back.
    Unknown,
    /// So do they, and verdicts are missing.
    Wrong,
    Hangs,
    Panics,
}

impl Manner {
    pub(super) fn draw(world: &World) -> Self {
        let faults = world.menu.calls;
        let rates = [
            (faults.partial, Self::Partly),
            (faults.failed, Self::Fails),
            (faults.throttled, Self::Throttles),
            (faults.refused, Self::Refuses),
            (faults.split, Self::Splits),
            (faults.unknown, Self::Unknown),
            (faults.wrong, Self::Wrong),
            (faults.hang, Self::Hangs),
            (faults.panic, Self::Panics),
        ];
        rates.into_iter().find(|(rate, _)| world.goes_wrong(*rate)).map_or(Self::Well, |(_, manner)| manner)
    }
}

/// Draws what is said of one item of a batch that goes partly well; whether it was tried at all, and had its effect, follows from that.
pub(super) fn verdict(world: &World) -> Verdict<(), Mood> {
    let wait = world.wait(Duration::from_secs(5));
    match world.below(8) {
        0 | 1 => Verdict::Retry { after: None, error: Mood::TRANSIENT },
        2 => Verdict::Untried,
        3 => Verdict::Isolate(Mood::TRANSIENT),
        4 => Verdict::Retry { after: Some(wait), error: Mood::throttled(wait) },
        5 if world.goes_wrong(world.menu.calls.dead) => Verdict::Dead(Mood::PERMANENT),
        _ => Verdict::Done(()),
    }
}

/// Returns what a verdict says; nothing, if the item was not tried.
pub(super) const fn said<E>(verdict: &Verdict<(), E>) -> Option<Said> {
    match verdict {
        Verdict::Done(()) => Some(Said::Done),
        Verdict::Dead(_) => Some(Said::Dead),
        Verdict::Retry { .. } | Verdict::Isolate(_) => Some(Said::Again),
        _ => None,
    }
}

/// Says that something may be tried again.
pub(super) const fn again(mood: Mood) -> BatchOutcome<(), Mood> {
    BatchOutcome::RetryBatch { after: mood.after, error: mood }
}
