//! The recorder on a real Prometheus registry.
#![cfg(feature = "prometheus")]

use std::thread;

use prometheus::{Registry, TextEncoder};
use relaykit_pipeline_traits::{Metric, MetricKind, Recorder};
use relaykit_telemetry::{PrometheusError, PrometheusRecorder};

static SENT: Metric =
    Metric { name: "t_sent_total", kind: MetricKind::Counter, help: "sent", labels: &["kind"] };
static DEPTH: Metric = Metric { name: "t_depth", kind: MetricKind::Gauge, help: "depth", labels: &[] };
static TOOK: Metric =
    Metric { name: "t_took_seconds", kind: MetricKind::Histogram, help: "took", labels: &[] };
static ALL: &[&Metric] = &[&SENT, &DEPTH, &TOOK];

fn text(registry: &Registry) -> String {
    TextEncoder::new().encode_to_string(&registry.gather()).expect("gathered metrics have a text form")
}

#[test]
fn counters_gauges_and_histograms_show_what_was_recorded() {
    let registry = Registry::new();
    let recorder = PrometheusRecorder::builder(&registry).metrics(ALL).build().unwrap();
    recorder.add(&SENT, &["order"], 2);
    recorder.add(&SENT, &["order"], 3);
    recorder.add(&SENT, &["refund"], 1);
    recorder.set(&DEPTH, &[], 7.5);
    recorder.set(&DEPTH, &[], 4.0);
    recorder.observe(&TOOK, &[], 0.003);
    let text = text(&registry);
    for line in [
        r#"t_sent_total{kind="order"} 5"#,
        r#"t_sent_total{kind="refund"} 1"#,
        "t_depth 4",
        r#"t_took_seconds_bucket{le="0.002"} 0"#,
        r#"t_took_seconds_bucket{le="0.004"} 1"#,
        "t_took_seconds_sum 0.003",
        "# HELP t_sent_total sent",
        "# TYPE t_took_seconds histogram",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(recorder.dropped(), 0);
}

#[test]
fn namespace_subsystem_constant_labels_and_buckets_take_effect() {
    let registry = Registry::new();
    let recorder = PrometheusRecorder::builder(&registry)
        .namespace("shop")
        .subsystem("mail")
        .const_label("zone", "eu")
        .buckets("t_took_seconds", [0.5, 5.0])
        .metrics(ALL)
        .build()
        .unwrap();
    recorder.add(&SENT, &["a"], 1);
    recorder.observe(&TOOK, &[], 1.0);
    let text = text(&registry);
    assert!(text.contains(r#"shop_mail_t_sent_total{kind="a",zone="eu"} 1"#), "{text}");
    assert!(text.contains(r#"shop_mail_t_took_seconds_bucket{zone="eu",le="0.5"} 0"#), "{text}");
    assert!(text.contains(r#"shop_mail_t_took_seconds_bucket{zone="eu",le="5"} 1"#), "{text}");
    assert!(!text.contains("0.001"), "{text}");
}

#[test]
fn metrics_leave_the_registry_with_the_last_clone() {
    let registry = Registry::new();
    let recorder = PrometheusRecorder::builder(&registry).metrics(ALL).build().unwrap();
    recorder.set(&DEPTH, &[], 1.0);
    let clone = recorder.clone();
    drop(recorder);
    assert!(text(&registry).contains("t_depth 1"));
    drop(clone);
    assert_eq!(text(&registry), "");
    // So the same can be opened again.
    PrometheusRecorder::builder(&registry).metrics(ALL).build().unwrap();
}

#[test]
fn opening_the_same_twice_is_an_error_and_leaves_the_first_at_work() {
    let registry = Registry::new();
    let first = PrometheusRecorder::builder(&registry).metrics(&[&TOOK]).build().unwrap();
    // DEPTH and SENT are free; they must not stay behind when TOOK is refused.
    let error = PrometheusRecorder::builder(&registry).metrics(&[&DEPTH, &SENT, &TOOK]).build().unwrap_err();
    assert!(
        matches!(&error, PrometheusError::AlreadyRegistered { name } if name == "t_took_seconds"),
        "{error}"
    );
    first.observe(&TOOK, &[], 1.0);
    assert!(text(&registry).contains("t_took_seconds_count 1"));
    let other = PrometheusRecorder::builder(&registry).metrics(&[&DEPTH, &SENT]).build().unwrap();
    assert_eq!(other.dropped(), 0);
}

#[test]
fn two_recorders_share_a_registry_by_a_constant_label() {
    let registry = Registry::new();
    let open = |queue| {
        PrometheusRecorder::builder(&registry).const_label("queue", queue).metrics(ALL).build().unwrap()
    };
    let (first, second) = (open("a"), open("b"));
    first.set(&DEPTH, &[], 1.0);
    second.set(&DEPTH, &[], 2.0);
    let text = text(&registry);
    assert!(text.contains(r#"t_depth{queue="a"} 1"#) && text.contains(r#"t_depth{queue="b"} 2"#), "{text}");
}

#[test]
fn a_bad_name_is_an_error_that_names_it() {
    static BAD: Metric = Metric { name: "no good", kind: MetricKind::Gauge, help: "h", labels: &[] };
    let registry = Registry::new();
    let error = PrometheusRecorder::builder(&registry).metrics(&[&DEPTH, &BAD]).build().unwrap_err();
    assert!(matches!(&error, PrometheusError::Refused { name, .. } if name == "no good"), "{error}");
    assert!(registry.gather().is_empty());
}

#[test]
fn buckets_for_what_is_no_histogram_are_an_error() {
    let registry = Registry::new();
    let build = PrometheusRecorder::builder(&registry).buckets("t_depth", [1.0]).metrics(ALL).build();
    assert!(matches!(build, Err(PrometheusError::UnknownHistogram { name }) if name == "t_depth"));
    let build =
        PrometheusRecorder::builder(&registry).buckets("t_took_seconds", [2.0, 1.0]).metrics(ALL).build();
    assert!(matches!(build, Err(PrometheusError::Refused { name, .. }) if name == "t_took_seconds"));
    assert!(registry.gather().is_empty());
}

#[test]
fn what_cannot_be_recorded_is_counted_and_harms_nothing() {
    let registry = Registry::new();
    let recorder = PrometheusRecorder::builder(&registry).metrics(&[&SENT, &DEPTH]).build().unwrap();
    recorder.observe(&TOOK, &[], 1.0); // undeclared
    recorder.add(&SENT, &[], 1); // a label is missing
    recorder.add(&SENT, &["a", "b"], 1); // one is too many
    recorder.add(&DEPTH, &[], 1); // a gauge is set, not added to
    recorder.set(&SENT, &["a"], 1.0);
    recorder.observe(&DEPTH, &[], 1.0);
    assert_eq!(recorder.dropped(), 6);
    assert!(!text(&registry).contains("t_sent_total{"));
}

#[test]
fn many_threads_record_at_once_and_nothing_is_lost() {
    let registry = Registry::new();
    let recorder = PrometheusRecorder::builder(&registry).metrics(ALL).build().unwrap();
    thread::scope(|scope| {
        for kind in ["a", "b", "a", "b"] {
            let recorder = recorder.clone();
            scope.spawn(move || {
                for _ in 0..1_000 {
                    recorder.add(&SENT, &[kind], 1);
                    recorder.observe(&TOOK, &[], 0.5);
                }
            });
        }
    });
    let text = text(&registry);
    assert!(text.contains(r#"t_sent_total{kind="a"} 2000"#), "{text}");
    assert!(text.contains("t_took_seconds_count 4000"), "{text}");
}
