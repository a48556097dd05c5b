use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use relaykit_iterable_handlers::{IdentityKey, MAX_ELEMENTS_BYTES};
use relaykit_pipeline_traits::Monotonic;

use super::tries::Tries;
use crate::delivery::Event;

/// How many events are held that have not come to their end, on their way or not: enough that a few users in trouble do
/// not hold up the others.
pub(super) const MAX_EVENTS: usize = 10_000;

/// How many bytes they have, to within one event.
const MAX_BYTES: usize = 16 * MAX_ELEMENTS_BYTES;

/// An event that waits to be handed on.
pub(super) struct Pending {
    /// The number of its line: events of a user go in this order.
    pub(super) number: u64,
    pub(super) event: Event,
    pub(super) tries: Tries,
}

/// The events that were read and have not come to their end; those that may not go yet wait here, by user.
#[derive(Default)]
pub(super) struct Window {
    /// The waiting events of each user, oldest first.
    lanes: HashMap<IdentityKey, VecDeque<Pending>>,
    /// Users with an event that nobody has looked at yet.
    fresh: Vec<IdentityKey>,
    /// When the backoff of a failed event ends.
    backoffs: BinaryHeap<Reverse<(Monotonic, IdentityKey)>>,
    held: usize,
    bytes: usize,
}

impl Window {
    /// Returns how many events have not come to their end, on their way or not.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Whether another event may be read.
    pub(super) const fn has_room(&self) -> bool {
        self.held < MAX_EVENTS && self.bytes < MAX_BYTES
    }

    /// Adds an event behind those of its user.
    pub(super) fn append(&mut self, key: IdentityKey, pending: Pending) {
        self.held += 1;
        self.bytes += pending.event.weight();
        self.fresh.push(key.clone());
        self.lanes.entry(key).or_default().push_back(pending);
    }

    /// Puts an event that failed back to its place, which is before those of its user that wait.
    pub(super) fn put_back(&mut self, key: IdentityKey, pending: Pending) {
        match pending.tries.due {
            Some(due) => self.backoffs.push(Reverse((due, key.clone()))),
            None => self.fresh.push(key.clone()),
        }
        self.lanes.entry(key).or_default().push_front(pending);
    }

    /// Returns the users of whom something has changed since the last time: an event is new, or its backoff has ended.
    pub(super) fn changed(&mut self, now: Monotonic) -> Vec<IdentityKey> {
        let mut changed = std::mem::take(&mut self.fresh);
        while let Some(Reverse((due, _))) = self.backoffs.peek()
            && *due <= now
        {
            changed.extend(self.backoffs.pop().map(|Reverse((_, key))| key));
        }
        changed
    }

    /// Returns when the next backoff ends.
    pub(super) fn next_due(&self) -> Option<Monotonic> {
        self.backoffs.peek().map(|Reverse((due, _))| *due)
    }

    /// Returns the number of the user's oldest event, unless it is in backoff.
    pub(super) fn first(&self, key: &IdentityKey, now: Monotonic) -> Option<u64> {
        let first = self.lanes.get(key)?.front()?;
        first.tries.due.is_none_or(|due| due <= now).then_some(first.number)
    }

    /// Takes the user's oldest event out, to send it. It comes back, or to its end.
    pub(super) fn take(&mut self, key: &IdentityKey) -> Option<Pending> {
        let lane = self.lanes.get_mut(key)?;
        let pending = lane.pop_front()?;
        if lane.is_empty() {
            self.lanes.remove(key);
        }
        Some(pending)
    }

    /// Makes room, since an event has come to its end.
    pub(super) fn end(&mut self, event: &Event) {
        self.held -= 1;
        self.bytes -= event.weight();
    }

    /// Takes all events out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Event> + use<> {
        let Self { lanes, .. } = std::mem::take(self);
        lanes.into_values().flatten().map(|pending| pending.event)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use relaykit_iterable_handlers::{EventTrack, Identity, IdentitySpace, Request as _, Stamper};

    use super::*;

    fn key(user: &str) -> IdentityKey {
        IdentityKey::new(IdentitySpace::UserId, user)
    }

    fn pending(number: u64, due: Option<Monotonic>) -> Pending {
        let event = EventTrack::new(Identity::user_id("ada"), "e").prepare(&Stamper::system()).unwrap();
        let mut tries = Tries::default();
        tries.due = due;
        Pending { number, event, tries }
    }

    fn at(seconds: u64) -> Monotonic {
        Monotonic::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn a_failed_event_goes_before_the_others_of_its_user_and_holds_them_back_in_its_backoff() {
        let mut window = Window::default();
        for number in 1..=2 {
            window.append(key("ada"), pending(number, None));
        }
        window.append(key("bob"), pending(3, None));
        assert_eq!(window.changed(at(0)), [key("ada"), key("ada"), key("bob")]);
        let mut first = window.take(&key("ada")).unwrap();
        first.tries.due = Some(at(5));
        window.put_back(key("ada"), first);
        assert_eq!((window.first(&key("ada"), at(4)), window.first(&key("bob"), at(4))), (None, Some(3)));
        assert_eq!((window.next_due(), window.changed(at(4))), (Some(at(5)), vec![]));
        assert_eq!(window.changed(at(5)), [key("ada")]);
        assert_eq!((window.first(&key("ada"), at(5)), window.next_due()), (Some(1), None));
    }

    #[test]
    fn events_on_their_way_take_room_until_they_end() {
        let mut window = Window::default();
        for number in 1..=MAX_EVENTS as u64 {
            window.append(key("ada"), pending(number, None));
        }
        let sent = window.take(&key("ada")).unwrap();
        assert!(!window.has_room());
        window.end(&sent.event);
        assert!(window.has_room());
        assert_eq!(window.held(), MAX_EVENTS - 1);
        assert_eq!(window.drain().count(), MAX_EVENTS - 1);
        assert_eq!(window.held(), 0);
    }

    #[test]
    fn nothing_is_kept_of_users_without_an_event_that_waits() {
        let mut window = Window::default();
        window.append(key("ada"), pending(1, None));
        window.changed(at(0));
        let sent = window.take(&key("ada")).unwrap();
        window.end(&sent.event);
        assert!(window.lanes.is_empty() && window.fresh.is_empty() && window.backoffs.is_empty());
        assert_eq!(window.bytes, 0);
    }
}
