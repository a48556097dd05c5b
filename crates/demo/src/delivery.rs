use std::time::Duration;

use anyhow::Context as _;
use relaykit_batch_core::{Cause, Overflow, Processor, Response, Responses};
use relaykit_iterable_handlers::{
    Delivered, DeliveryError, EventTrack, EventTrackHandler, MAX_ELEMENTS_BYTES, Prepared, Stamper,
};
use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};
use relaykit_retry::{Backoff, Policy};

use crate::args::{Args, Faults, Order};
use crate::durable;
use crate::event_line::{Rejection, parse};
use crate::generator::Generator;
use crate::ledger::Ledger;
use crate::lines::{Line, MAX_LINE_BYTES, Source};
use crate::metrics::Metrics;
use crate::ordered;
use crate::progress::Progress;
use crate::receipts::Receipts;
use crate::report::{MAX_LISTED, RejectedLine, Report, say};
use crate::server::Server;

pub(crate) type Event = Prepared<EventTrack>;
pub(crate) type Events = Processor<Event, EventTrackHandler>;
pub(crate) type Answers = Responses<Event, Delivered, DeliveryError>;

/// How long Ctrl-C leaves what is on its way.
pub(crate) const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What `--order` asks for: one run, or the same input without order and with it.
///
/// The report is the last run's and holds the first one's, if there were two.
pub(crate) async fn deliver_all(args: &Args) -> anyhow::Result<Report> {
    let seed = args.seed.unwrap_or_else(|| Rng::from_entropy().next_u64());
    let metrics = Metrics::asked_for(args.metrics).await?;
    let metrics = metrics.as_ref();
    if args.order == Order::None {
        return deliver(args, Order::None, seed, metrics).await;
    }
    if let Some(reason) = args.only_once() {
        say(&format!("{reason}, so there is no unordered run to compare with"));
        return deliver(args, args.order, seed, metrics).await;
    }
    let unordered = deliver(args, Order::None, seed, metrics).await?;
    if !unordered.complete {
        return Ok(unordered);
    }
    let mut ordered = deliver(args, args.order, seed, metrics).await?;
    ordered.unordered = Some(Box::new(unordered));
    Ok(ordered)
}

/// Reads all events, delivers them, and returns what became of each.
async fn deliver(args: &Args, order: Order, seed: u64, metrics: Option<&Metrics>) -> anyhow::Result<Report> {
    let clock = SystemClock::new();
    let ledger = Ledger::default();
    let source = match &args.input {
        Some(path) => Source::open(path)?,
        None => Source::Generator(Generator::new(seed, args.events)),
    };
    let watch_order = args.order != Order::None;
    let noted = ledger.clone();
    let server = Server::connect(args, seed, watch_order, move |id| noted.applied(id), metrics).await?;
    let kept = if order == Order::None { "" } else { ", each user's in order" };
    say(&format!("sending to {}{kept}, faults {:?}, seed {seed}", server.name, args.faults));

    let begun = clock.monotonic();
    let checked = server.stand_in.is_some();
    let expected = args.input.is_none().then_some(args.events);
    let mut run = Run {
        report: Report {
            server: server.name.clone(),
            seed,
            order,
            checked_at_server: checked,
            ..Report::default()
        },
        ledger,
        progress: Progress::new(expected, &clock),
        answered: 0,
        numbered: checked && watch_order,
        receipts: match &args.outbox {
            Some(place) => Some(Receipts::start(place, args.faults != Faults::None, seed).await?),
            None => None,
        },
    };
    let delivered = match (order, &args.durable) {
        (Order::None, Some(file)) => durable::deliver(&mut run, source, &server, file).await,
        (Order::None, None) => run.deliver(source, &server).await,
        (Order::PerUser, _) => ordered::deliver(&mut run, source, &server, &clock).await,
    };
    run.progress.end();
    let calls = delivered?;
    if let Some(receipts) = run.receipts.take() {
        run.report.receipts = Some(receipts.finish().await.context("the receipts")?);
    }

    let mut report = run.report;
    report.lost = run.ledger.lost();
    report.repeated = run.ledger.repeated();
    report.requests = match &server.stand_in {
        Some(stand_in) => stand_in.request_count(),
        None => calls,
    };
    report.seconds = clock.monotonic().since(begun).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let answered = run.answered as f64;
    report.events_per_second = answered / report.seconds.max(f64::MIN_POSITIVE);
    if let Some(stand_in) = server.stand_in {
        report.out_of_order = watch_order.then(|| stand_in.out_of_order());
        stand_in.stop().await;
    }
    Ok(report)
}

/// When a failed event is tried again.
pub(crate) fn retry_policy() -> anyhow::Result<Policy> {
    let backoff = Backoff::exponential(Duration::from_millis(50));
    Ok(backoff.max_delay(Duration::from_secs(5)).max_attempts(30).build()?)
}

fn processor(server: &Server) -> anyhow::Result<(Events, Answers)> {
    let built = server
        .processor("events")
        .max_items(100)
        .max_bytes(MAX_ELEMENTS_BYTES, Event::weight)
        .capacity_bytes(16 * MAX_ELEMENTS_BYTES)
        .linger(Duration::from_millis(50))
        .concurrency(4)
        .retry(retry_policy()?)
        .build_with_responses(1_000, Overflow::Wait)?;
    Ok(built)
}

/// One run of the demo, as far as it has come.
pub(crate) struct Run<'a> {
    pub(crate) report: Report,
    pub(crate) ledger: Ledger,
    pub(crate) progress: Progress<'a>,
    pub(crate) answered: u64,
    /// Whether events carry their line's number, by which the stand-in watches the order.
    numbered: bool,
    receipts: Option<Receipts>,
}

impl Run<'_> {
    /// Delivers the events in any order. Returns how often the API was called.
    async fn deliver(&mut self, source: Source, server: &Server) -> anyhow::Result<u64> {
        let (events, responses) = processor(server)?;
        events.start()?;
        let (read, responses) = self.feed(source, &events, responses).await?;
        self.report.complete = read;
        self.finish(&events, responses).await;
        Ok(events.stats().calls)
    }

    /// Hands every line over and takes answers meanwhile, until all lines are read or the user stops it. Returns
    /// whether all were read.
    async fn feed(
        &mut self,
        source: Source,
        events: &Events,
        mut responses: Answers,
    ) -> anyhow::Result<(bool, Answers)> {
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
                    if let Some(receipts) = &mut self.receipts {
                        receipts.write_many().await.context("could not write receipts")?;
                    }
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
    async fn answer_while<W: Future>(&mut self, responses: &mut Answers, work: W) -> W::Output {
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
    async fn finish(&mut self, events: &Events, mut responses: Answers) {
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
    pub(crate) fn accept(&mut self, line: Line, stamper: &Stamper) -> Option<Event> {
        self.accept_as(line, None, stamper)
    }

    /// Makes an event of a line, with this id if one is given.
    pub(crate) fn accept_as(&mut self, line: Line, id: Option<String>, stamper: &Stamper) -> Option<Event> {
        self.report.read += 1;
        let parsed = match line.content {
            Ok(content) => parse(&content, id, self.numbered.then_some(line.number), stamper),
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

    pub(crate) fn answer(&mut self, response: Response<Event, Delivered, DeliveryError>) {
        self.answered += 1;
        self.report.retried += u64::from(response.attempts > 1);
        let event = &response.item;
        match response.result {
            Ok(_) => {
                self.report.delivered += 1;
                self.ledger.delivered(event.id(), self.report.checked_at_server);
                if let Some(receipts) = &mut self.receipts {
                    receipts.note(event.id());
                }
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

    pub(crate) fn keep(&mut self, event: &Event, reason: String) {
        *self.report.undelivered.entry(reason).or_default() += 1;
        self.ledger.not_delivered(event.id());
    }
}

/// Waits for Ctrl-C or, on Unix, a request to terminate.
pub(crate) async fn stop_signal() {
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
