use std::fmt;
use std::time::Duration;

use relaykit_pipeline_traits::InvalidSetting;

/// How many requests may begin in any span of time.
///
/// ```
/// use std::time::Duration;
/// use relaykit_iterable_handlers::Rate;
///
/// assert_eq!(Rate::per_minute(5), Rate::new(5, Duration::from_secs(60)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    requests: u32,
    per: Duration,
}

impl Rate {
    /// The most requests a rate may allow in its span.
    pub const MAX_REQUESTS: u32 = 100_000;
    /// The longest span of a rate.
    pub const MAX_SPAN: Duration = Duration::from_secs(24 * 3600);

    /// Allows `requests` in any span of `per`. A client's `build` asks for 1 to
    /// [`MAX_REQUESTS`](Self::MAX_REQUESTS) in more than zero and at most [`MAX_SPAN`](Self::MAX_SPAN).
    #[must_use]
    pub const fn new(requests: u32, per: Duration) -> Self {
        Self { requests, per }
    }

    /// Allows `requests` in any second.
    #[must_use]
    pub const fn per_second(requests: u32) -> Self {
        Self::new(requests, Duration::from_secs(1))
    }

    /// Allows `requests` in any minute.
    #[must_use]
    pub const fn per_minute(requests: u32) -> Self {
        Self::new(requests, Duration::from_secs(60))
    }

    /// Returns how many requests are allowed in the span.
    pub const fn requests(self) -> u32 {
        self.requests
    }

    /// Returns the span.
    pub const fn per(self) -> Duration {
        self.per
    }

    pub(super) fn check(self) -> Result<(), InvalidSetting> {
        if !(1..=Self::MAX_REQUESTS).contains(&self.requests) {
            let bound = format!("1 to {} requests", Self::MAX_REQUESTS);
            return Err(InvalidSetting::new("rate", self, bound));
        }
        if self.per.is_zero() || self.per > Self::MAX_SPAN {
            let bound = format!("for a span of more than 0 s and at most {:?}", Self::MAX_SPAN);
            return Err(InvalidSetting::new("rate", self, bound));
        }
        Ok(())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests in {:?}", self.requests, self.per)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_without_requests_or_span_is_refused() {
        assert!(Rate::per_second(1).check().is_ok());
        assert!(Rate::new(Rate::MAX_REQUESTS, Rate::MAX_SPAN).check().is_ok());
        for wrong in [
            Rate::per_second(0),
            Rate::per_second(Rate::MAX_REQUESTS + 1),
            Rate::new(1, Duration::ZERO),
            Rate::new(1, Rate::MAX_SPAN + Duration::from_nanos(1)),
        ] {
            assert_eq!(wrong.check().unwrap_err().field, "rate", "{wrong}");
        }
    }
}
