use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Holds every event between its acceptance and its answer against what the stand-in says took effect.
///
/// An event leaves the ledger with its answer, so it stays as small as what is on its way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// How often each unanswered event took effect.
    open: HashMap<Box<str>, u32>,
    /// Effects of events that had taken effect before; harmless, since the id is the same.
    repeated: u64,
    /// Answers of delivery for events that never took effect.
    false_deliveries: u64,
}

impl Ledger {
    /// Enters an event before it is handed over.
    pub(crate) fn accept(&self, id: &str) {
        self.lock().open.insert(id.into(), 0);
    }

    /// Takes back an event that was not accepted after all.
    pub(crate) fn withdraw(&self, id: &str) {
        self.lock().open.remove(id);
    }

    /// Notes that an event took effect at the stand-in.
    pub(crate) fn applied(&self, id: &str) {
        let mut state = self.lock();
        match state.open.get_mut(id) {
            Some(times) => {
                *times += 1;
                state.repeated += u64::from(*times > 1);
            }
            // Answered already: the reply to the first time was lost, or the server repeated itself.
            None => state.repeated += 1,
        }
    }

    /// Closes an event that was answered as delivered. `checked`: whether the server tells what took effect.
    pub(crate) fn delivered(&self, id: &str, checked: bool) {
        let mut state = self.lock();
        let times = state.open.remove(id);
        if checked && times.is_none_or(|times| times == 0) {
            state.false_deliveries += 1;
        }
    }

    /// Closes an event that was answered otherwise.
    pub(crate) fn not_delivered(&self, id: &str) {
        self.lock().open.remove(id);
    }

    /// Closes all events that are still open: they are kept where they survive.
    pub(crate) fn keep_all(&self) {
        self.lock().open.clear();
    }

    /// Returns how many events were lost: never answered, or said to be delivered when they were not.
    pub(crate) fn lost(&self) -> u64 {
        let state = self.lock();
        state.open.len() as u64 + state.false_deliveries
    }

    /// Returns how many effects repeated an earlier one.
    pub(crate) fn repeated(&self) -> u64 {
        self.lock().repeated
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_without_an_answer_is_lost() {
        let ledger = Ledger::default();
        ledger.accept("a");
        ledger.applied("a");
        assert_eq!(ledger.lost(), 1);
        ledger.delivered("a", true);
        assert_eq!((ledger.lost(), ledger.repeated()), (0, 0));
    }

    #[test]
    fn an_event_said_to_be_delivered_that_never_took_effect_is_lost() {
        let ledger = Ledger::default();
        ledger.accept("a");
        ledger.delivered("a", true);
        assert_eq!(ledger.lost(), 1);
    }

    #[test]
    fn repeated_effects_are_counted_before_and_after_the_answer() {
        let ledger = Ledger::default();
        ledger.accept("a");
        ledger.applied("a");
        ledger.applied("a");
        ledger.delivered("a", true);
        ledger.applied("a");
        assert_eq!((ledger.lost(), ledger.repeated()), (0, 2));
    }
}
