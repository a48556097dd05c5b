//! Random calls on a barrier with a few keys, each answer compared with that of a model: plain maps of plain sets, with no
//! shards, no lists of what to do, and no regard for memory. A failing case is shrunk and printed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use common::{Answer, answer, at, ms};
use proptest::prelude::*;
use relaykit_event_barrier::{At, Barrier, Change, Event, Limits, OverThreshold, State, Turn};

#[derive(Debug, Clone, Copy)]
enum Op {
    Enter(u8, u64),
    /// Enters, and drops the permit.
    Look(u8, u64),
    Wait(u8, u64),
    Leave(u8, u64),
    Tell(u8, u64, State),
    Sync,
    Release(u8),
    Skip(u8, u64),
    Disabled(u8),
    /// Time moves on, or a little back.
    Time(i64),
    Reload(Bounds),
    /// The order of these keys, as bits, is off from here on.
    Off(u8),
}

/// The limits, as the model reads them. The durations differ, so that none stands in for another.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    threshold: usize,
    waive: bool,
    drain: usize,
}

const DISABLED_FOR: u64 = 100;
const HALF_FOR: u64 = 70;
const DRAIN_FOR: u64 = 40;

impl Bounds {
    fn limits(self) -> Limits {
        let over = if self.waive { OverThreshold::Waive } else { OverThreshold::Block };
        Limits::default()
            .key_threshold(self.threshold.try_into().unwrap())
            .over_threshold(over)
            .drain(self.drain.try_into().unwrap())
            .disabled_for(ms(DISABLED_FOR))
            .half_enabled_for(ms(HALF_FOR))
            .drain_for(ms(DRAIN_FOR))
    }
}

/// Events, each with its key.
type Told = Vec<(u8, Event<u64>)>;

#[derive(Debug, Default)]
struct Model {
    keys: BTreeMap<u8, Key>,
    off: u8,
    events: Told,
    applied: usize,
}

/// What is known about a key.
#[derive(Debug, Default)]
struct Key {
    /// Failed jobs, each with how it ended since.
    failed: BTreeMap<u64, Option<State>>,
    /// Jobs in flight, each with what was told of it since.
    inside: BTreeMap<u64, Option<State>>,
    /// Those in flight that entered under the drain limit.
    draining_inside: BTreeSet<u64>,
    draining: Option<u64>,
    phase: Phase,
    blocked_since: u64,
    refused: u32,
    /// Something is to be done at the next sync.
    noted: bool,
    /// A place came free, without a sync, after somebody was refused.
    freed: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Enabled,
    Disabled(u64),
    HalfEnabled(u64),
}

impl Key {
    fn head(&self) -> Option<u64> {
        self.failed.keys().next().copied()
    }

    fn is_idle(&self) -> bool {
        self.failed.is_empty()
            && self.inside.is_empty()
            && self.draining.is_none()
            && self.phase == Phase::Enabled
            && !self.noted
    }

    fn stop_draining(&mut self, bounds: Bounds) {
        if self.draining.take().is_some() {
            self.draining_inside.clear();
            if bounds.threshold == 0 {
                self.inside.clear();
            }
        }
    }

    /// Time passes; answers whether order is restored, and whether somebody who was refused may pass.
    fn advance(&mut self, bounds: Bounds, now: u64) -> (bool, bool) {
        let (mut restored, mut opened) = (false, false);
        if let Phase::Disabled(since) = self.phase
            && now >= since + DISABLED_FOR
        {
            self.phase = Phase::HalfEnabled(since + DISABLED_FOR);
            restored = true;
        }
        if let Phase::HalfEnabled(since) = self.phase
            && now >= since + HALF_FOR
        {
            self.phase = Phase::Enabled;
        }
        if let Some(since) = self.draining
            && (bounds.drain == 0 || (self.inside.is_empty() && now >= since + DRAIN_FOR))
        {
            self.stop_draining(bounds);
            opened = self.refused > 0;
        }
        (restored, opened)
    }

    /// Does what was noted; answers whether the key opened.
    fn sync(&mut self, bounds: Bounds, now: u64) -> bool {
        self.noted = false;
        let over = |end: &Option<State>| matches!(end, Some(end) if *end != State::Waiting);
        let lifted = self.inside.iter().any(|(job, end)| self.draining_inside.contains(job) && over(end));
        let before = self.inside.len();
        self.inside.retain(|_, end| end.is_none());
        self.draining_inside.retain(|job| self.inside.contains_key(job));
        let freed = std::mem::take(&mut self.freed) || self.inside.len() < before;
        if lifted {
            self.stop_draining(bounds);
        }
        let head_end = self.failed.first_key_value().and_then(|(_, end)| *end);
        self.failed.retain(|_, end| end.is_none());
        if head_end == Some(State::Aborted) && self.failed.is_empty() && bounds.drain > 0 {
            self.draining = Some(now);
        }
        let opened = head_end.is_some() || (freed && self.refused > 0);
        if opened {
            self.refused = 0;
        }
        opened
    }
}

impl Model {
    fn is_off(&self, key: u8) -> bool {
        self.off & (1 << key) != 0
    }

    /// What any look at a key begins with.
    fn look(&mut self, name: u8, bounds: Bounds, now: u64) -> Option<&mut Key> {
        let key = self.keys.get_mut(&name)?;
        let (restored, opened) = key.advance(bounds, now);
        if restored {
            self.events.push((name, Event::OrderRestored));
        }
        if opened {
            (key.freed, key.noted) = (true, true);
        }
        if key.is_idle() {
            self.keys.remove(&name);
        }
        self.keys.get_mut(&name)
    }

    fn enter(&mut self, name: u8, job: u64, bounds: Bounds, now: u64) -> Answer {
        if self.is_off(name) {
            if let Some(key) = self.keys.remove(&name)
                && let Some(failed) = key.head()
            {
                let in_flight = key.inside.len();
                self.events.push((name, Event::OrderWaived { failed: Some(failed), in_flight }));
            }
            return Answer::Bypassed;
        }
        if self.look(name, bounds, now).is_none() && bounds.threshold == 0 {
            return Answer::Accepted;
        }
        let key = self.keys.entry(name).or_default();
        if matches!(key.phase, Phase::Disabled(_)) {
            return Answer::Bypassed;
        }
        let is_new = !key.inside.contains_key(&job);
        let full = bounds.threshold > 0 && is_new && key.inside.len() >= bounds.threshold;
        if full && bounds.waive {
            let (failed, in_flight) = (key.head(), key.inside.len());
            self.events.push((name, Event::OrderWaived { failed, in_flight }));
            let freed = key.refused > 0;
            *key = Key {
                phase: Phase::Disabled(now),
                refused: key.refused,
                noted: key.noted || freed,
                freed,
                ..Key::default()
            };
            return Answer::Bypassed;
        }
        let head = key.head();
        if let Some(head) = head
            && job > head
        {
            key.refused += 1;
            return Answer::Blocked(head);
        }
        if let Some(failed) = head
            && job < failed
            && key.phase == Phase::Enabled
        {
            self.events.push((name, Event::OutOfOrder { at: At::Enter, failed, job }));
        }
        if key.draining.is_some() && is_new && key.draining_inside.len() >= bounds.drain {
            key.refused += 1;
            return Answer::Draining;
        }
        if full {
            key.refused += 1;
            return Answer::Full;
        }
        if key.draining.is_some() {
            key.draining_inside.insert(job);
        }
        if key.draining.is_some() || bounds.threshold > 0 {
            key.inside.insert(job, None);
        }
        if head == Some(job) { Answer::Retry } else { Answer::Accepted }
    }

    fn wait(&mut self, name: u8, job: u64, bounds: Bounds, now: u64) -> Turn<u64> {
        if self.is_off(name) {
            return Turn::Go;
        }
        let Some(key) = self.look(name, bounds, now) else { return Turn::Go };
        let Some(failed) = key.head() else { return Turn::Go };
        if job > failed {
            key.refused += 1;
            return Turn::Wait { by: failed };
        }
        if job < failed && key.phase == Phase::Enabled {
            self.events.push((name, Event::OutOfOrder { at: At::Wait, failed, job }));
        }
        Turn::Go
    }

    fn leave(&mut self, name: u8, job: u64) {
        let Some(key) = self.keys.get_mut(&name) else { return };
        let was_inside = key.inside.remove(&job).is_some();
        key.draining_inside.remove(&job);
        if was_inside && key.refused > 0 {
            (key.freed, key.noted) = (true, true);
        }
        if key.is_idle() {
            self.keys.remove(&name);
        }
    }

    fn tell(&mut self, name: u8, job: u64, state: State, bounds: Bounds, now: u64) -> Change {
        if state == State::Failed {
            return self.fail(name, job, bounds, now);
        }
        let Some(key) = self.look(name, bounds, now) else { return Change::Ignored };
        let mut noted = false;
        if !matches!(key.phase, Phase::Disabled(_)) {
            if let Some(told) = key.inside.get_mut(&job) {
                *told = Some(state);
                noted = true;
            }
            if let Some(end) = key.failed.get_mut(&job)
                && state != State::Waiting
            {
                *end = Some(state);
                noted = true;
            }
            key.noted |= noted;
        }
        self.applied += 1;
        if noted { Change::Queued } else { Change::Ignored }
    }

    fn fail(&mut self, name: u8, job: u64, bounds: Bounds, now: u64) -> Change {
        if self.is_off(name) {
            return Change::Ignored;
        }
        self.look(name, bounds, now);
        let key = self.keys.entry(name).or_default();
        if matches!(key.phase, Phase::Disabled(_)) {
            return Change::Ignored;
        }
        key.inside.remove(&job);
        key.draining_inside.remove(&job);
        key.stop_draining(bounds);
        match key.head() {
            None => key.blocked_since = now,
            Some(failed) if job < failed => {
                if key.phase == Phase::Enabled {
                    self.events.push((name, Event::OutOfOrder { at: At::Failed, failed, job }));
                }
                if key.failed[&failed].is_some() {
                    key.failed.remove(&failed);
                }
            }
            Some(_) => {}
        }
        key.failed.insert(job, None);
        Change::Applied
    }

    fn sync(&mut self, bounds: Bounds, now: u64) -> (usize, Vec<u8>) {
        let mut opened = Vec::new();
        for (&name, key) in &mut self.keys {
            let by_call = key.noted && key.sync(bounds, now);
            let (restored, by_time) = key.advance(bounds, now);
            if restored {
                self.events.push((name, Event::OrderRestored));
            }
            if by_time {
                key.refused = 0;
            }
            if by_call || by_time {
                opened.push(name);
            }
        }
        self.keys.retain(|_, key| !key.is_idle());
        (std::mem::take(&mut self.applied), opened)
    }

    fn release(&mut self, name: u8) -> bool {
        let Some(key) = self.keys.get_mut(&name) else { return false };
        key.failed.values_mut().for_each(|end| *end = Some(State::Succeeded));
        key.noted |= !key.failed.is_empty();
        !key.failed.is_empty()
    }

    fn skip(&mut self, name: u8, job: u64) -> bool {
        let Some(key) = self.keys.get_mut(&name) else { return false };
        let Some(end) = key.failed.get_mut(&job) else { return false };
        *end = Some(State::Succeeded);
        key.noted = true;
        true
    }

    fn reload(&mut self) {
        for key in self.keys.values_mut().filter(|key| key.refused > 0 && !key.inside.is_empty()) {
            (key.freed, key.noted) = (true, true);
        }
    }

    fn disabled(&mut self, name: u8, bounds: Bounds, now: u64) -> bool {
        self.is_off(name)
            || self.look(name, bounds, now).is_some_and(|key| matches!(key.phase, Phase::Disabled(_)))
    }
}

fn bounds() -> impl Strategy<Value = Bounds> {
    (0_usize..4, any::<bool>(), 0_usize..3).prop_map(|(threshold, waive, drain)| Bounds {
        threshold,
        waive,
        drain,
    })
}

fn op(keys: u8) -> impl Strategy<Value = Op> {
    let (key, job) = (0..keys, 0_u64..7);
    let state = prop::sample::select(vec![
        State::Succeeded,
        State::Filtered,
        State::Failed,
        State::Failed,
        State::Aborted,
        State::Aborted,
        State::Waiting,
    ]);
    prop_oneof![
        10 => (key.clone(), job.clone()).prop_map(|(key, job)| Op::Enter(key, job)),
        2 => (key.clone(), job.clone()).prop_map(|(key, job)| Op::Look(key, job)),
        3 => (key.clone(), job.clone()).prop_map(|(key, job)| Op::Wait(key, job)),
        2 => (key.clone(), job.clone()).prop_map(|(key, job)| Op::Leave(key, job)),
        12 => (key.clone(), job.clone(), state).prop_map(|(key, job, state)| Op::Tell(key, job, state)),
        6 => Just(Op::Sync),
        1 => key.clone().prop_map(Op::Release),
        1 => (key.clone(), job).prop_map(|(key, job)| Op::Skip(key, job)),
        1 => key.prop_map(Op::Disabled),
        2 => (-20_i64..120).prop_map(Op::Time),
        1 => bounds().prop_map(Op::Reload),
        1 => (0_u8..8).prop_map(|off| Op::Off(off & (off >> 1))),
    ]
}

fn case() -> impl Strategy<Value = (Bounds, Vec<Op>)> {
    (1_u8..=4).prop_flat_map(|keys| (bounds(), prop::collection::vec(op(keys), 1..150)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_barrier_answers_as_the_model((first, ops) in case()) {
        let off = Arc::new(AtomicU8::new(0));
        let seen: Arc<Mutex<Told>> = Arc::default();
        let (check, notes) = (Arc::clone(&off), Arc::clone(&seen));
        let (barrier, mut reader) = Barrier::<u8>::builder()
            .limits(first.limits())
            .order_off(move |key| check.load(Ordering::Relaxed) & (1 << key) != 0)
            .observer(move |notice| notes.lock().unwrap().push((*notice.key(), notice.event())))
            .build()
            .unwrap();
        let mut model = Model::default();
        let (mut bounds, mut now) = (first, 1000_u64);
        for op in ops {
            let moment = at(now);
            match op {
                Op::Enter(key, job) => {
                    let expected = model.enter(key, job, bounds, now);
                    prop_assert_eq!(answer(barrier.enter(&key, job, moment)), expected, "{:?}", op);
                }
                Op::Look(key, job) => {
                    let expected = model.enter(key, job, bounds, now);
                    if expected.passes() && expected != Answer::Bypassed {
                        model.leave(key, job);
                    }
                    let admission = barrier.enter(&key, job, moment);
                    prop_assert_eq!(admission.is_accepted(), expected.passes(), "{:?}", op);
                }
                Op::Wait(key, job) => {
                    let expected = model.wait(key, job, bounds, now);
                    prop_assert_eq!(barrier.wait(&key, job, moment), expected, "{:?}", op);
                }
                Op::Leave(key, job) => {
                    model.leave(key, job);
                    barrier.leave(&key, job);
                }
                Op::Tell(key, job, state) => {
                    let expected = model.tell(key, job, state, bounds, now);
                    prop_assert_eq!(barrier.state_changed(&key, job, state, moment), expected, "{:?}", op);
                }
                Op::Sync => {
                    let (applied, opened) = model.sync(bounds, now);
                    let mut synced = reader.sync(moment);
                    synced.opened.sort_unstable();
                    prop_assert_eq!((synced.applied, synced.opened), (applied, opened));
                }
                Op::Release(key) => prop_assert_eq!(barrier.release(&key), model.release(key)),
                Op::Skip(key, job) => prop_assert_eq!(barrier.skip(&key, job), model.skip(key, job)),
                Op::Disabled(key) => {
                    let expected = model.disabled(key, bounds, now);
                    prop_assert_eq!(barrier.disabled(&key, moment), expected);
                }
                Op::Time(by) => now = now.saturating_add_signed(by),
                Op::Reload(limits) => {
                    bounds = limits;
                    model.reload();
                    barrier.set_limits(limits.limits()).unwrap();
                }
                Op::Off(keys) => {
                    model.off = keys;
                    off.store(keys, Ordering::Relaxed);
                }
            }
            let mut told = std::mem::take(&mut *seen.lock().unwrap());
            told.sort_by_key(|(key, _)| *key);
            prop_assert_eq!(told, std::mem::take(&mut model.events), "{:?}", op);
            compare(&barrier, &model, now)?;
        }
    }
}

/// What can be seen without changing anything.
fn compare(barrier: &Barrier<u8>, model: &Model, now: u64) -> Result<(), TestCaseError> {
    for key in 0..4 {
        prop_assert_eq!(barrier.peek(&key), model.keys.get(&key).and_then(Key::head));
    }
    let mut blocked: Vec<_> = barrier
        .blocked(at(now), 10)
        .into_iter()
        .map(|blocked| (blocked.key, blocked.head, blocked.failed_behind, blocked.age, blocked.refused))
        .collect();
    blocked.sort_unstable();
    let expected: Vec<_> = model
        .keys
        .iter()
        .filter_map(|(name, key)| {
            let age = ms(now.saturating_sub(key.blocked_since));
            Some((*name, key.head()?, key.failed.len() - 1, age, key.refused))
        })
        .collect();
    prop_assert_eq!(blocked, expected);
    let stats = barrier.stats();
    let count = |is: fn(&Key) -> bool| model.keys.values().filter(|key| is(key)).count();
    prop_assert_eq!(
        (stats.keys, stats.draining, stats.disabled, stats.in_flight),
        (
            model.keys.len(),
            count(|key| key.draining.is_some()),
            count(|key| matches!(key.phase, Phase::Disabled(_))),
            model.keys.values().map(|key| key.inside.len()).sum()
        )
    );
    prop_assert_eq!(barrier.size(), stats.keys);
    Ok(())
}
