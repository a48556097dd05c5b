use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{FailedUpdates, lenient};

/// One event of a user. Give an e-mail address or a user id, as the project identifies its users.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrackRequest {
    /// The user's e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The user's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The name of the event.
    pub event_name: String,
    /// The id of the event, at most 512 bytes. A second event with this id updates the first. Without it the API
    /// makes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When it happened, in seconds since the Unix epoch. Without it: when the API received it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<i64>,
    /// What else is known of it. A field of one name has one type in all events of one name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_fields: Option<Map<String, Value>>,
    /// The campaign the event is a conversion of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign_id: Option<i64>,
    /// The template the event belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_id: Option<i64>,
    /// Whether fields that the project does not know are added to it. Without it: as the project is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_new_fields: Option<bool>,
}

/// Many events. `T` is a [`TrackRequest`], or one that is serialised already.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct BulkTrackRequest<'a, T> {
    /// The events.
    pub events: &'a [T],
}

/// What became of many events.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct BulkTrackResponse {
    /// How many events were taken; `None` if the reply does not say.
    #[serde(deserialize_with = "lenient::count")]
    pub success_count: Option<u64>,
    /// How many events were not taken; `None` if the reply does not say.
    #[serde(deserialize_with = "lenient::count")]
    pub fail_count: Option<u64>,
    /// The names of events that the project refuses.
    #[serde(deserialize_with = "lenient::strings")]
    pub disallowed_event_names: Vec<String>,
    /// Fields that were dropped, since the project does not know them.
    #[serde(deserialize_with = "lenient::strings")]
    pub filtered_out_fields: Vec<String>,
    /// Fields that were added to the project.
    #[serde(deserialize_with = "lenient::strings")]
    pub created_fields: Vec<String>,
    /// Whose events were not taken, by reason.
    #[serde(deserialize_with = "lenient::or_default")]
    pub failed_updates: FailedUpdates,
    /// Malformed addresses. Deprecated by the API, which may still fill it.
    #[serde(deserialize_with = "lenient::strings")]
    pub invalid_emails: Vec<String>,
    /// User ids not found. Deprecated by the API, which may still fill it.
    #[serde(deserialize_with = "lenient::strings")]
    pub invalid_user_ids: Vec<String>,
    /// Members this crate does not know.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// One event as the API gives it back.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Event {
    /// The name of the event.
    #[serde(deserialize_with = "lenient::text")]
    pub event_name: Option<String>,
    /// The kind of event, such as `customEvent`.
    #[serde(deserialize_with = "lenient::text")]
    pub event_type: Option<String>,
    /// The user's e-mail address.
    #[serde(deserialize_with = "lenient::text")]
    pub email: Option<String>,
    /// The user's id.
    #[serde(deserialize_with = "lenient::text")]
    pub user_id: Option<String>,
    /// When it happened, as sent: the API writes several date formats.
    #[serde(deserialize_with = "lenient::text")]
    pub created_at: Option<String>,
    /// When it was last written, as sent.
    #[serde(deserialize_with = "lenient::text")]
    pub event_updated_at: Option<String>,
    /// What else is known of it.
    #[serde(deserialize_with = "lenient::object")]
    pub data_fields: Map<String, Value>,
    /// All other members.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
pub(crate) struct EventsReply {
    #[serde(deserialize_with = "lenient::or_default", default)]
    pub(crate) events: Vec<Event>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_none_is_not_sent() {
        let event = TrackRequest { event_name: "login".to_owned(), ..TrackRequest::default() };
        assert_eq!(serde_json::to_value(event).unwrap(), json!({"eventName": "login"}));
    }

    #[test]
    fn a_partial_reply_reads_as_recorded() {
        let reply: BulkTrackResponse = serde_json::from_value(json!({
            "successCount": 1, "failCount": 1, "failedUpdates": {"invalidEmails": ["invalid@"]}
        }))
        .unwrap();
        assert_eq!((reply.success_count, reply.fail_count), (Some(1), Some(1)));
        assert_eq!(reply.failed_updates.invalid_emails, ["invalid@"]);
        assert!(reply.disallowed_event_names.is_empty());
    }

    #[test]
    fn null_and_odd_members_do_not_lose_the_rest() {
        let reply: BulkTrackResponse = serde_json::from_value(json!({
            "successCount": "2", "failCount": -1, "failedUpdates": null, "disallowedEventNames": null,
            "invalidEmails": ["a@x"], "novelty": [1]
        }))
        .unwrap();
        assert_eq!((reply.success_count, reply.fail_count), (None, None));
        assert_eq!(reply.failed_updates, FailedUpdates::default());
        assert_eq!(reply.invalid_emails, ["a@x"]);
        assert_eq!(reply.unknown["novelty"], json!([1]));
    }
}
