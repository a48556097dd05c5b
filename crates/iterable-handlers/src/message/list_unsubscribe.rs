use std::fmt;

use serde::{Deserialize, Serialize};

use super::identity::{check_identity, keys_of};
use super::request::parts;
use super::{Identity, IdentityKey, InvalidRequest, Request};
use crate::wire::Unsubscriber;

/// Takes users off a list.
///
/// The whole request is one message: it is answered once, whatever its number of subscribers.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListUnsubscribe {
    list_id: i64,
    subscribers: Vec<Unsubscriber>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    campaign_id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    channel_unsubscribe: Option<bool>,
}

impl ListUnsubscribe {
    /// Makes a request for that list that names nobody yet.
    #[must_use]
    pub const fn new(list_id: i64) -> Self {
        Self { list_id, subscribers: Vec::new(), campaign_id: None, channel_unsubscribe: None }
    }

    /// Adds a user.
    #[must_use]
    pub fn user(mut self, user: Identity) -> Self {
        self.subscribers.push(Unsubscriber { email: user.email, user_id: user.user_id });
        self
    }

    /// Sets the campaign to which the change is attributed. Default: none.
    #[must_use]
    pub const fn campaign_id(mut self, id: i64) -> Self {
        self.campaign_id = Some(id);
        self
    }

    /// Sets whether the users leave the list's whole channel: all but a global unsubscribe. Default: no.
    #[must_use]
    pub const fn channel_unsubscribe(mut self, whole_channel: bool) -> Self {
        self.channel_unsubscribe = Some(whole_channel);
        self
    }
}

/// Tells the shape, not whom it is about.
impl fmt::Debug for ListUnsubscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListUnsubscribe")
            .field("list_id", &self.list_id)
            .field("subscribers", &self.subscribers.len())
            .finish_non_exhaustive()
    }
}

impl Request for ListUnsubscribe {}

/// What the messages of one call must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags {
    pub(crate) list_id: i64,
    pub(crate) campaign_id: Option<i64>,
    pub(crate) channel_unsubscribe: Option<bool>,
}

impl parts::Parts for ListUnsubscribe {
    type Flags = Flags;
    type Element = Unsubscriber;

    fn flags(&self) -> Flags {
        Flags {
            list_id: self.list_id,
            campaign_id: self.campaign_id,
            channel_unsubscribe: self.channel_unsubscribe,
        }
    }

    fn elements(&self) -> &[Unsubscriber] {
        &self.subscribers
    }
}

impl parts::Element for Unsubscriber {
    fn check(&self) -> Result<(), InvalidRequest> {
        check_identity(("email", self.email.as_deref()), ("userId", self.user_id.as_deref()))
    }

    fn keys(&self) -> Vec<IdentityKey> {
        keys_of(self.email.as_deref(), self.user_id.as_deref(), None)
    }
}
