use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use relaykit_pipeline_traits::Metric;

/// Counts what could not be recorded, and warns of each metric once.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    count: AtomicU64,
    warned: Mutex<BTreeSet<&'static str>>,
}

/// Why a number could not be recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Why {
    /// The metric was not declared to the builder.
    Undeclared,
    /// It was recorded as another kind, or with another number of labels, than its description says.
    Misused,
}

impl Dropped {
    pub(crate) fn add(&self, metric: &'static Metric, why: Why) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let first = self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(metric.name);
        if first {
            let why = match why {
                Why::Undeclared => "it was not declared to the builder",
                Why::Misused => "it was recorded otherwise than its description says",
            };
            tracing::warn!(metric = metric.name, why, "metric is not recorded");
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
