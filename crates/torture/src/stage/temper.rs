use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};

use super::plan::{POISON, Plan, Role, Trouble};
use crate::history::{Event, Said};

/// How a handler is: it takes its time, and fails now and then; or, in the end, neither.
pub(crate) struct Temper {
    rng: Mutex<Rng>,
    moody: bool,
    trouble: Trouble,
}

/// What a handler does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misdeed {
    /// It takes nothing, for now.
    Refuses,
    /// It wants all again, though it did nothing.
    WantsItAgain,
    /// It panics before it does anything.
    PanicsAtOnce,
    /// It panics when it has done its work.
    Panics,
    /// It never answers, though it has done its work.
    Hangs,
    /// It blocks its thread for longer than it may take.
    Blocks,
    /// It has done its work, and answers for all but one.
    AnswersTooFew,
    /// It has done its work, and says that something failed.
    BlamesAll,
}

impl Misdeed {
    /// What is told of it.
    pub(crate) fn told(self) -> Event {
        Event::Fault { error: format!("{MISDEED} {self:?}") }
    }
}

/// How what is told of misdeeds begins.
pub(crate) const MISDEED: &str = "a handler that";

/// How often in a hundred calls.
const MISDEEDS: [(u64, Misdeed); 8] = [
    (3, Misdeed::Refuses),
    (3, Misdeed::WantsItAgain),
    (4, Misdeed::PanicsAtOnce),
    (4, Misdeed::Panics),
    (1, Misdeed::Hangs),
    (1, Misdeed::Blocks),
    (4, Misdeed::AnswersTooFew),
    (4, Misdeed::BlamesAll),
];

impl Temper {
    pub(crate) fn new(rng: Rng, plan: &Plan) -> Self {
        Self { rng: Mutex::new(rng), moody: plan.role != Role::Drain, trouble: plan.trouble }
    }

    /// Takes some time, one time in four, so that a process also dies here.
    pub(crate) async fn dawdle(&self) {
        if self.moody && self.below(4) == 0 {
            SystemClock::new().sleep(Duration::from_micros(self.below(8_000))).await;
        }
    }

    /// Fails one time in twenty; of a message with trouble, one in a hundred is given up for good.
    pub(crate) fn says(&self) -> Said {
        match self.trouble {
            Trouble::Poison => Said::Done,
            Trouble::Handlers if self.moody && self.below(100) == 0 => Said::Dead,
            _ if self.moody && self.below(20) == 0 => Said::Again,
            _ => Said::Done,
        }
    }

    /// Dies of poison.
    pub(crate) fn takes(&self, key: u64) {
        if self.trouble == Trouble::Poison && key == POISON {
            std::process::abort();
        }
    }

    /// What it does wrong in this call, if anything.
    pub(crate) fn misdeed(&self) -> Option<Misdeed> {
        if self.trouble != Trouble::Handlers || !self.moody {
            return None;
        }
        let mut drawn = self.below(100);
        for (share, misdeed) in MISDEEDS {
            match drawn.checked_sub(share) {
                Some(left) => drawn = left,
                None => return Some(misdeed),
            }
        }
        None
    }

    /// Blocks the thread, as a handler must not.
    pub(crate) fn block() {
        let (clock, long) = (SystemClock::new(), Duration::from_millis(700));
        let until = clock.monotonic() + long;
        while clock.monotonic() < until {
            std::thread::park_timeout(long);
        }
    }

    fn below(&self, end: u64) -> u64 {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).below(end)
    }
}
