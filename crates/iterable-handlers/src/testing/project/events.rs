use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;
use serde_json::value::RawValue;

/// An event that took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppliedEvent {
    /// The event's id, as sent or made by the stand-in.
    pub id: String,
    /// The user, by the e-mail address in lower case, else by id.
    pub user: String,
    /// The event's name.
    pub name: String,
    /// When it happened, as sent: seconds since 1970.
    pub created_at: Option<i64>,
    /// How many times the event of this id has taken effect, 1 for the first.
    pub times: u64,
}

/// All events, by id.
#[derive(Debug, Default)]
pub(crate) struct Events {
    by_id: BTreeMap<String, Stored>,
    /// The highest `dataFields.__sequence` of each user.
    highest: BTreeMap<String, i64>,
    /// The ids in the order in which they came, while not all events are kept.
    oldest: VecDeque<String>,
    keep: Option<usize>,
    made: u64,
    pub(crate) out_of_order: u64,
}

#[derive(Debug)]
struct Stored {
    event: AppliedEvent,
    data_fields: Option<Box<RawValue>>,
}

impl Events {
    /// Makes a store that forgets the oldest events beyond `keep`, if that is given.
    pub(crate) fn keeping(keep: Option<usize>) -> Self {
        Self { keep, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len() + self.highest.len()
    }

    /// Returns how often each event took effect.
    pub(crate) fn times(&self) -> BTreeMap<String, u64> {
        self.by_id.iter().map(|(id, stored)| (id.clone(), stored.event.times)).collect()
    }

    pub(crate) fn of<'a>(&'a self, user: &'a str) -> impl Iterator<Item = (&'a AppliedEvent, &'a RawValue)> {
        self.by_id.values().filter(move |stored| stored.event.user == user).map(|stored| {
            let fields = stored.data_fields.as_deref().unwrap_or(RawValue::NULL);
            (&stored.event, fields)
        })
    }

    /// Writes an event, or writes over the one of its id, and returns what it is now.
    pub(crate) fn write(&mut self, user: String, element: &Value) -> AppliedEvent {
        let id = match element.get("id").and_then(Value::as_str) {
            Some(id) if !id.is_empty() => id.to_owned(),
            _ => {
                self.made += 1;
                format!("stand-in-{}", self.made)
            }
        };
        let times = self.by_id.get(&id).map_or(0, |stored| stored.event.times) + 1;
        if times == 1 {
            self.watch_order(&user, element);
        }
        let name = element.get("eventName").and_then(Value::as_str).unwrap_or_default();
        let event = AppliedEvent {
            id: id.clone(),
            user,
            name: name.to_owned(),
            created_at: element.get("createdAt").and_then(Value::as_i64),
            times,
        };
        let data_fields =
            element.get("dataFields").and_then(|fields| serde_json::value::to_raw_value(fields).ok());
        let stored = Stored { event: event.clone(), data_fields };
        if let Some(keep) = self.keep
            && times == 1
        {
            self.oldest.push_back(id.clone());
            if self.oldest.len() > keep
                && let Some(oldest) = self.oldest.pop_front()
            {
                self.by_id.remove(&oldest);
            }
            if keep == 0 {
                return event;
            }
        }
        self.by_id.insert(id, stored);
        event
    }

    /// Counts an event that is new and yet older than one before it. A repetition is not out of order.
    fn watch_order(&mut self, user: &str, element: &Value) {
        let Some(sequence) =
            element.get("dataFields").and_then(|fields| fields.get("__sequence")).and_then(Value::as_i64)
        else {
            return;
        };
        match self.highest.get_mut(user) {
            Some(highest) if sequence < *highest => self.out_of_order += 1,
            Some(highest) => *highest = sequence,
            None => {
                self.highest.insert(user.to_owned(), sequence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(events: &mut Events, user: &str, id: &str, sequence: i64) {
        events.write(
            user.to_owned(),
            &json!({"id": id, "eventName": "e", "dataFields": {"__sequence": sequence}}),
        );
    }

    #[test]
    fn a_new_event_below_the_highest_is_out_of_order_and_a_repetition_is_not() {
        let mut events = Events::default();
        write(&mut events, "a", "1", 1);
        write(&mut events, "a", "2", 2);
        write(&mut events, "a", "1", 1);
        write(&mut events, "b", "b1", 1);
        assert_eq!(events.out_of_order, 0);
        write(&mut events, "a", "4", 4);
        write(&mut events, "a", "3", 3);
        assert_eq!(events.out_of_order, 1);
        assert_eq!(events.times()["1"], 2);
    }

    #[test]
    fn beyond_the_bound_the_oldest_events_are_forgotten() {
        for keep in [0, 2] {
            let mut events = Events::keeping(Some(keep));
            for id in ["1", "2", "2", "3"] {
                write(&mut events, "a", id, 0);
            }
            let kept: Vec<_> = events.times().into_keys().collect();
            assert_eq!(kept, ["2", "3"][2 - keep..], "keep {keep}");
        }
    }

    #[test]
    fn an_event_without_an_id_gets_one_of_its_own() {
        let mut events = Events::default();
        let first = events.write("a".to_owned(), &json!({"eventName": "e"}));
        let second = events.write("a".to_owned(), &json!({"eventName": "e", "id": ""}));
        assert_ne!(first.id, second.id);
        assert_eq!(events.of("a").count(), 2);
    }
}
