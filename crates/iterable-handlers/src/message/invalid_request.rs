use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

/// Why a request cannot be sent. Nothing was sent, and sending it again as it is cannot help.
///
/// The texts name fields and sizes, never what a user is called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// No user is named.
    #[error("neither {email_field} nor {user_id_field} is given")]
    MissingIdentity {
        /// The member that takes an address.
        email_field: &'static str,
        /// The member that takes a user id.
        user_id_field: &'static str,
    },
    /// A text that must say something is empty or nothing but white space.
    #[error("{field} is blank")]
    Blank {
        /// The member.
        field: &'static str,
    },
    /// A text is no e-mail address.
    #[error("{field} of {bytes} bytes is no address: it has no '@'")]
    NotAnEmail {
        /// The member.
        field: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A text is longer than the API takes.
    #[error("{field} has {bytes} bytes, but must have at most {max}")]
    TooLong {
        /// The member.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        max: usize,
    },
    /// A list request names nobody.
    #[error("subscribers is empty, but must have at least 1")]
    NoSubscribers,
    /// One of the subscribers of a list request is invalid.
    #[error("subscriber {index} is invalid")]
    Subscriber {
        /// Which, counted from 0.
        index: usize,
        /// Why.
        source: Box<InvalidRequest>,
    },
    /// Data fields must be an object.
    #[error("data fields are {kind}, but must be an object")]
    NotAnObject {
        /// What they are.
        kind: &'static str,
    },
    /// The value has no JSON form, for instance a map whose keys are no texts.
    #[error("request has no JSON form")]
    Json {
        /// Why not.
        source: serde_json::Error,
    },
    /// No request can hold it.
    #[error("request has {bytes} bytes of JSON, but must have at most {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest allowed.
        max: usize,
    },
}

/// Makes data fields of anything that serialises as an object.
///
/// JSON has no `NaN` and no infinity: serde writes `null` for them.
///
/// # Errors
///
/// [`NotAnObject`](InvalidRequest::NotAnObject) or [`Json`](InvalidRequest::Json).
///
/// ```
/// use relaykit_iterable_handlers::data_fields;
///
/// #[derive(serde::Serialize)]
/// struct Login { device: &'static str }
///
/// assert_eq!(data_fields(&Login { device: "phone" })?["device"], "phone");
/// assert!(data_fields(&[1, 2]).is_err());
/// # Ok::<(), relaykit_iterable_handlers::InvalidRequest>(())
/// ```
pub fn data_fields(value: &(impl Serialize + ?Sized)) -> Result<Map<String, Value>, InvalidRequest> {
    let kind = match serde_json::to_value(value).map_err(|source| InvalidRequest::Json { source })? {
        Value::Object(fields) => return Ok(fields),
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
    };
    Err(InvalidRequest::NotAnObject { kind })
}

/// A request that cannot be sent, and why. The request comes back.
#[derive(thiserror::Error)]
#[error("request is invalid")]
pub struct PrepareError<R> {
    request: R,
    #[source]
    reason: InvalidRequest,
}

impl<R> PrepareError<R> {
    pub(super) const fn new(request: R, reason: InvalidRequest) -> Self {
        Self { request, reason }
    }

    /// Returns why the request cannot be sent.
    pub const fn reason(&self) -> &InvalidRequest {
        &self.reason
    }

    /// Gives the request back. It may have got its id and its moment by now; it is as it was otherwise.
    pub fn into_request(self) -> R {
        self.request
    }

    /// Gives back the request and the reason.
    pub fn into_parts(self) -> (R, InvalidRequest) {
        (self.request, self.reason)
    }
}

/// Tells the reason, not the request.
impl<R> fmt::Debug for PrepareError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrepareError").field("reason", &self.reason).finish_non_exhaustive()
    }
}
