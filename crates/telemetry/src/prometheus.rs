use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
};
use relaykit_pipeline_traits::{Metric, MetricKind, Recorder};

use crate::buckets::default_buckets;
use crate::dropped::{Dropped, Why};

/// Records on a `prometheus::Registry`. Cheap to clone; when the last clone goes, its metrics leave the registry.
///
/// Declare to the builder what is to be recorded: each crate's `METRICS`. A number of a metric that was not declared, or of
/// another kind or number of labels than the metric's description says, is dropped: it is counted in
/// [`dropped`](Self::dropped), and a warning names the metric once.
///
/// ```
/// use relaykit_pipeline_traits::{Metric, MetricKind, Recorder};
/// use relaykit_telemetry::PrometheusRecorder;
///
/// static SENT: Metric = Metric {
///     name: "mail_sent_total",
///     kind: MetricKind::Counter,
///     help: "letters sent",
///     labels: &["country"],
/// };
///
/// let registry = prometheus::Registry::new();
/// let recorder = PrometheusRecorder::builder(&registry).namespace("shop").metrics(&[&SENT]).build()?;
/// recorder.add(&SENT, &["fr"], 1);
/// assert_eq!(registry.gather()[0].name(), "shop_mail_sent_total");
///
/// drop(recorder);
/// assert!(registry.gather().is_empty());
/// # Ok::<(), relaykit_telemetry::PrometheusError>(())
/// ```
#[derive(Clone)]
pub struct PrometheusRecorder {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    instruments: HashMap<&'static str, Instrument>,
    dropped: Dropped,
}

/// One registered metric. Without labels its only child is kept at hand.
enum Instrument {
    Counter(IntCounterVec, Option<IntCounter>),
    Gauge(GaugeVec, Option<Gauge>),
    Histogram(HistogramVec, Option<Histogram>),
}

/// Builds a [`PrometheusRecorder`]; made by [`PrometheusRecorder::builder`].
#[derive(Clone)]
#[must_use = "a recorder is made by `build`"]
pub struct PrometheusBuilder {
    registry: Registry,
    namespace: String,
    subsystem: String,
    const_labels: HashMap<String, String>,
    buckets: HashMap<String, Vec<f64>>,
    metrics: Vec<&'static Metric>,
}

/// Why a recorder could not be made. Nothing stays registered then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrometheusError {
    /// The registry has this metric with these constant labels already: another recorder is open on it.
    #[error(
        "metric {name} is registered already; drop its recorder first, or tell them apart by a constant label"
    )]
    AlreadyRegistered {
        /// The metric's full name.
        name: String,
    },
    /// The metric's name, labels or buckets are not allowed, or clash with a metric of the same name.
    #[error("metric {name} cannot be registered")]
    Refused {
        /// The metric's full name.
        name: String,
        /// What the registry said.
        source: prometheus::Error,
    },
    /// Buckets were set for a metric that is not among the declared histograms.
    #[error("buckets are set for {name}, which is no declared histogram")]
    UnknownHistogram {
        /// The name.
        name: String,
    },
}

impl PrometheusRecorder {
    /// Returns a builder for a recorder on `registry`.
    pub fn builder(registry: &Registry) -> PrometheusBuilder {
        PrometheusBuilder {
            registry: registry.clone(),
            namespace: String::new(),
            subsystem: String::new(),
            const_labels: HashMap::new(),
            buckets: HashMap::new(),
            metrics: Vec::new(),
        }
    }

    /// Returns how many numbers could not be recorded.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.count()
    }
}

impl PrometheusBuilder {
    /// Sets what all names begin with, before an underscore. Default: nothing.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets what stands between namespace and name. Default: nothing.
    pub fn subsystem(mut self, subsystem: impl Into<String>) -> Self {
        self.subsystem = subsystem.into();
        self
    }

    /// Adds a label with the same value on every metric. Default: none.
    pub fn const_label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.const_labels.insert(name.into(), value.into());
        self
    }

    /// Sets the bucket bounds of one histogram, ascending, by its name without namespace and subsystem. Default:
    /// [`default_buckets`].
    pub fn buckets(mut self, metric: impl Into<String>, bounds: impl Into<Vec<f64>>) -> Self {
        self.buckets.insert(metric.into(), bounds.into());
        self
    }

    /// Declares metrics to be recorded, such as a crate's `METRICS`. Declaring one again changes nothing.
    pub fn metrics(mut self, metrics: &[&'static Metric]) -> Self {
        for metric in metrics {
            if !self.metrics.contains(metric) {
                self.metrics.push(metric);
            }
        }
        self
    }

    /// Registers all declared metrics.
    ///
    /// # Errors
    ///
    /// If one of them cannot be registered. Then none is.
    pub fn build(self) -> Result<PrometheusRecorder, PrometheusError> {
        for name in self.buckets.keys() {
            if !self.metrics.iter().any(|m| m.name == name && m.kind == MetricKind::Histogram) {
                return Err(PrometheusError::UnknownHistogram { name: name.clone() });
            }
        }
        // Dropped on an error, which unregisters what was registered.
        let mut inner = Inner {
            registry: self.registry.clone(),
            instruments: HashMap::new(),
            dropped: Dropped::default(),
        };
        for metric in &self.metrics {
            let full_name = || {
                let parts = [&*self.namespace, &*self.subsystem, metric.name];
                parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_")
            };
            let failed = |source| match source {
                prometheus::Error::AlreadyReg => PrometheusError::AlreadyRegistered { name: full_name() },
                source => PrometheusError::Refused { name: full_name(), source },
            };
            let Some(instrument) = self.instrument(metric).map_err(failed)? else { continue };
            inner.registry.register(instrument.collector()).map_err(failed)?;
            inner.instruments.insert(metric.name, instrument);
        }
        Ok(PrometheusRecorder { inner: Arc::new(inner) })
    }

    /// `None` for a kind of metric that this version does not know.
    fn instrument(&self, metric: &Metric) -> prometheus::Result<Option<Instrument>> {
        let opts = Opts::new(metric.name, metric.help)
            .namespace(self.namespace.clone())
            .subsystem(self.subsystem.clone())
            .const_labels(self.const_labels.clone());
        let plain = metric.labels.is_empty();
        Ok(Some(match metric.kind {
            MetricKind::Counter => {
                let all = IntCounterVec::new(opts, metric.labels)?;
                let only = plain.then(|| all.get_metric_with_label_values::<&str>(&[])).transpose()?;
                Instrument::Counter(all, only)
            }
            MetricKind::Gauge => {
                let all = GaugeVec::new(opts, metric.labels)?;
                let only = plain.then(|| all.get_metric_with_label_values::<&str>(&[])).transpose()?;
                Instrument::Gauge(all, only)
            }
            MetricKind::Histogram => {
                let bounds = self.buckets.get(metric.name).map_or(default_buckets(metric), Vec::as_slice);
                let opts = HistogramOpts::from(opts).buckets(bounds.to_vec());
                let all = HistogramVec::new(opts, metric.labels)?;
                let only = plain.then(|| all.get_metric_with_label_values::<&str>(&[])).transpose()?;
                Instrument::Histogram(all, only)
            }
            _ => return Ok(None),
        }))
    }
}

impl Instrument {
    fn collector(&self) -> Box<dyn Collector> {
        match self {
            Self::Counter(all, _) => Box::new(all.clone()),
            Self::Gauge(all, _) => Box::new(all.clone()),
            Self::Histogram(all, _) => Box::new(all.clone()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for (name, instrument) in self.instruments.drain() {
            if let Err(error) = self.registry.unregister(instrument.collector()) {
                tracing::warn!(metric = name, %error, "metric was no longer registered");
            }
        }
    }
}

impl Recorder for PrometheusRecorder {
    fn add(&self, metric: &'static Metric, labels: &[&str], by: u64) {
        match self.inner.instruments.get(metric.name) {
            Some(Instrument::Counter(_, Some(only))) if labels.is_empty() => only.inc_by(by),
            Some(Instrument::Counter(all, _)) => match all.get_metric_with_label_values(labels) {
                Ok(child) => child.inc_by(by),
                Err(_) => self.inner.dropped.add(metric, Why::Misused),
            },
            Some(_) => self.inner.dropped.add(metric, Why::Misused),
            None => self.inner.dropped.add(metric, Why::Undeclared),
        }
    }

    fn set(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        match self.inner.instruments.get(metric.name) {
            Some(Instrument::Gauge(_, Some(only))) if labels.is_empty() => only.set(value),
            Some(Instrument::Gauge(all, _)) => match all.get_metric_with_label_values(labels) {
                Ok(child) => child.set(value),
                Err(_) => self.inner.dropped.add(metric, Why::Misused),
            },
            Some(_) => self.inner.dropped.add(metric, Why::Misused),
            None => self.inner.dropped.add(metric, Why::Undeclared),
        }
    }

    fn observe(&self, metric: &'static Metric, labels: &[&str], value: f64) {
        match self.inner.instruments.get(metric.name) {
            Some(Instrument::Histogram(_, Some(only))) if labels.is_empty() => only.observe(value),
            Some(Instrument::Histogram(all, _)) => match all.get_metric_with_label_values(labels) {
                Ok(child) => child.observe(value),
                Err(_) => self.inner.dropped.add(metric, Why::Misused),
            },
            Some(_) => self.inner.dropped.add(metric, Why::Misused),
            None => self.inner.dropped.add(metric, Why::Undeclared),
        }
    }
}

impl fmt::Debug for PrometheusRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.inner.instruments.keys().collect();
        names.sort_unstable();
        f.debug_struct("PrometheusRecorder").field("metrics", &names).finish_non_exhaustive()
    }
}

impl fmt::Debug for PrometheusBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrometheusBuilder")
            .field("namespace", &self.namespace)
            .field("subsystem", &self.subsystem)
            .finish_non_exhaustive()
    }
}
