use relaykit_pipeline_traits::Metric;

/// Where a stream's numbers go. All have the labels of the stream; `dead` has the reason behind them, and `redelivered` the window.
#[derive(Debug, Clone, Copy)]
pub struct StreamMetrics {
    /// Counts messages that were handled.
    pub sent: &'static Metric,
    /// Counts failures after which a message waits for another attempt.
    pub retried: &'static Metric,
    /// Counts messages that became dead letters, by reason.
    pub dead: &'static Metric,
    /// Counts messages whose lease was found lost when they were to be settled.
    pub lease_lost: &'static Metric,
    /// Counts messages that may be handled again, by window.
    pub redelivered: &'static Metric,
    /// Time from when a message was added until it was handled.
    pub lag: &'static Metric,
    /// Time of a call of the handler.
    pub send: &'static Metric,
    /// Time until it was written what became of a batch.
    pub settle: &'static Metric,
    /// Time of reading a page.
    pub page: &'static Metric,
    /// Messages that wait.
    pub pending: &'static Metric,
    /// Age of the oldest.
    pub oldest: &'static Metric,
    /// Dead letters kept.
    pub dead_letters: &'static Metric,
    /// Shards held.
    pub shards: &'static Metric,
    /// 1 while nothing is handled, because the other side refused everything.
    pub paused: &'static Metric,
}
