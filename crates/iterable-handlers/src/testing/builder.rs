use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, InvalidSetting, SystemClock};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::exchange::{Exchange, Settings};
use super::faults::Faults;
use super::limits::Limits;
use super::project::{AppliedEvent, UnknownUsers};
use super::recorded::Recorded;
use super::script::Script;
use super::server;
use super::stand_in::StandIn;

/// Builds a [`StandIn`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct StandInBuilder {
    settings: Settings,
    script: Script,
    port: u16,
}

/// Why a stand-in does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StandInError {
    /// A setting is out of its bounds.
    #[error("the stand-in cannot be built so")]
    Setting {
        /// Which one, its value and its bound.
        #[from]
        source: InvalidSetting,
    },
    /// The port is taken or may not be used.
    #[error("could not listen on port {port} of loopback")]
    Listen {
        /// The port asked for; 0 for any.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
}

/// The largest request body that the stand-in takes by default: 4 MB, as Iterable publishes for
/// `users/bulkUpdate`.
const MAX_BODY_BYTES: usize = 4_000_000;

/// The largest bound that a body may be given: 64 MiB.
const MAX_MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

impl StandInBuilder {
    pub(crate) fn new() -> Self {
        Self {
            settings: Settings {
                seed: 0,
                faults: Faults::none(),
                limits: Limits::none(),
                key: None,
                latency: Duration::ZERO,
                keep_requests: 1000,
                max_body_bytes: MAX_BODY_BYTES,
                max_state: 1_000_000,
                keep_events: None,
                unknown_users: UnknownUsers::default(),
                clock: Arc::new(SystemClock::new()),
                on_request: Vec::new(),
                on_event: Vec::new(),
            },
            script: Script::default(),
            port: 0,
        }
    }

    /// Sets the seed from which [`faults`](Self::faults) are drawn. Default: 0.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Sets what goes wrong, and how often. Default: nothing.
    ///
    /// Requests that get a scripted reply, or are over their [`limits`](Self::limits), are not disturbed.
    pub const fn faults(mut self, faults: Faults) -> Self {
        self.settings.faults = faults;
        self
    }

    /// Sets how many requests of a path are taken in a time. Default: all.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Asks for an API key: a request with another, or without, is answered with 401. Default: any goes.
    pub fn require_key(mut self, key: impl Into<String>) -> Self {
        self.settings.key = Some(key.into());
        self
    }

    /// Sets how long every reply takes at least, on the stand-in's clock. Default: zero.
    pub const fn latency(mut self, latency: Duration) -> Self {
        self.settings.latency = latency;
        self
    }

    /// Sets how many of the latest requests are kept. Default: 1000. Bodies of more than 64 MiB together are
    /// never kept.
    pub const fn keep_requests(mut self, count: usize) -> Self {
        self.settings.keep_requests = count;
        self
    }

    /// Sets the largest request body; a larger one is answered with 413. Default: 4 000 000 bytes; from 1 byte
    /// to 64 MiB.
    pub const fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_body_bytes = bytes;
        self
    }

    /// Sets how many users, events, fields and lists are kept together; beyond, every call is answered with a
    /// 500 that says so. Default: 1 000 000.
    pub const fn max_state(mut self, count: usize) -> Self {
        self.settings.max_state = count;
        self
    }

    /// Sets how many events are kept, the latest ones; an event forgotten counts as new when it comes again.
    /// Default: all, as far as [`max_state`](Self::max_state) allows.
    pub const fn keep_events(mut self, count: usize) -> Self {
        self.settings.keep_events = Some(count);
        self
    }

    /// Sets what calls about an unknown user do. Default: the user comes into being.
    pub const fn unknown_users(mut self, unknown: UnknownUsers) -> Self {
        self.settings.unknown_users = unknown;
        self
    }

    /// Sets the clock by which replies wait and limits count. Default: the real one.
    ///
    /// On a clock that a test moves, a slow reply waits until the test moves it.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// Listens on this port of loopback. Default: 0, a free one.
    ///
    /// A stand-in that was stopped can be started again where it was.
    pub const fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Adds a function that is shown each request before it takes effect. It must not block.
    pub fn on_request(mut self, watch: impl Fn(&Recorded) + Send + Sync + 'static) -> Self {
        self.settings.on_request.push(Arc::new(watch));
        self
    }

    /// Adds a function that is shown each event that takes effect, each time it does. It must not block.
    pub fn on_event(mut self, watch: impl Fn(&AppliedEvent) + Send + Sync + 'static) -> Self {
        self.settings.on_event.push(Arc::new(watch));
        self
    }

    /// Answers the first `fails` requests with 500 and the next `rate_limits` with 429, once scripted replies are
    /// used up. Default: none.
    pub const fn failing(mut self, fails: u64, rate_limits: u64) -> Self {
        self.script.fails = fails;
        self.script.throttles = rate_limits;
        self
    }

    /// Answers so many requests with 413, after those of [`failing`](Self::failing). Default: none.
    pub const fn too_large(mut self, count: u64) -> Self {
        self.script.too_large = count;
        self
    }

    /// Starts the stand-in. It needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    ///
    /// [`StandInError::Setting`] for a setting out of its bounds, [`StandInError::Listen`] if the port is not to
    /// be had.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing runs before the future is ready.
    pub async fn start(self) -> Result<StandIn, StandInError> {
        self.check()?;
        let port = self.port;
        let listen = |source| StandInError::Listen { port, source };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let exchange = Arc::new(Exchange::new(self.settings, self.script));
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(server::serve(listener, Arc::clone(&exchange), stopped));
        Ok(StandIn::new(address, exchange, stop, server))
    }

    fn check(&self) -> Result<(), InvalidSetting> {
        let settings = &self.settings;
        settings.faults.check()?;
        settings.limits.check()?;
        if !(1..=MAX_MAX_BODY_BYTES).contains(&settings.max_body_bytes) {
            let bound = format!("from 1 to {MAX_MAX_BODY_BYTES}");
            return Err(InvalidSetting::new("max_body_bytes", settings.max_body_bytes, bound));
        }
        Ok(())
    }
}
