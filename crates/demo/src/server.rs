use anyhow::{Context as _, bail};
use relaykit_iterable_handlers::testing::{self, StandIn};
use relaykit_iterable_handlers::{ApiKey, Client};

use crate::args::{Args, Faults};
use crate::ledger::Ledger;

/// Where the events go: the stand-in on loopback, or a server of the user's.
pub(crate) struct Server {
    pub(crate) client: Client,
    /// Present if the server is ours, so that it can be asked what took effect.
    pub(crate) stand_in: Option<StandIn>,
    pub(crate) name: String,
}

impl Server {
    pub(crate) async fn connect(args: &Args, seed: u64, ledger: &Ledger) -> anyhow::Result<Self> {
        if args.base_url.is_some() || args.api_key_env.is_some() {
            return Self::of_the_user(args);
        }
        let faults = match args.faults {
            Faults::None => testing::Faults::none(),
            Faults::Some => testing::Faults::some(),
            Faults::Storm => testing::Faults::storm(),
        };
        let ledger = ledger.clone();
        let stand_in = StandIn::builder()
            .seed(seed)
            .faults(faults)
            // The demo keeps books itself, of what is on its way alone.
            .keep_requests(0)
            .keep_events(0)
            .on_event(move |event| ledger.applied(&event.id))
            .start()
            .await
            .context("could not start the stand-in")?;
        // The stand-in is ours alone, so nothing needs to be spared.
        let client = Client::builder(ApiKey::new("stand-in")?)
            .base_url(stand_in.base_url())
            .no_rate_limits()
            .build()?;
        Ok(Self {
            client,
            name: "a stand-in of the Iterable API on loopback".to_owned(),
            stand_in: Some(stand_in),
        })
    }

    fn of_the_user(args: &Args) -> anyhow::Result<Self> {
        let key = match &args.api_key_env {
            Some(name) => std::env::var(name).with_context(|| {
                format!("could not read the API key from the environment variable {name}")
            })?,
            None => "none".to_owned(),
        };
        let mut client = Client::builder(ApiKey::new(key)?);
        let mut name = "the Iterable API".to_owned();
        if let Some(url) = &args.base_url {
            if !url.starts_with("http://") && !url.starts_with("https://") {
                bail!("--base-url is {url}, but must begin with http:// or https://");
            }
            client = client.base_url(url.clone());
            name.clone_from(url);
        }
        Ok(Self { client: client.build()?, stand_in: None, name })
    }
}
