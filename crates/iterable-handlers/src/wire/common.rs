use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::lenient;

/// The answer of every call that has nothing else to say, and of most calls that fail.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct PostResponse {
    /// What happened, in words. May name the user.
    #[serde(deserialize_with = "lenient::text", skip_serializing_if = "Option::is_none")]
    pub msg: Option<String>,
    /// What happened, as a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<IterableCode>,
    /// More about it; its shape depends on the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub params: Option<Value>,
    /// Members this crate does not know.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

/// The code of a reply.
///
/// The set is that of the API description, and of `error.users.noUserWithIdExists` and `Conflict`, which only
/// replies show. The API adds codes without notice, so the rest is [`Other`](Self::Other).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IterableCode {
    /// It worked; or, with a status other than 2xx, it did not and only `msg` says why.
    Success,
    /// The API key is unknown or revoked.
    BadApiKey,
    /// The `Authorization` header is wrong.
    BadAuthorizationHeader,
    /// The body is not what the endpoint expects. `params` may name the place.
    BadJsonBody,
    /// A parameter is wrong.
    BadParams,
    /// There are too many elements, or they are too large.
    BatchTooLarge,
    /// The request conflicts with the present state.
    Conflict,
    /// The API failed inside.
    DatabaseError,
    /// The new e-mail address belongs to another user.
    EmailAlreadyExists,
    /// An external key is taken.
    ExternalKeyConflict,
    /// The API key may not do this.
    Forbidden,
    /// The API key may not use these parameters.
    ForbiddenParamsError,
    /// The user was forgotten and must not be written again.
    ForgottenUserError,
    /// The API failed inside.
    GenericError,
    /// The e-mail address is malformed.
    InvalidEmailAddressError,
    /// The JWT's payload is wrong.
    InvalidJwtPayload,
    /// The user id is malformed.
    InvalidUserIdError,
    /// The JWT names another user than the request.
    JwtUserIdentifiersMismatched,
    /// There is no such thing.
    NotFound,
    /// There is no user with this id.
    NoUserWithIdExists,
    /// The e-mail could not be queued.
    QueueEmailError,
    /// There were too many requests.
    RateLimitExceeded,
    /// A data field has another type than the project knows it by. `params` names the fields.
    RequestFieldsTypesMismatched,
    /// The key or the JWT is not accepted.
    Unauthorized,
    /// The project may not have more distinct fields.
    UniqueFieldsLimitExceeded,
    /// There is no user with this e-mail address.
    UnknownEmailError,
    /// There is no user with this user id.
    UnknownUserIdError,
    /// The new user id belongs to another user.
    UserIdAlreadyExists,
    /// A code this crate does not know, as sent; the JSON text of what is not a string.
    Other(String),
}

/// Each known code and its name in replies.
const NAMES: [(IterableCode, &str); 28] = [
    (IterableCode::Success, "Success"),
    (IterableCode::BadApiKey, "BadApiKey"),
    (IterableCode::BadAuthorizationHeader, "BadAuthorizationHeader"),
    (IterableCode::BadJsonBody, "BadJsonBody"),
    (IterableCode::BadParams, "BadParams"),
    (IterableCode::BatchTooLarge, "BatchTooLarge"),
    (IterableCode::Conflict, "Conflict"),
    (IterableCode::DatabaseError, "DatabaseError"),
    (IterableCode::EmailAlreadyExists, "EmailAlreadyExists"),
    (IterableCode::ExternalKeyConflict, "ExternalKeyConflict"),
    (IterableCode::Forbidden, "Forbidden"),
    (IterableCode::ForbiddenParamsError, "ForbiddenParamsError"),
    (IterableCode::ForgottenUserError, "ForgottenUserError"),
    (IterableCode::GenericError, "GenericError"),
    (IterableCode::InvalidEmailAddressError, "InvalidEmailAddressError"),
    (IterableCode::InvalidJwtPayload, "InvalidJwtPayload"),
    (IterableCode::InvalidUserIdError, "InvalidUserIdError"),
    (IterableCode::JwtUserIdentifiersMismatched, "JwtUserIdentifiersMismatched"),
    (IterableCode::NotFound, "NotFound"),
    (IterableCode::NoUserWithIdExists, "error.users.noUserWithIdExists"),
    (IterableCode::QueueEmailError, "QueueEmailError"),
    (IterableCode::RateLimitExceeded, "RateLimitExceeded"),
    (IterableCode::RequestFieldsTypesMismatched, "RequestFieldsTypesMismatched"),
    (IterableCode::Unauthorized, "Unauthorized"),
    (IterableCode::UniqueFieldsLimitExceeded, "UniqueFieldsLimitExceeded"),
    (IterableCode::UnknownEmailError, "UnknownEmailError"),
    (IterableCode::UnknownUserIdError, "UnknownUserIdError"),
    (IterableCode::UserIdAlreadyExists, "UserIdAlreadyExists"),
];

impl IterableCode {
    /// Returns the code as it stands in replies.
    pub fn as_str(&self) -> &str {
        if let Self::Other(code) = self {
            return code;
        }
        NAMES.iter().find(|(code, _)| code == self).map_or("", |(_, name)| name)
    }
}

impl From<&str> for IterableCode {
    fn from(name: &str) -> Self {
        NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map_or_else(|| Self::Other(name.to_owned()), |(code, _)| code.clone())
    }
}

impl fmt::Display for IterableCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for IterableCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for IterableCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::String(name) => Self::from(name.as_str()),
            other => Self::Other(other.to_string()),
        })
    }
}

/// Which users of a bulk call were not written, by reason. One user may stand in a list several times.
///
/// Events know six of the lists, users and list subscribers all ten.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct FailedUpdates {
    /// *Existing* addresses that stood in the way of a change of identity.
    #[serde(deserialize_with = "lenient::strings")]
    pub conflict_emails: Vec<String>,
    /// *Existing* user ids that stood in the way of a change of identity.
    #[serde(deserialize_with = "lenient::strings")]
    pub conflict_user_ids: Vec<String>,
    /// Addresses of users that were forgotten.
    #[serde(deserialize_with = "lenient::strings")]
    pub forgotten_emails: Vec<String>,
    /// Ids of users that were forgotten.
    #[serde(deserialize_with = "lenient::strings")]
    pub forgotten_user_ids: Vec<String>,
    /// Addresses of users whose data fields are wrong.
    #[serde(deserialize_with = "lenient::strings")]
    pub invalid_data_emails: Vec<String>,
    /// Ids of users whose data fields are wrong.
    #[serde(deserialize_with = "lenient::strings")]
    pub invalid_data_user_ids: Vec<String>,
    /// Malformed addresses, at the top level or in the data fields.
    #[serde(deserialize_with = "lenient::strings")]
    pub invalid_emails: Vec<String>,
    /// Malformed user ids, at the top level or in the data fields.
    #[serde(deserialize_with = "lenient::strings")]
    pub invalid_user_ids: Vec<String>,
    /// Addresses that no user has.
    #[serde(deserialize_with = "lenient::strings")]
    pub not_found_emails: Vec<String>,
    /// Ids that no user has.
    #[serde(deserialize_with = "lenient::strings")]
    pub not_found_user_ids: Vec<String>,
    /// Lists this crate does not know. A filled one means that something failed.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, Value>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_code_reads_back_from_its_name() {
        for (code, name) in NAMES {
            assert_eq!(code.as_str(), name);
            assert_eq!(serde_json::from_value::<IterableCode>(json!(name)).unwrap(), code);
        }
    }

    #[test]
    fn a_code_that_is_new_or_a_number_is_kept() {
        let read = |value| serde_json::from_value::<IterableCode>(value).unwrap();
        assert_eq!(read(json!("Novel")), IterableCode::Other("Novel".to_owned()));
        assert_eq!(read(json!(500)), IterableCode::Other("500".to_owned()));
    }

    #[test]
    fn a_failed_key_of_the_wrong_type_is_kept_as_text() {
        let failed: FailedUpdates = serde_json::from_value(json!({
            "invalidEmails": ["a@x", null, 7],
            "forgottenEmails": null,
            "notFoundUserIds": "u1",
            "shadowBannedEmails": ["b@x"],
        }))
        .unwrap();
        assert_eq!(failed.invalid_emails, ["a@x", "null", "7"]);
        assert!(failed.forgotten_emails.is_empty() && failed.conflict_emails.is_empty());
        assert_eq!(failed.not_found_user_ids, ["u1"]);
        assert_eq!(failed.unknown["shadowBannedEmails"], json!(["b@x"]));
    }

    #[test]
    fn an_answer_without_members_is_an_answer() {
        let read = |value| serde_json::from_value::<PostResponse>(value).unwrap();
        assert_eq!(read(json!({})), PostResponse::default());
        let full = read(json!({"msg": "", "code": "Success", "params": null, "id": "e1"}));
        assert_eq!(full.code, Some(IterableCode::Success));
        assert_eq!(full.params, None);
        assert_eq!(full.unknown["id"], json!("e1"));
    }
}
