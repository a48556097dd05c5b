use std::collections::BTreeMap;

use serde_json::Value;

use crate::Reason;
use crate::message::{IdentityKey, IdentitySpace};
use crate::reason::FailedKey;
use crate::wire::{BulkSubscriptionsResponse, BulkTrackResponse, BulkUpdateResponse, FailedUpdates};

/// The longest part of an unreadable failure that is kept, in characters.
const MAX_KEY_CHARS: usize = 256;

/// What a bulk reply says about failures, whichever call it answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) success_count: Option<u64>,
    pub(crate) fail_count: Option<u64>,
    pub(crate) disallowed_event_names: Vec<String>,
    /// In the order in which a reason takes precedence.
    pub(crate) lists: Vec<FailureList>,
    /// Filled members that may be lists of failures, by name.
    pub(crate) unknown: Vec<(String, Value)>,
}

/// A list of failed users.
#[derive(Debug, Clone)]
pub(crate) struct FailureList {
    pub(crate) space: IdentitySpace,
    pub(crate) reason: Reason,
    pub(crate) keys: Vec<String>,
    /// Whether the list may repeat what another one says.
    pub(crate) deprecated: bool,
}

impl FailureList {
    pub(crate) fn new(space: IdentitySpace, reason: Reason, keys: &[String]) -> Self {
        Self { space, reason, keys: keys.to_vec(), deprecated: false }
    }

    fn deprecated(self) -> Self {
        Self { deprecated: true, ..self }
    }

    /// Counts how often the list has each key, normalised.
    pub(crate) fn count(&self) -> BTreeMap<IdentityKey, usize> {
        let mut counts = BTreeMap::new();
        for key in &self.keys {
            *counts.entry(IdentityKey::new(self.space, key)).or_default() += 1;
        }
        counts
    }
}

impl Reply {
    /// Counts how often the lists that are not deprecated have the key.
    pub(super) fn times_in_current_lists(&self, key: &IdentityKey) -> usize {
        self.lists
            .iter()
            .filter(|list| !list.deprecated)
            .filter_map(|list| list.count().get(key).copied())
            .sum()
    }

    /// Returns the failures in members that this crate does not know.
    pub(super) fn unrecognised(&self) -> Vec<Reason> {
        let unrecognised = |(list, value): &(String, Value)| Reason::Unrecognised {
            list: list.clone(),
            key: FailedKey::new(value.to_string().chars().take(MAX_KEY_CHARS).collect::<String>()),
        };
        self.unknown.iter().map(unrecognised).collect()
    }
}

impl From<&BulkTrackResponse> for Reply {
    fn from(reply: &BulkTrackResponse) -> Self {
        let [conflict, forgotten, invalid_data, invalid, not_found] = pairs(&reply.failed_updates);
        Self {
            success_count: reply.success_count,
            fail_count: reply.fail_count,
            disallowed_event_names: reply.disallowed_event_names.clone(),
            lists: [invalid, not_found, forgotten, conflict, invalid_data]
                .into_iter()
                .flatten()
                .chain(deprecated(&reply.invalid_emails, &reply.invalid_user_ids))
                .collect(),
            unknown: unknown(&reply.failed_updates, &reply.unknown),
        }
    }
}

impl From<&BulkUpdateResponse> for Reply {
    fn from(reply: &BulkUpdateResponse) -> Self {
        Self {
            success_count: reply.success_count,
            fail_count: reply.fail_count,
            disallowed_event_names: Vec::new(),
            lists: pairs(&reply.failed_updates)
                .into_iter()
                .flatten()
                .chain(deprecated(&reply.invalid_emails, &reply.invalid_user_ids))
                .collect(),
            unknown: unknown(&reply.failed_updates, &reply.unknown),
        }
    }
}

impl From<&BulkSubscriptionsResponse> for Reply {
    fn from(reply: &BulkSubscriptionsResponse) -> Self {
        use IdentitySpace::{Email, UserId};
        Self {
            success_count: reply.success_count,
            fail_count: reply.fail_count,
            disallowed_event_names: Vec::new(),
            lists: vec![
                FailureList::new(Email, Reason::InvalidEmails, &reply.invalid_emails),
                FailureList::new(UserId, Reason::InvalidUserIds, &reply.invalid_user_ids),
                FailureList::new(Email, Reason::ValidEmailFailures, &reply.valid_email_failures),
                FailureList::new(UserId, Reason::ValidUserIdFailures, &reply.valid_user_id_failures),
            ],
            unknown: unknown(&FailedUpdates::default(), &reply.unknown),
        }
    }
}

fn pairs(failed: &FailedUpdates) -> [[FailureList; 2]; 5] {
    use IdentitySpace::{Email, UserId};
    [
        [
            FailureList::new(Email, Reason::ConflictEmails, &failed.conflict_emails),
            FailureList::new(UserId, Reason::ConflictUserIds, &failed.conflict_user_ids),
        ],
        [
            FailureList::new(Email, Reason::ForgottenEmails, &failed.forgotten_emails),
            FailureList::new(UserId, Reason::ForgottenUserIds, &failed.forgotten_user_ids),
        ],
        [
            FailureList::new(Email, Reason::InvalidDataEmails, &failed.invalid_data_emails),
            FailureList::new(UserId, Reason::InvalidDataUserIds, &failed.invalid_data_user_ids),
        ],
        [
            FailureList::new(Email, Reason::InvalidEmails, &failed.invalid_emails),
            FailureList::new(UserId, Reason::InvalidUserIds, &failed.invalid_user_ids),
        ],
        [
            FailureList::new(Email, Reason::NotFoundEmails, &failed.not_found_emails),
            FailureList::new(UserId, Reason::NotFoundUserIds, &failed.not_found_user_ids),
        ],
    ]
}

fn deprecated(emails: &[String], user_ids: &[String]) -> [FailureList; 2] {
    [
        FailureList::new(IdentitySpace::Email, Reason::InvalidEmails, emails).deprecated(),
        FailureList::new(IdentitySpace::UserId, Reason::InvalidUserIds, user_ids).deprecated(),
    ]
}

/// Collects what may be a failure that this crate cannot read: any filled member among the failed updates, and at the
/// top level those whose name speaks of failure.
fn unknown(failed: &FailedUpdates, top_level: &BTreeMap<String, Value>) -> Vec<(String, Value)> {
    let top_level = top_level.iter().filter(|(name, _)| speaks_of_failure(name));
    failed
        .unknown
        .iter()
        .chain(top_level)
        .filter(|(_, value)| is_filled(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn speaks_of_failure(name: &str) -> bool {
    let name = name.to_lowercase();
    [
        "fail",
        "invalid",
        "forgotten",
        "conflict",
        "notfound",
        "disallowed",
        "reject",
        "error",
        "skipped",
        "unknown",
    ]
    .iter()
    .any(|word| name.contains(word))
}

fn is_filled(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => members.values().any(is_filled),
    }
}
