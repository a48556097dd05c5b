use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Attempts, BatchOutcome, Failure, Rng, Timestamp, Verdict};
use tokio::sync::watch;

use crate::builder::QueueFault;
use crate::call::{Interrupted, call};
use crate::format::Records;
use crate::handler::{QueueContext, QueueHandler};
use crate::judge::{Called, Fate, Word, fate, words};
use crate::metrics;
use crate::settle::Origin;
use crate::shared::Shared;
use crate::state::Tries;

/// The items of some batches, put together.
pub(crate) struct Lent<T> {
    pub(crate) items: Vec<T>,
    pub(crate) tries: Tries,
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
}

/// An item on its way, and its place in the order.
struct Seat {
    at: usize,
    attempts: Attempts,
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
        let Lent { items, tries } = lent;
        let Ok((called, pushed)) = self.lend(&items, tries.spent(), interrupt).await else {
            ended.interrupted = true;
            return ended;
        };
        ended.calls = 1;
        if let Called::Outcome(BatchOutcome::Each(verdicts)) = &called
            && verdicts.len() == items.len()
            && verdicts.iter().all(Verdict::is_done)
        {
            ended.outcome = Outcome::AllDone;
            ended.pushed.extend(pushed);
            return ended;
        }
        let count = items.len();
        let seats = (0..count).map(|at| Seat { at, attempts: tries.of(at) }).collect();
        let mut decided: Vec<Option<Decided<T>>> = std::iter::repeat_with(|| None).take(count).collect();
        let mut parts = VecDeque::new();
        self.judge(Part { items, seats }, called, pushed, &mut decided, &mut parts, &mut ended, rng);
        while let Some(part) = parts.pop_front() {
            let spent = part.seats.iter().map(|seat| seat.attempts.spent()).max().unwrap_or(0);
            let Ok((called, pushed)) = self.lend(&part.items, spent, interrupt).await else {
                ended.interrupted = true;
                parts.push_front(part);
                break;
            };
            ended.calls += 1;
            self.judge(part, called, pushed, &mut decided, &mut parts, &mut ended, rng);
        }
        for part in parts {
            for (item, seat) in part.items.into_iter().zip(part.seats) {
                decided[seat.at] = Some(Decided { item, attempts: seat.attempts, fate: None });
            }
        }
        ended.outcome = Outcome::Each(decided.into_iter().flatten().collect());
        ended
    }

    /// Lends a part. Returns how that ended, and what the handler pushed back.
    async fn lend(
        &self,
        part: &[T],
        spent: u32,
        interrupt: &mut watch::Receiver<bool>,
    ) -> Result<(Called<H::Error>, Option<Records>), Interrupted> {
        let shared = self.shared;
        let config = &shared.config;
        let clock = &*config.clock;
        let begun = clock.monotonic();
        let attempt = spent.saturating_add(1);
        let max_bytes = config.flush.max_bytes.unwrap_or(usize::MAX);
        let (batches, codec) = (Arc::clone(&self.batches), Arc::clone(&config.codec));
        let cx = QueueContext::new(attempt, begun + config.timeout, batches, codec, max_bytes);
        let called = call(self.handler, part, &cx, config.timeout, clock, interrupt).await?;
        shared.record(|recorder, queue| {
            let took = clock.monotonic().since(begun).as_secs_f64();
            recorder.observe(&metrics::PROCESS, &[queue], took);
        });
        let pushed = cx.take_pushed();
        Ok((called, (pushed.count() > 0).then_some(pushed)))
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
                    let fate = fate(word, &mut seat.attempts, context, &*shared.config.retry, rng);
                    removed |= !matches!(fate, Fate::Again { .. });
                    decided[seat.at] = Some(Decided { item, attempts: seat.attempts, fate: Some(fate) });
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

impl<T> Part<T> {
    const fn empty() -> Self {
        Self { items: Vec::new(), seats: Vec::new() }
    }

    fn push(&mut self, item: T, seat: Seat) {
        self.items.push(item);
        self.seats.push(seat);
    }

    fn split_half(&mut self) -> Self {
        let at = self.items.len().div_ceil(2);
        Self { items: self.items.split_off(at), seats: self.seats.split_off(at) }
    }
}
