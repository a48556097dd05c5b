use std::collections::BTreeMap;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Attempts, Failure, Metric, Monotonic, RetryDecision};
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::event::StreamEvent;
use super::handler::StreamHandler;
use super::lanes::{End, Lanes, Loaded};
use super::metrics::StreamMetrics;
use super::page_size::PageSize;
use super::row::{Depth, Page, Suspicion};
use super::send::{Ended, Note, Shared, send};
use super::settings::Settings;
use super::store::StreamStore;
use super::summary::StreamSummary;
use crate::torture::crash_point;
use crate::{Lease, Leases, Permit, Poller, Shard, StoreError, Woken, error_chain};

/// The least and the most time between two ways back over what was read, and how many times longer than a page they are apart.
const BACK_WAIT: (Duration, Duration, u32) = (Duration::from_millis(20), Duration::from_secs(1), 20);

/// How often every shard is read from its beginning, for what no rule foresees.
const OVER_EVERY: Duration = Duration::from_secs(60);

/// How often messages are counted, if somebody records it.
const DEPTH_EVERY: Duration = Duration::from_secs(15);

/// The wait after the store failed, at first and at last; and how long nothing is sent if the policy does not say.
const STORE_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
const REFUSED_WAIT: Duration = Duration::from_secs(30);

type Read = Pin<Box<dyn Future<Output = (Result<Page, StoreError>, u32, Duration)> + Send>>;
type Polled = Pin<Box<dyn Future<Output = (Poller, Woken)> + Send>>;
type Count = Pin<Box<dyn Future<Output = Result<Depth, StoreError>> + Send>>;

/// One run of a relay: reads, sends, settles.
pub struct Engine<'a, S, H> {
    shared: &'a Arc<Shared<S, H>>,
    settings: &'a Settings,
    leases: Leases,
    lanes: Lanes,
    batches: JoinSet<Ended>,
    /// Since when a suspect is on its way, with nothing beside it, so that it is clear of which message the process dies, if it does.
    alone_since: Option<Monotonic>,
    /// From when on the next suspect may go: no more than half of the time is for them.
    suspect_from: Monotonic,
    page: Option<Read>,
    depth: Option<Count>,
    poll: Option<Polled>,
    /// Whether nobody waits for the machine to have time.
    hurries: bool,
    /// Whether there were rows since the last poll.
    found: bool,
    summary: StreamSummary,
    /// Consecutive refusals of the other side, and until when nothing is sent.
    refusals: Attempts,
    paused_until: Option<Monotonic>,
    /// Until when the store is left alone after it failed, and for how long next time.
    store_until: Monotonic,
    store_wait: Duration,
    /// When the wait of a row ends that is the next.
    next_due: Option<Monotonic>,
    /// How long the last page took, and from when on it may go back again.
    page_took: Duration,
    page_size: PageSize,
    back_from: Monotonic,
    over_from: Monotonic,
    depth_from: Monotonic,
}

/// When a run ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When it is told to.
    Stopped,
    /// When there is nothing to do now.
    Idle,
}

impl<'a, S, H> Engine<'a, S, H>
where
    S: StreamStore,
    H: StreamHandler,
{
    /// Begins a run under these leases.
    pub fn new(shared: &'a Arc<Shared<S, H>>, settings: &'a Settings, leases: Leases) -> Self {
        let now = shared.clock.monotonic();
        Self {
            shared,
            settings,
            leases,
            lanes: Lanes::new(settings.room(), settings.ordered),
            batches: JoinSet::new(),
            alone_since: None,
            suspect_from: now,
            page: None,
            depth: None,
            poll: None,
            hurries: false,
            found: false,
            summary: StreamSummary::default(),
            refusals: Attempts::default(),
            paused_until: None,
            store_until: now,
            store_wait: STORE_WAIT.0,
            next_due: None,
            page_took: Duration::ZERO,
            page_size: PageSize::new(),
            back_from: now,
            over_from: now + OVER_EVERY,
            depth_from: now,
        }
    }

    /// Works until `shutdown` ends, or until there is nothing to do. Then it starts nothing more and waits for what is on its
    /// way, as long as `drain` at most.
    pub async fn run(
        mut self,
        until: Until,
        poller: Option<Poller>,
        shutdown: impl Future<Output = ()>,
        drain: Duration,
    ) -> StreamSummary {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut changes = self.leases.changes();
        self.poll = poller.map(wait);
        self.hurries = until == Until::Idle;
        loop {
            self.step();
            if until == Until::Idle && self.is_idle() {
                break;
            }
            let wake = self.wake_in();
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(ended) = self.batches.join_next(), if !self.batches.is_empty() => self.ended(ended),
                read = maybe(&mut self.page) => self.read(read),
                depth = maybe(&mut self.depth) => self.counted(depth),
                _ = changes.changed() => {}
                (poller, _) = maybe(&mut self.poll) => self.polled(poller),
                () = self.shared.clock.sleep(wake) => {}
            }
        }
        self.drain(drain).await;
        self.summary
    }

    fn set(&self, metric: impl FnOnce(&StreamMetrics) -> &'static Metric, value: f64) {
        self.shared.record(None, |recorder, metrics, labels| recorder.set(metric(metrics), labels, value));
    }

    /// Starts what can be started.
    fn step(&mut self) {
        let now = self.shared.clock.monotonic();
        self.hold();
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.set(|metrics| metrics.paused, 0.0);
        }
        if self.paused_until.is_none() {
            self.start_batches(now);
        }
        if now >= self.over_from {
            self.over_from = now + OVER_EVERY;
            self.lanes.start_over();
        }
        self.lanes.waits_end(now);
        if self.lanes.wants_back() && (self.hurries || now >= self.back_from) {
            self.lanes.go_back();
            self.back_from = now + back_wait(self.page_took);
        }
        if self.next_due.is_some_and(|due| due <= now) {
            self.next_due = None;
            self.lanes.look_again();
        }
        if now >= self.store_until {
            self.start_page();
            self.start_depth(now);
        }
    }

    /// Takes over which leases are held.
    fn hold(&mut self) {
        let held = self.leases.held();
        self.lanes.hold(&held);
        let mut careful = self.shared.careful();
        let inherited = careful.hold(&held, self.settings.room(), |lease| self.leases.is_inherited(lease));
        if inherited > 0 {
            let stream = &self.shared.name;
            tracing::info!(stream, shards = inherited, "took shards over that nobody gave back");
        }
        if careful.is_any() {
            self.lanes.read_through().for_each(|shard| careful.trust(shard));
        }
    }

    fn start_batches(&mut self, now: Monotonic) {
        if self.alone_since.is_some() {
            return;
        }
        if self.is_turn_of_suspects(now) {
            if !self.batches.is_empty() {
                return;
            }
            if self.start_suspect(now) {
                return;
            }
        }
        while self.batches.len() < self.settings.concurrency && self.start_batch() {}
        // Suspects are told from others as batches are made.
        if self.batches.is_empty() && self.is_turn_of_suspects(now) {
            self.start_suspect(now);
        }
    }

    fn is_turn_of_suspects(&self, now: Monotonic) -> bool {
        let others = self.lanes.is_ready() && !self.hurries;
        self.lanes.has_suspects() && (!others || now >= self.suspect_from)
    }

    fn start_suspect(&mut self, now: Monotonic) -> bool {
        let mut permits = Permits::new(&self.leases);
        let Some(loaded) = self.lanes.take_suspect(|lease| permits.enter(lease)) else { return false };
        let note = Note { suspicion: Suspicion::Alone, rows: vec![loaded.row] };
        tracing::info!(stream = self.shared.name, row = %loaded.row.seq, "a suspect is sent alone");
        self.shared.record(Some("crash"), |recorder, metrics, labels| {
            recorder.add(metrics.redelivered, labels, 1);
        });
        self.alone_since = Some(now);
        let permits = permits.into_vec();
        self.spawn(vec![loaded], permits, note);
        true
    }

    fn start_batch(&mut self) -> bool {
        let mut permits = Permits::new(&self.leases);
        let rows = self.lanes.take(self.settings.batch_size, |lease| permits.enter(lease));
        if rows.is_empty() {
            return false;
        }
        let careful = self.shared.careful();
        let noted = |loaded: &&Loaded| {
            loaded.content.is_ok() && loaded.suspicion == Suspicion::Clear && careful.notes(loaded.row.shard)
        };
        let noted = rows.iter().filter(noted).map(|loaded| loaded.row).collect();
        drop(careful);
        let note = Note { suspicion: Suspicion::Company, rows: noted };
        let permits = permits.into_vec();
        self.spawn(rows, permits, note);
        true
    }

    fn spawn(&mut self, rows: Vec<Loaded>, permits: Vec<Permit>, note: Note) {
        // What is done at once is done under the leases as they are.
        let renewed = !self.hurries;
        self.batches.spawn(send(Arc::clone(self.shared), rows, permits, note, renewed));
    }

    fn start_page(&mut self) {
        if self.page.is_some() {
            return;
        }
        let Some((from, open)) = self.lanes.next_page() else { return };
        let limit = self.page_size.limit(self.settings.limit(from.len()), from.len());
        let shared = Arc::clone(self.shared);
        let span = tracing::debug_span!("stream.page", stream = shared.name, shards = from.len(), limit);
        let read = async move {
            let begun = shared.clock.monotonic();
            let page = shared.store.page(&from, &open, limit).await;
            (page, limit, shared.clock.monotonic().since(begun))
        };
        self.page = Some(Box::pin(read.instrument(span)));
    }

    fn start_depth(&mut self, now: Monotonic) {
        if self.depth.is_none() && self.settings.counts && now >= self.depth_from {
            self.depth_from = now + DEPTH_EVERY;
            let shared = Arc::clone(self.shared);
            self.depth = Some(Box::pin(async move { shared.store.depth().await }));
            let held = u32::try_from(self.lanes.shards()).unwrap_or(u32::MAX);
            self.set(|metrics| metrics.shards, held.into());
        }
    }

    fn read(&mut self, (page, limit, took): (Result<Page, StoreError>, u32, Duration)) {
        self.page = None;
        let now = self.shared.clock.monotonic();
        match page {
            Ok(page) => {
                self.shared.record(None, |recorder, metrics, labels| {
                    recorder.observe(metrics.page, labels, took.as_secs_f64());
                });
                self.store_wait = STORE_WAIT.0;
                self.page_took = took;
                self.page_size.read(&page);
                self.next_due = page.next_due.map(|wait| now + wait);
                self.summary.read += page.rows.len() as u64;
                self.found |= !page.rows.is_empty();
                crash_point("page.read");
                self.lanes.load(page, limit, now);
            }
            Err(error) => {
                self.lanes.unread();
                self.store_failed(&error, now);
            }
        }
    }

    fn store_failed(&mut self, error: &StoreError, now: Monotonic) {
        let error = error_chain(error);
        tracing::warn!(stream = self.shared.name, error, "could not read messages");
        self.shared.tell(&StreamEvent::StoreFailed { error });
        self.summary.store_failures += 1;
        // At least half, so that many relays do not come back at once.
        let part = {
            let mut rng = self.shared.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            0.5 + rng.unit() / 2.0
        };
        self.store_until = now + self.store_wait.mul_f64(part);
        self.store_wait = (self.store_wait * 2).min(STORE_WAIT.1);
    }

    fn counted(&mut self, depth: Result<Depth, StoreError>) {
        self.depth = None;
        match depth {
            #[expect(clippy::cast_precision_loss, reason = "a gauge need not count 2^53 messages one by one")]
            Ok(depth) => {
                self.set(|metrics| metrics.pending, depth.pending as f64);
                self.set(|metrics| metrics.dead_letters, depth.dead as f64);
                let oldest = depth.oldest.unwrap_or_default().as_secs_f64();
                self.set(|metrics| metrics.oldest, oldest);
            }
            Err(error) => self.store_failed(&error, self.shared.clock.monotonic()),
        }
    }

    fn polled(&mut self, mut poller: Poller) {
        if std::mem::take(&mut self.found) {
            poller.found();
        }
        self.poll = Some(wait(poller));
        self.lanes.look_again();
    }

    fn ended(&mut self, ended: Result<Ended, tokio::task::JoinError>) {
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime ends.
                Err(_) => return,
            },
        };
        let now = self.shared.clock.monotonic();
        self.summary.sent += ended.sent;
        self.summary.retried += ended.retried;
        self.summary.dead += ended.dead;
        self.summary.lost += ended.lost;
        if let Some(due) = ended.due.map(|wait| now + wait) {
            self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        }
        if let Some(since) = self.alone_since.take() {
            self.suspect_from = now + now.since(since);
        }
        let mut careful = self.shared.careful();
        for (row, _, token, end) in &ended.rows {
            if matches!(end, End::Gone | End::Waits(_) | End::ReadAgain) {
                careful.settled(row.shard, *token);
            }
        }
        drop(careful);
        for (row, key, token, end) in ended.rows {
            self.lanes.end(row, key.as_ref(), token, end);
        }
        if self.found && self.lanes.is_empty() && self.batches.is_empty() {
            // Where there was something, there may be more.
            self.found = false;
            self.lanes.look_again();
        }
        match ended.refused {
            Some((after, error)) => self.pause(after, error, now),
            None if ended.sent > 0 => self.refusals = Attempts::default(),
            None => {}
        }
    }

    /// Sends nothing for a while; longer each time in a row.
    fn pause(&mut self, after: Option<Duration>, error: String, now: Monotonic) {
        let failure = Failure { hint: after, ..Failure::of_attempt(0) };
        let mut rng = self.shared.rng.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let wait = match self.refusals.spared(failure, &*self.shared.retry, &mut rng) {
            RetryDecision::RetryAfter(wait) => wait,
            RetryDecision::GiveUp(_) => failure.at_least(REFUSED_WAIT),
        };
        drop(rng);
        self.summary.pauses += 1;
        self.paused_until = Some(self.paused_until.unwrap_or(now).max(now + wait));
        self.set(|metrics| metrics.paused, 1.0);
        self.shared.tell(&StreamEvent::Paused { wait, error });
    }

    /// Returns how long nothing needs to be started.
    fn wake_in(&self) -> Duration {
        let now = self.shared.clock.monotonic();
        let mut next = self.over_from;
        let mut at = |moment: Option<Monotonic>| next = next.min(moment.unwrap_or(Monotonic::NEVER));
        at(self.paused_until);
        at(self.lanes.has_suspects().then_some(self.suspect_from));
        at(self.next_due);
        at(self.lanes.wants_back().then_some(self.back_from));
        at((self.store_until > now).then_some(self.store_until));
        // Counted no earlier than the store may be asked again.
        let counts = self.settings.counts && self.depth.is_none();
        at(counts.then_some(self.depth_from.max(self.store_until)));
        next.since(now).max(Duration::from_millis(1))
    }

    fn is_idle(&self) -> bool {
        let ready = self.lanes.is_ready() || self.lanes.has_suspects();
        let stuck = ready && self.paused_until.is_none();
        self.batches.is_empty()
            && self.page.is_none()
            && !stuck
            && ((self.lanes.is_exhausted() && !self.lanes.wants_back())
                || self.paused_until.is_some()
                || self.store_until > self.shared.clock.monotonic())
    }

    /// Waits for what is on its way.
    async fn drain(&mut self, drain: Duration) {
        let until = self.shared.clock.monotonic() + drain;
        let mut late = self.shared.clock.sleep_until(until);
        while !self.batches.is_empty() {
            tokio::select! {
                biased;
                Some(ended) = self.batches.join_next() => self.ended(ended),
                () = &mut late => {
                    // Their messages are sent again after the lease.
                    self.summary.unfinished = self.batches.len();
                    break;
                }
            }
        }
    }
}

/// The permits of a batch in the making: one for each of its shards.
struct Permits<'a> {
    leases: &'a Leases,
    entered: BTreeMap<Shard, Permit>,
}

impl<'a> Permits<'a> {
    const fn new(leases: &'a Leases) -> Self {
        Self { leases, entered: BTreeMap::new() }
    }

    /// Enters a shard, unless that was done before. Returns whether work may begin there; the batch itself waits for its time.
    fn enter(&mut self, lease: Lease) -> bool {
        if self.entered.contains_key(&lease.shard) {
            return true;
        }
        let permit = self.leases.enter(lease.shard).filter(|permit| permit.token() == lease.token);
        permit.is_some_and(|permit| self.entered.insert(lease.shard, permit).is_none())
    }

    fn into_vec(self) -> Vec<Permit> {
        self.entered.into_values().collect()
    }
}

/// Returns how long not to go back after a page that took so long. Going back reads what was read, so it may take a small part of the
/// time only; but one page that was slow, such as on a connection that was lost, does not keep what is due waiting for minutes.
fn back_wait(page_took: Duration) -> Duration {
    page_took.saturating_mul(BACK_WAIT.2).clamp(BACK_WAIT.0, BACK_WAIT.1)
}

fn wait(mut poller: Poller) -> Polled {
    Box::pin(async move {
        let woken = poller.wait().await;
        (poller, woken)
    })
}

/// Waits for what is there to wait for.
async fn maybe<T>(future: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
