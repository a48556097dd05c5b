use anyhow::{Context as _, bail};
use relaykit_batch_core::{Builder, Processor};
use relaykit_iterable_handlers::testing::{self, StandIn};
use relaykit_iterable_handlers::{ApiKey, Client, ClientBuilder, EventTrackHandler};
use relaykit_telemetry::PrometheusRecorder;

use crate::args::{Args, Faults};
use crate::delivery::Event;
use crate::metrics::Metrics;

/// How many events back the stand-in tells one that comes again from one that is late. Of those before, a repetition
/// counts as out of order: the count is never too low.
const REPETITIONS_KNOWN: usize = 20_000;

/// Where the events go: the stand-in on loopback, or a server of the user's.
pub(crate) struct Server {
    pub(crate) client: Client,
    /// Present if the server is ours, so that it can be asked what took effect.
    pub(crate) stand_in: Option<StandIn>,
    pub(crate) name: String,
    metrics: Option<Metrics>,
}

impl Server {
    /// Starts the stand-in, which watches the order of each user's events if asked to and tells of each id that takes effect, or
    /// takes the user's server.
    pub(crate) async fn connect(
        args: &Args,
        seed: u64,
        watch_order: bool,
        applied: impl Fn(&str) + Send + Sync + 'static,
        metrics: Option<&Metrics>,
    ) -> anyhow::Result<Self> {
        if args.base_url.is_some() || args.api_key_env.is_some() {
            return Self::of_the_user(args, metrics);
        }
        let faults = match args.faults {
            Faults::None => testing::Faults::none(),
            Faults::Some => testing::Faults::some(),
            Faults::Storm => testing::Faults::storm(),
        };
        let stand_in = StandIn::builder()
            .seed(seed)
            .faults(faults)
            // The demo keeps books itself, of what is on its way alone.
            .keep_requests(0)
            .keep_events(if watch_order { REPETITIONS_KNOWN } else { 0 })
            .on_event(move |event| applied(&event.id))
            .start()
            .await
            .context("could not start the stand-in")?;
        // The stand-in is ours alone, so nothing needs to be spared.
        let client = recorded(Client::builder(ApiKey::new("stand-in")?), metrics)
            .base_url(stand_in.base_url())
            .no_rate_limits()
            .build()?;
        Ok(Self {
            client,
            name: "a stand-in of the Iterable API on loopback".to_owned(),
            stand_in: Some(stand_in),
            metrics: metrics.cloned(),
        })
    }

    /// Where parts record, if anybody looks.
    pub(crate) fn recorder(&self) -> Option<PrometheusRecorder> {
        self.metrics.as_ref().map(|metrics| metrics.recorder.clone())
    }

    /// Begins a processor that sends to this server and records under `name`, if anybody looks.
    pub(crate) fn processor(&self, name: &str) -> Builder<Event, EventTrackHandler> {
        let builder = Processor::builder(EventTrackHandler::new(self.client.clone())).name(name);
        match &self.metrics {
            Some(metrics) => builder.recorder(metrics.recorder.clone()),
            None => builder,
        }
    }

    fn of_the_user(args: &Args, metrics: Option<&Metrics>) -> anyhow::Result<Self> {
        let key = match &args.api_key_env {
            Some(name) => std::env::var(name).with_context(|| {
                format!("could not read the API key from the environment variable {name}")
            })?,
            None => "none".to_owned(),
        };
        let mut client = recorded(Client::builder(ApiKey::new(key)?), metrics);
        let mut name = "the Iterable API".to_owned();
        if let Some(url) = &args.base_url {
            if !url.starts_with("http://") && !url.starts_with("https://") {
                bail!("--base-url is {url}, but must begin with http:// or https://");
            }
            client = client.base_url(url.clone());
            name.clone_from(url);
        }
        Ok(Self { client: client.build()?, stand_in: None, name, metrics: metrics.cloned() })
    }
}

/// Lets the client record, if anybody looks.
fn recorded(client: ClientBuilder, metrics: Option<&Metrics>) -> ClientBuilder {
    match metrics {
        Some(metrics) => client.recorder(metrics.recorder.clone()),
        None => client,
    }
}
