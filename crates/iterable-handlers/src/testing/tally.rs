use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::counts::Counts;
use super::project::Failed;

/// What became of the elements of a bulk request.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    lists: BTreeMap<String, Vec<String>>,
    disallowed: Vec<String>,
    pub(crate) created: BTreeSet<String>,
    pub(crate) filtered: BTreeSet<String>,
}

const EVENT_LISTS: &[&str] = &[
    "invalidEmails",
    "invalidUserIds",
    "notFoundEmails",
    "notFoundUserIds",
    "forgottenEmails",
    "forgottenUserIds",
];

const USER_LISTS: &[&str] = &[
    "conflictEmails",
    "conflictUserIds",
    "forgottenEmails",
    "forgottenUserIds",
    "invalidDataEmails",
    "invalidDataUserIds",
    "invalidEmails",
    "invalidUserIds",
    "notFoundEmails",
    "notFoundUserIds",
];

const SUBSCRIPTION_LISTS: &[&str] =
    &["invalidEmails", "invalidUserIds", "validEmailFailures", "validUserIdFailures"];

/// The lists that replies repeat at the top level; Iterable's description calls that deprecated.
const REPEATED: &[&str] = &["invalidEmails", "invalidUserIds"];

impl Tally {
    pub(crate) const fn success(&mut self) {
        self.succeeded += 1;
    }

    /// Counts a failed element, and names it unless it has no name.
    pub(crate) fn fail(&mut self, failed: Failed) {
        self.failed += 1;
        if let Some((list, key)) = failed.named() {
            self.lists.entry(list).or_default().push(key);
        }
    }

    pub(crate) fn disallow(&mut self, event: &str) {
        self.failed += 1;
        if !self.disallowed.iter().any(|name| name == event) {
            self.disallowed.push(event.to_owned());
        }
    }

    /// Returns the reply of `events/trackBulk`.
    pub(crate) fn events(self, counts: Counts, lowercase: bool) -> Value {
        let disallowed = self.disallowed.clone();
        let mut reply = self.nested(EVENT_LISTS, counts, lowercase);
        reply.insert("disallowedEventNames".to_owned(), json!(disallowed));
        Value::Object(reply)
    }

    /// Returns the reply of `users/bulkUpdate`, `lists/subscribe` and `lists/unsubscribe`.
    pub(crate) fn users(self, counts: Counts, lowercase: bool) -> Value {
        Value::Object(self.nested(USER_LISTS, counts, lowercase))
    }

    /// Returns the reply of `users/bulkUpdateSubscriptions`, whose lists stand at the top level.
    pub(crate) fn subscriptions(self, counts: Counts, lowercase: bool) -> Value {
        let (succeeded, failed) = counts.state(self.succeeded, self.failed);
        let mut reply = arrays(SUBSCRIPTION_LISTS, self.lists, lowercase);
        reply.insert("successCount".to_owned(), json!(succeeded));
        reply.insert("failCount".to_owned(), json!(failed));
        Value::Object(reply)
    }

    fn nested(self, known: &[&str], counts: Counts, lowercase: bool) -> Map<String, Value> {
        let (succeeded, failed) = counts.state(self.succeeded, self.failed);
        let lists = arrays(known, self.lists, lowercase);
        let mut reply = Map::new();
        for name in REPEATED {
            reply.insert((*name).to_owned(), lists.get(*name).cloned().unwrap_or(json!([])));
        }
        reply.insert("successCount".to_owned(), json!(succeeded));
        reply.insert("failCount".to_owned(), json!(failed));
        reply.insert("createdFields".to_owned(), json!(self.created));
        reply.insert("filteredOutFields".to_owned(), json!(self.filtered));
        reply.insert("failedUpdates".to_owned(), Value::Object(lists));
        reply
    }
}

/// Returns the lists by name; those of `known` also where empty.
fn arrays(known: &[&str], lists: BTreeMap<String, Vec<String>>, lowercase: bool) -> Map<String, Value> {
    let mut arrays: Map<String, Value> = known.iter().map(|name| ((*name).to_owned(), json!([]))).collect();
    for (name, keys) in lists {
        let keys: Vec<String> =
            if lowercase { keys.iter().map(|key| key.to_lowercase()).collect() } else { keys };
        arrays.insert(name, json!(keys));
    }
    arrays
}
