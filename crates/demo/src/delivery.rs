use std::time::Duration;

use anyhow::Context as _;
use relaykit_batch_core::{Cause, Overflow, Processor, Response, Responses};
use relaykit_iterable_handlers::{
    Delivered, DeliveryError, EventTrack, EventTrackHandler, MAX_ELEMENTS_BYTES, Prepared, Stamper,
};
use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};
use relaykit_retry::Backoff;

use crate::args::Args;
use crate::event_line::{Rejection, parse};
use crate::generator::Generator;
use crate::ledger::Ledger;
use crate::lines::{Line, MAX_LINE_BYTES, Source};
use crate::progress::Progress;
use crate::report::{MAX_LISTED, RejectedLine, Report, say};
use crate::server::Server;

type Event = Prepared<EventTrack>;
type Events = Processor<Event, EventTrackHandler>;

/// How long Ctrl-C leaves what is on its way.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Reads all events, delivers them, and returns what became of each.
pub(crate) async fn deliver(args: &Args) -> anyhow::Result<Report> {
    let clock = SystemClock::new();
    let seed = args.seed.unwrap_or_else(|| Rng::from_entropy().next_u64());
    let ledger = Ledger::default();
    let source = match &args.input {
        Some(path) => Source::open(path)?,
        None => Source::Generator(Generator::new(seed, args.events)),
    };
    let server = Server::connect(args, seed, &ledger).await?;
    say(&format!("sending to {}, faults {:?}, seed {seed}", server.name, args.faults));

    let (events, responses) = processor(&server)?;
    events.start()?;
    let begun = clock.monotonic();
    let checked = server.stand_in.is_some();
    let expected = args.input.is_none().then_some(args.events);
    let mut run = Run {
        report: Report { server: server.name.clone(), seed, checked_at_server: checked, ..Report::default() },
        ledger,
        progress: Progress::new(expected, &clock),
        answered: 0,
    };
    let fed = run.feed(source, &events, responses).await;
    run.progress.end();
    let (read, responses) = fed?;
    run.finish(&events, responses).await;

    let mut report = run.report;
    report.complete = read;
    report.lost = run.ledger.lost();
    report.repeated = run.ledger.repeated();
    report.requests = match &server.stand_in {
        Some(stand_in) => stand_in.request_count(),
        None => events.stats().calls,
    };
    report.seconds = clock.monotonic().since(begun).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let answered = run.answered as f64;
    report.events_per_second = answered / report.seconds.max(f64::MIN_POSITIVE);
    if let Some(stand_in) = server.stand_in {
        stand_in.stop().await;
    }
    Ok(report)
}

fn processor(server: &Server) -> anyhow::Result<(Events, Responses<Event, Delivered, DeliveryError>)> {
    let retry = Backoff::exponential(Duration::from_millis(50))
        .max_delay(Duration::from_secs(5))
        .max_attempts(30)
        .build()?;
    let built = Processor::builder(EventTrackHandler::new(server.client.clone()))
        .max_items(100)
        .max_bytes(MAX_ELEMENTS_BYTES, Event::weight)
        .capacity_bytes(16 * MAX_ELEMENTS_BYTES)
        .linger(Duration::from_millis(50))
        .concurrency(4)
        .retry(retry)
        .build_with_responses(1_000, Overflow::Wait)?;
    Ok(built)
}

/// One run of the demo, as far as it has come.
struct Run<'a> {
    report: Report,
    ledger: Ledger,
    progress: Progress<'a>,
    answered: u64,
}

impl Run<'_> {
    /// Hands every line over and takes answers meanwhile, until all lines are read or the user stops it. Returns
    /// whether all were read.
    async fn feed(
        &mut self,
        source: Source,
        events: &Events,
        mut responses: Responses<Event, Delivered, DeliveryError>,
    ) -> anyhow::Result<(bool, Responses<Event, Delivered, DeliveryError>)> {
        let stamper = Stamper::system();
        let mut lines = source.read();
        let mut stopped = std::pin::pin!(stop_signal());
        loop {
            // Room first, line second: so that a stop finds no event between reading and acceptance.
            let room = tokio::select! {
                biased;
                () = &mut stopped => break,
                Some(response) = responses.recv() => {
                    self.answer(response);
                    continue;
                }
                room = events.reserve() => room.context("the processor stopped by itself")?,
            };
            let line = tokio::select! {
                biased;
                () = &mut stopped => break,
                line = lines.recv() => line,
            };
            let Some(line) = line else {
                drop(room);
                let flushed = tokio::select! {
                    () = &mut stopped => false,
                    flushed = self.answer_while(&mut responses, events.flush()) => flushed.is_ok(),
                };
                return Ok((flushed, responses));
            };
            let line = line.context("could not read the input")?;
            if let Some(event) = self.accept(line, &stamper) {
                let id = event.id().to_owned();
                self.ledger.accept(&id);
                if let Err(rejected) = room.send(event) {
                    self.ledger.withdraw(&id);
                    return Err(rejected).context("an event was not accepted");
                }
            }
            self.progress.show(self.answered, self.report.read);
        }
        self.progress.say("stopping; what is on its way is finished first");
        Ok((false, responses))
    }

    /// Takes answers until `work` is done.
    async fn answer_while<W: Future>(
        &mut self,
        responses: &mut Responses<Event, Delivered, DeliveryError>,
        work: W,
    ) -> W::Output {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                Some(response) = responses.recv() => self.answer(response),
                done = &mut work => return done,
            }
            self.progress.show(self.answered, self.report.read);
        }
    }

    /// Stops the processor and counts what it hands back.
    async fn finish(&mut self, events: &Events, mut responses: Responses<Event, Delivered, DeliveryError>) {
        let left = self.answer_while(&mut responses, events.stop(STOP_WITHIN)).await;
        while let Some(response) = responses.try_recv() {
            self.answer(response);
        }
        for response in left.unread {
            self.answer(response);
        }
        for (items, reason) in
            [(left.unsent, "stopped before it was sent"), (left.in_doubt, "stopped while it was sent")]
        {
            for event in items {
                self.keep(&event, reason.to_owned());
            }
        }
    }

    /// Makes an event of a line, or notes why it is none.
    fn accept(&mut self, line: Line, stamper: &Stamper) -> Option<Event> {
        self.report.read += 1;
        let parsed = match line.content {
            Ok(content) => parse(&content, stamper),
            Err(_) => Err(Rejection::TooLong { max: MAX_LINE_BYTES }),
        };
        match parsed {
            Ok(event) => Some(event),
            Err(rejection) => {
                let reason = rejection.reason();
                self.report.rejected += 1;
                if self.report.rejected_lines.len() < MAX_LISTED {
                    self.progress.say(&format!("line {} rejected: {reason}", line.number));
                    self.report.rejected_lines.push(RejectedLine { line: line.number, reason });
                }
                None
            }
        }
    }

    fn answer(&mut self, response: Response<Event, Delivered, DeliveryError>) {
        self.answered += 1;
        self.report.retried += u64::from(response.attempts > 1);
        let event = &response.item;
        match response.result {
            Ok(_) => {
                self.report.delivered += 1;
                self.ledger.delivered(event.id(), self.report.checked_at_server);
            }
            Err(Cause::Dead(error)) => {
                *self.report.dead.entry(error.to_string()).or_default() += 1;
                self.ledger.not_delivered(event.id());
            }
            Err(cause) => {
                let reason = match cause.error() {
                    Some(error) => format!("{cause}: {error}"),
                    None => cause.to_string(),
                };
                self.keep(event, reason);
            }
        }
    }

    fn keep(&mut self, event: &Event, reason: String) {
        *self.report.undelivered.entry(reason).or_default() += 1;
        self.ledger.not_delivered(event.id());
    }
}

/// Waits for Ctrl-C or, on Unix, a request to terminate.
async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without signals there is nothing to wait for.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
