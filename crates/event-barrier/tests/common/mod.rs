//! What the tests share: moments, answers that can be compared, and who writes events down.
#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

pub(crate) mod original;

use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_event_barrier::{Admission, Event, Notice};
use relaykit_pipeline_traits::Monotonic;

/// The moment so many milliseconds after the origin.
pub(crate) const fn at(ms: u64) -> Monotonic {
    Monotonic::from_origin(Duration::from_millis(ms))
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// An [`Admission`] whose permit has been detached, so that it can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer<J = u64> {
    Accepted,
    /// Accepted as the failed job that others wait for.
    Retry,
    Bypassed,
    Blocked(J),
    Draining,
    Full,
}

impl<J> Answer<J> {
    pub(crate) const fn passes(&self) -> bool {
        matches!(self, Self::Accepted | Self::Retry | Self::Bypassed)
    }
}

/// Detaches the permit: the job is in flight until its outcome is told by hand.
pub(crate) fn answer<K: Hash + Eq + Clone, J: Ord + Copy, S: BuildHasher>(
    admission: Admission<'_, K, J, S>,
) -> Answer<J> {
    match admission {
        Admission::Accepted(permit) => {
            let retry = permit.is_retry();
            permit.detach();
            if retry { Answer::Retry } else { Answer::Accepted }
        }
        Admission::Bypassed(permit) => {
            permit.detach();
            Answer::Bypassed
        }
        Admission::Blocked { by } => Answer::Blocked(by),
        Admission::Draining => Answer::Draining,
        Admission::Full => Answer::Full,
    }
}

/// Writes down each event.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<Event<u64>>>>);

impl Events {
    pub(crate) fn observer<K>(&self) -> impl Fn(&Notice<'_, K, u64>) + Send + Sync + 'static {
        let events = Arc::clone(&self.0);
        move |notice| events.lock().expect("nobody panics with it").push(notice.event())
    }

    /// Returns what has happened since the last look.
    pub(crate) fn take(&self) -> Vec<Event<u64>> {
        std::mem::take(&mut self.0.lock().expect("nobody panics with it"))
    }
}
