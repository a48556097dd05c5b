use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Attempts, BatchOutcome, Failure, Rng, Timestamp, Verdict};
use relaykit_sql_store::judge::{Called, Word, call, fate, words};
use tokio::sync::watch;

use crate::builder::QueueFault;
use crate::fate::Fate;
use crate::format::Records;
use crate::handler::{QueueContext, QueueHandler};
use crate::metrics;
use crate::settle::Origin;
use crate::shared::Shared;
use crate::state::Tries;

/// The items of some batches, put together.
pub(crate) struct Lent<T> {
    pub(crate) items: Vec<T>,
    pub(crate) tries: Tries,
    /// One for each item, if the items of a key keep their order.
    pub(crate) places: Option<Vec<Place>>,
}

/// An item's place in the order of its key.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    pub(crate) key: Option<u64>,
    /// It is not to be lent now.
    pub(crate) held: bool,
}

/// What a run through the handler ended with.
pub(crate) struct Ended<T> {
    pub(crate) outcome: Outcome<T>,
    /// What the handler pushed back, encoded.
    pub(crate) pushed: Vec<Records>,
    pub(crate) calls: u64,
    /// The queue closes, and did not wait for the end.
    pub(crate) interrupted: bool,
}

pub(crate) enum Outcome<T> {
    /// As most runs end.
    AllDone,
    /// Nothing was decided.
    Untouched,
    /// One for each item, in their order.
    Each(Vec<Decided<T>>),
}

/// What became of an item.
pub(crate) struct Decided<T> {
    pub(crate) item: T,
    pub(crate) attempts: Attempts,
    /// `None`: the run was interrupted before it was decided.
    pub(crate) fate: Option<Fate>,
    pub(crate) key: Option<u64>,
}

/// An item on its way, and its place in the order.
struct Seat {
    at: usize,
    attempts: Attempts,
    key: Option<u64>,
}

/// Some items that are lent together.
struct Part<T> {
    items: Vec<T>,
    seats: Vec<Seat>,
}

pub(crate) struct Run<'a, T, H> {
    shared: &'a Arc<Shared<T>>,
    handler: &'a H,
    batches: Arc<[i64]>,
    first_failed_at: Option<Timestamp>,
    previous_delay: Option<Duration>,
}

impl<'a, T: Send + Sync + 'static, H: QueueHandler<T>> Run<'a, T, H> {
    pub(crate) fn new(shared: &'a Arc<Shared<T>>, handler: &'a H, origins: &[Origin]) -> Self {
        Self {
            shared,
            handler,
            batches: origins.iter().map(|origin| origin.id).collect(),
            first_failed_at: origins.iter().filter_map(|origin| origin.first_failed_at).min(),
            previous_delay: origins.iter().filter_map(|origin| origin.delay).max(),
        }
    }

    /// Lends the items, in halves and halves of halves where they cannot be judged together, until each has its fate or the
    /// queue closes.
    pub(crate) async fn through(
        &self,
        lent: Lent<T>,
        rng: &mut Rng,
        interrupt: &mut watch::Receiver<bool>,
    ) -> Ended<T> {
        let mut ended =
            Ended { outcome: Outcome::Untouched, pushed: Vec::new(), calls: 0, interrupted: false };
        let Lent { items, tries, places } = lent;
        let count = items.len();
        let mut first = None;
        if places.is_none() {
            // Most calls handle everything, and need none of what follows.
            let Some((called, pushed)) = self.lend(&items, tries.spent(), interrupt).await else {
                ended.interrupted = true;
                return ended;
            };
            ended.calls = 1;
            if all_done(&called, count) {
                ended.outcome = Outcome::AllDone;
                ended.pushed.extend(pushed);
                return ended;
            }
            first = Some((called, pushed));
        }
        let mut decided: Vec<Option<Decided<T>>> = std::iter::repeat_with(|| None).take(count).collect();
        let mut pending = Part::empty();
        for (at, item) in items.into_iter().enumerate() {
            let Place { key, held } = places.as_ref().map(|places| places[at]).unwrap_or_default();
            let seat = Seat { at, attempts: tries.of(at), key };
            if held {
                decided[at] = Some(seat.decided(item, Some(Fate::Held)));
            } else {
                pending.push(item, seat);
            }
        }
        // One item of a key is lent at a time. Its later ones follow once it is done, or are held.
        let mut waiting = HashSet::new();
        let mut untouched = true;
        while !pending.items.is_empty() && !ended.interrupted {
            let mut parts = VecDeque::from([pending.split_first_of_each_key()]);
            let mut round: Vec<(usize, u64)> = Vec::new();
            for seat in &parts[0].seats {
                round.extend(seat.key.map(|key| (seat.at, key)));
            }
            while let Some(part) = parts.pop_front() {
                let lent = if let Some(lent) = first.take() {
                    Some(lent)
                } else {
                    let spent = part.seats.iter().map(|seat| seat.attempts.spent()).max().unwrap_or(0);
                    let lent = self.lend(&part.items, spent, interrupt).await;
                    ended.calls += u64::from(lent.is_some());
                    lent
                };
                let Some((called, pushed)) = lent else {
                    ended.interrupted = true;
                    parts.push_front(part);
                    break;
                };
                if untouched && part.items.len() == count && all_done(&called, count) {
                    ended.outcome = Outcome::AllDone;
                    ended.pushed.extend(pushed);
                    return ended;
                }
                untouched = false;
                self.judge(part, called, pushed, &mut decided, &mut parts, &mut ended, rng);
            }
            for part in parts {
                part.decide(&mut decided, || None);
            }
            let stays = |at: usize| decided[at].as_ref().is_some_and(|one| !one.leaves());
            waiting.extend(round.into_iter().filter(|(at, _)| stays(*at)).map(|(_, key)| key));
            let held = pending.split_off_keys(&waiting);
            let interrupted = ended.interrupted;
            held.decide(&mut decided, || (!interrupted).then_some(Fate::Held));
        }
        pending.decide(&mut decided, || None);
        if !untouched {
            ended.outcome = Outcome::Each(decided.into_iter().flatten().collect());
        }
        ended
    }

    /// Lends a part. Returns how that ended, and what the handler pushed back; `None` if the queue closes and waits no longer.
    async fn lend(
        &self,
        part: &[T],
        spent: u32,
        interrupt: &mut watch::Receiver<bool>,
    ) -> Option<(Called<H::Error>, Option<Records>)> {
        let shared = self.shared;
        let config = &shared.config;
        let clock = &*config.clock;
        let begun = clock.monotonic();
        let attempt = spent.saturating_add(1);
        let max_bytes = config.flush.max_bytes.unwrap_or(usize::MAX);
        let (batches, codec) = (Arc::clone(&self.batches), Arc::clone(&config.codec));
        let cx = QueueContext::new(attempt, begun + config.timeout, batches, codec, max_bytes);
        let closes = async { drop(interrupt.wait_for(|interrupted| *interrupted).await) };
        let called = call(|| self.handler.handle(part, &cx), config.timeout, clock, closes).await?;
        shared.record(|recorder, queue| {
            let took = clock.monotonic().since(begun).as_secs_f64();
            recorder.observe(&metrics::PROCESS, &[queue], took);
        });
        let pushed = cx.take_pushed();
        Some((called, (pushed.count() > 0).then_some(pushed)))
    }

    /// Decides about the items of a part, and plans those that are to be lent again at once.
    #[expect(clippy::too_many_arguments, reason = "the run's parts, which the caller owns")]
    fn judge(
        &self,
        part: Part<T>,
        called: Called<H::Error>,
        pushed: Option<Records>,
        decided: &mut [Option<Decided<T>>],
        parts: &mut VecDeque<Part<T>>,
        ended: &mut Ended<T>,
        rng: &mut Rng,
    ) {
        let shared = self.shared;
        let count = part.items.len();
        let failure = called.failure(count);
        let words = words(called, count);
        if let Some(outcome) = failure {
            shared.record(|recorder, queue| recorder.add(&metrics::ERRORS, &[queue, outcome], 1));
            let error = words.iter().find_map(Word::error).unwrap_or_default().to_owned();
            shared.fault(&QueueFault::Process { outcome, batches: self.batches.to_vec(), error });
        }
        let elapsed = self.first_failed_at.map_or(Duration::ZERO, |first| shared.now().since(first));
        let context = Failure { elapsed, previous_delay: self.previous_delay, ..Failure::of_attempt(0) };
        let alone = count == 1;
        let progress = words.iter().any(Word::is_final);
        let (mut isolate, mut again) = (Part::empty(), Part::empty());
        let mut removed = false;
        for ((item, mut seat), word) in part.items.into_iter().zip(part.seats).zip(words) {
            match word {
                Word::Isolate { .. } if !alone => isolate.push(item, seat),
                // The batch got smaller, so this cannot go on for ever.
                Word::Untried if progress => again.push(item, seat),
                word => {
                    let fate =
                        Fate::from(fate(word, &mut seat.attempts, context, &*shared.config.retry, rng));
                    removed |= !matches!(fate, Fate::Again { .. });
                    let at = seat.at;
                    decided[at] = Some(seat.decided(item, Some(fate)));
                }
            }
        }
        if removed {
            ended.pushed.extend(pushed);
        }
        let second = isolate.split_half();
        for part in [again, second, isolate] {
            if !part.items.is_empty() {
                parts.push_front(part);
            }
        }
    }
}

impl Seat {
    fn decided<T>(self, item: T, fate: Option<Fate>) -> Decided<T> {
        Decided { item, attempts: self.attempts, fate, key: self.key }
    }
}

fn all_done<E>(called: &Called<E>, count: usize) -> bool {
    let Called::Outcome(BatchOutcome::Each(verdicts)) = called else { return false };
    verdicts.len() == count && verdicts.iter().all(Verdict::is_done)
}

impl<T> Part<T> {
    const fn empty() -> Self {
        Self { items: Vec::new(), seats: Vec::new() }
    }

    fn push(&mut self, item: T, seat: Seat) {
        self.items.push(item);
        self.seats.push(seat);
    }

    /// Splits off the first item of each key, and those without one.
    fn split_first_of_each_key(&mut self) -> Self {
        if self.seats.iter().all(|seat| seat.key.is_none()) {
            return std::mem::replace(self, Self::empty());
        }
        let mut seen = HashSet::new();
        self.split_off(|seat| seat.key.is_none_or(|key| seen.insert(key)))
    }

    fn split_off_keys(&mut self, keys: &HashSet<u64>) -> Self {
        self.split_off(|seat| seat.key.is_some_and(|key| keys.contains(&key)))
    }

    fn split_off(&mut self, mut chosen: impl FnMut(&Seat) -> bool) -> Self {
        let (mut off, mut rest) = (Self::empty(), Self::empty());
        let this = std::mem::replace(self, Self::empty());
        for (item, seat) in this.items.into_iter().zip(this.seats) {
            if chosen(&seat) { &mut off } else { &mut rest }.push(item, seat);
        }
        *self = rest;
        off
    }

    /// Ends what was not lent.
    fn decide(self, decided: &mut [Option<Decided<T>>], fate: impl Fn() -> Option<Fate>) {
        for (item, seat) in self.items.into_iter().zip(self.seats) {
            let at = seat.at;
            decided[at] = Some(seat.decided(item, fate()));
        }
    }

    fn split_half(&mut self) -> Self {
        let at = self.items.len().div_ceil(2);
        Self { items: self.items.split_off(at), seats: self.seats.split_off(at) }
    }
}
