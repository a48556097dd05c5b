use serde::{Deserialize, Serialize};

use super::{BulkUpdateResponse, lenient};

/// A list of users.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct List {
    /// The list's id.
    pub id: i64,
    /// The list's name.
    #[serde(deserialize_with = "lenient::or_default")]
    pub name: String,
    /// What it is for.
    #[serde(deserialize_with = "lenient::text")]
    pub description: Option<String>,
    /// When it was made, in milliseconds since the Unix epoch.
    #[serde(deserialize_with = "lenient::integer")]
    pub created_at: Option<i64>,
    /// `Standard`, `Dynamic`, `Suppression` or `Internal`.
    #[serde(deserialize_with = "lenient::text")]
    pub list_type: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct ListsReply {
    #[serde(deserialize_with = "lenient::or_default", default)]
    pub(crate) lists: Vec<List>,
}

/// Makes a list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CreateListRequest {
    /// The list's name.
    pub name: String,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CreateListReply {
    pub(crate) list_id: i64,
}

/// Puts users on a list. `T` is a [`BulkUser`](super::BulkUser), or one that is serialised already.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubscribeRequest<'a, T> {
    /// The list.
    pub list_id: i64,
    /// The users.
    pub subscribers: &'a [T],
    /// Whether users that do not exist yet are left out. Heeded by projects that identify users by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_existing_users_only: Option<bool>,
}

/// Takes users off a list. `T` is an [`Unsubscriber`], or one that is serialised already.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnsubscribeRequest<'a, T> {
    /// The list.
    pub list_id: i64,
    /// The users.
    pub subscribers: &'a [T],
    /// The campaign to which the change is attributed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub campaign_id: Option<i64>,
    /// Whether the users leave the list's whole channel. Without it: they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_unsubscribe: Option<bool>,
}

/// A user to take off a list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Unsubscriber {
    /// The user's e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The user's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
}

/// What became of the subscribers of a call: the same members as for users.
pub type ListResponse = BulkUpdateResponse;

/// The users of a list: one identifier a line, as the API sends them.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ListMembers(String);

impl ListMembers {
    pub(crate) const fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the identifiers, without blank lines.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.lines().map(str::trim).filter(|line| !line.is_empty())
    }

    /// Returns the text as sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text as sent.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

/// Tells the size only: the identifiers are addresses of people.
impl std::fmt::Debug for ListMembers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ListMembers({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_that_are_none_are_not_sent() {
        let bare = UnsubscribeRequest {
            list_id: 1,
            subscribers: &[Unsubscriber { email: Some("a@x".to_owned()), user_id: None }],
            campaign_id: None,
            channel_unsubscribe: None,
        };
        assert_eq!(
            serde_json::to_value(&bare).unwrap(),
            json!({"listId": 1, "subscribers": [{"email": "a@x"}]})
        );
        let full = UnsubscribeRequest { campaign_id: Some(0), channel_unsubscribe: Some(false), ..bare };
        assert_eq!(
            serde_json::to_value(full).unwrap(),
            json!({"listId": 1, "subscribers": [{"email": "a@x"}], "campaignId": 0, "channelUnsubscribe": false})
        );
    }

    #[test]
    fn members_are_lines_and_never_shown() {
        let members = ListMembers::new("a@x.com\r\n\nb@x.com\n".to_owned());
        assert_eq!(members.iter().collect::<Vec<_>>(), ["a@x.com", "b@x.com"]);
        assert_eq!(format!("{members:?}"), "ListMembers(18 bytes)");
    }
}
