use std::fmt;

/// Takes the numbers that an operator watches. Does nothing by default.
///
/// Metrics are described by statics, so that a backend can register each once. Label values come in the order
/// of the description's names and are few: never keys, ids or payload. Recording neither blocks nor fails.
pub trait Recorder: Send + Sync + fmt::Debug {
    /// Adds to a counter.
    fn add(&self, metric: &'static Metric, labels: &[&str], by: u64) {
        let _ = (metric, labels, by);
    }

    /// Sets a gauge.
    fn set(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        let _ = (metric, labels, value);
    }

    /// Adds an observation to a histogram.
    fn observe(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        let _ = (metric, labels, value);
    }
}

/// A [`Recorder`] that records nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoRecorder;

impl Recorder for NoRecorder {}

/// Describes one metric.
///
/// ```
/// use relaykit_pipeline_traits::{Metric, MetricKind};
///
/// static SENT: Metric = Metric {
///     name: "outbox_messages_sent_total",
///     kind: MetricKind::Counter,
///     help: "messages that a sender took",
///     labels: &["kind"],
/// };
/// # let _ = &SENT;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Metric {
    /// The name, ending in `_total` for counters and in a unit such as `_seconds` or `_bytes` otherwise.
    pub name: &'static str,
    /// What kind of metric it is.
    pub kind: MetricKind,
    /// What it counts or measures, in one sentence.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

/// What kind of metric it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations by size.
    Histogram,
}
