//! The recorder on a real OpenTelemetry SDK with its in-memory exporter.
#![cfg(feature = "opentelemetry")]

use opentelemetry::global;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use relaykit_pipeline_traits::{Metric, MetricKind, Recorder};
use relaykit_telemetry::OpenTelemetryRecorder;

static SENT: Metric =
    Metric { name: "t_sent_total", kind: MetricKind::Counter, help: "sent", labels: &["kind"] };
static SIZE: Metric = Metric { name: "t_disk_bytes", kind: MetricKind::Gauge, help: "size", labels: &[] };
static TOOK: Metric =
    Metric { name: "t_took_seconds", kind: MetricKind::Histogram, help: "took", labels: &[] };
static ALL: &[&Metric] = &[&SENT, &SIZE, &TOOK];

struct Sdk {
    exporter: InMemoryMetricExporter,
    provider: SdkMeterProvider,
}

impl Sdk {
    fn new() -> Self {
        let exporter = InMemoryMetricExporter::default();
        let reader = PeriodicReader::builder(exporter.clone()).build();
        Self { exporter, provider: SdkMeterProvider::builder().with_reader(reader).build() }
    }

    /// Each metric as `name unit: points`.
    fn lines(&self) -> Vec<String> {
        self.provider.force_flush().expect("the in-memory exporter takes everything");
        let exported = self.exporter.get_finished_metrics().expect("it gives everything back");
        let mut lines: Vec<String> = exported.last().map(lines).unwrap_or_default();
        lines.sort_unstable();
        lines
    }
}

fn lines(exported: &ResourceMetrics) -> Vec<String> {
    let metrics = exported.scope_metrics().flat_map(opentelemetry_sdk::metrics::data::ScopeMetrics::metrics);
    metrics
        .map(|metric| {
            let points: Vec<String> = match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
                    .data_points()
                    .map(|point| {
                        let labels: Vec<_> =
                            point.attributes().map(|a| format!("{}={}", a.key, a.value)).collect();
                        format!("{} {}", labels.join(","), point.value())
                    })
                    .collect(),
                AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
                    gauge.data_points().map(|point| point.value().to_string()).collect()
                }
                AggregatedMetrics::F64(MetricData::Histogram(histogram)) => histogram
                    .data_points()
                    .map(|p| {
                        let bounds: Vec<f64> = p.bounds().collect();
                        format!("{} in {} buckets, sum {}", p.count(), bounds.len() + 1, p.sum())
                    })
                    .collect(),
                other => vec![format!("unexpected {other:?}")],
            };
            format!("{} {}: {}", metric.name(), metric.unit(), points.join("; "))
        })
        .collect()
}

#[test]
fn counters_gauges_and_histograms_reach_the_exporter_with_unit_and_labels() {
    let sdk = Sdk::new();
    let recorder = OpenTelemetryRecorder::builder()
        .meter(sdk.provider.meter("test"))
        .prefix("shop")
        .buckets("t_took_seconds", [0.5, 5.0])
        .metrics(ALL)
        .build();
    recorder.add(&SENT, &["order"], 2);
    recorder.add(&SENT, &["order"], 3);
    recorder.set(&SIZE, &[], 7.0);
    recorder.set(&SIZE, &[], 9.0);
    recorder.observe(&TOOK, &[], 1.5);
    assert_eq!(
        sdk.lines(),
        [
            "shop_t_disk_bytes By: 9",
            "shop_t_sent_total 1: kind=order 5",
            "shop_t_took_seconds s: 1 in 3 buckets, sum 1.5",
        ]
    );
    assert_eq!(recorder.dropped(), 0);
}

#[test]
fn the_global_meter_is_the_default() {
    let sdk = Sdk::new();
    global::set_meter_provider(sdk.provider.clone());
    let recorder = OpenTelemetryRecorder::builder().metrics(ALL).build();
    recorder.set(&SIZE, &[], 1.0);
    assert_eq!(sdk.lines(), ["t_disk_bytes By: 1"]);
}

#[test]
fn what_cannot_be_recorded_is_counted_and_harms_nothing() {
    let sdk = Sdk::new();
    let recorder =
        OpenTelemetryRecorder::builder().meter(sdk.provider.meter("test")).metrics(&[&SENT, &SIZE]).build();
    recorder.observe(&TOOK, &[], 1.0); // undeclared
    recorder.add(&SENT, &[], 1); // a label is missing
    recorder.add(&SIZE, &[], 1); // a gauge is set, not added to
    recorder.set(&SENT, &["a"], 1.0);
    recorder.observe(&SIZE, &[], 1.0);
    assert_eq!(recorder.dropped(), 5);
    assert_eq!(sdk.lines(), Vec::<String>::new());
}
