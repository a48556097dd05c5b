use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};

use crate::receipts::Place;

/// Takes webhooks over HTTP into an inbox, delivers them to an Iterable API in batches, writes receipts through an outbox, and proves
/// that none was lost.
///
/// Without options it does all that by itself in a temporary folder: it makes up webhooks, posts them to an endpoint of its own, some
/// of them twice, and sends their events to a stand-in of the API on loopback.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo", version, max_term_width = 110)]
pub(crate) struct Args {
    /// Take webhooks as GitHub posts them, at `http://ADDR/webhooks`, until Ctrl-C, instead of making them up. Port 0 takes a free
    /// one; it says where it listens.
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["events", "input", "order", "durable", "direct"])]
    pub(crate) serve: Option<SocketAddr>,

    /// Keep inbox, queue and receipts in this folder. Start again with the same folder to go on after a crash. Default: a
    /// temporary one, which is deleted at the end.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["input", "order", "durable", "direct"])]
    pub(crate) dir: Option<PathBuf>,

    /// Sign webhooks, and check their signatures, with the secret in this environment variable. Default: a secret that everybody
    /// knows.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["input", "order", "durable", "direct"])]
    pub(crate) secret_env: Option<String>,

    /// Hand events straight to the API, without HTTP and inbox. `--input`, `--order` and `--durable` do so, too.
    #[arg(long)]
    pub(crate) direct: bool,

    /// Read events from this file instead of making them up; `-` reads standard input. One JSON object a line:
    /// {"event": "push", "payload": {"sender": {"login": "ada"}, …}}
    #[arg(long, value_name = "FILE", conflicts_with = "events")]
    pub(crate) input: Option<PathBuf>,

    /// How many events to make up.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) events: u64,

    /// Seed of the generated events and of the faults. Default: a new one, which is printed.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// How much goes wrong at the stand-in: errors, throttling, lost replies, delays.
    #[arg(long, value_enum, default_value_t = Faults::None)]
    pub(crate) faults: Faults,

    /// Which events keep their order. `per-user` runs the input twice, without order and with it, to compare.
    #[arg(long, value_enum, default_value_t = Order::None)]
    pub(crate) order: Order,

    /// Store events in a durable queue in this file on their way. Run again with the same file and input to go on after a
    /// crash: what was stored is delivered, and the rest of the input follows.
    #[arg(long, value_name = "FILE", conflicts_with = "order")]
    pub(crate) durable: Option<PathBuf>,

    /// Write receipts into an outbox in this place, `sqlite:FILE` or `postgres://…`. A relay brings the receipts into a file, which is
    /// checked at the end. On SQLite the inbox is in the same FILE. Default: SQLite in the folder; with `--direct`, no receipts.
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["order", "durable"])]
    pub(crate) outbox: Option<Place>,

    /// Send to this server instead, for instance `http://127.0.0.1:8080`
    #[arg(long, value_name = "URL", conflicts_with = "faults")]
    pub(crate) base_url: Option<String>,

    /// Send to the real Iterable API (or --base-url) with the key in this environment variable.
    #[arg(long, value_name = "NAME", conflicts_with = "faults")]
    pub(crate) api_key_env: Option<String>,

    /// Write the result to this file as JSON, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// Serve what is recorded at `http://ADDR/metrics` while events are delivered, for Prometheus; for instance
    /// 127.0.0.1:9464. Port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,
}

/// The secret of webhooks if none is given. As in GitHub's documentation.
const KNOWN_SECRET: &str = "It's a Secret to Everybody";

impl Args {
    /// Whether events go straight to the API.
    pub(crate) const fn is_direct(&self) -> bool {
        self.direct || self.input.is_some() || self.durable.is_some() || !matches!(self.order, Order::None)
    }

    /// Returns the secret of webhooks.
    pub(crate) fn secret(&self) -> anyhow::Result<String> {
        let Some(name) = &self.secret_env else { return Ok(KNOWN_SECRET.to_owned()) };
        std::env::var(name)
            .with_context(|| format!("could not read the secret from the environment variable {name}"))
    }

    /// Returns why the input can be sent only once, if so.
    pub(crate) fn only_once(&self) -> Option<&'static str> {
        if self.base_url.is_some() || self.api_key_env.is_some() {
            return Some("a server of yours gets each event once");
        }
        let standard_input = self.input.as_ref().is_some_and(|path| path.as_os_str() == "-");
        standard_input.then_some("standard input can be read only once")
    }
}

/// How much goes wrong at the stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Faults {
    /// Nothing.
    None,
    /// A few percent of the requests.
    Some,
    /// Most requests.
    Storm,
}

/// Which events keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// None do.
    #[default]
    None,
    /// The events of one user, through retries too.
    PerUser,
}
