use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// What is queued: 100 bytes of JSON while its number has six digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) number: u64,
    user: String,
    text: String,
}

impl Event {
    /// Makes an event that tells by its number which it is.
    pub(crate) fn new(number: u64) -> Self {
        Self {
            number,
            user: format!("user-{:04}", number % 10_000),
            text: "has looked at an article and put it into the basket on".to_owned(),
        }
    }
}

/// Adds up the numbers of what arrived, to find out whether it is what was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) events: u64,
    numbers: u64,
}

impl Tally {
    /// Counts an event.
    pub(crate) fn add(&mut self, event: &Event) {
        self.events += 1;
        self.numbers += event.number;
    }

    /// Checks that the events numbered from 0 to `events` arrived once each, as far as their count and sum tell.
    ///
    /// # Errors
    ///
    /// The count or the sum is another.
    pub(crate) fn check(self, events: u64) -> anyhow::Result<()> {
        let all = Self { events, numbers: events * events.saturating_sub(1) / 2 };
        ensure!(self == all, "{self:?} arrived, but {all:?} were sent");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_hundred_bytes_of_json() {
        assert_eq!(serde_json::to_vec(&Event::new(123_456)).unwrap().len(), 100);
    }

    #[test]
    fn a_missing_event_and_one_in_place_of_another_are_noticed() {
        let tally = |numbers: &[u64]| {
            let mut tally = Tally::default();
            for number in numbers {
                tally.add(&Event::new(*number));
            }
            tally
        };
        assert!(tally(&[2, 0, 1]).check(3).is_ok());
        assert!(tally(&[0, 1]).check(3).is_err());
        assert!(tally(&[0, 1, 1]).check(3).is_err());
        assert!(tally(&[]).check(0).is_ok());
    }
}
