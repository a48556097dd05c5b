use std::fmt::{self, Debug};

/// Something about a key that the caller of a method would not learn from its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event<J> {
    /// A job turned up although a later job of its key had failed before: the reader handed jobs out of order. The older job
    /// is let through, and becomes the gate if it fails.
    OutOfOrder {
        /// Where it turned up.
        at: At,
        /// The later job that failed before.
        failed: J,
        /// The older job.
        job: J,
    },
    /// The key's order is not kept from here on: it had as many jobs in flight as its threshold allows, or the caller's
    /// check switched it off while a job had failed.
    OrderWaived {
        /// The job whose retry is no longer waited for.
        failed: Option<J>,
        /// The jobs in flight.
        in_flight: usize,
    },
    /// The key's order is kept again.
    OrderRestored,
}

/// Where an older job turned up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum At {
    /// At the first gate.
    Enter,
    /// At the second gate.
    Wait,
    /// It failed.
    Failed,
}

impl At {
    /// Returns its name for metrics and logs: `enter`, `wait` or `job_failed`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enter => "enter",
            Self::Wait => "wait",
            Self::Failed => "job_failed",
        }
    }
}

/// Tells the observer of [`Builder::observer`](crate::Builder::observer) about an [`Event`].
///
/// It is given outside every lock: the observer may call the barrier. If it panics, the panic reaches the caller of
/// the method, and the barrier stays as it should be; a permit that is dropped calls it too, so then a panic may abort.
pub struct Notice<'a, K, J> {
    pub(crate) key: &'a K,
    pub(crate) event: Event<J>,
    pub(crate) metadata: &'a [(String, String)],
    pub(crate) debug_info: Option<&'a DebugInfo<K>>,
}

pub(crate) type DebugInfo<K> = dyn Fn(&K) -> String + Send + Sync;

impl<K, J: Copy> Notice<'_, K, J> {
    /// Returns the key.
    pub const fn key(&self) -> &K {
        self.key
    }

    /// Returns what happened.
    pub const fn event(&self) -> Event<J> {
        self.event
    }

    /// Returns the barrier's metadata.
    pub const fn metadata(&self) -> &[(String, String)] {
        self.metadata
    }

    /// Asks the provider of [`Builder::debug_info`](crate::Builder::debug_info) about the key. It runs now, and only now.
    pub fn debug_info(&self) -> Option<String> {
        self.debug_info.map(|provider| provider(self.key))
    }
}

impl<K: Debug, J: Debug> Debug for Notice<'_, K, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notice")
            .field("key", &self.key)
            .field("event", &self.event)
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}
