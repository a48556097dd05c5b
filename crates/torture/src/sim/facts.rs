use std::collections::BTreeMap;
use std::time::Duration;

use super::trace::{Call, Life, What};
use crate::history::{Event, Id, Left, Said};
use crate::oracle::{self, Judgement, Promises};

/// What really happened to the messages of an outbox, or of a handler: what the database has, and what whoever they were given to
/// had. The simulation knows all of it at once, so that nothing has to be explained that could be wrong.
#[derive(Debug)]
pub(super) struct Facts {
    name: String,
    rows: BTreeMap<Id, Row>,
    /// Which row is where in the store.
    places: BTreeMap<i64, Id>,
    calls: BTreeMap<Call, Lent>,
    history: Vec<Event>,
    /// What must not be, in words, and of which row.
    wrong: Judgement,
    words: Vec<String>,
    /// Attempts after which a message may become a dead letter.
    attempts: u32,
    /// Whether its effects and the ends of its messages are committed together.
    ends_itself: bool,
}

/// A message in a store.
#[derive(Debug)]
struct Row {
    key: Option<u64>,
    fate: Fate,
    /// Calls that had it, and failed or were given up.
    failed: u32,
    /// How often it was noted as being sent alone.
    alone: u32,
    /// The calls in which it had its effect.
    effects: Vec<Call>,
    said_done: bool,
    said_dead: bool,
    /// An operator made it a dead letter, or a message again: others may overtake it, and who has it in hand does not know.
    meddled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stored,
    Done,
    Dead,
}

/// A message in the hands of a call.
#[derive(Debug)]
struct Lent {
    id: Id,
    life: Life,
    /// The time when it began.
    began: Duration,
    open: bool,
    said: Option<Said>,
}

/// What happened to a process.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct LifeFacts {
    pub(super) killed: bool,
    /// When it stood still last, and until when.
    pub(super) frozen: Option<(Duration, Duration)>,
    /// When it said last that it had lost a lease, or did not know what was written under it.
    pub(super) overtaken: Option<Duration>,
}

impl LifeFacts {
    /// Whether it stood still after this moment.
    fn stood_still_since(&self, since: Duration) -> bool {
        self.frozen.is_some_and(|(_, until)| until > since)
    }

    /// Whether what it wrote of a call that began then may have taken effect without its knowing.
    fn was_overtaken_since(&self, since: Duration) -> bool {
        self.overtaken.is_some_and(|at| at >= since)
    }
}

/// What became of a row, by a settlement that took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Became {
    Done,
    Waits,
    Rejected,
    /// A dead letter for another reason, after so many attempts.
    Exhausted(u32),
}

impl Facts {
    pub(super) fn new(name: impl Into<String>, attempts: u32, ends_itself: bool) -> Self {
        Self {
            name: name.into(),
            rows: BTreeMap::new(),
            places: BTreeMap::new(),
            calls: BTreeMap::new(),
            history: Vec::new(),
            wrong: Judgement::default(),
            words: Vec::new(),
            attempts,
            ends_itself,
        }
    }

    pub(super) fn items(&self) -> u64 {
        self.rows.len() as u64
    }

    pub(super) fn history(&self) -> &[Event] {
        &self.history
    }

    /// A message was committed.
    pub(super) fn stored(&mut self, id: Id, key: Option<u64>) {
        let row = Row {
            key,
            fate: Fate::Stored,
            failed: 0,
            alone: 0,
            effects: Vec::new(),
            said_done: false,
            said_dead: false,
            meddled: false,
        };
        self.rows.insert(id, row);
        let key = key.unwrap_or(u64::MAX - id);
        self.history.extend([Event::Offered { id, key }, Event::Acknowledged { id }]);
    }

    /// A page showed where it is.
    pub(super) fn seen_at(&mut self, place: i64, id: Id) {
        self.places.insert(place, id);
    }

    pub(super) fn at(&self, place: i64) -> Option<Id> {
        self.places.get(&place).copied()
    }

    /// It is about to be given to somebody.
    pub(super) fn began(&mut self, call: Call, id: Id, life: Life, lives: &[LifeFacts], now: Duration) {
        let Some(row) = self.rows.get(&id) else {
            self.wrong.phantom.push(id);
            return self.say(now, &format!("{id} was lent, and never stored"));
        };
        let (key, fate) = (row.key, row.fate);
        // Of what was committed with its end, and whose answer was lost, nobody knows that it is done; nor whoever gave a settlement
        // up that took effect late.
        let last = row.effects.last().and_then(|call| self.calls.get(call));
        let late = |lent: &Lent| {
            let same = lent.life == life;
            same && lives.get(life).is_some_and(|facts| facts.was_overtaken_since(lent.began))
        };
        let unanswered = |lent: &Lent| (self.ends_itself && lent.said.is_none()) || late(lent);
        let unknown = row.meddled || last.is_some_and(unanswered);
        if !unknown && fate != Fate::Stored {
            self.wrong.unexplained.push(id);
            self.say(now, &format!("{id} was lent by {life} though it was settled as {fate:?}"));
        }
        let before = key.and_then(|_| {
            let mut before = self.rows.range(..id).filter(|(_, row)| row.key == key);
            before.find(|(_, row)| row.fate == Fate::Stored && !row.meddled).map(|(id, _)| *id)
        });
        if let Some(before) = before {
            self.wrong.reordered.push(id);
            self.say(now, &format!("{id} was lent by {life} while {before} of its key was not settled"));
        }
        let beside = self.calls.iter().find(|(_, other)| {
            let same = other.id == id || (key.is_some() && self.rows[&other.id].key == key);
            let out_of_sight = lives.get(other.life).is_some_and(|facts| {
                facts.killed || (other.life != life && facts.stood_still_since(other.began))
            });
            other.open && same && !out_of_sight
        });
        if let Some((other, lent)) = beside {
            let words = format!("{id} was lent by {life} while {} had {} (call {other})", lent.life, lent.id);
            self.wrong.unexplained.push(id);
            self.say(now, &words);
        }
        self.calls.insert(call, Lent { id, life, began: now, open: true, said: None });
    }

    /// It had its effect, and this is what will be said of it.
    pub(super) fn took(&mut self, call: Call, said: Said, lives: &[LifeFacts], now: Duration) {
        let Some(Lent { id, life, began, .. }) = self.calls.get(&call) else { return };
        let (id, life, began) = (*id, *life, *began);
        let Some(row) = self.rows.get(&id) else { return };
        let stood_still = lives.get(life).is_some_and(|facts| facts.stood_still_since(began));
        let overtaken = row.effects.is_empty() && !row.meddled && !stood_still && row.key.is_some();
        let later = || {
            let mut later = self.rows.range(id + 1..).filter(|(_, other)| other.key == row.key);
            later.find(|(_, other)| !other.effects.is_empty()).map(|(id, _)| *id)
        };
        if let Some(later) = overtaken.then(later).flatten() {
            self.wrong.reordered.push(id);
            self.say(now, &format!("{id} had its first effect after {later} of its key had one"));
        }
        if let Some(row) = self.rows.get_mut(&id) {
            row.effects.push(call);
            self.history.extend([
                Event::By { life },
                Event::Lent { id, key: row.key.unwrap_or(u64::MAX - id), said },
            ]);
        }
    }

    /// Its call said this of it; nothing, if it was not tried.
    pub(super) fn said(&mut self, call: Call, said: Option<Said>) {
        let Some(lent) = self.calls.get_mut(&call) else { return };
        (lent.open, lent.said) = (false, said);
        if let Some(row) = self.rows.get_mut(&lent.id) {
            row.failed += u32::from(said == Some(Said::Again));
            row.said_done |= said == Some(Said::Done);
            row.said_dead |= said == Some(Said::Dead);
        }
    }

    /// Its call was dropped, or panicked.
    pub(super) fn given_up(&mut self, call: Call) {
        let Some(lent) = self.calls.get_mut(&call).filter(|lent| lent.open) else { return };
        lent.open = false;
        if let Some(row) = self.rows.get_mut(&lent.id) {
            row.failed += 1;
        }
        self.history.push(Event::GivenUp { id: lent.id });
    }

    /// It was noted that it is sent alone.
    pub(super) fn noted_alone(&mut self, place: i64) {
        if let Some(row) = self.places.get(&place).and_then(|id| self.rows.get_mut(id)) {
            row.alone += 1;
        }
    }

    /// A settlement of it took effect, unless it had one before. Returns whose.
    pub(super) fn settled(&mut self, place: i64, became: Became, now: Duration) -> Option<Id> {
        let Some(id) = self.at(place) else {
            self.say(now, &format!("what is at {place} was settled, and never read"));
            self.wrong.phantom.push(0);
            return None;
        };
        let attempts = self.attempts;
        let row = self.rows.get_mut(&id).filter(|row| row.fate == Fate::Stored)?;
        let wrong = match became {
            Became::Done if !row.said_done && !self.ends_itself => {
                Some("settled as done, and nobody said so".to_owned())
            }
            Became::Rejected if !row.said_dead => Some("a dead letter, and nobody said so".to_owned()),
            Became::Exhausted(spent) if spent < attempts || spent > row.failed + row.alone => {
                Some(format!("a dead letter after {spent} attempts, of which {} failed", row.failed))
            }
            _ => None,
        };
        row.fate = match became {
            Became::Done => Fate::Done,
            Became::Waits => Fate::Stored,
            Became::Rejected | Became::Exhausted(_) => Fate::Dead,
        };
        if let Some(wrong) = wrong {
            self.wrong.lost.push(id);
            self.say(now, &format!("{id} was {wrong}"));
        }
        Some(id)
    }

    /// An operator made it a dead letter, or a message again.
    pub(super) fn meddled(&mut self, id: Id, dead: bool) {
        if let Some(row) = self.rows.get_mut(&id) {
            row.fate = if dead { Fate::Dead } else { Fate::Stored };
            row.meddled = true;
        }
    }

    fn say(&mut self, now: Duration, words: &str) {
        self.words.push(format!("{}: at {now:?}, {words}", self.name));
    }

    /// Tells what happened to a process.
    pub(super) fn life(&mut self, life: Life, what: &What) {
        let event = match what {
            What::Killed => Event::Killed,
            What::Froze { .. } => Event::Stalled,
            What::Overtaken { .. } => Event::Overtaken,
            _ => return,
        };
        self.history.extend([Event::By { life }, event]);
    }

    /// Judges it all, once nothing goes on any more: with so many messages left in the store, and these dead letters.
    pub(super) fn judge(
        &mut self,
        lives: &[LifeFacts],
        pending: u64,
        dead: &[Id],
    ) -> (Judgement, Vec<String>) {
        let found = |id: &Id| Event::Found { id: *id };
        self.history.extend(dead.iter().map(found));
        let stored = pending + dead.len() as u64;
        self.history.push(Event::Ended { left: Left { stored: pending, ..Left::default() } });
        for (id, row) in &self.rows {
            let is_dead = dead.contains(id);
            if (row.fate == Fate::Dead) != is_dead || (row.fate == Fate::Stored && pending == 0) {
                self.wrong.lost.push(*id);
                self.words.push(format!("{}: {id} should be {:?} ({stored} stored)", self.name, row.fate));
            }
            if row.fate == Fate::Done && row.effects.is_empty() {
                self.wrong.lost.push(*id);
                self.words.push(format!("{}: {id} is done, and had no effect", self.name));
            }
            for pair in row.effects.windows(2) {
                let (Some(first), Some(second)) = (self.calls.get(&pair[0]), self.calls.get(&pair[1])) else {
                    continue;
                };
                let facts = |lent: &Lent| lives.get(lent.life).copied().unwrap_or_default();
                let settled_late = facts(first).killed || facts(first).was_overtaken_since(first.began);
                let explained = row.meddled
                    || (first.said != Some(Said::Done) && !self.ends_itself)
                    || (settled_late && !self.ends_itself)
                    || facts(first).stood_still_since(first.began)
                    || facts(second).stood_still_since(second.began);
                if !explained {
                    self.wrong.unexplained.push(*id);
                    let words = format!(
                        "{}: {id} had an effect twice (calls {} and {})",
                        self.name, pair[0], pair[1]
                    );
                    self.words.push(words);
                }
            }
        }
        // What is known here is known for sure; of the windows, the common oracle knows more.
        let promises = Promises { ordered: false, unsettled: usize::MAX, successors_wait: false };
        let mut judgement = oracle::judge(&self.history, promises);
        judgement.unexplained.retain(|id| self.rows.get(id).is_none_or(|row| !row.meddled));
        let Judgement { lost, phantom, reordered, unexplained, .. } = std::mem::take(&mut self.wrong);
        judgement.lost.extend(lost);
        judgement.phantom.extend(phantom);
        judgement.reordered.extend(reordered);
        judgement.unexplained.extend(unexplained);
        (judgement, std::mem::take(&mut self.words))
    }
}

#[cfg(test)]
mod tests;
