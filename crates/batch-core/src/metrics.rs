use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{BatchOutcome, FlushReason, Metric, MetricKind, Monotonic, Recorder};

use crate::answer::Cause;
use crate::call::Called;

/// Every metric of a processor, to be declared to a recorder. The page `docs/operations.md` explains them.
pub static METRICS: &[&Metric] =
    &[&ITEMS, &RETRIED, &BATCHES, &BATCH_SIZE, &BUFFER_WAIT, &HANDLER, &WAITING, &OLDEST, &IN_FLIGHT];

static ITEMS: Metric = Metric {
    name: "batch_items_total",
    kind: MetricKind::Counter,
    help: "items answered, by how",
    labels: &["batcher", "outcome"],
};

static RETRIED: Metric = Metric {
    name: "batch_items_retried_total",
    kind: MetricKind::Counter,
    help: "items lent again after a failed attempt",
    labels: &["batcher"],
};

static BATCHES: Metric = Metric {
    name: "batch_batches_total",
    kind: MetricKind::Counter,
    help: "batches that a worker took, by why they were closed",
    labels: &["batcher", "reason"],
};

static BATCH_SIZE: Metric = Metric {
    name: "batch_size_items",
    kind: MetricKind::Histogram,
    help: "items of a batch that a worker took",
    labels: &["batcher"],
};

static BUFFER_WAIT: Metric = Metric {
    name: "batch_buffer_wait_seconds",
    kind: MetricKind::Histogram,
    help: "time from a batch's first item until a worker took it",
    labels: &["batcher"],
};

static HANDLER: Metric = Metric {
    name: "batch_handler_seconds",
    kind: MetricKind::Histogram,
    help: "time of a call of the handler, by how it ended",
    labels: &["batcher", "outcome"],
};

static WAITING: Metric = Metric {
    name: "batch_items_waiting",
    kind: MetricKind::Gauge,
    help: "items that no worker has taken yet",
    labels: &["batcher"],
};

static OLDEST: Metric = Metric {
    name: "batch_oldest_wait_seconds",
    kind: MetricKind::Gauge,
    help: "age of the oldest batch that no worker has taken yet",
    labels: &["batcher"],
};

static IN_FLIGHT: Metric = Metric {
    name: "batch_items_in_flight",
    kind: MetricKind::Gauge,
    help: "items with the handler or waiting to be tried again",
    labels: &["batcher"],
};

/// What the intake holds, for the gauges.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Levels {
    /// Grows with each look, so that an older one does not replace a newer one.
    pub(crate) look: u64,
    pub(crate) waiting: usize,
    pub(crate) in_flight: usize,
    pub(crate) oldest: Option<Monotonic>,
}

/// Records what an operator watches; nothing without a recorder.
///
/// A gauge is set when a batch is closed, taken or settled, so no item pays for it.
pub(crate) struct Meter {
    name: String,
    recorder: Option<Arc<dyn Recorder>>,
    /// The look that the gauges show.
    shown: Mutex<u64>,
}

impl Meter {
    pub(crate) fn new(name: String, recorder: Option<Arc<dyn Recorder>>) -> Self {
        Self { name, recorder, shown: Mutex::new(0) }
    }

    pub(crate) const fn is_on(&self) -> bool {
        self.recorder.is_some()
    }

    /// A worker took a batch that was closed for `reason`, `wait` after its first item.
    pub(crate) fn taken(&self, items: usize, reason: FlushReason, wait: Duration) {
        let Some(recorder) = &self.recorder else { return };
        recorder.add(&BATCHES, &[&self.name, reason.as_str()], 1);
        recorder.observe(&BATCH_SIZE, &[&self.name], number(items));
        recorder.observe(&BUFFER_WAIT, &[&self.name], wait.as_secs_f64());
    }

    /// A call of the handler ended.
    pub(crate) fn called<O, E>(&self, called: &Called<O, E>, items: usize, took: Duration) {
        let Some(recorder) = &self.recorder else { return };
        let outcome = match called {
            Called::Outcome(BatchOutcome::Each(verdicts)) if verdicts.len() == items => "answered",
            Called::Outcome(BatchOutcome::Each(_)) => "wrong_verdicts",
            Called::Outcome(BatchOutcome::RetryBatch { .. }) => "retry_batch",
            Called::Outcome(BatchOutcome::Split(_)) => "split",
            Called::Outcome(BatchOutcome::Refused(_)) => "refused",
            Called::Outcome(_) => "unknown",
            Called::Panicked(_) => "panicked",
            Called::TimedOut(_) => "timed_out",
        };
        recorder.observe(&HANDLER, &[&self.name, outcome], took.as_secs_f64());
    }

    pub(crate) fn retried(&self, items: usize) {
        let Some(recorder) = &self.recorder else { return };
        if items > 0 {
            recorder.add(&RETRIED, &[&self.name], items as u64);
        }
    }

    pub(crate) fn done(&self, items: u64) {
        let Some(recorder) = &self.recorder else { return };
        if items > 0 {
            recorder.add(&ITEMS, &[&self.name, "done"], items);
        }
    }

    pub(crate) fn failed<E>(&self, cause: &Cause<E>, items: usize) {
        let Some(recorder) = &self.recorder else { return };
        if items > 0 {
            recorder.add(&ITEMS, &[&self.name, cause.as_str()], items as u64);
        }
    }

    /// A stop gave items back.
    pub(crate) fn handed_back(&self, items: usize) {
        let Some(recorder) = &self.recorder else { return };
        if items > 0 {
            recorder.add(&ITEMS, &[&self.name, "handed_back"], items as u64);
        }
    }

    /// Sets the gauges, unless they show something newer: who looked later may come first, and on an idle processor
    /// the older numbers would stay.
    pub(crate) fn levels(&self, levels: Levels, now: Monotonic) {
        let Some(recorder) = &self.recorder else { return };
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if levels.look <= *shown {
            return;
        }
        *shown = levels.look;
        let age = levels.oldest.map_or(Duration::ZERO, |oldest| now.since(oldest));
        recorder.set(&WAITING, &[&self.name], number(levels.waiting));
        recorder.set(&OLDEST, &[&self.name], age.as_secs_f64());
        recorder.set(&IN_FLIGHT, &[&self.name], number(levels.in_flight));
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("name", &self.name).finish_non_exhaustive()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a number for people")]
fn number(items: usize) -> f64 {
    items as f64
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::MemoryRecorder;

    use super::*;

    const NOW: Monotonic = Monotonic::from_origin(Duration::ZERO);

    #[test]
    fn gauges_never_go_back_to_an_older_look() {
        let recorder = MemoryRecorder::new();
        let meter = Meter::new("mail".to_owned(), Some(Arc::new(recorder.clone())));
        let of = |look, waiting| Levels { look, waiting, in_flight: waiting, oldest: None };
        meter.levels(of(2, 0), NOW);
        meter.levels(of(1, 7), NOW);
        assert_eq!(recorder.value("batch_items_waiting", &["mail"]), Some(0.0));
        assert_eq!(recorder.value("batch_items_in_flight", &["mail"]), Some(0.0));
        meter.levels(of(3, 4), NOW);
        assert_eq!(recorder.value("batch_items_waiting", &["mail"]), Some(4.0));
    }
}
