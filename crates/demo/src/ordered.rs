//! Delivers the events of each user in their order, whatever fails in between.
//!
//! The reader of the events holds a [`Window`] of them and asks the barrier before it hands one on. A failure comes back
//! here: the barrier is told at once, so that no later event of the user may go, and the event waits in the window for
//! its next attempt. One event of a user is on its way at a time: two in one request, or in two at once, could not be
//! judged one by one. So nobody needs the second gate.

mod tries;
mod window;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use relaykit_batch_core::{Overflow, Response};
use relaykit_event_barrier::{Barrier, Limits, OverThreshold, Permit, Reader, State};
use relaykit_iterable_handlers::{Delivered, DeliveryError, IdentityKey, MAX_ELEMENTS_BYTES, Stamper};
use relaykit_pipeline_traits::{Clock, Monotonic, Rng};
use relaykit_retry::Policy;

use crate::delivery::{Answers, Event, Events, Run, STOP_WITHIN, retry_policy, stop_signal};
use crate::lines::{Line, Source};
use crate::server::Server;

use self::tries::{Next, Tries};
use self::window::{MAX_EVENTS, Pending, Window};

/// Delivers the events, those of each user in order. Returns how often the API was called.
pub(crate) async fn deliver(
    run: &mut Run<'_>,
    source: Source,
    server: &Server,
    clock: &dyn Clock,
) -> anyhow::Result<u64> {
    let (events, mut answers) = processor(server)?;
    events.start()?;
    let (_, reader) = Barrier::builder()
        .limits(Limits::default().key_threshold(1).over_threshold(OverThreshold::Block))
        .build()?;
    let rng = Rng::seeded(run.report.seed);
    let mut delivery = Delivery {
        run,
        clock,
        reader,
        window: Window::default(),
        on_their_way: HashMap::new(),
        events,
        policy: retry_policy()?,
        rng,
    };
    let read = delivery.feed(source, &mut answers).await?;
    delivery.run.report.complete = read;
    delivery.finish(answers).await;
    Ok(delivery.events.stats().calls)
}

/// Makes a processor that tries each event once. It has room for the whole window, so nothing waits to get in.
fn processor(server: &Server) -> anyhow::Result<(Events, Answers)> {
    let built = server
        .processor("events-in-order")
        .max_items(100)
        .max_bytes(MAX_ELEMENTS_BYTES, Event::weight)
        .capacity(MAX_EVENTS)
        // A user's next event waits for this one, so a batch does not wait long for company.
        .linger(Duration::from_millis(10))
        .concurrency(4)
        .build_with_responses(1_000, Overflow::Wait)?;
    Ok(built)
}

/// The events of one run that have come so far, and the barrier they have to pass.
struct Delivery<'r, 'p> {
    run: &'r mut Run<'p>,
    clock: &'r dyn Clock,
    reader: Reader<IdentityKey>,
    window: Window,
    /// What the processor has, by the event's id.
    on_their_way: HashMap<String, OnItsWay>,
    events: Events,
    policy: Policy,
    rng: Rng,
}

struct OnItsWay {
    permit: Permit<'static, IdentityKey, u64>,
    tries: Tries,
}

impl Delivery<'_, '_> {
    /// Reads lines, hands events on and takes answers until all is done or the user stops it. Returns whether all is
    /// done.
    async fn feed(&mut self, source: Source, answers: &mut Answers) -> anyhow::Result<bool> {
        let stamper = Stamper::system();
        let mut lines = source.read();
        let mut all_read = false;
        let mut stopped = std::pin::pin!(stop_signal());
        loop {
            self.pass()?;
            if all_read && self.window.held() == 0 {
                return Ok(true);
            }
            let due = self.window.next_due();
            if self.on_their_way.is_empty() && due.is_none() && self.window.held() > 0 {
                bail!("{} events wait, and for nothing", self.window.held());
            }
            tokio::select! {
                biased;
                () = &mut stopped => break,
                Some(answer) = answers.recv() => {
                    self.answer(answer);
                    // One pass for all that are there.
                    while let Some(answer) = answers.try_recv() {
                        self.answer(answer);
                    }
                }
                line = lines.recv(), if !all_read && self.window.has_room() => match line {
                    Some(line) => self.accept(line.context("could not read the input")?, &stamper),
                    None => all_read = true,
                },
                () = self.clock.sleep_until(due.unwrap_or(Monotonic::NEVER)), if due.is_some() => {}
            }
            self.run.progress.show(self.run.answered, self.run.report.read);
        }
        self.run.progress.say("stopping; what is on its way is finished first");
        Ok(false)
    }

    fn accept(&mut self, line: Line, stamper: &Stamper) {
        let number = line.number;
        let Some(event) = self.run.accept(line, stamper) else { return };
        // A prepared event names its user.
        let Some(key) = event.keys().next().cloned() else { return };
        self.run.ledger.accept(event.id());
        self.window.append(key, Pending { number, event, tries: Tries::default() });
    }

    /// Hands on what may go.
    ///
    /// The sync comes first, then the look at the window: what it opens is found with all that is older. Only keys of
    /// which something has changed are looked at: those that the sync opened, and those that the window knows of.
    fn pass(&mut self) -> anyhow::Result<()> {
        let now = self.clock.monotonic();
        let opened = self.reader.sync(now).opened;
        for key in self.window.changed(now).into_iter().chain(opened) {
            self.look(&key, now)?;
        }
        Ok(())
    }

    /// Hands on the events of one key, the oldest first, up to the first that may not go.
    fn look(&mut self, key: &IdentityKey, now: Monotonic) -> anyhow::Result<()> {
        // An event in backoff holds back all of its key: the window shows no other.
        while let Some(number) = self.window.first(key, now) {
            let Some(permit) = self.reader.barrier().enter(key, number, now).permit() else { break };
            let permit = permit.into_owned();
            let Some(Pending { event, mut tries, .. }) = self.window.take(key) else { break };
            tries.begin(now);
            self.on_their_way.insert(event.id().to_owned(), OnItsWay { permit, tries });
            if let Err(rejected) = self.events.try_send(event) {
                self.on_their_way.remove(rejected.item.id());
                self.run.ledger.withdraw(rejected.item.id());
                return Err(rejected).context("an event was not accepted");
            }
        }
        Ok(())
    }

    /// Ends an event, or puts it back to be tried again.
    fn answer(&mut self, answer: Response<Event, Delivered, DeliveryError>) {
        let Some(OnItsWay { permit, mut tries }) = self.on_their_way.remove(answer.item.id()) else { return };
        let now = self.clock.monotonic();
        let state = match tries.judge(&answer.result, &self.policy, now, &mut self.rng) {
            Next::Retry => {
                // A failure is told before anything else: from here on no later event of the user may go.
                let (key, number) = (permit.key().clone(), permit.job());
                permit.settle(State::Failed, now);
                self.window.put_back(key, Pending { number, event: answer.item, tries });
                return;
            }
            Next::End(state) => state,
        };
        self.window.end(&answer.item);
        // An end is told after it was written down: it lets the next one go.
        self.run.answer(Response { attempts: tries.spent(), ..answer });
        permit.settle(state, now);
    }

    /// Stops the processor, and keeps what was not delivered.
    async fn finish(&mut self, mut answers: Answers) {
        let events = self.events.clone();
        let left = {
            let mut stopped = std::pin::pin!(events.stop(STOP_WITHIN));
            loop {
                tokio::select! {
                    biased;
                    Some(answer) = answers.recv() => self.answer(answer),
                    left = &mut stopped => break left,
                }
            }
        };
        while let Some(answer) = answers.try_recv() {
            self.answer(answer);
        }
        for answer in left.unread {
            self.answer(answer);
        }
        for event in left.in_doubt {
            self.run.keep(&event, "stopped while it was sent".to_owned());
        }
        for event in left.unsent.into_iter().chain(self.window.drain()) {
            self.run.keep(&event, "stopped before it was sent".to_owned());
        }
        self.on_their_way.clear();
    }
}
