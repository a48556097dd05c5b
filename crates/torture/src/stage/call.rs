use super::ledger::Ledger;
use crate::history::Event;

/// A call of a handler that has had its effect, and told it. If it is dropped before it has answered, nobody learns what it would
/// have said.
pub(crate) struct Call<'a> {
    ledger: &'a Ledger,
    events: Vec<Event>,
}

impl<'a> Call<'a> {
    /// Tells what happened: from here on it has, whoever dies.
    pub(crate) fn told(ledger: &'a Ledger, events: Vec<Event>) -> Self {
        ledger.say(&events);
        Self { ledger, events }
    }

    pub(crate) fn answers(mut self) {
        self.events.clear();
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let given_up = |event: &Event| match event {
            Event::Lent { id, .. } => Some(Event::GivenUp { id: *id }),
            _ => None,
        };
        self.ledger.say(&self.events.iter().filter_map(given_up).collect::<Vec<_>>());
    }
}
