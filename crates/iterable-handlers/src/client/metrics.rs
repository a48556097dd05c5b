use relaykit_pipeline_traits::{Metric, MetricKind};

use crate::error::ApiError;

/// Every metric of a client, to be declared to a recorder. The page `docs/operations.md` explains them.
pub static METRICS: &[&Metric] = &[&CALLS, &EXCHANGE, &WAIT];

/// How many calls ended how.
pub(super) static CALLS: Metric = Metric {
    name: "iterable_calls_total",
    kind: MetricKind::Counter,
    help: "calls of the Iterable API by how they ended",
    labels: &["endpoint", "outcome"],
};

/// How long a request took until its reply was read, or until it failed.
pub(super) static EXCHANGE: Metric = Metric {
    name: "iterable_exchange_seconds",
    kind: MetricKind::Histogram,
    help: "time from sending a request to the end of its reply",
    labels: &["endpoint"],
};

/// How long a call waited for its turn under the rate limit.
pub(super) static WAIT: Metric = Metric {
    name: "iterable_turn_wait_seconds",
    kind: MetricKind::Histogram,
    help: "time a call waited for its turn under the rate limit",
    labels: &["endpoint"],
};

/// Names how a call ended.
pub(super) const fn outcome<T>(result: &Result<T, ApiError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(ApiError::NotSent { .. }) => "not_sent",
        Err(ApiError::RateLimited { .. }) => "rate_limited",
        Err(ApiError::Halted { .. }) => "halted",
        Err(ApiError::Transport { .. }) => "lost",
        Err(ApiError::TimedOut { .. }) => "timed_out",
        Err(ApiError::Status { status: 429, .. }) => "throttled",
        Err(ApiError::Status { status: 401 | 403, .. }) => "forbidden",
        Err(ApiError::Status { status: 500.., .. }) => "failed",
        Err(ApiError::Status { .. }) => "refused",
        Err(ApiError::Undecodable { .. } | ApiError::BodyTooLarge { .. }) => "unreadable",
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Endpoint;

    #[test]
    fn an_outcome_tells_apart_what_an_operator_treats_differently() {
        let of = |status| {
            let error = ApiError::from_reply(Endpoint::GetLists, status, Bytes::new(), None, str::to_owned);
            outcome::<()>(&Err(error))
        };
        assert_eq!(outcome(&Ok(())), "ok");
        assert_eq!(
            [302, 400, 401, 403, 404, 429, 500, 503].map(of),
            ["refused", "refused", "forbidden", "forbidden", "refused", "throttled", "failed", "failed"]
        );
    }
}
