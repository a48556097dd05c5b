use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use opentelemetry::{KeyValue, global};
use relaykit_pipeline_traits::{Metric, MetricKind, Recorder};

use crate::buckets::default_buckets;
use crate::dropped::{Dropped, Why};

/// The name under which the global meter is asked for.
const SCOPE: &str = "relaykit";

/// Records on an OpenTelemetry `Meter`. Cheap to clone.
///
/// Names stay as they are described; the unit (`s`, `By`) follows from a name's end. Labels become attributes. Numbers of a metric
/// that was not declared, or of another kind or number of labels than its description says, are dropped: counted in
/// [`dropped`](Self::dropped), with one warning for each metric. Without an SDK installed by the application, all of it does nothing.
///
/// ```
/// use relaykit_pipeline_traits::{Metric, MetricKind, Recorder};
/// use relaykit_telemetry::OpenTelemetryRecorder;
///
/// static DEPTH: Metric =
///     Metric { name: "mail_waiting", kind: MetricKind::Gauge, help: "letters waiting", labels: &[] };
///
/// let recorder = OpenTelemetryRecorder::builder().metrics(&[&DEPTH]).build(); // on the global meter
/// recorder.set(&DEPTH, &[], 3.0);
/// ```
#[derive(Clone)]
pub struct OpenTelemetryRecorder {
    inner: Arc<Inner>,
}

struct Inner {
    instruments: HashMap<&'static str, Declared>,
    dropped: Dropped,
}

struct Declared {
    labels: &'static [&'static str],
    instrument: Instrument,
}

enum Instrument {
    Counter(Counter<u64>),
    Gauge(Gauge<f64>),
    Histogram(Histogram<f64>),
}

/// Builds an [`OpenTelemetryRecorder`]; made by [`OpenTelemetryRecorder::builder`].
#[derive(Default)]
#[must_use = "a recorder is made by `build`"]
pub struct OpenTelemetryBuilder {
    meter: Option<Meter>,
    prefix: String,
    buckets: HashMap<String, Vec<f64>>,
    metrics: Vec<&'static Metric>,
}

impl OpenTelemetryRecorder {
    /// Returns a builder for a recorder on the global meter, `relaykit`.
    pub fn builder() -> OpenTelemetryBuilder {
        OpenTelemetryBuilder::default()
    }

    /// Returns how many numbers could not be recorded.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.count()
    }

    /// Finds a declared metric and pairs its label names with `labels`.
    fn find(&self, metric: &'static Metric, labels: &[&str]) -> Option<(&Instrument, Vec<KeyValue>)> {
        let Some(declared) = self.inner.instruments.get(metric.name) else {
            self.inner.dropped.add(metric, Why::Undeclared);
            return None;
        };
        if declared.labels.len() != labels.len() {
            self.inner.dropped.add(metric, Why::Misused);
            return None;
        }
        let pairs = declared.labels.iter().zip(labels);
        Some((
            &declared.instrument,
            pairs.map(|(name, value)| KeyValue::new(*name, (*value).to_owned())).collect(),
        ))
    }
}

impl OpenTelemetryBuilder {
    /// Sets the meter. Default: the global one, as it is when [`build`](Self::build) is called.
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = Some(meter);
        self
    }

    /// Sets what all names begin with, before an underscore. Default: nothing.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets the bucket bounds of one histogram, ascending, by its name without the prefix. Default: [`default_buckets`].
    pub fn buckets(mut self, metric: impl Into<String>, bounds: impl Into<Vec<f64>>) -> Self {
        self.buckets.insert(metric.into(), bounds.into());
        self
    }

    /// Declares metrics to be recorded, such as a crate's `METRICS`.
    pub fn metrics(mut self, metrics: &[&'static Metric]) -> Self {
        self.metrics.extend(metrics);
        self
    }

    /// Makes an instrument for each declared metric.
    pub fn build(self) -> OpenTelemetryRecorder {
        let meter = self.meter.unwrap_or_else(|| global::meter(SCOPE));
        let mut instruments = HashMap::new();
        for metric in self.metrics {
            let name = if self.prefix.is_empty() {
                metric.name.to_owned()
            } else {
                format!("{}_{}", self.prefix, metric.name)
            };
            let unit = unit(metric);
            let instrument = match metric.kind {
                MetricKind::Counter => Instrument::Counter(
                    meter.u64_counter(name).with_description(metric.help).with_unit(unit).build(),
                ),
                MetricKind::Gauge => Instrument::Gauge(
                    meter.f64_gauge(name).with_description(metric.help).with_unit(unit).build(),
                ),
                MetricKind::Histogram => {
                    let bounds = self.buckets.get(metric.name).map_or(default_buckets(metric), Vec::as_slice);
                    let histogram = meter.f64_histogram(name).with_description(metric.help).with_unit(unit);
                    Instrument::Histogram(histogram.with_boundaries(bounds.to_vec()).build())
                }
                _ => continue,
            };
            instruments.insert(metric.name, Declared { labels: metric.labels, instrument });
        }
        OpenTelemetryRecorder { inner: Arc::new(Inner { instruments, dropped: Dropped::default() }) }
    }
}

/// A metric's unit in UCUM, by the end of its name.
fn unit(metric: &Metric) -> &'static str {
    let name = metric.name.trim_end_matches("_total");
    if name.ends_with("_seconds") {
        "s"
    } else if name.ends_with("_bytes") {
        "By"
    } else {
        "1"
    }
}

impl Recorder for OpenTelemetryRecorder {
    fn add(&self, metric: &'static Metric, labels: &[&str], by: u64) {
        match self.find(metric, labels) {
            Some((Instrument::Counter(counter), pairs)) => counter.add(by, &pairs),
            Some(_) => self.inner.dropped.add(metric, Why::Misused),
            None => {}
        }
    }

    fn set(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        match self.find(metric, labels) {
            Some((Instrument::Gauge(gauge), pairs)) => gauge.record(value, &pairs),
            Some(_) => self.inner.dropped.add(metric, Why::Misused),
            None => {}
        }
    }

    fn observe(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        match self.find(metric, labels) {
            Some((Instrument::Histogram(histogram), pairs)) => histogram.record(value, &pairs),
            Some(_) => self.inner.dropped.add(metric, Why::Misused),
            None => {}
        }
    }
}

impl fmt::Debug for OpenTelemetryRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.inner.instruments.keys().collect();
        names.sort_unstable();
        f.debug_struct("OpenTelemetryRecorder").field("metrics", &names).finish_non_exhaustive()
    }
}

impl fmt::Debug for OpenTelemetryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenTelemetryBuilder").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
