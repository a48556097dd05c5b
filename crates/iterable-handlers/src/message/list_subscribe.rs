use std::fmt;

use serde::{Deserialize, Serialize};

use super::request::parts;
use super::{Identity, Request, UserUpdate};
use crate::wire::BulkUser;

/// Who is put on a list, with new values for their fields: the same members as those of a [`UserUpdate`].
pub type Subscriber = UserUpdate;

/// Puts users on a list.
///
/// The whole request is one message: it is answered once, whatever its number of subscribers.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListSubscribe {
    list_id: i64,
    subscribers: Vec<BulkUser>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    update_existing_users_only: Option<bool>,
}

impl ListSubscribe {
    /// Makes a request for that list that names nobody yet.
    #[must_use]
    pub const fn new(list_id: i64) -> Self {
        Self { list_id, subscribers: Vec::new(), update_existing_users_only: None }
    }

    /// Adds a user.
    #[must_use]
    pub fn user(self, user: Identity) -> Self {
        self.subscriber(Subscriber::new(user))
    }

    /// Adds a user with new values for their fields.
    #[must_use]
    pub fn subscriber(mut self, subscriber: Subscriber) -> Self {
        self.subscribers.push(subscriber.into_wire());
        self
    }

    /// Sets whether users that the project does not know are left out instead of added. Projects that know their
    /// users by id heed it. Default: no.
    #[must_use]
    pub const fn update_existing_users_only(mut self, only: bool) -> Self {
        self.update_existing_users_only = Some(only);
        self
    }
}

/// Tells the shape, not whom it is about.
impl fmt::Debug for ListSubscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListSubscribe")
            .field("list_id", &self.list_id)
            .field("subscribers", &self.subscribers.len())
            .finish_non_exhaustive()
    }
}

impl Request for ListSubscribe {}

/// What the messages of one call must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags {
    pub(crate) list_id: i64,
    pub(crate) update_existing_users_only: Option<bool>,
}

impl parts::Parts for ListSubscribe {
    type Flags = Flags;
    type Element = BulkUser;

    fn flags(&self) -> Flags {
        Flags { list_id: self.list_id, update_existing_users_only: self.update_existing_users_only }
    }

    fn elements(&self) -> &[BulkUser] {
        &self.subscribers
    }
}
