use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::identity::{check_identity, keys_of};
use super::request::parts;
use super::{Identity, IdentityKey, InvalidRequest, Request};
use crate::wire::BulkUser;

/// New values for the fields of a user, who is added if the project does not know them.
///
/// The type of a field never changes: a value of another type than the field's is refused.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserUpdate(BulkUser);

impl UserUpdate {
    /// Makes an update that sets nothing yet.
    pub fn new(user: Identity) -> Self {
        Self(BulkUser { email: user.email, user_id: user.user_id, ..BulkUser::default() })
    }

    /// Sets one data field. `email` and `userId` among them change the user's identity.
    #[must_use]
    pub fn field(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        let fields = self.0.data_fields.get_or_insert_default();
        fields.insert(name.into(), value.into());
        self
    }

    /// Sets all data fields. Default: none. [`data_fields`](crate::data_fields) makes them of a struct.
    #[must_use]
    pub fn fields(mut self, fields: Map<String, Value>) -> Self {
        self.0.data_fields = Some(fields);
        self
    }

    /// Sets whether a user id that the project does not know makes a new user. Projects that know their users by
    /// address heed it. Default: no.
    #[must_use]
    pub const fn prefer_user_id(mut self, prefer: bool) -> Self {
        self.0.prefer_user_id = Some(prefer);
        self
    }

    /// Sets whether objects among the fields are merged into those of the user, instead of replacing them.
    /// Default: no.
    #[must_use]
    pub const fn merge_nested_objects(mut self, merge: bool) -> Self {
        self.0.merge_nested_objects = Some(merge);
        self
    }

    /// Returns the update as it is sent.
    pub const fn as_wire(&self) -> &BulkUser {
        &self.0
    }

    /// Returns the update as it is sent.
    pub fn into_wire(self) -> BulkUser {
        self.0
    }
}

/// Takes an update in the form of the API. A user that is empty counts as not given.
impl From<BulkUser> for UserUpdate {
    fn from(mut wire: BulkUser) -> Self {
        wire.email.take_if(|text| text.is_empty());
        wire.user_id.take_if(|text| text.is_empty());
        Self(wire)
    }
}

/// Tells the shape, not whom it is about nor what it says.
impl fmt::Debug for UserUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserUpdate")
            .field("fields", &self.0.data_fields.as_ref().map_or(0, Map::len))
            .finish_non_exhaustive()
    }
}

impl Request for UserUpdate {}

impl parts::Parts for UserUpdate {
    type Flags = ();
    type Element = BulkUser;

    fn flags(&self) {}

    fn elements(&self) -> &[BulkUser] {
        std::slice::from_ref(&self.0)
    }
}

impl parts::Element for BulkUser {
    fn check(&self) -> Result<(), InvalidRequest> {
        check_identity(("email", self.email.as_deref()), ("userId", self.user_id.as_deref()))
    }

    fn keys(&self) -> Vec<IdentityKey> {
        keys_of(self.email.as_deref(), self.user_id.as_deref(), self.data_fields.as_ref())
    }
}
