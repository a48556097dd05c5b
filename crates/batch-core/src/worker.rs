use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use relaykit_pipeline_traits::{BatchHandler, BatchOutcome, FlushReason, Monotonic, Rng, Verdict};
use tokio::sync::watch;

use crate::answer::{Cause, Failed};
use crate::builder::Recovery;
use crate::call::{Aborted, Called, call};
use crate::entry::{Batch, Reply, Seat};
use crate::intake::{Phase, Settled, Wake};
use crate::responses::{Overflow, Response};
use crate::round::{Fate, Round, decide, sentences};
use crate::shared::{Shared, answer_all};

/// Takes batches and brings each to its end, one after the other, until the run ends.
pub(crate) async fn work<T, H>(place: Place<T, H>)
where
    T: Send + Sync,
    H: BatchHandler<T>,
    H::Error: Sync,
{
    let (shared, run) = (&*place.shared, place.run);
    let mut abort = shared.abort.subscribe();
    let mut rng = shared.fork_rng();
    loop {
        match shared.batches.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_closed) => return,
        }
        if shared.crowded.load(Ordering::Relaxed) {
            // Others who are ready to add go first, so that one call has what would otherwise be many.
            tokio::task::yield_now().await;
        }
        let mut wake = Wake::default();
        let (batch, closed, levels) = {
            let mut intake = shared.intake();
            if intake.run != run {
                drop(intake);
                // The permit belongs to a later run, which this worker outlived its own to see.
                shared.batches.add_permits(1);
                return;
            }
            if *abort.borrow() {
                return;
            }
            match intake.take(&shared.config.flush, &mut wake) {
                Some((batch, closed)) => (batch, closed, intake.levels()),
                None if intake.phase == Phase::Stopping && intake.unanswered() == 0 => return,
                None => continue,
            }
        };
        shared.wake(wake);
        shared.give_back_room(batch.len(), batch.charged());
        if shared.config.flush.linger.is_zero() {
            shared.crowded.store(batch.len() > 1, Ordering::Relaxed);
        }
        let now = shared.clock.monotonic();
        if let Some(levels) = levels {
            shared.meter.taken(batch.len(), closed.reason, now.since(closed.opened_at));
            shared.meter.levels(levels, now);
        }
        let flight = Flight::new(shared, run, batch, now);
        // Panics of the handler are caught around its call. This catches the one of a future that is dropped; the
        // flight answers its items then.
        let _ = AssertUnwindSafe(fly(flight, &mut abort, &mut rng)).catch_unwind().await;
        if shared.intake().run != run {
            // A stop did not wait for this flight.
            return;
        }
    }
}

/// A worker's place in its run. Books the worker's end, whatever ends it, even if it never began.
pub(crate) struct Place<T, H: BatchHandler<T>> {
    shared: Arc<Shared<T, H>>,
    run: u64,
}

impl<T, H: BatchHandler<T>> Place<T, H> {
    pub(crate) const fn new(shared: Arc<Shared<T, H>>, run: u64) -> Self {
        Self { shared, run }
    }
}

impl<T, H: BatchHandler<T>> Drop for Place<T, H> {
    fn drop(&mut self) {
        let shared = &*self.shared;
        let mut abandoned = None;
        let mut intake = shared.intake();
        if intake.run == self.run {
            intake.workers = intake.workers.saturating_sub(1);
            if intake.workers == 0 && intake.phase == Phase::Running {
                // Nobody stopped it, so its runtime went away, and nobody is left to take what is buffered.
                let rest = intake.abandon();
                abandoned = Some((rest, intake.levels()));
            }
        }
        drop(intake);
        if let Some((rest, levels)) = abandoned {
            shared.show(levels);
            shared.give_back_room(rest.len(), rest.charged());
            let items = rest.len();
            shared.meter.failed(&Cause::<H::Error>::Abandoned, items);
            let lost = answer_all(rest, &Cause::Abandoned, shared.stream.as_ref());
            tracing::warn!(items, lost, "the processor's runtime went away while it ran");
            shared.stopping.notify_waiters();
        }
        shared.worker_ended.notify_waiters();
    }
}

/// Some items on their way together: lent as they are, or after a wait.
struct Job<T, O, E> {
    batch: Batch<T, O, E>,
    due: Option<Monotonic>,
    previous_delay: Option<Duration>,
}

/// A batch on its way, in as many parts as it was split into. Owns the items, whatever happens.
struct Flight<'a, T, H: BatchHandler<T>> {
    shared: &'a Shared<T, H>,
    run: u64,
    started: Monotonic,
    /// The whole batch, before it is lent first. Most flights have no other job.
    whole: Option<Job<T, H::Output, H::Error>>,
    jobs: VecDeque<Job<T, H::Output, H::Error>>,
    lent: Batch<T, H::Output, H::Error>,
    isolated: Batch<T, H::Output, H::Error>,
    responses: Vec<Response<T, H::Output, H::Error>>,
    settled: Settled,
    /// The empty lists of a batch that is through, for the intake to fill again.
    spare: Batch<T, H::Output, H::Error>,
}

enum Next<T, O, E> {
    Lend(Job<T, O, E>),
    WaitUntil(Monotonic),
    End,
}

impl<'a, T, H: BatchHandler<T>> Flight<'a, T, H> {
    fn new(
        shared: &'a Shared<T, H>,
        run: u64,
        batch: Batch<T, H::Output, H::Error>,
        started: Monotonic,
    ) -> Self {
        Self {
            shared,
            run,
            started,
            whole: Some(Job { batch, due: None, previous_delay: None }),
            jobs: VecDeque::new(),
            lent: Batch::new(),
            isolated: Batch::new(),
            responses: Vec::new(),
            settled: Settled::default(),
            spare: Batch::new(),
        }
    }

    /// Returns the first part that need not wait, or how long all of them must.
    fn next(&mut self) -> Next<T, H::Output, H::Error> {
        if let Some(whole) = self.whole.take() {
            return Next::Lend(whole);
        }
        if self.jobs.is_empty() {
            return Next::End;
        }
        let ready = self.jobs.iter().position(|job| job.due.is_none()).or_else(|| {
            let now = self.shared.clock.monotonic();
            self.jobs.iter().position(|job| job.due.is_none_or(|due| due <= now))
        });
        match ready.and_then(|at| self.jobs.remove(at)) {
            Some(job) => Next::Lend(job),
            None => Next::WaitUntil(self.jobs.iter().filter_map(|job| job.due).min().unwrap_or_default()),
        }
    }

    /// Takes out all items that are not lent.
    fn take_jobs(&mut self) -> impl Iterator<Item = Batch<T, H::Output, H::Error>> {
        self.whole.take().into_iter().chain(self.jobs.drain(..)).map(|job| job.batch)
    }

    /// Answers the items that were lent, all of which are done: nothing is to be decided.
    fn all_done(&mut self, verdicts: Vec<Verdict<H::Output, H::Error>>) {
        let mut lent = self.lent.take();
        let entries = lent.items.drain(..).zip(lent.seats.drain(..));
        for ((item, mut seat), verdict) in entries.zip(verdicts) {
            if let Verdict::Done(output) = verdict {
                seat.attempts.settled();
                self.answer(item, seat, Ok(output));
            }
        }
        self.spare = lent;
    }

    /// Decides what becomes of each item that was lent, answers those that are through, and plans the others.
    fn judge(
        &mut self,
        called: Called<H::Output, H::Error>,
        previous_delay: Option<Duration>,
        rng: &mut Rng,
    ) {
        let items = self.lent.len();
        self.settled.calls += 1;
        self.settled.lent += items as u64;
        let called = match called {
            Called::Outcome(BatchOutcome::Each(verdicts))
                if verdicts.len() == items && verdicts.iter().all(Verdict::is_done) =>
            {
                return self.all_done(verdicts);
            }
            called => called,
        };
        let mut sentences = sentences(called, items);
        let round = Round {
            policy: &*self.shared.config.retry,
            elapsed: self.shared.clock.monotonic().since(self.started),
            previous_delay,
            alone: items == 1,
            progress: sentences.progress(),
            may_split: self.shared.config.recovery != Recovery::Off,
        };
        // All are decided while the flight still holds them: a policy that panics loses none.
        let seats = self.lent.seats.iter_mut();
        let fates: Vec<_> =
            seats.map(|seat| decide(sentences.next(), &mut seat.attempts, &round, rng)).collect();
        let mut again = Batch::new();
        let mut delay = Duration::ZERO;
        for ((item, seat), fate) in self.lent.take().into_entries().zip(fates) {
            match fate {
                Fate::Answer(result) => self.answer(item, seat, result),
                Fate::Again(wait) => {
                    delay = delay.max(wait);
                    again.push(item, seat);
                }
                Fate::Isolate => self.isolated.push(item, seat),
            }
        }
        if !again.is_empty() {
            self.shared.meter.retried(again.len());
            let due = (!delay.is_zero()).then(|| self.shared.clock.monotonic() + delay);
            self.jobs.push_front(Job { batch: again, due, previous_delay: Some(delay) });
        }
        if matches!(self.shared.config.recovery, Recovery::Bisect) && !self.isolated.is_empty() {
            let mut first = self.isolated.take();
            let second = first.split_half();
            let halves = [second, first].into_iter().filter(|half| !half.is_empty());
            for batch in halves {
                self.jobs.push_front(Job { batch, due: None, previous_delay: None });
            }
        }
    }

    fn answer(
        &mut self,
        item: T,
        seat: Seat<T, H::Output, H::Error>,
        result: Result<H::Output, Cause<H::Error>>,
    ) {
        self.settled.add(seat.epoch, seat.key, result.is_ok());
        if let Err(cause) = &result {
            self.shared.meter.failed(cause, 1);
        }
        let attempts = seat.attempts.spent();
        match seat.reply {
            Reply::Ticket(sender) => {
                let answer = result.map_err(|cause| Box::new(Failed { item: Some(item), cause, attempts }));
                // Whoever dropped the ticket gave up the answer.
                let _ = sender.send(answer);
            }
            Reply::Stream if self.shared.stream.is_some() => {
                self.responses.push(Response { item, result, attempts });
            }
            Reply::Stream => {
                if let Err(cause) = result {
                    tracing::warn!(%cause, attempts, "an item that nobody waits for was not delivered");
                }
            }
        }
    }

    /// Hands the responses to the stream, by its overflow rule.
    async fn deliver(&mut self, abort: &mut watch::Receiver<bool>) -> Result<(), Aborted> {
        let Some(stream) = &self.shared.stream else {
            return Ok(());
        };
        // Last first, so that each can be taken off the end once there is room for it.
        self.responses.reverse();
        while let Some(response) = self.responses.pop() {
            if let Err(refused) = stream.sender.try_send(response) {
                use tokio::sync::mpsc::error::TrySendError::{Closed, Full};
                match refused {
                    Full(response) if stream.overflow == Overflow::Wait => {
                        self.responses.push(response);
                        let room = tokio::select! {
                            biased;
                            room = stream.sender.reserve() => room,
                            () = aborted(abort) => return Err(Aborted),
                        };
                        match (room, self.responses.pop()) {
                            (Ok(room), Some(response)) => room.send(response),
                            _ => self.responses.clear(),
                        }
                    }
                    Full(_) => self.settled.responses_dropped += 1,
                    // Nobody reads any more.
                    Closed(_) => self.responses.clear(),
                }
            }
        }
        Ok(())
    }

    /// Books what was answered, so that keys, flushes and stops go on. Returns false if the run is over: a stop did
    /// not wait for this flight, and nothing is booked any more.
    fn settle(&mut self) -> bool {
        self.shared.meter.done(self.settled.done());
        let (wake, levels) = {
            let mut intake = self.shared.intake();
            if intake.run != self.run {
                return false;
            }
            let clock = &self.shared.clock;
            intake.put_spare(self.spare.take());
            let mut wake = intake.settle(&mut self.settled, &self.shared.config.flush, || clock.monotonic());
            if intake.phase == Phase::Stopping && intake.unanswered() == 0 {
                // Everything is answered: let every worker see it and end.
                wake.batches += intake.workers;
            }
            (wake, intake.levels())
        };
        self.shared.wake(wake);
        self.shared.show(levels);
        true
    }

    /// Gives everything back to the stop that asks for it. Their tickets learn that. Returns false if that stop did
    /// not wait.
    fn report_back(&mut self) -> bool {
        let intake = self.shared.intake();
        if intake.run != self.run {
            return false;
        }
        let mut leftovers = self.shared.leftovers();
        let mut seats = Vec::new();
        leftovers.unread.extend(self.responses.drain(..).rev());
        for (item, seat) in self.lent.take().into_entries() {
            leftovers.in_doubt.push(item);
            seats.push(seat);
        }
        let isolated = self.isolated.take();
        let parts = self.take_jobs().chain([isolated]);
        for (item, seat) in parts.flat_map(Batch::into_entries) {
            leftovers.unsent.push(item);
            seats.push(seat);
        }
        drop(leftovers);
        drop(intake);
        seats.into_iter().for_each(tell_stopped);
        true
    }

    /// Gives everything back: to the stop that asks for it or, if that did not wait, to tickets and stream.
    async fn hand_back(&mut self, abort: &mut watch::Receiver<bool>) {
        if self.report_back() {
            return;
        }
        self.responses.reverse();
        let (lent, isolated) = (self.lent.take(), self.isolated.take());
        let parts: Vec<_> = [lent].into_iter().chain(self.take_jobs()).chain([isolated]).collect();
        for (item, seat) in parts.into_iter().flat_map(Batch::into_entries) {
            self.answer(item, seat, Err(Cause::Stopped));
        }
        if self.deliver(abort).await.is_err() {
            // Nobody reads, and another stop is on. Its report is as good a place as any.
            self.shared.leftovers().unread.extend(self.responses.drain(..).rev());
        }
    }
}

impl<T, H: BatchHandler<T>> Drop for Flight<'_, T, H> {
    /// Answers what is still on its way: the worker's task was dropped, or a handler's future panicked while it was.
    fn drop(&mut self) {
        let (lent, isolated) = (self.lent.take(), self.isolated.take());
        if lent.is_empty()
            && isolated.is_empty()
            && self.whole.is_none()
            && self.jobs.is_empty()
            && self.responses.is_empty()
            && self.settled.is_empty()
        {
            // As most flights end: everything is answered and booked.
            return;
        }
        let parts: Vec<_> = [lent].into_iter().chain(self.take_jobs()).chain([isolated]).collect();
        let mut items = 0;
        let mut lost = self.responses.len();
        for batch in parts {
            items += batch.len();
            for seat in &batch.seats {
                self.settled.add(seat.epoch, seat.key, false);
            }
            self.shared.meter.failed(&Cause::<H::Error>::Abandoned, batch.len());
            lost += answer_all(batch, &Cause::Abandoned, self.shared.stream.as_ref());
        }
        if items > 0 || lost > 0 {
            tracing::warn!(items, lost, "a worker was dropped while it held items");
        }
        if !self.settled.is_empty() {
            self.settle();
        }
    }
}

/// Tells whoever waits for the item that the stop report holds it.
pub(crate) fn tell_stopped<T, O, E>(seat: Seat<T, O, E>) {
    if let Reply::Ticket(sender) = seat.reply {
        // Whoever dropped the ticket gave up the answer.
        let failed = Failed { item: None, cause: Cause::Stopped, attempts: seat.attempts.spent() };
        let _ = sender.send(Err(Box::new(failed)));
    }
}

/// Brings a flight to its end: lend, judge, wait, split, until every item is answered or a stop wants them back.
async fn fly<T, H>(mut flight: Flight<'_, T, H>, abort: &mut watch::Receiver<bool>, rng: &mut Rng)
where
    T: Send + Sync,
    H: BatchHandler<T>,
    H::Error: Sync,
{
    let shared = flight.shared;
    // The first call begins as the flight does.
    let mut first = Some(flight.started);
    loop {
        if *abort.borrow() {
            return flight.hand_back(abort).await;
        }
        let previous_delay = match flight.next() {
            Next::End => return,
            Next::WaitUntil(due) => {
                tokio::select! {
                    biased;
                    () = shared.clock.sleep_until(due) => {}
                    () = aborted(abort) => {}
                }
                continue;
            }
            Next::Lend(job) => {
                flight.lent = job.batch;
                job.previous_delay
            }
        };
        let now = first.take().unwrap_or_else(|| shared.clock.monotonic());
        let attempt = flight.lent.seats.iter().map(|seat| seat.attempts.spent()).max().unwrap_or(0);
        let called = call(
            &shared.handler,
            &flight.lent.items,
            attempt.saturating_add(1),
            shared.config.timeout,
            &*shared.clock,
            now,
            abort,
        )
        .await;
        match called {
            Ok(called) => {
                if shared.meter.is_on() {
                    let took = shared.clock.monotonic().since(now);
                    shared.meter.called(&called, flight.lent.len(), took);
                }
                flight.judge(called, previous_delay, rng);
            }
            Err(Aborted) => return flight.hand_back(abort).await,
        }
        let delivered = flight.deliver(abort).await;
        if !flight.settle() || delivered.is_err() {
            return flight.hand_back(abort).await;
        }
        if !flight.isolated.is_empty() {
            fly_alone(&mut flight, abort, rng).await;
        }
    }
}

/// Lends the isolated items each by itself, as many at once as the processor allows.
async fn fly_alone<T, H>(flight: &mut Flight<'_, T, H>, abort: &watch::Receiver<bool>, rng: &mut Rng)
where
    T: Send + Sync,
    H: BatchHandler<T>,
    H::Error: Sync,
{
    let shared = flight.shared;
    // Each item's flight exists before the first is polled, so that none is lost if this future is dropped.
    let flights: Vec<_> = flight
        .isolated
        .take()
        .into_entries()
        .map(|(item, seat)| {
            let mut alone = Batch::new();
            alone.push(item, seat);
            fly_boxed(Flight::new(shared, flight.run, alone, flight.started), abort.clone(), rng.fork())
        })
        .collect();
    let at_once = match shared.config.recovery {
        Recovery::Individual { concurrency } => concurrency,
        Recovery::Bisect | Recovery::Off => 1,
    };
    futures_util::stream::iter(flights).buffer_unordered(at_once).collect::<()>().await;
}

fn fly_boxed<'a, T, H>(
    flight: Flight<'a, T, H>,
    mut abort: watch::Receiver<bool>,
    mut rng: Rng,
) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>
where
    T: Send + Sync,
    H: BatchHandler<T>,
    H::Error: Sync,
{
    Box::pin(async move {
        let shared = flight.shared;
        let permit = tokio::select! {
            biased;
            permit = shared.individual.acquire() => permit,
            () = aborted(&mut abort) => {
                let mut flight = flight;
                return flight.hand_back(&mut abort).await;
            }
        };
        fly(flight, &mut abort, &mut rng).await;
        drop(permit);
    })
}

/// Waits until the engine is told to drop what it does.
async fn aborted(abort: &mut watch::Receiver<bool>) {
    let _ = abort.wait_for(|aborted| *aborted).await;
}

/// Closes batches whose first item has lingered long enough, until the run ends.
pub(crate) async fn keep_time<T, H: BatchHandler<T>>(shared: Arc<Shared<T, H>>, run: u64) {
    let policy = &shared.config.flush;
    loop {
        let due = {
            let mut intake = shared.intake();
            if intake.run != run || intake.phase != Phase::Running {
                return;
            }
            let due = intake.linger_ends(policy);
            intake.timer_armed = due.is_some();
            due
        };
        let Some(due) = due else {
            shared.first_item.notified().await;
            continue;
        };
        tokio::select! {
            () = shared.clock.sleep_until(due) => {}
            // A stop: it closes the batch itself.
            () = shared.first_item.notified() => continue,
        }
        let mut wake = Wake::default();
        {
            let mut intake = shared.intake();
            // The batch that was open may be gone and a younger one in its place.
            if intake.run == run
                && intake.linger_ends(policy).is_some_and(|due| due <= shared.clock.monotonic())
            {
                intake.seal(policy, FlushReason::Linger, &mut wake);
            }
        }
        shared.wake(wake);
    }
}
