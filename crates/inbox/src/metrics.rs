use relaykit_pipeline_traits::{Metric, MetricKind};
use relaykit_sql_store::stream::StreamMetrics;

/// Every metric of an inbox and its workers, to be declared to a recorder. The page `docs/operations.md` explains them.
pub static METRICS: &[&Metric] = &[
    &RECEIVED,
    &UNROUTED,
    &ERASED,
    &HANDLED,
    &RETRIED,
    &DEAD,
    &LEASE_LOST,
    &REDELIVERED,
    &LAG,
    &HANDLE,
    &SETTLE,
    &PAGE,
    &PENDING,
    &OLDEST,
    &DEAD_LETTERS,
    &SHARDS,
    &PAUSED,
];

pub(crate) static STREAM: StreamMetrics = StreamMetrics {
    sent: &HANDLED,
    retried: &RETRIED,
    dead: &DEAD,
    lease_lost: &LEASE_LOST,
    redelivered: &REDELIVERED,
    lag: &LAG,
    send: &HANDLE,
    settle: &SETTLE,
    page: &PAGE,
    pending: &PENDING,
    oldest: &OLDEST,
    dead_letters: &DEAD_LETTERS,
    shards: &SHARDS,
    paused: &PAUSED,
};

/// The labels of what is about one handler.
const OWN: &[&str] = &["inbox", "handler"];

pub(crate) static RECEIVED: Metric = Metric {
    name: "inbox_messages_received_total",
    kind: MetricKind::Counter,
    help: "messages that came in, by what became of them: stored, already_known, conflict, refused",
    labels: &["inbox", "outcome"],
};
pub(crate) static UNROUTED: Metric = Metric {
    name: "inbox_messages_routed_total",
    kind: MetricKind::Counter,
    help: "messages that had no handler when they came and have one now",
    labels: &["inbox"],
};
pub(crate) static ERASED: Metric = Metric {
    name: "inbox_erased_total",
    kind: MetricKind::Counter,
    help: "what was erased after its time, by sort: payloads, dead, ids",
    labels: &["inbox", "sort"],
};
static HANDLED: Metric = Metric {
    name: "inbox_messages_handled_total",
    kind: MetricKind::Counter,
    help: "messages that the handler is done with",
    labels: OWN,
};
static RETRIED: Metric = Metric {
    name: "inbox_messages_retried_total",
    kind: MetricKind::Counter,
    help: "messages that failed and wait for another attempt",
    labels: OWN,
};
static DEAD: Metric = Metric {
    name: "inbox_messages_dead_total",
    kind: MetricKind::Counter,
    help: "messages set aside as dead letters",
    labels: &["inbox", "handler", "reason"],
};
static LEASE_LOST: Metric = Metric {
    name: "inbox_messages_lease_lost_total",
    kind: MetricKind::Counter,
    help: "messages that were handled, or may have been, when their lease was found lost: they may be handled again",
    labels: OWN,
};
static REDELIVERED: Metric = Metric {
    name: "inbox_messages_redelivered_total",
    kind: MetricKind::Counter,
    help: "messages handled again that may have been handled before, by why: timeout, panic",
    labels: &["inbox", "handler", "window"],
};
static LAG: Metric = Metric {
    name: "inbox_lag_seconds",
    kind: MetricKind::Histogram,
    help: "time from when a message was received until it was handled",
    labels: OWN,
};
static HANDLE: Metric = Metric {
    name: "inbox_handle_seconds",
    kind: MetricKind::Histogram,
    help: "time until all messages that were handled beside each other were",
    labels: OWN,
};
static SETTLE: Metric = Metric {
    name: "inbox_settle_seconds",
    kind: MetricKind::Histogram,
    help: "time until it was written what became of messages",
    labels: OWN,
};
static PAGE: Metric = Metric {
    name: "inbox_page_seconds",
    kind: MetricKind::Histogram,
    help: "time of reading a page",
    labels: OWN,
};
static PENDING: Metric = Metric {
    name: "inbox_pending_messages",
    kind: MetricKind::Gauge,
    help: "messages not yet handled",
    labels: OWN,
};
static OLDEST: Metric = Metric {
    name: "inbox_oldest_age_seconds",
    kind: MetricKind::Gauge,
    help: "age of the oldest message not yet handled",
    labels: OWN,
};
static DEAD_LETTERS: Metric =
    Metric { name: "inbox_dead_letters", kind: MetricKind::Gauge, help: "dead letters kept", labels: OWN };
static SHARDS: Metric = Metric {
    name: "inbox_shards_held",
    kind: MetricKind::Gauge,
    help: "shards that this worker holds",
    labels: OWN,
};
static PAUSED: Metric = Metric {
    name: "inbox_paused",
    kind: MetricKind::Gauge,
    help: "1 while the handler gets nothing because it left everything untried",
    labels: OWN,
};
