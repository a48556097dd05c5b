use std::fmt;

use serde::{Deserialize, Serialize};

use super::identity::{check_identity, keys_of};
use super::request::parts;
use super::{Identity, IdentityKey, InvalidRequest, Request};
use crate::wire::UpdateSubscriptionsRequest;

/// New subscriptions of a user.
///
/// What is set replaces what the user had, an empty list included; what is not set stays.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SubscriptionUpdate(UpdateSubscriptionsRequest);

impl SubscriptionUpdate {
    /// Makes an update that sets nothing yet.
    pub fn new(user: Identity) -> Self {
        Self(UpdateSubscriptionsRequest {
            email: user.email,
            user_id: user.user_id,
            ..UpdateSubscriptionsRequest::default()
        })
    }

    /// Sets the lists that the user is on. Default: as they are.
    #[must_use]
    pub fn email_list_ids(mut self, ids: impl Into<Vec<i64>>) -> Self {
        self.0.email_list_ids = Some(ids.into());
        self
    }

    /// Sets the channels that the user has left. Default: as they are.
    #[must_use]
    pub fn unsubscribed_channel_ids(mut self, ids: impl Into<Vec<i64>>) -> Self {
        self.0.unsubscribed_channel_ids = Some(ids.into());
        self
    }

    /// Sets the message types that the user has left. Default: as they are.
    #[must_use]
    pub fn unsubscribed_message_type_ids(mut self, ids: impl Into<Vec<i64>>) -> Self {
        self.0.unsubscribed_message_type_ids = Some(ids.into());
        self
    }

    /// Sets the message types that the user has opted in to. Only projects for which Iterable has enabled opt-in
    /// message types take it. Default: as they are.
    #[must_use]
    pub fn subscribed_message_type_ids(mut self, ids: impl Into<Vec<i64>>) -> Self {
        self.0.subscribed_message_type_ids = Some(ids.into());
        self
    }

    /// Sets the campaign to which the change is attributed. Default: none.
    #[must_use]
    pub const fn campaign_id(mut self, id: i64) -> Self {
        self.0.campaign_id = Some(id);
        self
    }

    /// Sets the template to which the change is attributed. Default: none.
    #[must_use]
    pub const fn template_id(mut self, id: i64) -> Self {
        self.0.template_id = Some(id);
        self
    }

    /// Sets whether the API checks that the message types opted in to belong to channels that the user has not
    /// left. Default: it does.
    #[must_use]
    pub const fn validate_channel_alignment(mut self, validate: bool) -> Self {
        self.0.validate_channel_alignment = Some(validate);
        self
    }

    /// Returns the update as it is sent.
    pub const fn as_wire(&self) -> &UpdateSubscriptionsRequest {
        &self.0
    }
}

/// Takes an update in the form of the API. A user that is empty counts as not given.
impl From<UpdateSubscriptionsRequest> for SubscriptionUpdate {
    fn from(mut wire: UpdateSubscriptionsRequest) -> Self {
        wire.email.take_if(|text| text.is_empty());
        wire.user_id.take_if(|text| text.is_empty());
        Self(wire)
    }
}

/// Tells nothing of whom it is about.
impl fmt::Debug for SubscriptionUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionUpdate").finish_non_exhaustive()
    }
}

impl Request for SubscriptionUpdate {}

impl parts::Parts for SubscriptionUpdate {
    type Flags = ();
    type Element = UpdateSubscriptionsRequest;

    fn flags(&self) {}

    fn elements(&self) -> &[UpdateSubscriptionsRequest] {
        std::slice::from_ref(&self.0)
    }
}

impl parts::Element for UpdateSubscriptionsRequest {
    fn check(&self) -> Result<(), InvalidRequest> {
        check_identity(("email", self.email.as_deref()), ("userId", self.user_id.as_deref()))
    }

    fn keys(&self) -> Vec<IdentityKey> {
        keys_of(self.email.as_deref(), self.user_id.as_deref(), None)
    }
}
