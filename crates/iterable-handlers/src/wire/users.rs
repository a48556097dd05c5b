use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{FailedUpdates, lenient};

/// A user as the API gives it back.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct User {
    /// The e-mail address; a placeholder in projects that identify users by id.
    #[serde(deserialize_with = "lenient::text")]
    pub email: Option<String>,
    /// The user id.
    #[serde(deserialize_with = "lenient::text")]
    pub user_id: Option<String>,
    /// The profile.
    #[serde(deserialize_with = "lenient::object")]
    pub data_fields: Map<String, Value>,
}

#[derive(Deserialize)]
pub(crate) struct UserReply {
    #[serde(default)]
    user: Option<User>,
}

impl UserReply {
    /// Returns the user, or `None` where the reply names nobody.
    pub(crate) fn found(self) -> Option<User> {
        let named = |id: &Option<String>| id.as_deref().is_some_and(|id| !id.is_empty());
        self.user.filter(|user| named(&user.email) || named(&user.user_id))
    }
}

/// Updates one user, or makes it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateUserRequest {
    /// The user's e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The user's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The fields to write. The type of a field can never change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_fields: Option<Map<String, Value>>,
    /// Whether an unknown user id makes a user. Heeded by projects that identify users by e-mail only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer_user_id: Option<bool>,
    /// Whether top-level objects are merged instead of overwritten. Without it: overwritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge_nested_objects: Option<bool>,
    /// Whether fields that the project does not know are added to it. Without it: as the project is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_new_fields: Option<bool>,
}

/// One user of a bulk update, or one subscriber of a list.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BulkUser {
    /// The user's e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The user's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The fields to write. The type of a field can never change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_fields: Option<Map<String, Value>>,
    /// Whether an unknown user id makes a user. Heeded by projects that identify users by e-mail only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer_user_id: Option<bool>,
    /// Whether top-level objects are merged instead of overwritten. Without it: overwritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge_nested_objects: Option<bool>,
}

/// Updates many users. `T` is a [`BulkUser`], or one that is serialised already.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkUpdateRequest<'a, T> {
    /// The users.
    pub users: &'a [T],
    /// Whether fields that the project does not know are added to it. Without it: as the project is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_new_fields: Option<bool>,
}

/// What became of the users of a bulk update, or of the subscribers of a list.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct BulkUpdateResponse {
    /// How many users were written; `None` if the reply does not say.
    #[serde(deserialize_with = "lenient::count")]
    pub success_count: Option<u64>,
    /// How many users were not written; `None` if the reply does not say.
    #[serde(deserialize_with = "lenient::count")]
    pub fail_count: Option<u64>,
    /// Fields that were dropped, since the project does not know them.
    #[serde(deserialize_with = "lenient::strings")]
    pub filtered_out_fields: Vec<String>,
    /// Fields that were added to the project.
    #[serde(deserialize_with = "lenient::strings")]
    pub created_fields: Vec<String>,
    /// Who was not written, by reason.
    #[serde(deserialize_with = "lenient::or_default")]
    pub failed_updates: FailedUpdates,
    /// Addresses of users that were not written. Deprecated by the API, which may still fill it.
    #[serde(deserialize_with = "lenient::strings")]
    pub invalid_emails: Vec<String>,
    /// Ids of users that were not written. Deprecated by the API, which may still fill it.
    #[serde(deserialize_with = "lenient::strings")]
    pub invalid_user_ids: Vec<String>,
    /// Members this crate does not know.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// Sets what a user is subscribed to.
///
/// Each list that is given overwrites what the user has, an empty one clears it, and `None` leaves it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateSubscriptionsRequest {
    /// The user's e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The user's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The lists the user is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email_list_ids: Option<Vec<i64>>,
    /// The channels the user has left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribed_channel_ids: Option<Vec<i64>>,
    /// The message types the user has left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribed_message_type_ids: Option<Vec<i64>>,
    /// The message types the user has asked for. Needs a feature of the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribed_message_type_ids: Option<Vec<i64>>,
    /// The campaign to which the change is attributed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign_id: Option<i64>,
    /// The template to which the change is attributed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template_id: Option<i64>,
    /// Whether message types of channels the user has left are refused. Without it: they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_channel_alignment: Option<bool>,
}

/// Sets what many users are subscribed to. `T` is an [`UpdateSubscriptionsRequest`], or one that is serialised
/// already.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BulkSubscriptionsRequest<'a, T> {
    /// The users.
    pub update_subscriptions_requests: &'a [T],
}

/// What became of the subscriptions of many users.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct BulkSubscriptionsResponse {
    /// How many users were written; `None` if the reply does not say.
    #[serde(deserialize_with = "lenient::count")]
    pub success_count: Option<u64>,
    /// How many users were not written; `None` if the reply does not say.
    #[serde(deserialize_with = "lenient::count")]
    pub fail_count: Option<u64>,
    /// Malformed addresses.
    #[serde(deserialize_with = "lenient::strings")]
    pub invalid_emails: Vec<String>,
    /// Malformed user ids.
    #[serde(deserialize_with = "lenient::strings")]
    pub invalid_user_ids: Vec<String>,
    /// Addresses of users that the API failed to write for a reason of its own.
    #[serde(deserialize_with = "lenient::strings")]
    pub valid_email_failures: Vec<String>,
    /// Ids of users that the API failed to write for a reason of its own.
    #[serde(deserialize_with = "lenient::strings")]
    pub valid_user_id_failures: Vec<String>,
    /// Members this crate does not know.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// Gives a user another e-mail address. For projects that identify users by e-mail.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateEmailRequest {
    /// The present address. It wins if the user id is given too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_email: Option<String>,
    /// The user's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_user_id: Option<String>,
    /// The new address.
    pub new_email: String,
}

/// Merges one user into another.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MergeUsersRequest {
    /// The address of the user that ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_email: Option<String>,
    /// The id of the user that ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_user_id: Option<String>,
    /// The address of the user that stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_email: Option<String>,
    /// The id of the user that stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_user_id: Option<String>,
    /// The array fields whose contents are merged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub array_merge: Option<Vec<ArrayMerge>>,
}

/// An array field to merge.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArrayMerge {
    /// The name of the field.
    pub field: String,
    /// The member by which two objects of the array are one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedupe_by: Option<String>,
}

/// Which of a user's messages to return.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SentMessagesQuery {
    /// The user's e-mail address.
    pub email: Option<String>,
    /// The user's id.
    pub user_id: Option<String>,
    /// How many to return, 1 to 1000. Without it: 10.
    pub limit: Option<u32>,
    /// The campaigns to return messages of. Empty: all.
    pub campaign_ids: Vec<i64>,
    /// The earliest moment, as `yyyy-MM-dd HH:mm:ss ZZ`.
    pub start_date_time: Option<String>,
    /// The latest moment, as `yyyy-MM-dd HH:mm:ss ZZ`.
    pub end_date_time: Option<String>,
    /// Whether messages of blast campaigns are left out. Without it: they are not.
    pub exclude_blast_campaigns: Option<bool>,
    /// The medium, such as `Email` or `Push`. Without it: `Email`.
    pub message_medium: Option<String>,
}

/// A message that was sent to a user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct SentMessage {
    /// The message's id.
    #[serde(deserialize_with = "lenient::text")]
    pub message_id: Option<String>,
    /// The campaign.
    #[serde(deserialize_with = "lenient::integer")]
    pub campaign_id: Option<i64>,
    /// The template.
    #[serde(deserialize_with = "lenient::integer")]
    pub template_id: Option<i64>,
    /// When it was sent, as the API writes it.
    #[serde(deserialize_with = "lenient::text")]
    pub created_at: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct SentMessagesReply {
    #[serde(deserialize_with = "lenient::or_default", default)]
    pub(crate) messages: Vec<SentMessage>,
}

#[derive(Deserialize)]
pub(crate) struct FieldsReply {
    #[serde(deserialize_with = "lenient::or_default", default)]
    pub(crate) fields: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ForgottenEmailsReply {
    #[serde(deserialize_with = "lenient::strings", default)]
    pub(crate) hashed_emails: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ForgottenUserIdsReply {
    #[serde(deserialize_with = "lenient::strings", default)]
    pub(crate) hashed_user_ids: Vec<String>,
}

/// Names one user in a body.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UserId<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_id: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_list_is_sent_and_an_absent_one_is_not() {
        let request = UpdateSubscriptionsRequest {
            email: Some("a@x".to_owned()),
            email_list_ids: Some(Vec::new()),
            ..UpdateSubscriptionsRequest::default()
        };
        assert_eq!(serde_json::to_value(request).unwrap(), json!({"email": "a@x", "emailListIds": []}));
    }

    #[test]
    fn a_user_without_ids_is_not_found() {
        let found = |value| serde_json::from_value::<UserReply>(value).unwrap().found();
        assert_eq!(found(json!({})), None);
        assert_eq!(found(json!({"user": null})), None);
        assert_eq!(found(json!({"user": {"email": "", "userId": ""}})), None);
        let user = found(json!({"user": {"email": "t@x", "userId": 123, "dataFields": {"firstName": "T"}}}))
            .unwrap();
        assert_eq!(user.user_id.as_deref(), Some("123"));
        assert_eq!(user.data_fields["firstName"], "T");
    }

    #[test]
    fn an_email_update_leaves_out_the_absent_id() {
        let request = UpdateEmailRequest {
            current_user_id: Some("u1".to_owned()),
            new_email: "n@x".to_owned(),
            ..UpdateEmailRequest::default()
        };
        assert_eq!(serde_json::to_value(request).unwrap(), json!({"currentUserId": "u1", "newEmail": "n@x"}));
    }

    #[test]
    fn flat_failures_of_subscriptions_are_read() {
        let reply: BulkSubscriptionsResponse = serde_json::from_value(json!({
            "successCount": 0, "failCount": 4, "invalidEmails": ["a"], "invalidUserIds": ["b"],
            "validEmailFailures": ["c"], "validUserIdFailures": ["d"]
        }))
        .unwrap();
        assert_eq!(reply.fail_count, Some(4));
        assert_eq!(
            (reply.invalid_emails, reply.invalid_user_ids),
            (vec!["a".to_owned()], vec!["b".to_owned()])
        );
        assert_eq!((&*reply.valid_email_failures[0], &*reply.valid_user_id_failures[0]), ("c", "d"));
    }
}
