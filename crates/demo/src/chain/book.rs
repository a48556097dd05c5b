use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relaykit_pipeline_traits::MessageId;

use crate::filing::Filed;
use crate::queue::Said;

/// Follows every event from its first byte to its last receipt, about 50 bytes for each.
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    events: HashMap<MessageId, Entry>,
    /// Effects of events that nobody posted.
    strange: u64,
}

#[derive(Debug, Default)]
struct Entry {
    /// In which order the events of a user were posted.
    number: u64,
    accepted: bool,
    /// How often it took effect.
    effects: u32,
    said: Option<Said>,
}

/// How the events stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Standing {
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    pub(super) dead: u64,
    /// Accepted, and nothing was said of them in the end.
    pub(super) open: u64,
    /// Said to be delivered, and never took effect; or taking effect, and never posted.
    pub(super) false_deliveries: u64,
    /// Effects beyond the first of an event.
    pub(super) repeated: u64,
}

/// How the receipts stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Receipts {
    pub(super) filed: u64,
    /// Accepted events without one.
    pub(super) missing: u64,
    /// Receipts behind that of a later event of their user.
    pub(super) out_of_order: u64,
}

impl Book {
    /// Enters an event before its first byte is sent.
    pub(super) fn post(&self, id: MessageId, number: u64) {
        self.lock().events.insert(id, Entry { number, ..Entry::default() });
    }

    /// Notes that an event was answered with 202.
    pub(super) fn accepted(&self, id: MessageId) {
        if let Some(entry) = self.lock().events.get_mut(&id) {
            entry.accepted = true;
        }
    }

    /// Notes that an event took effect at the stand-in.
    pub(super) fn applied(&self, id: &str) {
        let mut state = self.lock();
        match id.parse().ok().and_then(|id: MessageId| state.events.get_mut(&id)) {
            Some(entry) => entry.effects += 1,
            None => state.strange += 1,
        }
    }

    /// Notes what the API said of an event.
    pub(super) fn said(&self, id: &str, said: Said) {
        let mut state = self.lock();
        if let Some(entry) = id.parse().ok().and_then(|id: MessageId| state.events.get_mut(&id)) {
            entry.said = Some(said);
        }
    }

    /// Returns how the events stand. `checked`: whether the server tells what took effect.
    pub(super) fn standing(&self, checked: bool) -> Standing {
        let state = self.lock();
        let mut standing = Standing { false_deliveries: state.strange, ..Standing::default() };
        for entry in state.events.values() {
            standing.accepted += u64::from(entry.accepted);
            standing.repeated += u64::from(entry.effects.saturating_sub(1));
            match entry.said {
                Some(Said::Delivered) => {
                    standing.delivered += 1;
                    standing.false_deliveries += u64::from(checked && entry.effects == 0);
                }
                Some(Said::Dead) => standing.dead += 1,
                None => standing.open += u64::from(entry.accepted),
            }
        }
        standing
    }

    /// Compares the receipts in the file with the events that were accepted.
    pub(super) fn receipts(&self, filed: &[Filed]) -> Receipts {
        let state = self.lock();
        let mut receipts = Receipts::default();
        let mut latest: HashMap<Option<&str>, u64> = HashMap::new();
        for receipt in filed {
            // Those of earlier runs are no business of this one.
            let entry = receipt.event.parse().ok().and_then(|id: MessageId| state.events.get(&id));
            let Some(entry) = entry else { continue };
            receipts.filed += u64::from(entry.accepted);
            let latest = latest.entry(receipt.user.as_deref()).or_default();
            receipts.out_of_order += u64::from(entry.number < *latest);
            *latest = entry.number.max(*latest);
        }
        let accepted = state.events.values().filter(|entry| entry.accepted).count() as u64;
        receipts.missing = accepted - receipts.filed;
        receipts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::uuid::Uuid;

    use super::*;

    fn id(number: u64) -> MessageId {
        MessageId::from_uuid(Uuid::from_u128(number.into()))
    }

    fn book(accepted: u64) -> Book {
        let book = Book::default();
        for number in 1..=accepted {
            book.post(id(number), number);
            book.accepted(id(number));
        }
        book
    }

    fn receipt(number: u64, user: &str) -> Filed {
        Filed { event: id(number).to_string(), user: Some(user.to_owned()) }
    }

    #[test]
    fn an_event_is_open_until_the_api_said_something_of_it() {
        let book = book(3);
        book.post(id(4), 4);
        for number in 1..=2 {
            book.applied(&id(number).to_string());
            book.said(&id(number).to_string(), Said::Delivered);
        }
        book.said(&id(3).to_string(), Said::Dead);
        let good = Standing { accepted: 3, delivered: 2, dead: 1, ..Standing::default() };
        assert_eq!(book.standing(true), good);
        book.accepted(id(4));
        assert_eq!(book.standing(true), Standing { accepted: 4, open: 1, ..good });
    }

    #[test]
    fn what_is_said_to_be_delivered_and_never_took_effect_is_found_out() {
        let book = book(1);
        book.said(&id(1).to_string(), Said::Delivered);
        assert_eq!(book.standing(true).false_deliveries, 1);
        assert_eq!(book.standing(false).false_deliveries, 0);
        book.applied("an event of nobody");
        assert_eq!(book.standing(false).false_deliveries, 1);
    }

    #[test]
    fn effects_beyond_the_first_are_repetitions() {
        let book = book(1);
        for _ in 0..3 {
            book.applied(&id(1).to_string());
        }
        assert_eq!(book.standing(true).repeated, 2);
    }

    #[test]
    fn receipts_that_are_missing_or_late_are_counted() {
        let book = book(4);
        let filed = [receipt(3, "ada"), receipt(2, "bob"), receipt(1, "ada"), receipt(9, "ada")];
        assert_eq!(book.receipts(&filed), Receipts { filed: 3, missing: 1, out_of_order: 1 });
    }
}
