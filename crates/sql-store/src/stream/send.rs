use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{
    BatchContext, Clock, Failure, InvalidSetting, Message, OrderingKey, Recorder, RetryPolicy, Rng,
};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::careful::Careful;
use super::dead::DeadReason;
use super::event::StreamEvent;
use super::handler::{Lent, StreamHandler};
use super::lanes::{End, Loaded};
use super::metrics::StreamMetrics;
use super::row::{Dying, RowId, Settled, Settlement, Suspicion, Waiting};
use super::store::StreamStore;
use super::turn::Times;
use crate::judge::{Called, Cause, Fate, Word, call, fate, panic_text, words};
use crate::torture::{crash_point, planted};
use crate::{Lease, Permit, Poller, Shard, StoreError, Wake, error_chain};

/// The most labels that a metric of a stream has.
const MAX_LABELS: usize = 4;

/// The wait before a settlement is tried again, at first and at last.
const SETTLE_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A stream, and what its batches share.
pub struct Shared<S, H> {
    /// Its name in logs.
    pub name: String,
    /// Its labels, of every metric.
    pub labels: Vec<String>,
    /// Its metrics.
    pub metrics: &'static StreamMetrics,
    /// Where its messages are.
    pub store: S,
    /// To whom they are lent.
    pub handler: H,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// When a failed message is lent again.
    pub retry: Arc<dyn RetryPolicy>,
    /// Where jitter comes from.
    pub rng: Mutex<Rng>,
    /// Where its numbers go.
    pub recorder: Arc<dyn Recorder>,
    /// For which shards is noted what is lent.
    pub careful: Mutex<Careful>,
    /// Who is told what happens.
    pub observer: Option<Observer>,
    /// How spans are linked.
    pub link: Option<Link>,
    /// Whether one of the two has panicked, which is said once.
    pub callback_panicked: AtomicBool,
    /// How long a call of the handler may take.
    pub send_timeout: Duration,
    /// What remains of a lease when its last call must have ended, to settle.
    pub settle_reserve: Duration,
}

/// Who is told what happens.
pub type Observer = Arc<dyn Fn(&StreamEvent) + Send + Sync>;

/// Links the span of a call to those of its messages' producers.
pub type Link = Arc<dyn Fn(&Span, &[Message]) + Send + Sync>;

/// What became of a batch.
pub(crate) struct Ended {
    pub(crate) rows: Vec<(RowId, Option<OrderingKey>, i64, End)>,
    pub(crate) sent: u64,
    pub(crate) retried: u64,
    pub(crate) dead: u64,
    pub(crate) lost: u64,
    /// The other side refused everything: what it asks to wait, and what it said.
    pub(crate) refused: Option<(Option<Duration>, String)>,
    /// How long until the first row of it that waits is due.
    pub(crate) due: Option<Duration>,
}

/// What is noted of which rows before a batch is sent; nothing, most of the time.
#[derive(Debug, Default)]
pub(crate) struct Note {
    pub(crate) suspicion: Suspicion,
    pub(crate) rows: Vec<RowId>,
}

/// What is said of a message that was on its way alone when nobody was left to write what became of it.
const DIED: &str = "the process died while it was sent, or could not write what became of it";

/// Some messages that are sent together, and what is known of them.
#[derive(Default)]
struct Part {
    messages: Vec<Message>,
    rows: Vec<Loaded>,
}

impl<S, H> Shared<S, H> {
    /// Tells the observer. Its panic is its own: what it was told is in the store already.
    pub(crate) fn tell(&self, event: &StreamEvent) {
        if let Some(observer) = &self.observer {
            self.isolated("on_event", || observer(event));
        }
    }

    /// Calls what the application gave us. Says once that it panicked.
    fn isolated(&self, name: &'static str, call: impl FnOnce()) {
        let Err(panic) = catch_unwind(AssertUnwindSafe(call)) else { return };
        if !self.callback_panicked.swap(true, Ordering::Relaxed) {
            let panic = panic_text(&*panic);
            tracing::error!(stream = self.name, callback = name, panic, "a callback panicked");
        }
    }

    /// Records something, with the labels of the stream and, behind them, one of the metric's own.
    pub(super) fn record(
        &self,
        own: Option<&str>,
        record: impl FnOnce(&dyn Recorder, &StreamMetrics, &[&str]),
    ) {
        let mut labels = [""; MAX_LABELS];
        let given = self.labels.iter().map(String::as_str).chain(own);
        let count = labels.iter_mut().zip(given).map(|(place, label)| *place = label).count();
        record(&*self.recorder, self.metrics, &labels[..count]);
    }

    pub(super) fn careful(&self) -> MutexGuard<'_, Careful> {
        self.careful.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what waits between looks at the stream, within these bounds.
    ///
    /// # Errors
    ///
    /// The bounds are none.
    pub fn poller(&self, wake: &Wake, (min, max): (Duration, Duration)) -> Result<Poller, InvalidSetting> {
        let rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner).fork();
        wake.poller(Arc::clone(&self.clock)).min(min).max(max).rng(rng).build()
    }

    fn unit(&self) -> f64 {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).unit()
    }
}

/// Sends a batch, in halves where it cannot be judged as a whole, and writes what became of it. Never longer than its leases, which
/// are renewed meanwhile or not.
pub(crate) async fn send<S, H>(
    shared: Arc<Shared<S, H>>,
    rows: Vec<Loaded>,
    permits: Vec<Permit>,
    note: Note,
    renewed: bool,
) -> Ended
where
    S: StreamStore,
    H: StreamHandler,
{
    let (fates, back, taken) = (Vec::new(), Vec::new(), Vec::new());
    let mut batch = Batch { shared: &shared, permits: &permits, fates, back, taken, refused: None };
    let mut first = Part::default();
    // Without a note nothing of it is sent.
    let stale = batch.note(&note).await;
    let noted = stale.as_ref().is_some_and(Vec::is_empty);
    if !note.rows.is_empty() {
        crash_point("send.noted");
    }
    for loaded in rows {
        if noted {
            batch.admit(loaded, &mut first);
        } else if stale.as_ref().is_some_and(|stale| stale.contains(&loaded.row.shard)) {
            batch.taken.push(loaded);
        } else {
            batch.back.push(loaded);
        }
    }
    let times = Times { call: shared.send_timeout, reserve: shared.settle_reserve, renewed };
    let (mut parts, mut answered) = (VecDeque::from([first]), false);
    while let Some(part) = parts.pop_front() {
        if part.rows.is_empty() {
            continue;
        }
        if batch.refused.is_some() {
            batch.give_back(part);
            continue;
        }
        let Some(limit) = times.wait(&permits, &*shared.clock, answered).await else {
            let messages = part.rows.len();
            tracing::debug!(stream = shared.name, messages, "leases left no time to send");
            batch.give_back(part);
            continue;
        };
        let called = batch.lend(&part, limit).await;
        answered = true;
        batch.judge(part, called, &mut parts);
    }
    crash_point("send.answered");
    if noted && !note.rows.is_empty() {
        batch.unnote(&note).await;
    }
    let ended = batch.settle().await;
    crash_point("send.settled");
    ended
}

struct Batch<'a, S, H> {
    shared: &'a Arc<Shared<S, H>>,
    permits: &'a [Permit],
    fates: Vec<(Loaded, Fate)>,
    back: Vec<Loaded>,
    /// What others have by now.
    taken: Vec<Loaded>,
    refused: Option<(Option<Duration>, String)>,
}

impl<S, H> Batch<'_, S, H>
where
    S: StreamStore,
    H: StreamHandler,
{
    /// Notes that rows are about to be sent. Returns the shards of which the lease is another's; `None` if it could not.
    async fn note(&self, note: &Note) -> Option<Vec<Shard>> {
        if note.rows.is_empty() {
            return Some(Vec::new());
        }
        let leases = self.leases_of(&note.rows);
        let noted = insist(self.shared, self.permits, "could not note what is sent", || {
            self.shared.store.suspect(&leases, &note.rows, note.suspicion)
        });
        Some(noted.await?.stale)
    }

    /// Takes back what was noted of rows that go back as they were: a refusal speaks against none.
    async fn unnote(&self, note: &Note) {
        let noted = self.back.iter().filter(|loaded| note.rows.contains(&loaded.row));
        let rows: Vec<RowId> = noted.clone().map(|loaded| loaded.row).collect();
        let before = noted.map(|loaded| loaded.suspicion).next();
        let Some(before) = before else { return };
        // Once: what is to be written of the batch matters more.
        let leases = self.leases_of(&rows);
        if let Err(error) = self.shared.store.suspect(&leases, &rows, before).await {
            let error = error_chain(&error);
            tracing::warn!(stream = self.shared.name, error, "could not take back what was noted");
        }
    }

    fn leases_of(&self, rows: &[RowId]) -> Vec<Lease> {
        let leases = self.permits.iter().map(Permit::lease);
        leases.filter(|lease| rows.iter().any(|row| row.shard == lease.shard)).collect()
    }

    /// Puts a row into the first part, unless it cannot be read, or was on its way alone when the process died.
    fn admit(&mut self, mut loaded: Loaded, part: &mut Part) {
        match std::mem::replace(&mut loaded.content, Err(String::new())) {
            Ok(message) if loaded.suspicion == Suspicion::Alone => {
                loaded.content = Ok(message);
                let mut rng = self.shared.rng.lock().unwrap_or_else(PoisonError::into_inner);
                let died = Word::Failed { after: None, error: DIED.to_owned() };
                let fate = judge_one(self.shared, died, &mut loaded, &mut rng);
                drop(rng);
                self.fates.push((loaded, fate));
            }
            Ok(message) => {
                part.messages.push(message);
                part.rows.push(loaded);
            }
            Err(error) => {
                loaded.content = Err(error.clone());
                self.fates.push((loaded, Fate::Dead { cause: Cause::Rejected, error }));
            }
        }
    }

    /// Returns where the messages of a part are, and under which leases.
    fn lent(&self, part: &Part) -> Vec<(RowId, Lease)> {
        let permits = self.permits.iter().map(|permit| (permit.shard(), permit.token()));
        let tokens: BTreeMap<Shard, i64> = permits.collect();
        let lease = |shard| Lease { shard, token: tokens.get(&shard).copied().unwrap_or_default() };
        part.rows.iter().map(|loaded| (loaded.row, lease(loaded.row.shard))).collect()
    }

    async fn lend(&self, part: &Part, limit: Duration) -> Called<H::Error> {
        let shared = self.shared;
        let begun = shared.clock.monotonic();
        let attempt = part.rows.iter().map(|row| row.attempts.next()).max().unwrap_or(1);
        let context = BatchContext::new(attempt).with_deadline(begun + limit);
        let rows = self.lent(part);
        let lent = Lent { messages: &part.messages, rows: &rows };
        let handle = async || shared.handler.handle(&lent, &context).await;
        let span = self.span(&part.messages, attempt);
        let called = call(handle, limit, &*shared.clock, std::future::pending()).instrument(span).await;
        // Nothing interrupts it.
        let called = called.unwrap_or(Called::TimedOut(limit));
        let took = shared.clock.monotonic().since(begun).as_secs_f64();
        shared.record(None, |recorder, metrics, labels| recorder.observe(metrics.send, labels, took));
        let window = match &called {
            Called::TimedOut(_) => Some("timeout"),
            Called::Panicked(_) => Some("panic"),
            Called::Outcome(_) => None,
        };
        if let Some(window) = window {
            let rows = part.rows.len() as u64;
            shared.record(Some(window), |recorder, metrics, labels| {
                recorder.add(metrics.redelivered, labels, rows);
            });
        }
        called
    }

    /// Makes the span of a call. The producers' spans have ended long since, and a batch has many of them: they are linked, if
    /// the application says how, and one that is alone is named.
    fn span(&self, messages: &[Message], attempt: u32) -> Span {
        let (stream, count) = (&self.shared.name, messages.len());
        let span = tracing::info_span!("stream.send", stream, messages = count, attempt, traceparent = Empty);
        if let [message] = messages
            && let Some(parent) = message.headers().get("traceparent")
        {
            span.record("traceparent", parent);
        }
        if let Some(link) = self.shared.link.as_ref().filter(|_| !span.is_disabled()) {
            self.shared.isolated("link_spans", || link(&span, messages));
        }
        span
    }

    /// Decides about each message of a part, and plans those that are sent again at once.
    fn judge(&mut self, part: Part, called: Called<H::Error>, parts: &mut VecDeque<Part>) {
        let shared = self.shared;
        let alone = part.rows.len() == 1;
        let words = words(called, part.rows.len());
        let progress = words.iter().any(Word::is_final);
        if let Some(refused) = refused(&words) {
            self.refused = Some(refused);
            return self.give_back(part);
        }
        let (mut isolate, mut again) = (Part::default(), Part::default());
        let mut rng = shared.rng.lock().unwrap_or_else(PoisonError::into_inner);
        for ((message, mut loaded), word) in part.messages.into_iter().zip(part.rows).zip(words) {
            match word {
                Word::Isolate { .. } if !alone => isolate.push(message, loaded),
                // The part got smaller, so this cannot go on for ever.
                Word::Untried if progress => again.push(message, loaded),
                word => {
                    let fate = judge_one(shared, word, &mut loaded, &mut rng);
                    loaded.content = Ok(message);
                    self.fates.push((loaded, fate));
                }
            }
        }
        drop(rng);
        let second = isolate.split_half();
        for part in [again, second, isolate] {
            if !part.rows.is_empty() {
                parts.push_front(part);
            }
        }
    }

    fn give_back(&mut self, part: Part) {
        self.back.extend(part.rows.into_iter().zip(part.messages).map(|(mut loaded, message)| {
            loaded.content = Ok(message);
            loaded
        }));
    }

    /// Writes what became of the batch, again and again while its leases hold.
    async fn settle(self) -> Ended {
        let Self { shared, permits, fates, back, taken, refused } = self;
        let tokens: BTreeMap<Shard, i64> =
            permits.iter().map(|permit| (permit.shard(), permit.token())).collect();
        let token = |row: RowId| tokens.get(&row.shard).copied().unwrap_or_default();
        let ended_itself = |fate: &Fate| matches!(fate, Fate::Done) && shared.handler.ends_itself();
        let settlement = settlement(fates.iter().filter(|(_, fate)| !ended_itself(fate)), &tokens);
        let mut ended = Ended { rows: Vec::new(), sent: 0, retried: 0, dead: 0, lost: 0, refused, due: None };
        let rows = settlement.done.len() + settlement.retry.len() + settlement.dead.len();
        let settled =
            if rows == 0 { Some(Settled::default()) } else { write(shared, &settlement, permits).await };
        // Less than all is what an earlier try has written, or what a handler has ended itself, without an answer.
        let in_doubt = settled.as_ref().is_some_and(|settled| settled.written < rows as u64);
        let (stale, waited) = settled.map(|settled| (settled.stale, settled.waited)).unzip();
        let waited: HashSet<RowId> = waited.into_iter().flatten().collect();
        let anothers = stale.iter().flatten().copied().chain(taken.iter().map(|loaded| loaded.row.shard));
        let anothers: BTreeSet<Shard> = anothers.collect();
        permits.iter().filter(|permit| anothers.contains(&permit.shard())).for_each(Permit::lose);
        let mut lost_shards: Vec<Shard> = Vec::new();
        for (loaded, fate) in fates {
            let (row, key) = (loaded.row, loaded.key.clone());
            let is_lost = stale.as_ref().is_none_or(|stale| stale.contains(&row.shard));
            if is_lost && !ended_itself(&fate) {
                ended.lost += 1;
                lost_shards.push(row.shard);
                ended.rows.push((row, key, token(row), End::Lost));
                continue;
            }
            let is_settled = !ended_itself(&fate);
            let end = match ended.count(shared, &loaded, fate) {
                End::Waits(_) if in_doubt => End::ReadAgain,
                // Unless it had waited before: then that is done anyway.
                End::Gone if is_settled && key.is_some() && !loaded.waited => {
                    if in_doubt || waited.contains(&row) { End::ReadAgain } else { End::Gone }
                }
                end => end,
            };
            ended.rows.push((row, key, token(row), end));
        }
        for loaded in taken {
            ended.lost += 1;
            lost_shards.push(loaded.row.shard);
            ended.rows.push((loaded.row, loaded.key.clone(), token(loaded.row), End::Lost));
        }
        lost_shards.sort_unstable();
        lost_shards.dedup();
        if ended.lost > 0 {
            shared.record(None, |recorder, metrics, labels| {
                recorder.add(metrics.lease_lost, labels, ended.lost);
            });
            let messages = usize::try_from(ended.lost).unwrap_or(usize::MAX);
            shared.tell(&StreamEvent::LeaseLost { shards: lost_shards, messages });
        }
        for loaded in back {
            let (row, key) = (loaded.row, loaded.key.clone());
            ended.rows.push((row, key, token(row), End::Back(Box::new(loaded))));
        }
        ended
    }
}

impl Ended {
    /// Counts and tells what the store has now.
    fn count<S, H>(&mut self, shared: &Shared<S, H>, loaded: &Loaded, fate: Fate) -> End {
        let id = loaded.content.as_ref().ok().map(Message::id);
        let attempts = loaded.attempts.spent();
        match fate {
            Fate::Done => {
                self.sent += 1;
                let lag = loaded.age + shared.clock.monotonic().since(loaded.read_at);
                shared.record(None, |recorder, metrics, labels| {
                    recorder.add(metrics.sent, labels, 1);
                    recorder.observe(metrics.lag, labels, lag.as_secs_f64());
                });
                End::Gone
            }
            Fate::Dead { cause, error } => {
                self.dead += 1;
                let reason = reason(loaded, cause);
                shared.record(Some(reason.as_str()), |recorder, metrics, labels| {
                    recorder.add(metrics.dead, labels, 1);
                });
                shared.tell(&StreamEvent::Dead { id, reason, attempts, error });
                End::Gone
            }
            Fate::Again { wait, error, .. } => {
                self.retried += 1;
                self.due = Some(self.due.map_or(wait, |due| due.min(wait)));
                shared.record(None, |recorder, metrics, labels| recorder.add(metrics.retried, labels, 1));
                if let Some(id) = id {
                    shared.tell(&StreamEvent::Retried { id, attempts, wait, error });
                }
                End::Waits(shared.clock.monotonic() + wait)
            }
        }
    }
}

/// Decides about one message, and counts its attempt.
fn judge_one<S, H>(shared: &Shared<S, H>, word: Word, loaded: &mut Loaded, rng: &mut Rng) -> Fate {
    let since_read = shared.clock.monotonic().since(loaded.read_at);
    let elapsed = loaded.failing_for.map_or(Duration::ZERO, |failing| failing + since_read);
    let context = Failure { elapsed, ..Failure::of_attempt(0) };
    fate(word, &mut loaded.attempts, context, &*shared.retry, rng)
}

/// Returns what the other side asks to wait if it took nothing, and nothing is any message's fault.
fn refused(words: &[Word]) -> Option<(Option<Duration>, String)> {
    let mut longest = None;
    let mut said = None;
    for word in words {
        match word {
            Word::Refused { after, error } | Word::Spared { after, error } => {
                longest = longest.max(*after);
                said.get_or_insert_with(|| error.clone());
            }
            Word::Untried => {}
            _ => return None,
        }
    }
    Some((longest, said.unwrap_or_else(|| "the sender left everything untried".to_owned())))
}

fn settlement<'f>(
    fates: impl Iterator<Item = &'f (Loaded, Fate)>,
    tokens: &BTreeMap<Shard, i64>,
) -> Settlement {
    let (mut settlement, mut shards) = (Settlement::default(), BTreeSet::new());
    for (loaded, fate) in fates {
        shards.insert(loaded.row.shard);
        let (row, attempts) = (loaded.row, loaded.attempts.spent());
        match fate {
            Fate::Done => settlement.done.push(row),
            Fate::Again { .. } if planted("forgets_what_failed") => settlement.done.push(row),
            Fate::Dead { cause, error } => {
                let reason = reason(loaded, *cause);
                settlement.dead.push(Dying { row, attempts, reason, error: error.clone() });
            }
            Fate::Again { wait, fresh, error } => settlement.retry.push(Waiting {
                row,
                attempts: if *fresh { 0 } else { attempts },
                wait: *wait,
                fresh: *fresh,
                suspect: loaded.suspicion == Suspicion::Alone,
                error: error.clone(),
            }),
        }
    }
    settlement.leases =
        shards.into_iter().filter_map(|shard| Some(Lease { shard, token: *tokens.get(&shard)? })).collect();
    settlement
}

fn reason(loaded: &Loaded, cause: Cause) -> DeadReason {
    match (&loaded.content, cause) {
        (Err(_), _) => DeadReason::Unreadable,
        (Ok(_), Cause::Rejected) => DeadReason::Rejected,
        (Ok(_), Cause::Exhausted) if loaded.suspicion == Suspicion::Alone => DeadReason::Crashed,
        (Ok(_), Cause::Exhausted) => DeadReason::Exhausted,
    }
}

/// Writes a settlement, again and again while its leases hold. Returns what the store says, or `None` if nobody knows what was written.
async fn write<S: StreamStore, H>(
    shared: &Shared<S, H>,
    settlement: &Settlement,
    permits: &[Permit],
) -> Option<Settled> {
    let begun = shared.clock.monotonic();
    let settled =
        insist(shared, permits, "could not write what became of a batch", || shared.store.settle(settlement));
    let rows = settlement.done.len() + settlement.retry.len() + settlement.dead.len();
    let span = tracing::debug_span!("stream.settle", stream = shared.name, rows);
    let settled = settled.instrument(span).await?;
    let took = shared.clock.monotonic().since(begun).as_secs_f64();
    shared.record(None, |recorder, metrics, labels| recorder.observe(metrics.settle, labels, took));
    Some(settled)
}

/// Calls the store again and again while the leases hold. Returns `None` if nobody knows what was written.
async fn insist<S, H, F>(
    shared: &Shared<S, H>,
    permits: &[Permit],
    failed: &'static str,
    call: impl Fn() -> F,
) -> Option<Settled>
where
    F: Future<Output = Result<Settled, StoreError>>,
{
    let mut wait = SETTLE_WAIT.0;
    loop {
        let error = match call().await {
            Ok(settled) => return Some(settled),
            Err(error) => error_chain(&error),
        };
        tracing::warn!(stream = shared.name, error, "{failed}");
        shared.tell(&StreamEvent::StoreFailed { error });
        let left = permits.iter().map(Permit::remaining).max().unwrap_or_default();
        if left <= wait {
            return None;
        }
        shared.clock.sleep(wait.mul_f64(1.0 - shared.unit() / 4.0)).await;
        wait = (wait * 2).min(SETTLE_WAIT.1);
    }
}

impl Part {
    fn push(&mut self, message: Message, loaded: Loaded) {
        self.messages.push(message);
        self.rows.push(loaded);
    }

    fn split_half(&mut self) -> Self {
        let at = self.rows.len().div_ceil(2);
        Self { messages: self.messages.split_off(at), rows: self.rows.split_off(at) }
    }
}
