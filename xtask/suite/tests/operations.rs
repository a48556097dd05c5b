//! The page that operators read lists exactly what the crates register.

use std::collections::BTreeMap;

use prometheus::Registry;
use relaykit_pipeline_traits::{Metric, MetricKind, Recorder as _};
use relaykit_telemetry::PrometheusRecorder;

const PAGE: &str = include_str!("../../../docs/operations.md");

/// Each crate's heading on the page, and its list.
const CRATES: &[(&str, &[&Metric])] = &[
    ("relaykit-batch-core", relaykit_batch_core::METRICS),
    ("relaykit-retry", relaykit_retry::METRICS),
    ("relaykit-iterable-handlers", relaykit_iterable_handlers::METRICS),
    ("relaykit-persistent-queue", relaykit_persistent_queue::METRICS),
    ("relaykit-inbox", relaykit_inbox::METRICS),
    ("relaykit-outbox", relaykit_outbox::METRICS),
];

/// A metric as one line: crate, name, type, labels.
type Lines = BTreeMap<String, String>;

/// Reads the tables of the page whose first cell names a metric.
fn documented() -> Lines {
    let mut lines = Lines::new();
    let mut heading = "";
    for line in PAGE.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            heading = name;
        }
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, unit, labels, meaning, ..] = &cells[..] else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else { continue };
        assert!(!unit.is_empty() && !meaning.is_empty(), "{name} has no unit or no meaning");
        let labels = labels.replace('`', "");
        // A registry sorts them by name, and a dash says that there are none.
        let mut labels: Vec<_> = labels.split(',').map(str::trim).filter(|label| *label != "–").collect();
        labels.sort_unstable();
        let labels = labels.join(", ");
        let known = lines.insert(name.to_owned(), format!("{heading}: {kind} [{labels}]"));
        assert_eq!(known, None, "{name} is listed twice");
    }
    lines
}

/// Registers each crate's list, records one number of each metric, and reads back what the registry has.
fn registered() -> Lines {
    let mut lines = Lines::new();
    for (name, metrics) in CRATES {
        let registry = Registry::new();
        let recorder =
            PrometheusRecorder::builder(&registry).metrics(metrics).build().expect("they register");
        for metric in *metrics {
            let labels = vec!["x"; metric.labels.len()];
            match metric.kind {
                MetricKind::Counter => recorder.add(metric, &labels, 1),
                MetricKind::Gauge => recorder.set(metric, &labels, 1.0),
                MetricKind::Histogram => recorder.observe(metric, &labels, 1.0),
                other => panic!("{other:?} is not known here"),
            }
        }
        assert_eq!(recorder.dropped(), 0, "{name}");
        for family in registry.gather() {
            let kind = format!("{:?}", family.get_field_type()).to_lowercase();
            let labels: Vec<_> =
                family.get_metric()[0].get_label().iter().map(prometheus::proto::LabelPair::name).collect();
            lines.insert(family.name().to_owned(), format!("{name}: {kind} [{}]", labels.join(", ")));
        }
    }
    lines
}

#[test]
fn the_page_lists_exactly_what_is_registered() {
    let (documented, registered) = (documented(), registered());
    assert!(registered.len() > 10, "{registered:?}");
    assert_eq!(documented, registered);
}

#[test]
fn every_metric_is_named_by_the_rules() {
    for metric in CRATES.iter().flat_map(|(_, metrics)| *metrics) {
        let name = metric.name;
        assert_eq!(metric.kind == MetricKind::Counter, name.ends_with("_total"), "{name}");
        let prefix = name.split('_').next().unwrap();
        assert!(
            ["batch", "retry", "iterable", "queue", "inbox", "outbox"].contains(&prefix),
            "{name} names its crate first"
        );
        assert!(!metric.help.is_empty() && metric.help.chars().next().unwrap().is_ascii(), "{name}");
    }
}
