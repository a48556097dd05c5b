use std::fmt;

use serde::{Deserialize, Serialize};

use super::identity::{check_email, check_identity, keys_of};
use super::request::parts;
use super::{Identity, IdentityKey, IdentitySpace, InvalidRequest, Request};
use crate::wire::UpdateEmailRequest;

/// A new e-mail address for a user, in a project that knows its users by address.
///
/// In other projects set the data field `email` by a [`UserUpdate`](super::UserUpdate). Where a user is named by
/// both address and id, the API goes by the address.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EmailUpdate(UpdateEmailRequest);

impl EmailUpdate {
    /// Makes an update that gives the user a new address.
    pub fn new(current: Identity, new_email: impl Into<String>) -> Self {
        Self(UpdateEmailRequest {
            current_email: current.email,
            current_user_id: current.user_id,
            new_email: new_email.into(),
        })
    }

    /// Returns the update as it is sent.
    pub const fn as_wire(&self) -> &UpdateEmailRequest {
        &self.0
    }
}

/// Takes an update in the form of the API. A current user that is empty counts as not given.
impl From<UpdateEmailRequest> for EmailUpdate {
    fn from(mut wire: UpdateEmailRequest) -> Self {
        wire.current_email.take_if(|text| text.is_empty());
        wire.current_user_id.take_if(|text| text.is_empty());
        Self(wire)
    }
}

/// Tells nothing of whom it is about.
impl fmt::Debug for EmailUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmailUpdate").finish_non_exhaustive()
    }
}

impl Request for EmailUpdate {}

impl parts::Parts for EmailUpdate {
    type Flags = ();
    type Element = UpdateEmailRequest;

    fn flags(&self) {}

    fn elements(&self) -> &[UpdateEmailRequest] {
        std::slice::from_ref(&self.0)
    }
}

impl parts::Element for UpdateEmailRequest {
    fn check(&self) -> Result<(), InvalidRequest> {
        check_identity(
            ("currentEmail", self.current_email.as_deref()),
            ("currentUserId", self.current_user_id.as_deref()),
        )?;
        check_email("newEmail", &self.new_email)
    }

    fn keys(&self) -> Vec<IdentityKey> {
        let mut keys = keys_of(self.current_email.as_deref(), self.current_user_id.as_deref(), None);
        let new = IdentityKey::new(IdentitySpace::Email, &self.new_email);
        if !keys.contains(&new) {
            keys.push(new);
        }
        keys
    }
}
