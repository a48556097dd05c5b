use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Classify, Metric, MetricKind, Recorder};

use crate::{RetryError, StopReason};

/// Every metric of this crate, to be declared to a recorder. The page `docs/operations.md` explains them.
pub static METRICS: &[&Metric] = &[&CALLS, &RUNS, &WAIT, &CIRCUIT_OPEN, &CIRCUIT_OPENED];

static CALLS: Metric = Metric {
    name: "retry_calls_total",
    kind: MetricKind::Counter,
    help: "calls of a retried operation, by how they ended",
    labels: &["operation", "outcome"],
};

static RUNS: Metric = Metric {
    name: "retry_runs_total",
    kind: MetricKind::Counter,
    help: "runs of a retried operation, by why no further call followed",
    labels: &["operation", "outcome"],
};

static WAIT: Metric = Metric {
    name: "retry_wait_seconds",
    kind: MetricKind::Histogram,
    help: "planned wait before a further call",
    labels: &["operation"],
};

static CIRCUIT_OPEN: Metric = Metric {
    name: "retry_circuit_open",
    kind: MetricKind::Gauge,
    help: "1 while a circuit is open or half-open, else 0",
    labels: &["circuit"],
};

static CIRCUIT_OPENED: Metric = Metric {
    name: "retry_circuit_opened_total",
    kind: MetricKind::Counter,
    help: "times that a circuit opened",
    labels: &["circuit"],
};

/// Records under one name; nothing without a recorder.
#[derive(Clone, Default)]
pub(crate) struct Meter {
    to: Option<(String, Arc<dyn Recorder>)>,
}

impl Meter {
    pub(crate) fn new(name: String, recorder: Arc<dyn Recorder>) -> Self {
        Self { to: Some((name, recorder)) }
    }

    pub(crate) fn called<T, E: Classify>(&self, outcome: &Result<T, E>) {
        let Some((name, recorder)) = &self.to else { return };
        let outcome = outcome.as_ref().err().map_or("ok", |error| error.class().as_str());
        recorder.add(&CALLS, &[name, outcome], 1);
    }

    pub(crate) fn waits(&self, wait: Duration) {
        let Some((name, recorder)) = &self.to else { return };
        recorder.observe(&WAIT, &[name], wait.as_secs_f64());
    }

    pub(crate) fn ended<T, E>(&self, result: &Result<T, RetryError<E>>) {
        let Some((name, recorder)) = &self.to else { return };
        let outcome = match result.as_ref().map_err(RetryError::reason) {
            Ok(_) => "ok",
            Err(StopReason::Permanent) => "permanent",
            Err(StopReason::Exhausted(_)) => "exhausted",
            Err(StopReason::Budget) => "budget",
            Err(StopReason::CircuitOpen { .. }) => "circuit_open",
            Err(StopReason::Stopped) => "stopped",
        };
        recorder.add(&RUNS, &[name, outcome], 1);
    }

    pub(crate) fn circuit(&self, open: bool) {
        let Some((name, recorder)) = &self.to else { return };
        recorder.set(&CIRCUIT_OPEN, &[name], f64::from(u8::from(open)));
    }

    pub(crate) fn circuit_opened(&self) {
        let Some((name, recorder)) = &self.to else { return };
        recorder.add(&CIRCUIT_OPENED, &[name], 1);
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meter").field(&self.to.as_ref().map(|(name, _)| name)).finish()
    }
}
