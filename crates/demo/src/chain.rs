//! The whole chain: webhooks over HTTP into an inbox, from there through the queue to the API and through the outbox into a file.

mod book;
mod endpoint;
mod handlers;
mod poster;
mod report;
mod site;
mod webhook;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};
use tempfile::TempDir;
use tokio::sync::watch;

pub(crate) use self::report::{ChainReport, ServedReport};

use self::book::Book;
use self::poster::Poster;
use self::report::Books;
use self::site::Site;
use crate::args::Args;
use crate::delivery::stop_signal;
use crate::filing;
use crate::generator::Generator;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::report::say;
use crate::server::Server;

/// How often it is shown how far it is.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// Where inbox, queue and receipts are.
enum Folder {
    Given(PathBuf),
    /// Deleted when all is well.
    Temporary(TempDir),
}

impl Folder {
    fn open(args: &Args) -> anyhow::Result<Self> {
        let Some(path) = &args.dir else {
            return Ok(Self::Temporary(tempfile::tempdir().context("could not make a temporary folder")?));
        };
        std::fs::create_dir_all(path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(Self::Given(path.clone()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }

    /// Keeps it, if it is not to be deleted. Returns where it is then.
    fn keep(self, needed: bool) -> Option<PathBuf> {
        match self {
            Self::Given(path) => Some(path),
            Self::Temporary(folder) => needed.then(|| folder.keep()),
        }
    }
}

/// Starts the chain, posts made-up webhooks to it, waits until everything has come to its end, and compares all books.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ChainReport> {
    let (clock, seed) = (SystemClock::new(), seed(args));
    let metrics = Metrics::asked_for(args.metrics).await?;
    let folder = Folder::open(args)?;
    let book = Book::default();
    let noted = book.clone();
    let server = Server::connect(args, seed, true, move |id| noted.applied(id), metrics.as_ref()).await?;
    let checked = server.stand_in.is_some();
    let noted = book.clone();
    let tell = move |event: &crate::delivery::Event, said| noted.said(event.id(), said);
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let site = Site::start(args, listen, folder.path(), seed, &server, tell).await?;
    let url = format!("http://{}/webhooks", site.address);
    say(&format!("posting webhooks to {url}"));
    say(&format!("sending to {}, each user's in order, faults {:?}, seed {seed}", server.name, args.faults));

    let begun = clock.monotonic();
    let mut progress = Progress::new(Some(args.events), &clock);
    let poster = Arc::new(Poster::new(url, &args.secret()?, book.clone())?);
    let stop = watch::Sender::new(false);
    let complete = {
        let mut posting =
            std::pin::pin!(poster.post_all(Generator::new(seed, args.events), seed, stop.subscribe()));
        let mut stopped = std::pin::pin!(stop_signal());
        let all = loop {
            tokio::select! {
                biased;
                () = &mut stopped => {
                    progress.say("stopping; what is left is kept");
                    stop.send_replace(true);
                    posting.await?;
                    break false;
                }
                ended = &mut posting => break ended?,
                () = clock.sleep(SHOW_EVERY) => progress.show(site.delivered(), poster.posted().made),
            }
        };
        all && tokio::select! {
            biased;
            () = &mut stopped => false,
            drained = site.drain(|delivered| progress.show(delivered, args.events)) => {
                drained?;
                true
            }
        }
    };
    progress.end();
    let seconds = clock.monotonic().since(begun).as_secs_f64();

    let passed = site.stop().await?;
    let (filed, repeated_lines) = filing::read(&passed.file)?;
    let receipts = book.receipts(&filed);
    let mut report = ChainReport::of(Books {
        posted: poster.posted(),
        passed,
        standing: book.standing(checked),
        receipts,
        repeated_lines,
    });
    report.server.clone_from(&server.name);
    (report.seed, report.complete, report.checked_at_server) = (seed, complete, checked);
    report.seconds = seconds;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let delivered = report.delivered as f64;
    report.events_per_second = delivered / seconds.max(f64::MIN_POSITIVE);
    if let Some(stand_in) = server.stand_in {
        report.out_of_order = Some(stand_in.out_of_order());
        report.requests = stand_in.request_count();
        stand_in.stop().await;
    }
    report.folder = folder.keep(!report.is_good());
    Ok(report)
}

/// Serves the endpoint until somebody stops it.
pub(crate) async fn serve(args: &Args, listen: SocketAddr) -> anyhow::Result<ServedReport> {
    let seed = seed(args);
    let metrics = Metrics::asked_for(args.metrics).await?;
    let folder = Folder::open(args)?;
    let server = Server::connect(args, seed, false, |_| {}, metrics.as_ref()).await?;
    let site = Site::start(args, listen, folder.path(), seed, &server, |_, _| {}).await?;
    say(&format!("sending to {}, each user's in order, faults {:?}", server.name, args.faults));
    say(&format!("inbox, queue and receipts are in {}", folder.path().display()));
    say(&format!("webhooks at http://{}/webhooks; Ctrl-C ends it", site.address));
    stop_signal().await;
    say("stopping; what is left is kept");
    let report = ServedReport::of(&site.stop().await?);
    if let Some(stand_in) = server.stand_in {
        stand_in.stop().await;
    }
    let left = report.left_in_inbox + report.left_in_queue + report.left_in_outbox + report.unrouted;
    if let Some(folder) = folder.keep(left > 0) {
        say(&format!("everything is kept in {}", folder.display()));
    }
    Ok(report)
}

fn seed(args: &Args) -> u64 {
    args.seed.unwrap_or_else(|| Rng::from_entropy().next_u64())
}
