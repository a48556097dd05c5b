use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Metric, Recorder};

/// A [`Recorder`] that keeps the numbers, for tests. Feature `test-util`. Cheap to clone; all clones are one.
///
/// ```
/// use relaykit_pipeline_traits::{MemoryRecorder, Metric, MetricKind, Recorder};
///
/// static SENT: Metric =
///     Metric { name: "sent_total", kind: MetricKind::Counter, help: "sent", labels: &["kind"] };
///
/// let recorder = MemoryRecorder::new();
/// recorder.add(&SENT, &["order"], 2);
/// recorder.add(&SENT, &["order"], 1);
/// assert_eq!(recorder.value("sent_total", &["order"]), Some(3.0));
/// ```
#[derive(Debug, Clone, Default)]
pub struct MemoryRecorder {
    series: Arc<Mutex<BTreeMap<Series, Kept>>>,
}

type Series = (&'static str, Vec<String>);

#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    /// A counter's count, a gauge's last value, or a histogram's sum.
    value: f64,
    /// How often it was recorded.
    times: u64,
}

impl MemoryRecorder {
    /// Makes an empty recorder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a counter's count, a gauge's last value, or a histogram's sum, if it was ever recorded.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[&str]) -> Option<f64> {
        self.find(name, labels).map(|kept| kept.value)
    }

    /// Returns how often it was recorded; for a histogram, the number of observations.
    #[must_use]
    pub fn times(&self, name: &str, labels: &[&str]) -> u64 {
        self.find(name, labels).map_or(0, |kept| kept.times)
    }

    fn find(&self, name: &str, labels: &[&str]) -> Option<Kept> {
        let series = self.lock();
        let mut found = series.iter().filter(|((known, values), _)| *known == name && *values == labels);
        found.next().map(|(_, kept)| *kept)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Series, Kept>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Panics
    ///
    /// If the labels are not those of the description: every recorder depends on it.
    fn keep(&self, metric: &'static Metric, labels: &[&str], change: impl FnOnce(&mut Kept)) {
        assert_eq!(metric.labels.len(), labels.len(), "labels of {}", metric.name);
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        let mut series = self.lock();
        let kept = series.entry((metric.name, labels)).or_default();
        kept.times += 1;
        change(kept);
    }
}

impl Recorder for MemoryRecorder {
    #[expect(clippy::cast_precision_loss, reason = "tests count in small numbers")]
    fn add(&self, metric: &'static Metric, labels: &[&str], by: u64) {
        self.keep(metric, labels, |kept| kept.value += by as f64);
    }

    fn set(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        self.keep(metric, labels, |kept| kept.value = value);
    }

    fn observe(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        self.keep(metric, labels, |kept| kept.value += value);
    }
}
