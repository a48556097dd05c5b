use relaykit_pipeline_traits::{Metric, MetricKind};

/// Every metric of a queue, to be declared to a recorder. The page `docs/operations.md` explains them.
pub static METRICS: &[&Metric] = &[
    &PUSHED, &FLUSHED, &PROCESSED, &DEAD, &DROPPED, &ERRORS, &PROCESS, &COMMIT, &BATCHES, &ITEMS, &OLDEST,
    &DISK,
];

const fn metric(
    name: &'static str,
    kind: MetricKind,
    help: &'static str,
    labels: &'static [&'static str],
) -> Metric {
    Metric { name, kind, help, labels }
}

pub(crate) static PUSHED: Metric =
    metric("queue_items_pushed_total", MetricKind::Counter, "items accepted", &["queue"]);
pub(crate) static FLUSHED: Metric = metric(
    "queue_items_flushed_total",
    MetricKind::Counter,
    "items stored, by why their batch was closed",
    &["queue", "reason"],
);
pub(crate) static PROCESSED: Metric =
    metric("queue_items_processed_total", MetricKind::Counter, "items done", &["queue"]);
pub(crate) static DEAD: Metric = metric(
    "queue_items_dead_total",
    MetricKind::Counter,
    "items set aside as dead letters",
    &["queue", "reason"],
);
pub(crate) static DROPPED: Metric = metric(
    "queue_items_dropped_total",
    MetricKind::Counter,
    "items deleted undone to make room for later ones",
    &["queue"],
);
pub(crate) static ERRORS: Metric = metric(
    "queue_process_errors_total",
    MetricKind::Counter,
    "calls of the handler that failed, by how",
    &["queue", "outcome"],
);
pub(crate) static PROCESS: Metric =
    metric("queue_process_seconds", MetricKind::Histogram, "time of a call of the handler", &["queue"]);
pub(crate) static COMMIT: Metric =
    metric("queue_commit_seconds", MetricKind::Histogram, "time of a group commit", &[]);
pub(crate) static BATCHES: Metric =
    metric("queue_batches", MetricKind::Gauge, "batches stored and not done", &["queue"]);
pub(crate) static ITEMS: Metric =
    metric("queue_items", MetricKind::Gauge, "items stored and not done", &["queue"]);
pub(crate) static OLDEST: Metric = metric(
    "queue_oldest_age_seconds",
    MetricKind::Gauge,
    "age of the batch that was stored first",
    &["queue"],
);
pub(crate) static DISK: Metric =
    metric("queue_disk_bytes", MetricKind::Gauge, "bytes of the stored batches", &["queue"]);
