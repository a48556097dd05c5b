use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, InvalidSetting, NoRecorder, Recorder, SystemClock};
use reqwest::Url;

use super::halt::Halts;
use super::limiter::Limiter;
use super::{ApiKey, Client, Endpoint, Inner, Rate};
use crate::error::Cause;

/// Where a project lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Region {
    /// `https://api.iterable.com`.
    #[default]
    Us,
    /// `https://api.eu.iterable.com`.
    Eu,
}

impl Region {
    /// Returns the region's base URL, without `/api`.
    pub const fn base_url(self) -> &'static str {
        match self {
            Self::Us => "https://api.iterable.com",
            Self::Eu => "https://api.eu.iterable.com",
        }
    }
}

/// Why a client could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is wrong.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// The HTTP client could not be made, for instance because there is no TLS on this machine.
    #[error("could not make the HTTP client")]
    Http(#[source] Cause),
}

/// Configures a [`Client`]; made by [`Client::builder`].
#[must_use]
#[derive(Clone)]
pub struct ClientBuilder {
    key: ApiKey,
    base_url: String,
    timeout: Duration,
    export_timeout: Duration,
    max_response_bytes: usize,
    max_export_bytes: usize,
    halt_for: Duration,
    clock: Arc<dyn Clock>,
    rates: Vec<Option<Rate>>,
    http: Option<reqwest::Client>,
    recorder: Arc<dyn Recorder>,
}

const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);
const MAX_READ: usize = 1 << 30;

impl ClientBuilder {
    pub(super) fn new(key: ApiKey) -> Self {
        Self {
            key,
            base_url: Region::default().base_url().to_owned(),
            timeout: Duration::from_secs(30),
            export_timeout: Duration::from_secs(600),
            max_response_bytes: 1 << 20,
            max_export_bytes: 64 << 20,
            halt_for: Duration::from_secs(30),
            clock: Arc::new(SystemClock::new()),
            rates: Endpoint::ALL.iter().map(|endpoint| Some(endpoint.default_rate())).collect(),
            http: None,
            recorder: Arc::new(NoRecorder),
        }
    }

    /// Sets where the project lives. Default: [`Region::Us`].
    pub fn region(self, region: Region) -> Self {
        self.base_url(region.base_url())
    }

    /// Sets another place to send to, without the `/api` that every path begins with, as in
    /// `http://127.0.0.1:8080`.
    ///
    /// [`build`](Self::build) asks for an `http` or `https` URL with a host and without user, query and fragment.
    /// Over `http` the key can be read on the way.
    pub fn base_url(mut self, base_url: impl Into<String>) -> Self {
        self.base_url = base_url.into();
        self
    }

    /// Sets how long a request may take until its reply is read, and as long again it may wait for its turn under
    /// the rate limit before. Default: 30 s.
    ///
    /// [`build`](Self::build) asks for more than zero and at most a day.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the [`timeout`](Self::timeout) of [`Lists::users`](crate::Lists::users), which takes minutes for large
    /// lists. Default: 10 min.
    ///
    /// [`build`](Self::build) asks for more than zero and at most a day.
    pub fn export_timeout(mut self, timeout: Duration) -> Self {
        self.export_timeout = timeout;
        self
    }

    /// Sets how large a reply may be, in bytes. Default: 1 MiB.
    ///
    /// [`build`](Self::build) asks for 1 byte to 1 GiB. The body of a refusal is cut there instead.
    pub fn max_response_bytes(mut self, bytes: usize) -> Self {
        self.max_response_bytes = bytes;
        self
    }

    /// Sets how large the reply of [`Lists::users`](crate::Lists::users) may be, in bytes. Default: 64 MiB.
    ///
    /// [`build`](Self::build) asks for 1 byte to 1 GiB.
    pub fn max_export_bytes(mut self, bytes: usize) -> Self {
        self.max_export_bytes = bytes;
        self
    }

    /// Sets how long requests are kept back after the API refused the key. Default: 30 s.
    ///
    /// Zero lets the next call try again. [`build`](Self::build) asks for at most a day.
    pub fn halt_for(mut self, halt_for: Duration) -> Self {
        self.halt_for = halt_for;
        self
    }

    /// Sets the clock. Default: the system's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets the rate limit of an endpoint. Default: [`Endpoint::default_rate`].
    ///
    /// A project's limits are shared by all programs that use it: leave room for the others.
    pub fn rate(mut self, endpoint: Endpoint, rate: Rate) -> Self {
        self.rates[endpoint.index()] = Some(rate);
        self
    }

    /// Takes all rate limits away, those set before too. A 429 pauses its endpoint nevertheless.
    pub fn no_rate_limits(mut self) -> Self {
        self.rates.fill(None);
        self
    }

    /// Sets the HTTP client, for a proxy or certificates of your own.
    ///
    /// Switch redirects and retries off in it: a followed redirect carries the key to another host, and a retry
    /// passes by the rate limit.
    pub fn http_client(mut self, http: reqwest::Client) -> Self {
        self.http = Some(http);
        self
    }

    /// Sets where the client's numbers go. Default: nowhere.
    ///
    /// `iterable_calls_total` counts calls by endpoint and outcome (`ok`, `throttled`, `forbidden`, `refused`,
    /// `failed`, `lost`, `timed_out`, `unreadable`, `not_sent`, `rate_limited`, `halted`),
    /// `iterable_exchange_seconds` is the time from sending to the end of the reply, and
    /// `iterable_turn_wait_seconds` the wait for a turn under the rate limit. A call that was not even attempted,
    /// since its request cannot be written, counts nowhere.
    pub fn recorder(mut self, recorder: impl Recorder + 'static) -> Self {
        self.recorder = Arc::new(recorder);
        self
    }

    /// Checks all settings and makes the client. Connects to nothing yet.
    ///
    /// # Errors
    ///
    /// A setting is outside its bounds, or the HTTP client could not be made.
    pub fn build(self) -> Result<Client, BuildError> {
        let base_url = check_base_url(&self.base_url)?;
        check_wait("timeout", self.timeout)?;
        check_wait("export_timeout", self.export_timeout)?;
        check_bytes("max_response_bytes", self.max_response_bytes)?;
        check_bytes("max_export_bytes", self.max_export_bytes)?;
        if self.halt_for > MAX_WAIT {
            let value = format!("{:?}", self.halt_for);
            return Err(InvalidSetting::new("halt_for", value, format!("at most {MAX_WAIT:?}")).into());
        }
        for rate in self.rates.iter().flatten() {
            rate.check()?;
        }
        let http = match self.http {
            Some(http) => http,
            None => reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .build()
                .map_err(|error| BuildError::Http(error.into()))?,
        };
        Ok(Client {
            inner: Arc::new(Inner {
                http,
                base_url,
                key: self.key,
                clock: self.clock,
                timeout: self.timeout,
                export_timeout: self.export_timeout,
                max_response_bytes: self.max_response_bytes,
                max_export_bytes: self.max_export_bytes,
                limiter: Limiter::new(|endpoint| self.rates[endpoint.index()]),
                halts: Halts::new(self.halt_for),
                recorder: self.recorder,
            }),
        })
    }
}

/// Shows no key, and of an HTTP client only whether there is one.
impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("key", &self.key)
            .field("base_url", &shown_url(&self.base_url))
            .field("timeout", &self.timeout)
            .field("export_timeout", &self.export_timeout)
            .field("max_response_bytes", &self.max_response_bytes)
            .field("max_export_bytes", &self.max_export_bytes)
            .field("halt_for", &self.halt_for)
            .field("http_client", &self.http.is_some())
            .finish_non_exhaustive()
    }
}

/// Returns the URL without its last slash.
fn check_base_url(text: &str) -> Result<String, InvalidSetting> {
    let wrong = |bound: &str| InvalidSetting::new("base_url", shown_url(text), bound);
    let url = Url::parse(text).map_err(|_| wrong("a URL"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("an http or https URL with a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("without user and password"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("without query and fragment"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Hides a URL that may hold a password.
fn shown_url(text: &str) -> &str {
    if text.contains('@') { "(hidden)" } else { text }
}

fn check_wait(field: &'static str, wait: Duration) -> Result<(), InvalidSetting> {
    if wait.is_zero() || wait > MAX_WAIT {
        let bound = format!("more than zero and at most {MAX_WAIT:?}");
        return Err(InvalidSetting::new(field, format!("{wait:?}"), bound));
    }
    Ok(())
}

fn check_bytes(field: &'static str, bytes: usize) -> Result<(), InvalidSetting> {
    if !(1..=MAX_READ).contains(&bytes) {
        return Err(InvalidSetting::new(field, bytes, format!("1 to {MAX_READ}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> ClientBuilder {
        Client::builder(ApiKey::new("s3cret").unwrap())
    }

    fn refused(builder: ClientBuilder) -> InvalidSetting {
        match builder.build() {
            Err(BuildError::Setting(setting)) => setting,
            other => panic!("expected a refused setting, got {other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_accepted_and_no_key_is_printed() {
        let client = builder().build().unwrap();
        assert_eq!(client.inner.base_url, "https://api.iterable.com");
        let eu = builder().region(Region::Eu).build().unwrap();
        assert_eq!(eu.inner.base_url, "https://api.eu.iterable.com");
        for text in [format!("{client:?}"), format!("{:?}", builder()), format!("{:#?}", client.clone())] {
            assert!(!text.contains("s3cret") && text.contains("30s"), "{text}");
        }
    }

    #[test]
    fn a_setting_outside_its_bounds_is_refused_by_name() {
        let day = Duration::from_secs(24 * 3600 + 1);
        assert_eq!(refused(builder().timeout(Duration::ZERO)).field, "timeout");
        assert_eq!(refused(builder().timeout(day)).field, "timeout");
        assert_eq!(refused(builder().export_timeout(Duration::ZERO)).field, "export_timeout");
        assert_eq!(refused(builder().max_response_bytes(0)).field, "max_response_bytes");
        assert_eq!(refused(builder().max_export_bytes(usize::MAX)).field, "max_export_bytes");
        assert_eq!(refused(builder().halt_for(day)).field, "halt_for");
        let none = Rate::per_second(0);
        assert_eq!(refused(builder().rate(Endpoint::TrackEvents, none)).field, "rate");
    }

    #[test]
    fn a_base_url_is_checked_and_its_password_hidden() {
        for wrong in [
            "",
            "api.iterable.com",
            "ftp://x",
            "file:///etc",
            "http://x/?q=1",
            "http://x/#f",
            "http://user:hunter2@x",
        ] {
            let error = refused(builder().base_url(wrong));
            assert_eq!(error.field, "base_url", "{wrong}");
            assert!(!error.to_string().contains("hunter2"));
        }
        assert!(!format!("{:?}", builder().base_url("http://user:hunter2@x")).contains("hunter2"));
        let nested = builder().base_url("http://127.0.0.1:1234/proxy/").build().unwrap();
        assert_eq!(nested.inner.base_url, "http://127.0.0.1:1234/proxy");
    }
}
