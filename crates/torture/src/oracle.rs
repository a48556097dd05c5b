use std::collections::{BTreeMap, HashMap, HashSet};

use crate::history::{Event, Id, Said};

/// What a run promised, so that its history can be judged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Promises {
    /// The items of a key come in order.
    pub(crate) ordered: bool,
    /// How many items may have been handled and not yet be settled on disk.
    pub(crate) unsettled: usize,
    /// A later item of a key is not handled before the one before it is settled: a repeat never comes after a newer one.
    pub(crate) successors_wait: bool,
}

/// What is wrong with a history, and what is not: duplicates that a named window explains.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Judgement {
    /// Acknowledged, and never handled, found or set aside; also if it was to come again, and did not.
    pub(crate) lost: Vec<Id>,
    /// Handled, though never offered, or handed back, or with other bytes than were pushed.
    pub(crate) phantom: Vec<Id>,
    /// Handled before an older one of its key was done or dead.
    pub(crate) reordered: Vec<Id>,
    /// Handled again after it was done or dead, by the window that explains it.
    pub(crate) duplicates: BTreeMap<Window, u64>,
    /// Handled again, and no window explains it.
    pub(crate) unexplained: Vec<Id>,
    /// Acknowledged, and a transactional handler's effect is there not once.
    pub(crate) effects: Vec<Id>,
    /// Acknowledged, and still not handled when the time ran out.
    pub(crate) stuck: Vec<Id>,
    /// What should have been given back, in words.
    pub(crate) leaks: Vec<String>,
}

/// Why an item may be handled twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Window {
    /// The process died after the handler had answered, before that was on disk.
    KilledBeforeSettled,
    /// The disk failed, and a close could not write down what was handled.
    StoppedOnAFailingDisk,
    /// The disk did not take what was handled, while the queue went on; the life ended before that was tried again.
    EndedBeforeSettledAgain,
    /// The process stood still for longer than its lease: others had what it had handled, or it went on with what others have.
    Stalled,
    /// The process lost its lease before it could settle what it had handled.
    Overtaken,
    /// Its handler was not waited for.
    GivenUp,
}

impl Judgement {
    pub(crate) fn is_clean(&self) -> bool {
        let Self { lost, phantom, reordered, duplicates: _, unexplained, effects, stuck, leaks } = self;
        [lost, phantom, reordered, unexplained, effects, stuck].iter().all(|ids| ids.is_empty())
            && leaks.is_empty()
    }

    /// Says what is wrong, for people; a few ids of each kind.
    pub(crate) fn complaint(&self) -> String {
        let kinds = [
            ("lost", &self.lost),
            ("phantom", &self.phantom),
            ("reordered", &self.reordered),
            ("unexplained duplicates", &self.unexplained),
            ("effects that are not there once", &self.effects),
            ("stuck", &self.stuck),
        ];
        let few = |(kind, ids): (&str, &Vec<Id>)| {
            let shown: Vec<_> = ids.iter().take(5).map(ToString::to_string).collect();
            format!("{} {kind} ({})", ids.len(), shown.join(", "))
        };
        let mut words: Vec<_> = kinds.into_iter().filter(|(_, ids)| !ids.is_empty()).map(few).collect();
        words.extend(self.leaks.iter().map(|leak| format!("leaked: {leak}")));
        words.join("; ")
    }
}

/// An item's way.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Debug, Default)]
struct Track {
    key: u64,
    offered: bool,
    acknowledged: bool,
    refused: bool,
    lent: bool,
    /// The last time that it was said to be done or dead: in which life, and as its how-manieth.
    decided: Option<(usize, usize)>,
    given_up: bool,
    /// Decided or found.
    settled: bool,
}

/// How a life went, as far as it matters to the lives after it, or beside it.
#[derive(Debug, Default)]
struct Life {
    decisions: usize,
    /// How many were decided when something happened after which what was not settled is handled again.
    breaks: Vec<(usize, Window)>,
    /// How many were decided when the disk failed the last time.
    failed_at: Option<usize>,
    /// What was decided long before the end, and explained by a failure of the disk.
    late: HashSet<Id>,
    /// What was decided last of each key.
    last: HashMap<u64, Id>,
    /// What that was when the life was overtaken, or stopped with something unsettled: where successors wait, nothing else of a
    /// key can be, however much of other keys was handled meanwhile.
    unsettled: HashMap<Id, Window>,
}

impl Life {
    /// Says why an item that was decided in this life, as its `at`-th, may be handled again.
    fn explains(&mut self, id: Id, at: usize, unsettled: usize) -> Option<Window> {
        let near = self.breaks.iter().find(|(broken, _)| broken.abs_diff(at) < unsettled);
        if let Some((_, window)) = near {
            return Some(*window);
        }
        if let Some(window) = self.unsettled.get(&id) {
            return Some(*window);
        }
        let ended = self.breaks.iter().any(|(_, window)| window.is_end());
        let failed = self.failed_at.is_some_and(|failed| failed >= at);
        let few = self.late.contains(&id) || self.late.len() < unsettled;
        (ended && failed && few).then(|| {
            self.late.insert(id);
            Window::EndedBeforeSettledAgain
        })
    }

    /// Whether what it handles now may have been handled by others while it stood still.
    fn woke(&self, unsettled: usize) -> bool {
        let stalled = self.breaks.iter().rev().find(|(_, window)| *window == Window::Stalled);
        stalled.is_some_and(|(at, _)| self.decisions - at < unsettled)
    }
}

impl Window {
    const fn is_end(self) -> bool {
        matches!(self, Self::KilledBeforeSettled | Self::StoppedOnAFailingDisk)
    }
}

/// An item that was handled again, and where: not explained when that was told.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    id: Id,
    life: usize,
    at: usize,
}

#[derive(Debug, Default)]
struct KeyTrack {
    highest: Option<Id>,
    undecided: HashSet<Id>,
}

/// How the queue's words begin when the disk failed it.
const STORAGE: &str = "Storage";

/// Judges a whole history.
///
/// An item that is handled again is explained only if the life in which it was decided ended in a window, and if it was among
/// the last that were decided before that, or if the disk failed after it was decided. Of these there are no more than may be
/// unsettled.
pub(crate) fn judge(history: &[Event], promises: Promises) -> Judgement {
    let mut oracle = Oracle {
        promises,
        tracks: HashMap::new(),
        keys: HashMap::new(),
        lives: Vec::new(),
        life: 0,
        doubts: Vec::new(),
        found: Judgement::default(),
    };
    let (mut ended, mut effects) = (None, None);
    for event in history {
        match event {
            Event::Opening => oracle.begin(oracle.lives.len()),
            Event::By { life } => oracle.begin(*life),
            Event::Offered { id, key } => oracle.offered(*id, *key),
            Event::Acknowledged { id } => oracle.track(*id).acknowledged = true,
            Event::Refused { id } => oracle.refused(*id),
            Event::Lent { id, key, said } => oracle.lent(*id, *key, *said),
            Event::GivenUp { id } => oracle.track(*id).given_up = true,
            Event::Found { id } => oracle.found(*id),
            Event::Effects { ids } => effects = Some(ids),
            Event::Wrong { id } => oracle.found.phantom.push(*id),
            Event::Fault { error } if error.starts_with(STORAGE) => oracle.disk_failed(),
            Event::Opened
            | Event::Fault { .. }
            | Event::Recovered { .. }
            | Event::Stopped { unsettled: false } => {}
            Event::Killed => oracle.breaks(Window::KilledBeforeSettled),
            Event::Stopped { unsettled: true } => oracle.breaks(Window::StoppedOnAFailingDisk),
            Event::Blocked { millis } => oracle.found.leaks.push(format!("a call that took {millis} ms")),
            Event::Stalled => oracle.breaks(Window::Stalled),
            Event::Overtaken => oracle.breaks(Window::Overtaken),
            Event::Ended { left } => ended = Some(*left),
        }
    }
    if let Some(ids) = effects {
        oracle.judge_effects(ids);
    }
    oracle.close(ended)
}

struct Oracle {
    promises: Promises,
    tracks: HashMap<Id, Track>,
    keys: HashMap<u64, KeyTrack>,
    lives: Vec<Life>,
    /// Of which one it is told.
    life: usize,
    doubts: Vec<Doubt>,
    found: Judgement,
}

impl Oracle {
    fn begin(&mut self, life: usize) {
        self.life = life;
        if self.lives.len() <= life {
            self.lives.resize_with(life + 1, Life::default);
        }
    }

    fn offered(&mut self, id: Id, key: u64) {
        let track = self.track(id);
        (track.offered, track.key) = (true, key);
    }

    /// Looks at the rows of a transactional handler: one for each item, in the order of each key.
    fn judge_effects(&mut self, ids: &[Id]) {
        let (mut counts, mut highest) = (HashMap::<Id, u64>::new(), HashMap::<u64, Id>::new());
        for id in ids {
            *counts.entry(*id).or_default() += 1;
            let Some(track) = self.tracks.get(id).filter(|track| track.offered && !track.refused) else {
                self.found.phantom.push(*id);
                continue;
            };
            let highest = highest.entry(track.key).or_insert(*id);
            if self.promises.ordered && id < highest {
                self.found.reordered.push(*id);
            }
            *highest = (*highest).max(*id);
        }
        let wanted = self.tracks.iter().filter(|(_, track)| track.acknowledged);
        let wrong = wanted.filter(|(id, _)| counts.get(id) != Some(&1)).map(|(id, _)| *id);
        self.found.effects = wrong.collect();
        self.found.effects.sort_unstable();
    }

    fn refused(&mut self, id: Id) {
        let track = self.track(id);
        // Whoever says so last: it was handled all the same.
        let known = std::mem::replace(&mut track.refused, true);
        if track.lent && !known {
            self.found.phantom.push(id);
        }
    }

    fn track(&mut self, id: Id) -> &mut Track {
        self.tracks.entry(id).or_default()
    }

    fn lent(&mut self, id: Id, key: u64, said: Said) {
        self.seen(id);
        let first = !std::mem::replace(&mut self.track(id).lent, true);
        if self.promises.ordered {
            let of_key = self.keys.entry(key).or_default();
            // Legal: 1 2 3 2 after a crash. Illegal: 1 3 2, and 3 while 2 waits for its retry.
            let behind = of_key.highest.is_some_and(|highest| id < highest);
            let overtakes = of_key.undecided.iter().any(|other| *other < id);
            let woke = self.lives.get(self.life).is_some_and(|life| life.woke(self.promises.unsettled));
            let again_behind = !first && behind && self.promises.successors_wait && !woke;
            if (first && (behind || overtakes)) || again_behind {
                self.found.reordered.push(id);
            }
            of_key.highest = of_key.highest.max(Some(id));
            match said {
                // Others have handled it meanwhile, and what it says now goes nowhere.
                Said::Again if woke && !first => false,
                Said::Again => of_key.undecided.insert(id),
                Said::Done | Said::Dead => of_key.undecided.remove(&id),
            };
        }
        if said != Said::Again {
            let decisions = self.lives.get_mut(self.life).map_or(0, |life| {
                life.last.insert(key, id);
                life.decisions += 1;
                life.decisions
            });
            let life = self.life;
            let track = self.track(id);
            track.decided = Some((life, decisions));
            track.settled = true;
        }
    }

    fn found(&mut self, id: Id) {
        // The handler said that it was dead, or nothing could be made of it: that is where it should be.
        let track = self.track(id);
        if !track.offered || track.refused {
            self.found.phantom.push(id);
        }
        self.track(id).settled = true;
    }

    /// An item is lent: is it one of ours, and may it be lent again?
    fn seen(&mut self, id: Id) {
        let track = self.tracks.entry(id).or_default();
        if !track.offered || track.refused {
            self.found.phantom.push(id);
        }
        let Some((life, at)) = track.decided else { return };
        if std::mem::take(&mut track.given_up) {
            // As if it had never been said.
            track.decided = None;
            *self.found.duplicates.entry(Window::GivenUp).or_default() += 1;
            return;
        }
        if !self.explain(Doubt { id, life, at }) {
            if life == self.life {
                self.found.unexplained.push(id);
            } else {
                // A process may learn later than others that it has lost what it had.
                self.doubts.push(Doubt { id, life, at });
            }
        }
    }

    /// Counts a repeat if a window explains it: of the life in which it was decided, or of the one that repeats it.
    fn explain(&mut self, Doubt { id, life, at }: Doubt) -> bool {
        let unsettled = self.promises.unsettled;
        let woke = life != self.life && self.lives.get(self.life).is_some_and(|life| life.woke(unsettled));
        let window = self.lives.get_mut(life).and_then(|life| life.explains(id, at, unsettled));
        let Some(window) = window.or(woke.then_some(Window::Stalled)) else { return false };
        *self.found.duplicates.entry(window).or_default() += 1;
        true
    }

    fn disk_failed(&mut self) {
        if let Some(life) = self.lives.get_mut(self.life) {
            life.failed_at = Some(life.decisions);
        }
    }

    fn breaks(&mut self, window: Window) {
        if let Some(life) = self.lives.get_mut(self.life) {
            life.breaks.push((life.decisions, window));
            let told = matches!(window, Window::Overtaken | Window::StoppedOnAFailingDisk);
            if told && self.promises.successors_wait {
                life.unsettled.extend(life.last.values().map(|id| (*id, window)));
            }
        }
    }

    fn close(mut self, ended: Option<crate::history::Left>) -> Judgement {
        // Of whatever life is told of last, nothing is repeated any more.
        self.life = usize::MAX;
        for doubt in std::mem::take(&mut self.doubts) {
            if !self.explain(doubt) {
                self.found.unexplained.push(doubt.id);
            }
        }
        let mut missing: Vec<_> = self
            .tracks
            .iter()
            .filter(|(_, track)| track.acknowledged && !track.settled)
            .map(|(id, _)| *id)
            .collect();
        missing.sort_unstable();
        match ended {
            None => self.found.leaks.push("the end was never reached".to_owned()),
            Some(left) => {
                let mut leak = |count: u64, what: &str| {
                    if count > 0 {
                        self.found.leaks.push(format!("{count} {what}"));
                    }
                };
                leak(left.in_flight, "items in flight with nobody");
                leak(left.claims, "claims of batches that are done");
                leak(left.idle_sessions, "sessions in a transaction that does nothing");
                leak(left.side_files, "files beside a closed queue");
                leak(u64::from(left.damaged), "damaged database");
                // What the file still has is not lost, it is late.
                let late = usize::try_from(left.stored).unwrap_or(usize::MAX).min(missing.len());
                if left.stored > 0 && late == 0 {
                    self.found.leaks.push(format!("{} stored items that nobody knows", left.stored));
                }
                self.found.stuck = missing.split_off(missing.len() - late);
            }
        }
        self.found.lost = missing;
        self.found
    }
}

#[cfg(test)]
mod tests;
