//! What is known about one key, and every decision about it, as plain functions of (record, job, bounds, now).

use crate::bounds::{Bounds, Micros, NEVER};
use crate::notice::{At, Event};
use crate::state::State;

/// One key. 40 bytes for a `u64` job, since a blocked key needs no more; the rest is boxed.
#[derive(Debug)]
pub(crate) struct Record<J> {
    /// The oldest failed job.
    head: Option<J>,
    rest: Option<Box<Rest<J>>>,
    /// When the key became blocked.
    since: Micros,
    /// Refusals at the gates since the key last opened.
    refused: u32,
    /// What the next sync does to `head`.
    head_end: End,
    /// The key stands in the shard's list for the next sync.
    dirty: bool,
    /// A place came free, by a leave, that somebody was refused before.
    freed: bool,
}

/// What few keys have, or all keys only while jobs in flight are counted.
#[derive(Debug)]
struct Rest<J> {
    phase: Phase,
    /// Since when the drain limit is on.
    draining: Option<Micros>,
    /// Other failed jobs, all later than `head`, ascending.
    behind: Vec<Behind<J>>,
    /// Jobs in flight, as far as they are counted.
    inside: Vec<Inside<J>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Enabled,
    Disabled { since: Micros },
    HalfEnabled { since: Micros },
}

#[derive(Debug)]
struct Behind<J> {
    job: J,
    ended: bool,
}

#[derive(Debug)]
struct Inside<J> {
    job: J,
    /// It entered while the drain limit was on.
    draining: bool,
    end: End,
}

/// What the next sync makes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing.
    None,
    /// It was held back, so it is in flight no more.
    Left,
    /// It ended.
    Done,
    /// It was given up.
    Aborted,
}

/// The first gate's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry<J> {
    Accepted { retry: bool },
    Bypassed,
    Blocked { by: J },
    Draining,
    Full,
}

/// What a sync did to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Applied {
    /// A job that was refused before, or would have been, may pass now.
    pub(crate) opened: bool,
}

impl<J: Ord + Copy> Record<J> {
    pub(crate) const fn new() -> Self {
        Self { head: None, rest: None, since: 0, refused: 0, head_end: End::None, dirty: false, freed: false }
    }

    /// Whether nothing is known about the key, so that its record can go.
    pub(crate) fn is_idle(&self) -> bool {
        self.head.is_none() && !self.dirty && self.rest.is_none()
    }

    pub(crate) const fn head(&self) -> Option<J> {
        self.head
    }

    pub(crate) const fn since(&self) -> Micros {
        self.since
    }

    pub(crate) const fn refused(&self) -> u32 {
        self.refused
    }

    pub(crate) fn failed_behind(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.behind.len())
    }

    pub(crate) fn in_flight(&self) -> impl Iterator<Item = J> + '_ {
        self.rest.iter().flat_map(|rest| rest.inside.iter().map(|inside| inside.job))
    }

    fn in_flight_count(&self) -> usize {
        self.rest.as_ref().map_or(0, |rest| rest.inside.len())
    }

    fn phase(&self) -> Phase {
        self.rest.as_ref().map_or(Phase::Enabled, |rest| rest.phase)
    }

    pub(crate) fn is_disabled(&self) -> bool {
        matches!(self.phase(), Phase::Disabled { .. })
    }

    /// Its state's name, for people.
    pub(crate) fn state_name(&self) -> &'static str {
        match self.phase() {
            Phase::Disabled { .. } => "disabled",
            Phase::HalfEnabled { .. } => "half-enabled",
            Phase::Enabled if self.is_draining() => "draining",
            Phase::Enabled => "enabled",
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.draining.is_some())
    }

    /// Marks the key for the next sync.
    pub(crate) const fn mark(&mut self) {
        self.dirty = true;
    }

    pub(crate) const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// When time alone changes the record.
    pub(crate) fn due(&self, bounds: &Bounds) -> Micros {
        let Some(rest) = &self.rest else { return NEVER };
        let phase = match rest.phase {
            Phase::Disabled { since } => since.saturating_add(bounds.disabled_for),
            Phase::HalfEnabled { since } => since.saturating_add(bounds.half_for),
            Phase::Enabled => NEVER,
        };
        let drain = match rest.draining {
            // Switched off meanwhile.
            Some(_) if bounds.drain == 0 => 0,
            Some(since) if rest.inside.is_empty() => since.saturating_add(bounds.drain_for),
            _ => NEVER,
        };
        phase.min(drain)
    }

    /// Does what time alone does. Every look at a record begins with it, so that no state outlives its time.
    pub(crate) fn advance(&mut self, bounds: &Bounds, now: Micros) -> (Applied, Option<Event<J>>) {
        let mut restored = false;
        let mut opened = false;
        if let Some(rest) = &mut self.rest {
            if let Phase::Disabled { since } = rest.phase {
                let until = since.saturating_add(bounds.disabled_for);
                if now >= until {
                    rest.phase = Phase::HalfEnabled { since: until };
                    restored = true;
                }
            }
            if let Phase::HalfEnabled { since } = rest.phase
                && now >= since.saturating_add(bounds.half_for)
            {
                rest.phase = Phase::Enabled;
            }
            if let Some(since) = rest.draining
                && (bounds.drain == 0
                    || (rest.inside.is_empty() && now >= since.saturating_add(bounds.drain_for)))
            {
                rest.stop_draining(bounds);
                opened = self.refused > 0;
            }
        }
        self.tidy();
        (Applied { opened }, restored.then_some(Event::OrderRestored))
    }

    /// Notes, for the next sync, that time or a new limit made room.
    pub(crate) const fn reopen(&mut self) {
        self.freed = true;
    }

    /// Whether the next sync must say that there is room.
    pub(crate) const fn is_freed(&self) -> bool {
        self.freed
    }

    /// Begins to count refusals anew, since whoever was refused is told that there is room.
    pub(crate) const fn wake(&mut self) {
        self.refused = 0;
    }

    /// Decides at the first gate.
    pub(crate) fn enter(
        &mut self,
        job: J,
        bounds: &Bounds,
        now: Micros,
        event: &mut Option<Event<J>>,
    ) -> Entry<J> {
        if self.is_disabled() {
            return Entry::Bypassed;
        }
        let known = self.rest.as_mut().and_then(|rest| rest.find_inside(job)).is_some();
        let full = bounds.threshold > 0 && !known && self.in_flight_count() >= bounds.threshold;
        if full && bounds.waive {
            *event = Some(self.waive());
            self.rest().phase = Phase::Disabled { since: now };
            return Entry::Bypassed;
        }
        match self.head {
            Some(head) if job > head => {
                self.refuse();
                return Entry::Blocked { by: head };
            }
            Some(head) if job < head => *event = self.out_of_order(At::Enter, head, job),
            _ => {}
        }
        let draining = self.is_draining();
        if draining && !known && self.rest().draining_count() >= bounds.drain {
            self.refuse();
            return Entry::Draining;
        }
        if full {
            self.refuse();
            return Entry::Full;
        }
        if draining || bounds.tracks() {
            let rest = self.rest();
            match rest.find_inside(job) {
                Some(inside) => {
                    inside.end = End::None;
                    inside.draining |= draining;
                }
                None => rest.inside.push(Inside { job, draining, end: End::None }),
            }
        }
        Entry::Accepted { retry: self.head == Some(job) }
    }

    /// Decides at the second gate; answers with the job to wait for.
    pub(crate) fn wait(&mut self, job: J, event: &mut Option<Event<J>>) -> Option<J> {
        let head = self.head?;
        if job > head {
            self.refuse();
            return Some(head);
        }
        if job < head {
            *event = self.out_of_order(At::Wait, head, job);
        }
        None
    }

    /// Undoes an enter.
    pub(crate) fn leave(&mut self, job: J) {
        let Some(rest) = &mut self.rest else { return };
        let before = rest.inside.len();
        rest.inside.retain(|inside| inside.job != job);
        self.freed |= rest.inside.len() < before && self.refused > 0;
        self.tidy();
    }

    /// Closes the gate behind a failed job; answers whether that changed anything.
    pub(crate) fn fail(
        &mut self,
        job: J,
        bounds: &Bounds,
        now: Micros,
        event: &mut Option<Event<J>>,
    ) -> bool {
        if self.is_disabled() {
            return false;
        }
        if let Some(rest) = &mut self.rest {
            rest.inside.retain(|inside| inside.job != job);
            rest.stop_draining(bounds);
        }
        match self.head {
            None => {
                self.head = Some(job);
                self.since = now;
            }
            Some(head) if head == job => self.head_end = End::None,
            Some(head) if job < head => {
                *event = self.out_of_order(At::Failed, head, job);
                if self.head_end == End::None {
                    self.rest().put_behind(head);
                }
                self.head_end = End::None;
                self.head = Some(job);
            }
            Some(_) => self.rest().put_behind(job),
        }
        self.tidy();
        true
    }

    /// Notes that a job ended or was held back, for the next sync; answers whether there is anything to do then.
    pub(crate) fn end(&mut self, job: J, state: State) -> bool {
        if self.is_disabled() {
            return false;
        }
        let end = match state {
            State::Succeeded | State::Filtered => End::Done,
            State::Aborted => End::Aborted,
            State::Waiting => End::Left,
            State::Failed => return false,
        };
        let mut noted = false;
        if let Some(rest) = &mut self.rest {
            if let Some(inside) = rest.find_inside(job) {
                inside.end = end;
                noted = true;
            }
            if end != End::Left
                && let Ok(at) = rest.behind.binary_search_by(|behind| behind.job.cmp(&job))
            {
                rest.behind[at].ended = true;
                noted = true;
            }
        }
        if end != End::Left && self.head == Some(job) {
            self.head_end = end;
            noted = true;
        }
        noted
    }

    /// Notes, for the next sync, that no failed job is waited for any more.
    pub(crate) fn release(&mut self) -> bool {
        if self.head.is_none() {
            return false;
        }
        self.head_end = End::Done;
        if let Some(rest) = &mut self.rest {
            rest.behind.iter_mut().for_each(|behind| behind.ended = true);
        }
        true
    }

    /// Notes, for the next sync, that one failed job is not waited for any more.
    pub(crate) fn skip(&mut self, job: J) -> bool {
        if self.head == Some(job) {
            self.head_end = End::Done;
            return true;
        }
        let Some(rest) = &mut self.rest else { return false };
        let found = rest.behind.binary_search_by(|behind| behind.job.cmp(&job));
        if let Ok(at) = found {
            rest.behind[at].ended = true;
        }
        found.is_ok()
    }

    /// Does what was noted since the last sync.
    pub(crate) fn sync(&mut self, bounds: &Bounds, now: Micros) -> Applied {
        self.dirty = false;
        let head_end = std::mem::replace(&mut self.head_end, End::None);
        let mut opened = head_end != End::None;
        if let Some(rest) = &mut self.rest {
            let admitted_ended = rest
                .inside
                .iter()
                .any(|inside| inside.draining && matches!(inside.end, End::Done | End::Aborted));
            let before = rest.inside.len();
            rest.inside.retain(|inside| inside.end == End::None);
            self.freed |= rest.inside.len() < before;
            if admitted_ended {
                rest.stop_draining(bounds);
            }
            rest.behind.retain(|behind| !behind.ended);
        }
        opened |= std::mem::take(&mut self.freed) && self.refused > 0;
        if head_end != End::None {
            self.head = self.rest.as_mut().and_then(|rest| {
                let next = !rest.behind.is_empty();
                next.then(|| rest.behind.remove(0).job)
            });
            if head_end == End::Aborted && bounds.drain > 0 && self.head.is_none() {
                self.rest().draining = Some(now);
            }
        }
        if opened {
            self.wake();
        }
        self.tidy();
        Applied { opened }
    }

    /// Forgets everything about the key, because its order is not kept from here on.
    pub(crate) fn waive(&mut self) -> Event<J> {
        let event = Event::OrderWaived { failed: self.head, in_flight: self.in_flight_count() };
        // Whoever was refused may pass now.
        let Self { dirty, refused, .. } = *self;
        *self = Self { dirty, refused, freed: refused > 0, ..Self::new() };
        event
    }

    fn refuse(&mut self) {
        self.refused = self.refused.saturating_add(1);
    }

    /// A report, unless the key is half-enabled: jobs from the time without order may still be about.
    fn out_of_order(&self, at: At, failed: J, job: J) -> Option<Event<J>> {
        (self.phase() == Phase::Enabled).then_some(Event::OutOfOrder { at, failed, job })
    }

    fn rest(&mut self) -> &mut Rest<J> {
        self.rest.get_or_insert_with(|| {
            Box::new(Rest { phase: Phase::Enabled, draining: None, behind: Vec::new(), inside: Vec::new() })
        })
    }

    /// Gives memory back that says nothing.
    fn tidy(&mut self) {
        if self.rest.as_ref().is_some_and(|rest| rest.is_empty()) {
            self.rest = None;
        }
    }
}

impl<J: Ord + Copy> Rest<J> {
    fn is_empty(&self) -> bool {
        self.phase == Phase::Enabled
            && self.draining.is_none()
            && self.behind.is_empty()
            && self.inside.is_empty()
    }

    fn find_inside(&mut self, job: J) -> Option<&mut Inside<J>> {
        self.inside.iter_mut().find(|inside| inside.job == job)
    }

    fn draining_count(&self) -> usize {
        self.inside.iter().filter(|inside| inside.draining).count()
    }

    /// Ends the drain limit; jobs that only it had counted are counted no more.
    fn stop_draining(&mut self, bounds: &Bounds) {
        if self.draining.take().is_none() {
            return;
        }
        if bounds.tracks() {
            self.inside.iter_mut().for_each(|inside| inside.draining = false);
        } else {
            self.inside.clear();
        }
    }

    fn put_behind(&mut self, job: J) {
        match self.behind.binary_search_by(|behind| behind.job.cmp(&job)) {
            Ok(at) => self.behind[at].ended = false,
            Err(at) => self.behind.insert(at, Behind { job, ended: false }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_key_needs_40_bytes() {
        assert_eq!(size_of::<Record<u64>>(), 40);
    }
}
