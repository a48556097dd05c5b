use relaykit_pipeline_traits::{Metric, MetricKind};
use relaykit_sql_store::stream::StreamMetrics;

/// Every metric of a relay and of an archive's retention, to be declared to a recorder. The page `docs/operations.md` explains them.
pub static METRICS: &[&Metric] = &[
    &SENT,
    &RETRIED,
    &DEAD,
    &LEASE_LOST,
    &REDELIVERED,
    &LAG,
    &SEND,
    &SETTLE,
    &PAGE,
    &PENDING,
    &OLDEST,
    &DEAD_LETTERS,
    &SHARDS,
    &PAUSED,
    &ARCHIVE_PASSES,
    &ARCHIVE_DEFAULT,
];

pub(crate) static STREAM: StreamMetrics = StreamMetrics {
    sent: &SENT,
    retried: &RETRIED,
    dead: &DEAD,
    lease_lost: &LEASE_LOST,
    redelivered: &REDELIVERED,
    lag: &LAG,
    send: &SEND,
    settle: &SETTLE,
    page: &PAGE,
    pending: &PENDING,
    oldest: &OLDEST,
    dead_letters: &DEAD_LETTERS,
    shards: &SHARDS,
    paused: &PAUSED,
};

const fn metric(
    name: &'static str,
    kind: MetricKind,
    help: &'static str,
    labels: &'static [&'static str],
) -> Metric {
    Metric { name, kind, help, labels }
}

static SENT: Metric =
    metric("outbox_messages_sent_total", MetricKind::Counter, "messages that the sender took", &["outbox"]);
static RETRIED: Metric = metric(
    "outbox_messages_retried_total",
    MetricKind::Counter,
    "messages that failed and wait for another attempt",
    &["outbox"],
);
static DEAD: Metric = metric(
    "outbox_messages_dead_total",
    MetricKind::Counter,
    "messages set aside as dead letters",
    &["outbox", "reason"],
);
static LEASE_LOST: Metric = metric(
    "outbox_messages_lease_lost_total",
    MetricKind::Counter,
    "messages that were sent, or may have been, when their lease was found lost: they may be sent again",
    &["outbox"],
);
static REDELIVERED: Metric = metric(
    "outbox_messages_redelivered_total",
    MetricKind::Counter,
    "messages sent again that may have been taken before, by why: timeout, panic, crash",
    &["outbox", "window"],
);
static LAG: Metric = metric(
    "outbox_lag_seconds",
    MetricKind::Histogram,
    "time from when a message was added until it was sent",
    &["outbox"],
);
static SEND: Metric =
    metric("outbox_send_seconds", MetricKind::Histogram, "time of a call of the sender", &["outbox"]);
static SETTLE: Metric = metric(
    "outbox_settle_seconds",
    MetricKind::Histogram,
    "time until it was written what became of a batch",
    &["outbox"],
);
static PAGE: Metric =
    metric("outbox_page_seconds", MetricKind::Histogram, "time of reading a page", &["outbox"]);
static PENDING: Metric =
    metric("outbox_pending_messages", MetricKind::Gauge, "messages not yet sent", &["outbox"]);
static OLDEST: Metric = metric(
    "outbox_oldest_age_seconds",
    MetricKind::Gauge,
    "age of the oldest message not yet sent",
    &["outbox"],
);
static DEAD_LETTERS: Metric =
    metric("outbox_dead_letters", MetricKind::Gauge, "dead letters kept", &["outbox"]);
static SHARDS: Metric =
    metric("outbox_shards_held", MetricKind::Gauge, "shards that this relay holds", &["outbox"]);
static PAUSED: Metric = metric(
    "outbox_paused",
    MetricKind::Gauge,
    "1 while the relay sends nothing because the other side refused everything",
    &["outbox"],
);
pub(crate) static ARCHIVE_PASSES: Metric = metric(
    "outbox_archive_passes_total",
    MetricKind::Counter,
    "times that the archive was maintained, by outcome: done, postponed, failed",
    &["outbox", "outcome"],
);
pub(crate) static ARCHIVE_DEFAULT: Metric = metric(
    "outbox_archive_default_messages",
    MetricKind::Gauge,
    "archived messages in the default partition, since their day had none of its own",
    &["outbox"],
);
