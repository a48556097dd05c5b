use std::collections::BTreeMap;
use std::time::Duration;

use relaykit_pipeline_traits::{InvalidSetting, Monotonic};

/// How many requests of a path the stand-in takes in a time; it answers the others with 429.
///
/// Windows are fixed: one begins with the first request after the one before it ended. The 429 carries
/// `Retry-After`, the rest of the window in seconds, rounded up; Iterable's description promises no such header,
/// so [`without_retry_after`](Self::without_retry_after) leaves it out.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    paths: BTreeMap<String, Rate>,
    silent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    requests: u32,
    per: Duration,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What Iterable's API description publishes for users, events and lists, per project. For the calls in
/// [`ASSUMED`] it names none.
const PUBLISHED: &[(&str, u32, Duration)] = &[
    ("/api/users/bulkUpdate", 5, SECOND),
    ("/api/users/update", 500, SECOND),
    ("/api/users/merge", 50, SECOND),
    ("/api/users/registerDeviceToken", 500, SECOND),
    ("/api/users/forget", 3, SECOND),
    ("/api/users/unforget", 3, SECOND),
    ("/api/users/forgotten", 3, SECOND),
    ("/api/users/forgottenUserIds", 3, SECOND),
    ("/api/users/getFields", 3, SECOND),
    ("/api/users/getSentMessages", 3, SECOND),
    ("/api/users/getByEmail", 100, SECOND),
    ("/api/users/byUserId", 100, SECOND),
    ("/api/users/byUserId/{userId}", 100, SECOND),
    ("/api/users/{email}", 100, SECOND),
    ("/api/events/track", 2000, SECOND),
    ("/api/events/trackBulk", 10, SECOND),
    ("/api/events/{email}", 100, SECOND),
    ("/api/events/byUserId/{userId}", 100, SECOND),
    ("/api/lists", 100, SECOND),
    ("/api/lists/getUsers", 5, MINUTE),
    ("/api/lists/previewUsers", 5, MINUTE),
    ("/api/lists/{listId}/size", 5, MINUTE),
];

/// Calls without a published rate; five per second is this crate's assumption.
const ASSUMED: &[&str] = &[
    "/api/lists/subscribe",
    "/api/lists/unsubscribe",
    "/api/users/updateEmail",
    "/api/users/updateSubscriptions",
    "/api/users/bulkUpdateSubscriptions",
];

impl Limits {
    /// Takes whatever comes.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Takes what Iterable publishes for users, events and lists, and five requests per second where it
    /// publishes nothing. The daily cap on `users/forget` is left out.
    #[must_use]
    pub fn published() -> Self {
        let published = PUBLISHED.iter().map(|&(path, requests, per)| (path, requests, per));
        let assumed = ASSUMED.iter().map(|&path| (path, 5, SECOND));
        published
            .chain(assumed)
            .fold(Self::none(), |limits, (path, requests, per)| limits.and(path, requests, per))
    }

    /// Takes `requests` per second of one path, and whatever comes of the others.
    ///
    /// A path with an id in it is named by its pattern: `/api/users/{email}`.
    #[must_use]
    pub fn per_second(path: &str, requests: u32) -> Self {
        Self::none().and(path, requests, SECOND)
    }

    /// Adds a path, or replaces what was said of it. `requests` must be at least 1 and `per` from 1 ms to a day,
    /// which [`start`](super::StandInBuilder::start) checks.
    #[must_use]
    pub fn and(mut self, path: &str, requests: u32, per: Duration) -> Self {
        self.paths.insert(path.to_owned(), Rate { requests, per });
        self
    }

    /// Leaves `Retry-After` out of the 429.
    #[must_use]
    pub const fn without_retry_after(mut self) -> Self {
        self.silent = true;
        self
    }

    pub(crate) const fn is_silent(&self) -> bool {
        self.silent
    }

    pub(crate) fn check(&self) -> Result<(), InvalidSetting> {
        for (path, rate) in &self.paths {
            if rate.requests == 0 {
                return Err(InvalidSetting::new("limits", format!("0 requests of {path}"), "at least 1"));
            }
            if !(Duration::from_millis(1)..=DAY).contains(&rate.per) {
                let value = format!("{:?} for {path}", rate.per);
                return Err(InvalidSetting::new("limits", value, "from 1 ms to 1 day"));
            }
        }
        Ok(())
    }
}

/// The requests counted so far.
#[derive(Debug, Default)]
pub(crate) struct Windows(BTreeMap<String, Window>);

#[derive(Debug, Clone, Copy)]
struct Window {
    ends: Monotonic,
    taken: u32,
}

impl Windows {
    /// Takes a request of a path, or returns how long until the next one is taken.
    pub(crate) fn take(&mut self, limits: &Limits, path: &str, now: Monotonic) -> Result<(), Duration> {
        let Some(rate) = limits.paths.get(path) else {
            return Ok(());
        };
        let window = self.0.entry(path.to_owned()).or_insert(Window { ends: now + rate.per, taken: 0 });
        if now >= window.ends {
            *window = Window { ends: now + rate.per, taken: 0 };
        }
        if window.taken < rate.requests {
            window.taken += 1;
            Ok(())
        } else {
            Err(window.ends.since(now))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic::from_origin(Duration::from_millis(millis))
    }

    #[test]
    fn a_window_takes_its_number_and_then_refuses_until_it_ends() {
        let limits = Limits::per_second("/a", 2);
        let mut windows = Windows::default();
        assert_eq!(windows.take(&limits, "/a", at(100)), Ok(()));
        assert_eq!(windows.take(&limits, "/a", at(600)), Ok(()));
        assert_eq!(windows.take(&limits, "/a", at(1099)), Err(Duration::from_millis(1)));
        assert_eq!(windows.take(&limits, "/a", at(1100)), Ok(()));
    }

    #[test]
    fn a_path_without_a_limit_takes_all() {
        let mut windows = Windows::default();
        for _ in 0..100 {
            assert_eq!(windows.take(&Limits::per_second("/a", 1), "/b", at(0)), Ok(()));
        }
    }

    #[test]
    fn the_published_bulk_rates_are_five_and_ten() {
        let limits = Limits::published();
        let rate = |path: &str| limits.paths[path];
        assert_eq!(rate("/api/users/bulkUpdate").requests, 5);
        assert_eq!(rate("/api/events/trackBulk").requests, 10);
        assert_eq!(rate("/api/lists/subscribe").requests, 5);
        assert_eq!(rate("/api/lists/getUsers").per, MINUTE);
    }

    #[test]
    fn impossible_limits_are_refused() {
        assert!(Limits::published().check().is_ok());
        assert!(Limits::per_second("/a", 0).check().is_err());
        assert!(Limits::none().and("/a", 1, Duration::ZERO).check().is_err());
        assert!(Limits::none().and("/a", 1, DAY + SECOND).check().is_err());
    }
}
